"""From runs to one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hoptm_plugin.core.errors import StorageError, UserError
from hoptm_plugin.engine.significance import Test
from hoptm_plugin.pages.page import render
from hoptm_plugin.pages.pictures import CAPTIONS
from hoptm_plugin.pages.reading import read_runs
from hoptm_plugin.storage.files import write_text
from hoptm_plugin.tables.compare import CardInFolder, compare, refuse_card
from hoptm_plugin.tables.metrics import MetricName
from hoptm_plugin.tables.scores import ScoreName
from hoptm_plugin.tables.table import Sort


@dataclass(frozen=True)
class Report:
    """A page that was written.

    Attributes:
        path: the page.
        runs: how many it is on.
        size: bytes.
        real: names of runs of which it shows real training images, or what may be.
        derived: names of runs of which it shows images that are derived from real ones, such as means or mosaics.
    """

    path: Path
    runs: int
    size: int
    real: tuple[str, ...]
    derived: tuple[str, ...] = ()


def report(
    runs: str | Path | CardInFolder | Iterable[str | Path | CardInFolder],
    output: str | Path = "report.html",
    *,
    title: str = "Dataset distillation: report",
    real_images: bool = True,
    scores: ScoreName | Literal["all"] | None = None,
    against: str | None = None,
    tests: Test | None = "paired",
    metric: MetricName = "accuracy",
    sort: Sort = "name",
) -> Report:
    """Write one HTML page on runs, whole or not at all: no scripts, nothing fetched, to be opened or printed.

    Args:
        runs: run folders, cards, folders to search, runs that were read; or a single one of these.
        output: the page; its folder exists. A page that is there is written over, no other file is.
        title: of the page.
        real_images: whether pictures of real training images are shown.
        scores: whose columns are added to the tables.
        against: the row that all others are tested against; None takes each column's best.
        tests: how the means of distillation seeds are tested, see :func:`compare`; None: not at all.
        metric: what is tabled and tested, see :func:`compare`.
        sort: of the tables' rows, by "name" or by "result".

    Raises:
        UserError: there is no card, one cannot be read, or the page cannot be written.
    """
    output = Path(output)
    _check(output)
    comparison = compare(runs, scores=scores, against=against, tests=tests, metric=metric, sort=sort)
    cards = [(file, card) for file, card in comparison.cards if isinstance(file, Path)]
    if len(cards) < len(comparison.cards):
        raise UserError(
            "a card in memory has no folder that a page could show; name run folders, or runs that were read"
        )
    refuse_card(output, cards)
    rows = {place: cell.row for table in comparison.tables
            for cell in (*table.cells, *(bound.cell for bound in table.bounds)) if cell.own
            for (place, _), _ in cell.runs if isinstance(place, Path)}  # fmt: skip
    shown = read_runs(cards, rows)
    page = render(shown, comparison.tables, title, real_images, comparison.unfinished)
    try:
        write_text(output, page)
    except StorageError as error:
        raise UserError(f"{output}: {error.reason}; name another output file") from None
    kinds = {run.name: {each.caption for each in run.pictures if each.real} for run in shown if real_images}
    derived = tuple(name for name, captions in kinds.items() if captions == {CAPTIONS["from_real"]})
    real = tuple(name for name, captions in kinds.items() if captions and name not in derived)
    return Report(output, len(shown), len(page.encode()), real, derived)


def _check(output: Path) -> None:
    """Refuse what cannot be the page, before any work is done."""
    remedy = "name another output file"
    try:
        is_folder, has_folder = output.is_dir(), output.parent.is_dir()
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{output}: {error.strerror}; {remedy}") from None
    if is_folder:
        raise UserError(f"{output}: is a folder; {remedy}")
    if output.exists() and output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{output}: exists already and is no page; name an output file that ends in .html")
    if not has_folder:
        raise UserError(f"{output}: there is no folder {output.parent}; make it, or {remedy}")
