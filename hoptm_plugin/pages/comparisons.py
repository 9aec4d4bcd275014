"""The section of comparison tables, and what could not be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hoptm_plugin.pages import figures
from hoptm_plugin.pages.content import Cell, Drawing, NamedRun, Part, Row, Section, Table, listed
from hoptm_plugin.pages.svg import Drawer
from hoptm_plugin.tables.cells import Cell as Measured
from hoptm_plugin.tables.grids import Grid, accuracies, bound_line, differences, footnotes
from hoptm_plugin.tables.table import ComparisonTable

MOST_LINES = 24  # above these, lines over IPC can no longer be followed

ALIKE = (
    "Runs share a table only where they were judged alike: the same data set, down to the fingerprint of its pixels "
    "and preprocessing; the same protocol, that is networks, epochs, rates, batch and augmentation of the evaluation; "
    "and the same way to choose the iteration that was evaluated."
)


def comparison_section(comparisons: Sequence[ComparisonTable], drawer: Drawer, styles: Mapping[str, int]) -> Section:
    """Return the tables of ``compare``, each with its figure, and what their marks mean."""
    parts = []
    for number, comparison in enumerate(comparisons, start=1):
        dataset, *apart = _headed(comparison)
        numbered = f"Table {number}: {dataset}" if len(comparisons) > 1 else dataset
        said = [f"Set apart by: {'; '.join(apart)}."] if apart else []
        caption = "Accuracy in percent, and scores from 0 to 1" if comparison.scores else "Accuracy in percent"
        tests = differences(comparison)
        parts.append(Part(
            numbered, f"table-{number}",
            tables=(_table(accuracies(comparison), caption, numbered),),
            notes=(*said, *map(bound_line, comparison.bounds), *comparison.notes),
            drawings=_drawings(comparison, drawer, styles),
            later=() if tests is None else (_table(tests, tests.title, numbered),),
        ))  # fmt: skip
    parts.append(Part("What the tables' marks mean", "marks", notes=tuple(footnotes(comparisons))))
    return Section("Comparison", "comparison", parts=tuple(parts))


def _table(grid: Grid, caption: str, where: str) -> Table:
    rows = [
        Row(name, tuple(Cell(entry.text or "-", entry.aside, entry.best) for entry in entries))
        for name, entries in grid.rows
    ]
    return Table(caption, "Method", tuple("\n".join(column) for column in grid.columns), tuple(rows), "numbers", where)


def _drawings(comparison: ComparisonTable, drawer: Drawer, styles: Mapping[str, int]) -> tuple[Drawing, ...]:
    found = []
    for network in sorted({cell.network for cell in comparison.cells}):
        cells = [cell for cell in comparison.cells if cell.network == network and cell.mean is not None]
        ipcs = sorted({cell.ipc for cell in cells if cell.ipc is not None})
        bounds = [
            (f"{bound.cell.row}, all images", 100 * bound.cell.mean)
            for bound in comparison.bounds
            if bound.cell.network == network and bound.cell.mean is not None
        ]
        bars = "Error bars: one standard deviation over networks."
        if len(ipcs) > 1 and len({cell.row for cell in cells}) <= MOST_LINES:
            series = _series(comparison, cells, ipcs, styles)
            name = f"Accuracy against images per class on {network}, {comparison.heading}: {_spoken(cells)}"
            svg = figures.accuracy_by_ipc(drawer, series, list(map(str, ipcs)), bounds, name)
            found.append(Drawing(svg, f"Accuracy against images per class on {network}. {bars}"))
            continue
        sizes: list[int | None] = [*ipcs] or [None]
        for ipc in sizes:
            some = [cell for cell in cells if cell.ipc == ipc]
            if some:
                size = "all images" if ipc is None else f"IPC {ipc}"
                name = f"Accuracy per method at {size} on {network}, {comparison.heading}: {_spoken(some)}"
                series = _series(comparison, some, [ipc], styles)
                svg = figures.accuracy_by_method(drawer, series, bounds, name)
                found.append(Drawing(svg, f"Accuracy at {size} on {network}. {bars}"))
    return tuple(found)


def _series(
    comparison: ComparisonTable, cells: Sequence[Measured], ipcs: Sequence[int | None], styles: Mapping[str, int]
) -> list[figures.Series]:
    series = []
    for row in comparison.rows():
        measured = sorted(
            (ipcs.index(cell.ipc), 100 * cell.mean, 100 * cell.std if cell.std and len(cell.values) > 1 else None)
            for cell in cells
            if cell.row == row and cell.mean is not None
        )
        if measured:
            series.append(figures.Series(row, styles[row], tuple(measured)))
    return series


def _spoken(cells: Sequence[Measured]) -> str:
    """Say the highest and lowest, which a figure shows at a glance."""
    ordered = sorted(cells, key=lambda cell: (-(cell.mean or 0), cell.row, cell.ipc or 0))

    def said(cell: Measured) -> str:
        return f"{cell.row}{'' if cell.ipc is None else f' at IPC {cell.ipc}'} {100 * (cell.mean or 0):.1f} percent"

    return f"highest {said(ordered[0])}, lowest {said(ordered[-1])}; the table above has every value"


def separation_section(comparisons: Sequence[ComparisonTable], runs: Sequence[NamedRun]) -> Section:
    """Return what was not comparable, and why; and what of the runs is missing."""
    introduction, tables = [ALIKE], []
    if len(comparisons) == 1:
        introduction.append("All of these runs were judged alike and stand in one table.")
    else:
        introduction.append(
            f"These runs fall into {len(comparisons)} tables, which must not be held against each other. What differs "
            "between them:"
        )
        tables.append(_apart(comparisons))
    remarks = [
        Row(f"{bound.cell.row}, below table {number}", (Cell("; ".join(bound.remarks)),))
        for number, comparison in enumerate(comparisons, start=1)
        for bound in comparison.bounds
        if bound.remarks
    ]
    if remarks:
        tables.append(Table("Upper bounds that were judged otherwise than the table they stand below", "Upper bound",
                            ("Difference",), tuple(remarks)))  # fmt: skip
    leaky = [named for named in runs if named.run.card.selection == "test_leaky"]
    if leaky:
        introduction.append(
            "Chosen by looking at the test split, and so not comparable with any other run: "
            f"{'; '.join(named.name for named in leaky)}."
        )
    lacking: dict[str, list[str]] = {}
    for each in runs:
        if each.run.missing:
            lacking.setdefault("; ".join(each.run.missing), []).append(each.name)
    if lacking:
        rows = tuple(Row(what, (Cell(f"{len(names)}"), Cell(listed(names)))) for what, names in lacking.items())
        tables.append(Table("What run folders lack, and so this page", "Missing", ("Runs", "Which"), rows))
    return Section("Not comparable, and why", "not-comparable", tuple(introduction), tuple(tables))


def _headed(comparison: ComparisonTable) -> list[str]:
    """Return the parts of a comparison's heading: the data set's name, and what sets it apart from other tables."""
    dataset = f"dataset {comparison.dataset}"
    return [comparison.dataset, *filter(None, comparison.heading.removeprefix(dataset).split("; "))]


def _apart(comparisons: Sequence[ComparisonTable]) -> Table:
    """Return a column for everything that differs, a row for every table."""
    parts = []
    for comparison in comparisons:
        dataset, *others = _headed(comparison)
        parts.append({"data set": dataset} | dict(part.partition(" ")[::2] for part in others))
    columns = list(dict.fromkeys(key for row in parts for key in row))
    rows = [
        Row(f"Table {number}", tuple(Cell(row.get(key, "-")) for key in columns), f"table-{number}")
        for number, row in enumerate(parts, start=1)
    ]
    names = tuple(key.rstrip(":").capitalize() if "." not in key else key for key in columns)
    return Table("What sets the tables apart", "Table", names, tuple(rows))
