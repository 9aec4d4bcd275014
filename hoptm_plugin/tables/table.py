"""Single tables of cards: only what was evaluated alike shares one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal, TypeAlias

from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.words import SELECTIONS
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.roles import decides
from hoptm_plugin.engine.settings import Protocol
from hoptm_plugin.engine.significance import Test
from hoptm_plugin.tables.cells import AVERAGED, RANDOM_ROW, Cell, Column, FoundCard, pooled, with_tests
from hoptm_plugin.tables.labels import natural
from hoptm_plugin.tables.metrics import METRICS, Metric, MetricName
from hoptm_plugin.tables.notes import named, notes_on

Sort: TypeAlias = Literal["name", "result"]

# what is judged beside a set, and nothing of its own figures
BESIDE = tuple(name for name in Protocol.model_fields if (known := decides(Protocol, name)) and known.beside)


@dataclass(frozen=True)
class Bound:
    """A method that trained on the whole training split: the upper bound below a table.

    Attributes:
        cell: its pooled networks.
        images: training images.
        remarks: how it was judged otherwise than the table, in words; empty if alike.
    """

    cell: Cell
    images: int
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class ComparisonTable:
    """Cards of one data set, protocol and selection.

    Attributes:
        heading: the data set, and in words where this group differs from the other groups.
        dataset: its name.
        cells: every row's cells.
        bounds: results on the whole training split.
        notes: on what is not shown, and what else is to be known of the rows.
        tested: how cells were to be tested; None where they were not.
        against: the row they were tested against; None where that is each column's best.
        scores: columns of scores beside the metric, of "lrs" and "ars".
        metric: that its cells are of.
        sort: rows by "name", the random subsets first, or by "result", the best first.
    """

    heading: str
    dataset: str
    cells: tuple[Cell, ...]
    bounds: tuple[Bound, ...] = ()
    notes: tuple[str, ...] = ()
    tested: Test | None = "paired"
    against: str | None = None
    scores: tuple[str, ...] = ()
    metric: MetricName = "accuracy"
    sort: Sort = "name"

    @property
    def split(self) -> str:
        """The split that its networks were tested on."""
        return self.cells[0].runs[0][0][1].split

    @property
    def measured(self) -> Metric:
        """The metric."""
        return METRICS[self.metric]

    def columns(self) -> list[Column]:
        """Return the table's columns, (IPC, network), in order."""
        return sorted({cell.column for cell in self.cells}, key=lambda column: (column[0] or 0, column[1]))

    def rows(self) -> list[str]:
        """Return the names of the table's rows, in order."""
        behind = self.behind() if self.sort == "result" else {}
        names = {cell.row for cell in self.cells}
        return sorted(names, key=lambda row: (behind.get(row, 0.0), row != RANDOM_ROW, natural(row), row))

    def behind(self) -> dict[str, float]:
        """Return how far each row is behind the best of its columns, mean over these; infinity where nothing tells."""
        tops: dict[Column, float] = {}
        for cell in self.cells:
            if cell.merit is not None:
                tops[cell.column] = max(cell.merit, tops.get(cell.column, cell.merit))
        distances: dict[str, list[float]] = {cell.row: [] for cell in self.cells}
        for cell in self.cells:
            if cell.merit is not None:
                distances[cell.row].append(tops[cell.column] - cell.merit)
        return {row: fmean(found) if found else float("inf") for row, found in distances.items()}

    def cell(self, row: str, column: Column) -> Cell | None:
        """Return a cell, or None where the method was not run."""
        return next((cell for cell in self.cells if (cell.row, cell.column) == (row, column)), None)


def tables_of(
    cards: Sequence[FoundCard], against: str | None, tests: Test | None, metric: MetricName = "accuracy",
    sort: Sort = "name",
) -> list[ComparisonTable]:  # fmt: skip
    """Group cards by data set, fingerprint, protocol and selection; pool each cell's networks over seeds; test.

    Cards of the whole training split (``ipc`` None) stand below every table of the same data set, whatever their
    protocol, and in a table of their own where there is none.

    Raises:
        ConfigurationError: no table, or more than one row of a table, is called ``against``.
    """
    sized = [found for found in cards if found[1].ipc is not None]
    hosts = {_data(card) for _, card in sized}
    whole = [found for found in cards if found[1].ipc is None]
    groups = _grouped([*sized, *(found for found in whole if _data(found[1]) not in hosts)])
    conditions = [_flat(_conditions(members[0][1])) for members in groups]
    differing = [
        key
        for key in dict.fromkeys(key for flat in conditions for key in flat)
        if len({json.dumps(flat.get(key)) for flat in conditions}) > 1
    ]
    bounds = _grouped([found for found in whole if _data(found[1]) in hosts])
    tables = []
    for members, flat in zip(groups, conditions, strict=True):
        card = members[0][1]
        cells, notes = pooled(members, metric)
        below = [
            bound for others in bounds if _data(others[0][1]) == _data(card) for bound in _bounds(others, card, metric)
        ]
        notes += notes_on(cells, [bound.cell for bound in below])
        tables.append(ComparisonTable(
            _heading(card, flat, differing), card.dataset.name, tuple(cells), tuple(below), tuple(notes), tests,
            metric=metric, sort=sort,
        ))  # fmt: skip
    return _tested(tables, against, tests) if tests else tables


def _grouped(cards: Sequence[FoundCard]) -> list[list[FoundCard]]:
    groups: dict[str, list[FoundCard]] = {}
    for found in cards:
        key = [_conditions(found[1]), found[1].ipc is None]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(found)
    return list(groups.values())


def _data(card: Card) -> tuple[str, str, str]:
    return card.dataset.name, card.dataset.fingerprint, card.split


def _conditions(card: Card) -> dict[str, Any]:
    return {
        "dataset": card.dataset.name,
        "fingerprint": card.dataset.fingerprint,
        "selection": card.selection,
        "protocol": {key: value for key, value in card.protocol.items() if key not in BESIDE},
    }


def _flat(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{path}{key}.") if isinstance(item, Mapping) else {f"{path}{key}": item}
    return flat


def _heading(card: Card, conditions: Mapping[str, Any], differing: Sequence[str]) -> str:
    parts = [f"dataset {card.dataset.name}"]
    for key in differing:
        if key == "fingerprint":
            parts.append(f"{key} {card.dataset.fingerprint[:12]}")
        elif key not in ("dataset", "selection", "protocol.split"):
            parts.append(f"{key} {_said(conditions, key)}")
    if card.ipc is None:
        parts.append(f"upper bound: all {card.dataset.train:,} training images")
    if card.split == "validation":
        parts.append("judged on the VALIDATION split: for choosing settings, not a result")
    if "selection" in differing or card.selection == "test_leaky":
        parts.append(f"chosen: {SELECTIONS[card.selection]}")
    return "; ".join(parts)


def _said(conditions: Mapping[str, Any], key: str) -> str:
    value = conditions.get(key, "(not set)")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _bounds(members: Sequence[FoundCard], host: Card, metric: MetricName) -> list[Bound]:
    """Return the results of cards on the whole training split, with what sets them apart from the table's cards."""
    card = members[0][1]
    theirs, ours = (_flat(_conditions(each)["protocol"]) for each in (card, host))
    differences = [
        f"{key} {_said(theirs, key)} instead of {_said(ours, key)}"
        for key in dict.fromkeys([*ours, *theirs])
        if json.dumps(theirs.get(key)) != json.dumps(ours.get(key))
    ]
    remarks = [f"protocol differs: {', '.join(differences)}"] if differences else []
    if card.selection == "test_leaky":
        remarks.append(f"chosen: {SELECTIONS[card.selection]}")
    cells = [cell for cell in pooled(members, metric)[0] if cell.row != RANDOM_ROW]
    return [Bound(cell, card.dataset.train, tuple(remarks)) for cell in cells]


def only_best(table: ComparisonTable, count: int) -> ComparisonTable:
    """Return a table with the best ``count`` rows of each method that has several settings, and what is left out said.

    What was tested stays so, and corrected over all rows: the best of many is chosen because it came out best.
    """
    behind, rows = table.behind(), dict[tuple[str, bool], dict[str, None]]()
    tested_against = {cell.against for cell in table.cells if not cell.best}  # such as another column's best
    for cell in table.cells:
        if cell.row not in (RANDOM_ROW, table.against):
            rows.setdefault((cell.method, AVERAGED in cell.row), {})[cell.row] = None
    out = [row for members in rows.values() for row in sorted(members, key=lambda row: (behind[row], row))[count:]
           if row not in tested_against]  # fmt: skip
    if not out:
        return table
    kept = tuple(cell for cell in table.cells if cell.row not in out)
    tried = "" if table.split == "validation" else ", by the test images themselves, so their results are flattered"
    note = (f"Only the best {count} of each method's settings {'is' if count == 1 else 'are'} shown{tried}; left out, "
            f"though counted where p-values are corrected: {named(out)}.")  # fmt: skip
    return replace(table, cells=kept, notes=(*table.notes, note))


def _tested(tables: Sequence[ComparisonTable], against: str | None, tests: Test) -> list[ComparisonTable]:
    rows = [None if against is None else _row_called(against, table) for table in tables]
    if against is not None and not any(rows):
        known = sorted({row for table in tables for row in table.rows()}, key=natural)
        raise ConfigurationError(f"against {against}: no row is called that (known: {', '.join(known)})")
    tested = []
    for table, row in zip(tables, rows, strict=True):
        if against is not None and row is None:
            notes = (*table.notes, f"No row {against} in this table, so nothing is tested.")
            tested.append(replace(table, notes=notes, tested=None))
        else:
            tested.append(replace(table, cells=tuple(with_tests(table.cells, row, tests)), against=row))
    return tested


def _row_called(name: str, table: ComparisonTable) -> str | None:
    """Return the row called ``name``, by its name or by its method's short name; None if there is none."""
    if name in table.rows():
        return name
    rows = sorted({cell.row for cell in table.cells if cell.method == name and AVERAGED not in cell.row})
    if len(rows) > 1:
        raise ConfigurationError(f"against {name}: it has several rows, name one of them: {', '.join(rows)}")
    return rows[0] if rows else None
