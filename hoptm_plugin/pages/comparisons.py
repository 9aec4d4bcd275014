"""The comparison tables of a page, each with its figure, and what could not be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from markupsafe import Markup

from hoptm_plugin.pages import figures
from hoptm_plugin.tables.cells import Cell
from hoptm_plugin.tables.grids import accuracies, bound_line, differences, footnotes
from hoptm_plugin.tables.table import ComparisonTable

Tables: TypeAlias = Sequence[ComparisonTable]


def compared(comparisons: Tables, styles: Mapping[str, int]) -> dict[str, Any]:
    """Return the tables, what their marks mean, what sets them apart, and how bounds were judged otherwise."""
    return {
        "tables": [_table(number, each, len(comparisons), styles) for number, each in enumerate(comparisons, start=1)],
        "footnotes": footnotes(comparisons),
        "apart": _apart(comparisons) if len(comparisons) > 1 else None,
        "remarks": [
            (f"{bound.cell.row}, below table {number}", "; ".join(bound.remarks))
            for number, comparison in enumerate(comparisons, start=1)
            for bound in comparison.bounds
            if bound.remarks
        ],
    }


def styles_of(comparisons: Tables, titles: Iterable[str]) -> dict[str, int]:
    """Return a number for every row of the tables and every method, which decides how it looks in all figures."""
    names = {*titles, *(row for comparison in comparisons for row in comparison.rows())}
    return {name: index for index, name in enumerate(sorted(names, key=lambda name: (len(name), name)))}


def _table(number: int, comparison: ComparisonTable, count: int, styles: Mapping[str, int]) -> dict[str, Any]:
    dataset, *apart = _headed(comparison)
    return {
        "name": f"Table {number}: {dataset}" if count > 1 else dataset,
        "key": f"table-{number}",
        "caption": f"{comparison.measured.title} in percent{', and scores from 0 to 1' if comparison.scores else ''}",
        "grid": accuracies(comparison),
        "tests": differences(comparison),
        "notes": [
            *([f"Set apart by: {'; '.join(apart)}."] if apart else []),
            *map(bound_line, comparison.bounds),
            *comparison.notes,
        ],
        "figures": [
            (_figure(comparison, network, styles),
             f"{comparison.measured.title} against images per class on {network}. Error bars: one standard deviation "
             "over networks.")
            for network in sorted({cell.network for cell in comparison.cells if cell.mean is not None})
        ],
    }  # fmt: skip


def _figure(comparison: ComparisonTable, network: str, styles: Mapping[str, int]) -> Markup:
    measured = [
        (cell, 100 * cell.mean, 100 * cell.std if cell.std and len(cell.values) > 1 else None)
        for cell in comparison.cells
        if cell.network == network and cell.mean is not None
    ]
    sizes = sorted({cell.ipc for cell, _, _ in measured}, key=lambda ipc: ipc or 0)
    points: dict[str, list[tuple[int, float, float | None]]] = {}
    for cell, mean, std in measured:
        points.setdefault(cell.row, []).append((sizes.index(cell.ipc), mean, std))
    series = [figures.Series(row, styles[row], sorted(points[row])) for row in comparison.rows() if row in points]
    bounds = [
        (f"{bound.cell.row}, all images", 100 * bound.cell.mean)
        for bound in comparison.bounds
        if bound.cell.network == network and bound.cell.mean is not None
    ]
    # whom the figure shows at a glance
    ordered = sorted(measured, key=lambda each: (-each[1], each[0].row, each[0].ipc or 0))
    name = (
        f"{comparison.measured.title} against images per class on {network}, {comparison.heading}: highest "
        f"{_spoken(*ordered[0][:2])}, lowest {_spoken(*ordered[-1][:2])}; the table above has every value"
    )
    columns = ["all images" if ipc is None else str(ipc) for ipc in sizes]
    return figures.accuracy(name, series, columns, bounds, f"{comparison.measured.title.lower()} in percent")


def _spoken(cell: Cell, mean: float) -> str:
    return f"{cell.row}{'' if cell.ipc is None else f' at IPC {cell.ipc}'} {mean:.1f} percent"


def _headed(comparison: ComparisonTable) -> list[str]:
    """Return the parts of a comparison's heading: the data set's name, and what sets it apart from other tables."""
    dataset = f"dataset {comparison.dataset}"
    return [comparison.dataset, *filter(None, comparison.heading.removeprefix(dataset).split("; "))]


def _apart(comparisons: Tables) -> dict[str, Any]:
    """Return a table of a column for everything that differs, a row for every table."""
    parts = []
    for comparison in comparisons:
        dataset, *others = _headed(comparison)
        parts.append({"data set": dataset} | dict(part.partition(" ")[::2] for part in others))
    columns = list(dict.fromkeys(key for row in parts for key in row))
    return {
        "columns": [key if "." in key else key.rstrip(":").capitalize() for key in columns],
        "rows": [[row.get(key, "-") for key in columns] for row in parts],
    }
