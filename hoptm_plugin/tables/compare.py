"""Comparison of cards: only what was evaluated alike shares a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hoptm_plugin.cards.card import FILE_NAME, Card, read_card
from hoptm_plugin.cards.significance import Test
from hoptm_plugin.cards.words import SELECTIONS
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError, UserError
from hoptm_plugin.tables.cells import AVERAGED, RANDOM_ROW, Cell, Column, FoundCard, pooled, with_best, with_tests

# the first says only whether the floor was evaluated as well, the second matters to averaged rows, which are marked
HARMLESS = ("random_subset", "warm_start_average")
RUN_FILES = (".json", ".jsonl", ".yaml", ".safetensors", ".png")


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
class Comparison:
    """Cards of one data set, protocol and selection.

    Attributes:
        heading: the data set, and in words where this group differs from the other groups.
        dataset: its name.
        cells: every row's cells.
        bounds: results on the whole training split.
        notes: on what is not shown.
        tested: how cells were tested; None where they were not.
        against: the row they were tested against; None where that is each column's best.
        scores: columns of scores beside the accuracies, of "lrs" and "ars".
    """

    heading: str
    dataset: str
    cells: tuple[Cell, ...]
    bounds: tuple[Bound, ...] = ()
    notes: tuple[str, ...] = ()
    tested: Test | None = "welch"
    against: str | None = None
    scores: tuple[str, ...] = ()

    def columns(self) -> list[Column]:
        """Return the table's columns, (IPC, network), in order."""
        return sorted({cell.column for cell in self.cells}, key=lambda column: (column[0] or 0, column[1]))

    def rows(self) -> list[str]:
        """Return the names of the table's rows: the random subset, then by name."""
        return sorted({cell.row for cell in self.cells}, key=lambda row: (row != RANDOM_ROW, row.casefold(), row))

    def cell(self, row: str, column: Column) -> Cell | None:
        """Return a cell, or None where the method was not run."""
        return next((cell for cell in self.cells if (cell.row, cell.column) == (row, column)), None)


def find_cards(paths: Iterable[Path]) -> list[FoundCard]:
    """Return (file, card) for every path: a card, a run folder, or a folder searched through for cards.

    A card met twice counts once, copies included.

    Raises:
        FileFormatError: a path without a card, or a card that cannot be read; none is skipped.
    """
    found: dict[Path, Card] = {}
    for path in paths:
        try:
            path.stat()
        except FileNotFoundError:
            pass  # said below, as of a card
        except OSError as error:  # such as a name that is too long
            raise FileFormatError(f"{path}: {error.strerror}; name folders of finished runs") from None
        inside = path.is_dir() and not (path / FILE_NAME).exists()
        files = sorted(path.rglob(FILE_NAME)) if inside else [path / FILE_NAME if path.is_dir() else path]
        if not files:
            raise FileFormatError(f"{path}: no {FILE_NAME} in this folder or below; name folders of finished runs")
        for file in files:
            card = read_card(file)
            if file.resolve() not in found and card not in found.values():
                found[file.resolve()] = card
    return list(found.items())


def refuse_card(output: Path, cards: Sequence[FoundCard]) -> None:
    """Refuse to write over a file of one of the runs that are read.

    Raises:
        UserError: ``output`` is a card, or lies beside one under the name of another file of a run.
    """
    beside = {file.parent.resolve() for file, _ in cards if file.name == FILE_NAME}
    inside = output.parent.resolve() in beside and output.exists() and output.suffix in RUN_FILES
    if inside or output.resolve() in {file.resolve() for file, _ in cards}:
        raise UserError(f"{output}: is a file of a run; name another one")


def compare(
    cards: Sequence[FoundCard], *, against: str | None = None, tests: Test | None = "welch"
) -> list[Comparison]:
    """Group cards by data set, fingerprint, protocol and selection; pool each cell's networks over seeds; test.

    Cards of the whole training split (``ipc`` None) stand below every table of the same data set, whatever their
    protocol, and in a table of their own where there is none. The order of ``cards`` does not matter.

    Args:
        cards: as :func:`find_cards` gives them.
        against: title or short name of the method to test against; None takes each column's best.
        tests: "welch", over networks; "paired", over distillation seeds; None: nothing is tested.

    Raises:
        ConfigurationError: no table, or more than one row of a table, is called ``against``.
    """
    cards = sorted(cards, key=lambda found: found[0])
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
    comparisons = []
    for members, flat in zip(groups, conditions, strict=True):
        card = members[0][1]
        cells, notes = pooled(members)
        notes += sorted({f"Note: {each.note}" for _, each in members if each.note})
        comparisons.append(Comparison(
            _heading(card, flat, differing), card.dataset.name, tuple(with_best(cells)),
            tuple(bound for others in bounds if _data(others[0][1]) == _data(card) for bound in _bounds(others, card)),
            tuple(notes), tests,
        ))  # fmt: skip
    return _tested(comparisons, against, tests) if tests else comparisons


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
        "protocol": {key: value for key, value in card.protocol.items() if key not in HARMLESS},
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


def _bounds(members: Sequence[FoundCard], host: Card) -> list[Bound]:
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
    cells = [cell for cell in pooled(members)[0] if cell.row != RANDOM_ROW]
    return [Bound(cell, card.dataset.train, tuple(remarks)) for cell in cells]


def _tested(comparisons: Sequence[Comparison], against: str | None, tests: Test) -> list[Comparison]:
    rows = [None if against is None else _row_called(against, comparison) for comparison in comparisons]
    if against is not None and not any(rows):
        known = sorted({row for comparison in comparisons for row in comparison.rows()}, key=str.casefold)
        raise ConfigurationError(f"--against {against}: no row is called that (known: {', '.join(known)})")
    tested = []
    for comparison, row in zip(comparisons, rows, strict=True):
        absent = against is not None and row is None
        cells = comparison.cells if absent else tuple(with_tests(comparison.cells, row, tests))
        notes = (*comparison.notes, *([f"No row {against} in this table, so nothing is tested."] if absent else []))
        tested.append(replace(comparison, cells=cells, tested=None if absent else tests, against=row, notes=notes))
    return tested


def _row_called(name: str, comparison: Comparison) -> str | None:
    """Return the row called ``name``, by its name or by its method's short name; None if there is none."""
    if name in comparison.rows():
        return name
    rows = sorted({cell.row for cell in comparison.cells if cell.method == name and AVERAGED not in cell.row})
    if len(rows) > 1:
        raise ConfigurationError(f"--against {name}: it has several rows, name one of them: {', '.join(rows)}")
    return rows[0] if rows else None
