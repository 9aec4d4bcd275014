"""What a comparison says, as text in rows and columns; how it is drawn is :mod:`hoptm_plugin.tables.formats`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hoptm_plugin.cards.words import percent, published
from hoptm_plugin.engine.significance import RULES, Difference
from hoptm_plugin.tables.cells import AVERAGED, RANDOM_ROW, WARM, Cell, Column
from hoptm_plugin.tables.metrics import METRICS
from hoptm_plugin.tables.table import Bound, ComparisonTable

NOT_TESTED = (
    "no test is possible: with one distillation on a side its networks share one set, and a difference of two sets is "
    "not one of methods; or nothing scatters."
)
INDISTINCT, UNTESTED, UNDEFINED, MINUS = "≈", "?", "-", "\N{MINUS SIGN}"
_SCORE_NOTES = {
    "lrs": "LRS, label-robust score (DD-Ranking, arXiv 2505.13300), from 0 to 1, higher is better: (e^a - 1/e) / "
    "(e - 1/e) with a = (accuracy - that of random images) / 2 - (accuracy of all images - that of the set under hard "
    "labels) / 2, fractions, each a mean over the pooled networks. A set no better than random images and as good as "
    "all of them has 0.269.",
    "ars": "ARS, augmentation-robust score (DD-Ranking, arXiv 2505.13300), from 0 to 1, higher is better: (e^b - 1/e) "
    "/ (e - 1/e) with b = (accuracy - that of random images) / 2, with augmentation, + the same without augmentation. "
    "A set no better than random images has 0.269.",
}


@dataclass(frozen=True)
class Entry:
    """A cell's text, and a second line beside or below it; "" where there is none."""

    text: str = ""
    aside: str = ""
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """A table of text: headings of two lines each, and rows by name."""

    title: str
    columns: list[tuple[str, str]]
    rows: list[tuple[str, list[Entry]]]


def blocks(tables: Sequence[ComparisonTable], best: str = "bold") -> list[tuple[Grid, list[str]]]:
    """Return all that a comparison says: grids in order, each with the lines below it, the footnotes at the end."""
    found: list[tuple[Grid, list[str]]] = []
    for table in tables:
        found.append((accuracies(table), [*map(bound_line, table.bounds), *table.notes]))
        tests = differences(table)
        found += [] if tests is None else [(tests, [])]
    found[-1][1].extend(footnotes(tables, best))
    return found


def accuracies(table: ComparisonTable) -> Grid:
    """Return the main table: "mean ± std (networks)" in percent, and in brackets what was published; and scores."""
    columns = []
    for column in table.columns():
        heading, cells = _heading(column), [table.cell(row, column) for row in table.rows()]
        columns.append((heading, [Entry() if cell is None else _accuracy(cell) for cell in cells]))
        for name in table.scores if column[0] is not None else ():
            columns.append(((", ".join(heading), name.upper()), [_score(cell, name) for cell in cells]))
    of = "" if table.metric == "accuracy" else f"; {table.measured.title.lower()}"
    return _grid(f"{table.heading}{of}", table, columns)


def differences(table: ComparisonTable) -> Grid | None:
    """Return the table of differences, or None where nothing was tested."""
    tests = sum(cell.p_holm is not None for cell in table.cells)
    if not tests:
        return None
    title = (
        f"Differences to {table.against or 'the best of each column'} in percentage points [95 % confidence "
        f"interval], p corrected for {tests} test{'' if tests == 1 else 's'}"
    )
    columns = [
        (_heading(column), [_difference(table.cell(row, column), table.against) for row in table.rows()])
        for column in table.columns()
    ]
    return _grid(title, table, columns)


def _grid(title: str, table: ComparisonTable, columns: Sequence[tuple[tuple[str, str], list[Entry]]]) -> Grid:
    lines = zip(*(entries for _, entries in columns), strict=True)
    rows = [(name, list(line)) for name, line in zip(table.rows(), lines, strict=True)]
    return Grid(title, [heading for heading, _ in columns], rows)


def _heading(column: Column) -> tuple[str, str]:
    ipc, network = column
    return "all images" if ipc is None else f"IPC {ipc}", network


def _accuracy(cell: Cell) -> Entry:
    mark = INDISTINCT if cell.indistinct else UNTESTED if cell.untested else ""
    text = f"{_measured(cell)} {mark}".rstrip()
    return Entry(text, "" if cell.reported is None else f"[{published(cell.reported)}]", cell.best)


def _measured(cell: Cell) -> str:
    # the scatter of a single network is not known, rather than 0
    text = percent(cell.mean, cell.std if len(cell.values) > 1 else None)
    return f"{text} ({cell.networks}{f', {cell.diverged} diverged' if cell.diverged else ''})"


def _score(cell: Cell | None, name: str) -> Entry:
    score = None if cell is None else getattr(cell, name)
    return Entry("" if cell is None else UNDEFINED if score is None else f"{score:.3f}")


def _difference(cell: Cell | None, against: str | None) -> Entry:
    if cell is None:
        return Entry()
    if cell.row == against:
        return Entry("reference")
    if cell.against is None:
        return Entry("best" if cell.best and against is None else UNDEFINED)
    if cell.difference is None or cell.p_holm is None:
        return Entry(UNDEFINED if cell.difference is None else f"{difference_text(cell.difference)} {UNTESTED}")
    pairs = "" if cell.difference.pairs is None else f", {cell.difference.pairs} pairs"
    return Entry(difference_text(cell.difference), f"p {p_value(cell.p_holm)}{pairs}")


def difference_text(difference: Difference) -> str:
    """Return a difference in percentage points with its interval, as "+1.20 [−0.30, +2.70]"."""
    low, high = difference.low, difference.high
    interval = "" if low is None or high is None else f" [{_points(low)}, {_points(high)}]"
    return _points(difference.mean) + interval


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}".replace("-", MINUS)


def p_value(p: float | None) -> str:
    """Return a p-value with three digits behind the point; "-" where it is undefined."""
    return UNDEFINED if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def bound_line(bound: Bound) -> str:
    """Return the line on one upper bound."""
    reported = "" if bound.cell.reported is None else f" [{published(bound.cell.reported)}]"
    where = f"{bound.cell.row} on all {bound.images:,} training images, {bound.cell.network}"
    return "; ".join([f"Upper bound, {where}: {_measured(bound.cell)}{reported}", *bound.remarks])


def footnotes(tables: Sequence[ComparisonTable], best: str = "bold") -> list[str]:
    """Return what explains the marks in all tables, one note a line; ``best`` is how a column's best is marked."""
    cells = [cell for table in tables for cell in (*table.cells, *(bound.cell for bound in table.bounds))]
    rows = {cell.row for cell in cells}
    metric = METRICS[cells[0].metric]
    end = "lowest" if metric.lower_is_better else "highest"
    marked = f"; the {end} mean of a column is {best} where it was tested" if any(cell.best for cell in cells) else ""
    notes = [f"{metric.title} in percent: mean ± population std (number of networks, pooled over seeds){marked}."]
    notes += [metric.explained] * bool(metric.explained)
    if any(cell.diverged for cell in cells):
        notes.append("A network that diverged counts as wrong wherever it gave no prediction.")
    if RANDOM_ROW in rows:
        notes.append(
            "* random training images, drawn anew for every network within the other methods' runs, one set of "
            "networks a seed; a method that is a random subset draws one for all its networks"
        )
    if any(AVERAGED in row for row in rows):
        notes.append("EMA: the exponential moving average of the synthetic set.")
    if any(row.endswith(WARM) for row in rows):
        notes.append("(warm): trained on by networks already trained on the set itself, as the released code does.")
    sources = sorted({f"{cell.row}: {cell.source}" for cell in cells if cell.source})
    if sources:
        notes.append(
            "In [brackets] what was reported, often of the iteration that was best on the test split, and for "
            f"baselines with settings that were not published. {'; '.join(sources)}"
        )
    notes += [_SCORE_NOTES[name] for name in sorted({name for table in tables for name in table.scores}, reverse=True)]
    return notes + list(dict.fromkeys(line for table in tables for line in said_of_tests(table)))


def said_of_tests(table: ComparisonTable) -> list[str]:
    """Return what was tested in a table, how it was corrected, what its marks mean, and what it cannot see."""
    cells = [cell for cell in table.cells if cell.against is not None]
    lines = []
    if table.tested is not None and any(cell.p_holm is not None for cell in cells):
        reference = table.against or "the best of its column"
        lines.append(RULES[table.tested])
        lines.append(f"{INDISTINCT} not significantly different from {reference}.")
        if not table.against:
            lines.append("The best was chosen because it came out best, so differences to it are flattered.")
    if any(cell.untested for cell in cells):
        lines.append(f"{UNTESTED} {NOT_TESTED}")
    return lines
