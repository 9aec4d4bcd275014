"""What lies beside a run's card, read for a page; what is missing or damaged is named, not fatal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from hoptm_plugin.cards.audit import AuditCard, audit_beside
from hoptm_plugin.cards.card import FILE_NAME, Card
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.core.text import one_line
from hoptm_plugin.pages.curves import Curve, read_curves
from hoptm_plugin.pages.pictures import Pictures, pictures
from hoptm_plugin.runs.grid import read_grid
from hoptm_plugin.storage.files import sha256
from hoptm_plugin.storage.run_files import CONFIG, GRID, INITIAL_GRID, METRICS, read_config
from hoptm_plugin.tables.labels import natural

MOST_BYTES: Final = 12 * 10**6  # of all pictures of a page, as they stand in it

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """A run, as a page shows it.

    Attributes:
        file: the card's.
        card: the result.
        name: unlike every other run's.
        key: of the run's parts of the page, for ids and links.
        config: the settings; None where they are missing.
        curves: by name, those of ``metrics.jsonl``.
        pictures: of the distilled set and of the images it started from, as far as they are there.
        missing: what of the folder is missing or damaged, in words.
        row: that tables have it in; "" where it is in none.
        audit: what was measured of what its set gives away; None where nothing was.
    """

    file: Path
    card: Card
    name: str
    key: str
    config: Mapping[str, Any] | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    pictures: tuple[Pictures, ...] = ()
    missing: tuple[str, ...] = ()
    row: str = ""
    audit: AuditCard | None = None

    @property
    def title(self) -> str:
        """What it is called in figures: as in the tables."""
        return self.row or self.card.title


def read_runs(found: Sequence[tuple[Path, Card]], rows: Mapping[Path, str]) -> list[Run]:
    """Return the runs of cards, (file, card) each, in the page's order, whatever order they came in.

    Args:
        found: the cards.
        rows: that tables have them in.
    """
    found = sorted(found, key=lambda each: place(each, rows.get(each[0])))
    most = MOST_BYTES // (2 * len(found))
    return [
        replace(read_run(file, card, name, f"run-{number}", most), row=rows.get(file, ""))
        for number, ((file, card), name) in enumerate(zip(found, run_names(found, rows), strict=True), start=1)
    ]


def place(found: tuple[Path, Card], row: str | None = None) -> tuple[Any, ...]:
    """Return what runs are sorted by."""
    file, card = found
    size = float("inf") if card.ipc is None else card.ipc
    return card.dataset.name, card.dataset.fingerprint, size, natural(row or card.title), card.seed, str(file)


def run_names(found: Sequence[tuple[Path, Card]], rows: Mapping[Path, str] = MappingProxyType({})) -> list[str]:
    """Name runs by row or method, data set, IPC and seed; and by folder or number where these are alike."""
    names = [f"{rows.get(file, card.title)}, {card.dataset.name}, {size_of(card)}, seed {card.seed}"
             for file, card in found]  # fmt: skip
    folders = [one_line(file.parent.name) for file, _ in found]
    for more in (folders, [f"no. {number}" for number in range(1, len(found) + 1)]):
        count = Counter(names)
        names = [f"{name}, {each}" if count[name] > 1 else name for name, each in zip(names, more, strict=True)]
    return names


def size_of(card: Card) -> str:
    """Return how large a run's set is, in words."""
    return "all images" if card.ipc is None else f"IPC {card.ipc}"


def read_run(file: Path, card: Card, name: str = "", key: str = "", most: int = MOST_BYTES // 2) -> Run:
    """Return what lies beside a card.

    Args:
        file: the card's.
        card: as it was read.
        name: of the run.
        key: for the ids of its parts of the page.
        most: bytes that each of its pictures may take in the page.
    """
    folder, missing = file.parent, []
    if file.name != FILE_NAME:  # what lies beside it may be another run's
        return Run(file, card, name, key, missing=("the run folder: a card on its own",))
    for each in (CONFIG, METRICS, INITIAL_GRID, GRID):
        if not (folder / each).resolve().is_relative_to(folder.resolve()):  # another file must not get into the page
            missing.append(f"{each} is a link that leads out of the run folder, so none is read")
            return Run(file, card, name, key, missing=tuple(missing))

    def read(reader: Callable[[Path], T], each: str, otherwise: str) -> T | None:
        path = folder / each
        try:
            if not path.is_file():
                missing.append(f"no {each}")
            elif each in card.artefacts and sha256(path) != card.artefacts[each]:
                missing.append(f"{each} is left out: it is not the file that {FILE_NAME} names (their SHA-256 differ)")
            else:
                return reader(path)
        except (OSError, FileFormatError):
            missing.append(f"{each} {otherwise}")
        return None

    config = read(read_config, CONFIG, "is no readable configuration")
    curves, remarks = read(read_curves, METRICS, "cannot be read") or ({}, [])
    missing += remarks
    shown: tuple[Pictures, ...] = ()
    if card.ipc is not None:  # a run on the whole training split has no images of its own
        otherwise = "is no picture that hoptm-bench wrote"
        initial, distilled = (read(read_grid, each, otherwise) for each in (INITIAL_GRID, GRID))
        shown = pictures(card, initial, distilled, most)
    audit, why = audit_beside(folder, card)
    missing += [why] if why else []
    return Run(file, card, name, key, config, curves, shown, tuple(missing), audit=audit)
