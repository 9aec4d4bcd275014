"""What a page says first: the best method, by how much, whether that is sure, what it cost, and its images."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Final

from hoptm_plugin.cards.words import percent
from hoptm_plugin.engine.significance import LEVEL
from hoptm_plugin.pages.cost import duration
from hoptm_plugin.pages.reading import Run
from hoptm_plugin.tables.cells import AVERAGED, Cell, Column
from hoptm_plugin.tables.grids import p_value
from hoptm_plugin.tables.table import ComparisonTable

MOST_PARTS: Final = 6
Tables = Sequence[ComparisonTable]


def summary_parts(comparisons: Tables, runs: Sequence[Run], real_images: bool) -> tuple[list[dict[str, Any]], int]:
    """Return a part for every column of every table, the first of them, and how many more there are."""
    places = [(number, table, column) for number, table in enumerate(comparisons, start=1)
              for column in table.columns() if _ranked(table, column)]  # fmt: skip
    parts = [
        {"key": f"table-{number}", **_part(table, column, runs, real_images),
         "table": f"table {number}" if len(comparisons) > 1 else "the table"}
        for number, table, column in places[:MOST_PARTS]
    ]  # fmt: skip
    return parts, len(places) - len(parts)


def _ranked(table: ComparisonTable, column: Column) -> list[Cell]:
    """Return the methods of a column, the best first; random subsets are none, and others' data no merit."""
    cells = [cell for cell in table.cells if cell.column == column and cell.merit is not None and not cell.floor]
    return sorted(cells, key=lambda cell: (cell.from_other_data, -(cell.merit or 0.0), cell.row))


def _part(table: ComparisonTable, column: Column, runs: Sequence[Run], real_images: bool) -> dict[str, Any]:
    best, *others = _ranked(table, column)
    ipc, network = column
    size = "all images" if ipc is None else "1 image per class" if ipc == 1 else f"{ipc} images per class"
    validation = "; on the validation split: for choosing settings, not a result" * (table.split == "validation")
    return {
        "name": f"{table.dataset}, {size}, {network}{validation}",
        "row": best.row,
        "figure": f"{percent(best.mean, best.std if len(best.values) > 1 else None)} %",
        "what": f"{table.measured.title.lower()}, {_counted(best)}",
        "lines": [
            _lead(table, best, others), *_picked(table, best), _floor(table, best), *_bound(table, best), _cost(best)
        ],
        **_images(best, runs, real_images),
    }  # fmt: skip


def _counted(cell: Cell) -> str:
    sets, networks = len(cell.distillations), cell.networks
    return f"{networks} network{'s' * (networks > 1)} on {sets} distilled set{'s' * (sets > 1)}"


def _lead(table: ComparisonTable, best: Cell, others: Sequence[Cell]) -> str:
    if not others:
        return "The only method here, so nothing says whether another would do better."
    return f"{_by(best, others[0])} {others[0].row}, the next best: {_sure(table, best, others[0])}."


def _picked(table: ComparisonTable, best: Cell) -> list[str]:
    """Say that the best of several settings of a method was picked by what it was judged on."""
    rows = {cell.row for cell in table.cells if (cell.column, cell.method) == (best.column, best.method)
            and (AVERAGED in cell.row) == (AVERAGED in best.row)}  # fmt: skip
    if not best.settings or len(rows) < 2 or table.split == "validation":
        return []
    return [f"It is the best of {len(rows)} settings of the method by the test images themselves, which flatters it; "
            f"choose settings on the validation split."]  # fmt: skip


def _by(best: Cell, other: Cell) -> str:
    """Say by how much the first is better than the second."""
    points = 100 * ((best.merit or 0.0) - (other.merit or 0.0))
    if abs(points) < 0.005:
        return "Level with"
    return f"{abs(points):.2f} points {'better' if points > 0 else 'worse'} than"


def _sure(table: ComparisonTable, best: Cell, other: Cell) -> str:
    """Say whether a difference is more than chance, as the table's tests have it."""
    p = other.p_holm if other.against == best.row else best.p_holm if best.against == other.row else None
    if p is not None:
        found = "more than chance explains" if p < LEVEL else "may be chance, so take the two as equal"
        return f"{found} (p {p_value(p)}, corrected for all tests of the table)"
    if len(best.by_seed) < 2:
        return "whether by chance cannot be told from one seed; run more"
    if len(other.by_seed) < 2:
        return f"whether by chance cannot be told from one seed of {other.row.rstrip('*')}; run more"
    reference = best.against or other.against
    return "whether by chance was not tested" + (f", since tests are against {reference}" if reference else "")


def _floor(table: ComparisonTable, best: Cell) -> str:
    floors = [cell for cell in table.cells if cell.column == best.column and cell.floor and cell.merit is not None]
    if not floors:
        return "Random images of the same number were not judged beside it, so what it gains over them is not known."
    floor = max(floors, key=lambda cell: (cell.merit or 0.0, cell.row))
    said = f"{_by(best, floor)} training images taken at random ({floor.row.rstrip('*')}): {_sure(table, best, floor)}."
    worse = (best.merit or 0.0) <= (floor.merit or 0.0)
    return f"{'No method is better than random images here. ' if worse else ''}{said}"


def _bound(table: ComparisonTable, best: Cell) -> list[str]:
    found = [bound for bound in table.bounds if bound.cell.network == best.network and bound.cell.mean is not None]
    return [f"All {bound.images:,} training images give {percent(bound.cell.mean)} % ({bound.cell.row}"
            f"{', judged otherwise' if bound.remarks else ''})." for bound in found]  # fmt: skip


def _cost(best: Cell) -> str:
    costs = [card.cost for (_, card), _ in best.runs]
    stages = (("experts", "experts_s"), ("distillation", "distill_s"), ("evaluation", "evaluate_s"))
    means = {name: [seconds for cost in costs if (seconds := getattr(cost, key)) is not None] for name, key in stages}
    took = ", ".join(f"{name} {duration(fmean(seconds))}" for name, seconds in means.items() if any(seconds))
    known = [cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes is not None]
    memory = [f"at most {max(known) / 2**30:.2f} GiB of memory"] if known else []
    devices = sorted({cost.device for cost in costs})
    return f"Cost of a run: {'; '.join([took, *memory, ', '.join(devices)])}."


def _images(best: Cell, runs: Sequence[Run], real_images: bool) -> dict[str, Any]:
    files = {place for (place, _), _ in best.runs} if best.own else set()
    for run in runs:
        for shown in run.pictures if run.file in files else ():
            if shown.kind == "distilled" and shown.sample and (real_images or not shown.real):
                return {"images": shown.sample, "caption": shown.caption, "all": f"images-{run.key}"}
    return {"images": (), "caption": "", "all": ""}
