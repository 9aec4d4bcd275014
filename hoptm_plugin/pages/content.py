"""What a page consists of, ready for the template: text, tables, and elements drawn here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hoptm_plugin.cards.card import Card
from hoptm_plugin.pages.curves import Curve
from hoptm_plugin.runs.grid import Tiles

MOST_LISTED = 12


@dataclass(frozen=True)
class Run:
    """What a run's folder holds.

    Attributes:
        file: the card's.
        card: the result.
        config: the settings; None where they are missing.
        curves: by name, those of ``metrics.jsonl``.
        initial: images that the distillation started from, or None.
        distilled: images of the synthetic set, or None.
        missing: what of the folder is missing or damaged, in words.
    """

    file: Path
    card: Card
    config: Mapping[str, Any] | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    initial: Tiles | None = None
    distilled: Tiles | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class NamedRun:
    """A run, and how a page calls it.

    Attributes:
        run: what its folder holds.
        name: unlike every other run's.
        key: of the run's parts of the page, for ids and links.
    """

    run: Run
    name: str
    key: str


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says.
        aside: a second line.
        best: whether it is to stand out.
        shade: 0 to 10, of the cell's background; None for none.
    """

    text: str
    aside: str = ""
    best: bool = False
    shade: int | None = None


@dataclass(frozen=True)
class Row:
    """One row of a table: what it is called, and its cells."""

    name: str
    cells: tuple[Cell, ...]
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows.
        where: of whom, where a heading above it says so to those who see it.
        corner: what the names of its rows are.
        columns: headings; a line break divides one in two.
        rows: in order.
        kind: class of the element, for its looks.
    """

    caption: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    kind: str = ""
    where: str = ""


@dataclass(frozen=True)
class Drawing:
    """A figure and what stands below it."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Folded:
    """What a reader may unfold; print shows it, unless it is ``bulky``."""

    name: str
    tables: tuple[Table, ...] = ()
    text: str = ""
    open: bool = False
    bulky: bool = False


@dataclass(frozen=True)
class Pictures:
    """Strips of a set below a heading, with a remark and, where they are real training images, a warning."""

    name: str
    strips: tuple[Any, ...]
    remark: str = ""
    real: bool = False


@dataclass(frozen=True)
class Part:
    """A part of a section: a heading, and below it in this order what there is.

    Attributes:
        name: the heading.
        key: its id.
        tables: always shown.
        notes: paragraphs.
        drawings: figures side by side.
        legend: (piece of line, name) of the figures' series.
        pictures: images of sets.
        later: tables below all these.
        folded: what a reader may unfold.
    """

    name: str
    key: str
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    legend: tuple[tuple[Markup, str], ...] = ()
    pictures: tuple[Pictures, ...] = ()
    later: tuple[Table, ...] = ()
    folded: tuple[Folded, ...] = ()


@dataclass(frozen=True)
class Section:
    """A section: heading, id, introduction, tables, and parts with headings of their own."""

    name: str
    key: str
    introduction: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    parts: tuple[Part, ...] = ()


def run_names(runs: list[Run]) -> list[NamedRun]:
    """Name runs by method, data set, IPC and seed; and by folder or number where that does not tell them apart."""
    names = [_name(run.card) for run in runs]
    doubled = {name for name in names if names.count(name) > 1}
    folders = [run.file.parent.name for run in runs]
    names = [f"{name}, {folder}" if name in doubled else name for name, folder in zip(names, folders, strict=True)]
    doubled = {name for name in names if names.count(name) > 1}
    return [
        NamedRun(run, f"{name}, no. {number}" if name in doubled else name, f"run-{number}")
        for number, (run, name) in enumerate(zip(runs, names, strict=True), start=1)
    ]


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f"; and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return "; ".join(names[:MOST_LISTED]) + more


def _name(card: Card) -> str:
    size = "all images" if card.ipc is None else f"IPC {card.ipc}"
    return f"{card.title}, {card.dataset.name}, {size}, seed {card.seed}"


def percent(value: float | None, std: float | None = None) -> str:
    """Return a fraction in percent, and its standard deviation where there is one; "-" where it is undefined."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if std is None else f"{100 * value:.1f} ± {100 * std:.1f}"
