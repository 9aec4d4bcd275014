"""The cards of the study that are here, by suite and table."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from suite_file import FULL, SUITES, Suite, load_suite
from suite_tables import compared

from hoptm_plugin.cards.card import FILE_NAME, Card, read_card
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.storage.files import write_bytes
from hoptm_plugin.tables.table import ComparisonTable as Comparison

RESULTS = Path(__file__).parent / "results"
STUDY = ("study_bloodcells", "study_covid19cxr", "study_cifar10")


@dataclass(frozen=True)
class Study:
    """A suite of the study and the cards of its runs that are here."""

    name: str
    suite: Suite

    @property
    def folder(self) -> Path:
        """Where the runs' cards are."""
        return RESULTS / f"{self.name}-{FULL}"

    def files(self, table: str) -> list[Path]:
        """Return the cards that stand in a table, by the order of their sweeps."""
        sweeps = [index for index, sweep in enumerate(self.suite.sweeps) if table in sweep.tables]
        return [path for index in sweeps for path in sorted(self.folder.glob(f"{index}/*/{FILE_NAME}"))]

    @cached_property
    def cards(self) -> list[Card]:
        """All cards of runs."""
        return [read_card(path) for path in sorted(self.folder.glob(f"*/*/{FILE_NAME}"))]

    @cached_property
    def searched(self) -> list[Card]:
        """All cards of the search."""
        return [read_card(path) for path in sorted(Path(f"{self.folder}-search").glob(f"*/*/{FILE_NAME}"))]

    @cached_property
    def tables(self) -> dict[str, tuple[Comparison, ...]]:
        """The comparisons of every table that has cards."""
        return {name: compared(table, files) for name, table in self.suite.named_tables().items()
                if (files := self.files(name))}  # fmt: skip

    @property
    def data(self) -> str:
        """The data set's name, without its classes."""
        return self.cards[0].dataset.name.partition(" (")[0]


def studies() -> list[Study]:
    """Return those of which there are cards."""
    found = [Study(name, load_suite(SUITES[name])) for name in STUDY]
    return [study for study in found if study.cards]


def pilots() -> list[tuple[str, Card]]:
    """Return the runs that settled what all methods have in common, by name."""
    return [(path.parent.name, read_card(path)) for path in sorted((RESULTS / "study_pilots").glob(f"*/{FILE_NAME}"))]


def take(place: Path) -> None:
    """Copy the cards of the study's runs below ``place`` into the results, instead of those that are there.

    Raises:
        FileFormatError: a suite has no runs there.
    """
    folders = [f"{name}-{FULL}{kind}" for name in STUDY for kind in ("", "-search")]
    found = {folder: sorted((place / folder).glob(f"*/*/{FILE_NAME}")) for folder in folders}
    for folder, cards in found.items():
        if not cards:
            raise FileFormatError(f"{place / folder}: holds no finished runs; name what suite.py --out was given")
    for folder, cards in found.items():
        shutil.rmtree(RESULTS / folder, ignore_errors=True)
        for path in cards:
            write_bytes(RESULTS / path.relative_to(place), path.read_bytes())
