"""Comparison of cards in tables: only what was evaluated alike shares one."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pandas
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.engine.metrics import summarise
from hoptm_plugin.results.card import FILE_NAME, Card, Evaluation, read_card
from hoptm_plugin.results.console import SELECTIONS, percent

FoundCard: TypeAlias = tuple[Path, Card]
Format: TypeAlias = Literal["markdown", "csv", "json"]
RANDOM, RANDOM_ROW = "random", "random subset*"
FOOTNOTE = "* random training images, evaluated within the other methods' runs, one set of networks a seed"
COLUMNS = ["dataset", "ipc", "network"]


@dataclass(frozen=True)
class Comparison:
    """Cards of one data set, protocol and selection.

    Attributes:
        heading: the data set, and in words where this group differs from the other groups.
        cells: one row per (method, dataset, ipc, network): ``mean`` and ``std`` as fractions, ``networks`` and ``runs``
            that were pooled.
    """

    heading: str
    cells: pandas.DataFrame

    def table(self) -> pandas.DataFrame:
        """Return "mean ± std (networks)" in percent: a row per method, columns (dataset, ipc, network); "" if none."""
        return self._pivot(self.cells.assign(text=[_text(cell) for cell in self.cells.itertuples()]), "text").fillna("")

    def best(self) -> pandas.DataFrame:
        """Return, in the shape of :meth:`table`, whether a cell has its column's highest mean."""
        means = self._pivot(self.cells, "mean")
        return means == means.max()

    def columns(self) -> list[tuple[str, int, str]]:
        """Return the (dataset, ipc, network) of :meth:`table`'s columns."""
        ordered = self.cells[COLUMNS].drop_duplicates().sort_values(COLUMNS)
        return list(ordered.itertuples(index=False, name=None))

    def rows(self) -> list[tuple[str, list[tuple[str, bool]]]]:
        """Return :meth:`table`'s rows: the method, and (text, whether it is its column's best) per column."""
        table = self.table()
        rows = zip(table.index, table.to_numpy().tolist(), self.best().to_numpy().tolist(), strict=True)
        return [(name, list(zip(texts, marks, strict=True))) for name, texts, marks in rows]

    @staticmethod
    def _pivot(cells: pandas.DataFrame, values: str) -> pandas.DataFrame:
        wide = cells.pivot(index="method", columns=COLUMNS, values=values)
        return wide.reindex(sorted(wide.index, key=lambda name: (name != RANDOM_ROW, name.casefold())))


def find_cards(paths: Iterable[Path]) -> list[FoundCard]:
    """Return (file, card) for every path: a card, a run folder, or a folder searched through for cards.

    A card met twice counts once, copies included.

    Raises:
        FileFormatError: a path without a card, or a card that cannot be read; none is skipped.
    """
    found: dict[Path, Card] = {}
    for path in paths:
        inside = path.is_dir() and not (path / FILE_NAME).exists()
        files = sorted(path.rglob(FILE_NAME)) if inside else [path / FILE_NAME if path.is_dir() else path]
        if not files:
            raise FileFormatError(f"{path}: no {FILE_NAME} in this folder or below; name folders of finished runs")
        for file in files:
            card = read_card(file)
            if file.resolve() not in found and card not in found.values():
                found[file.resolve()] = card
    return list(found.items())


def compare(cards: Sequence[FoundCard]) -> list[Comparison]:
    """Group cards by data set, fingerprint, protocol and selection, and pool each cell's networks over seeds.

    Two runs of a method with the same seed differ in their settings: they are not pooled but get a row each, named by
    their folders.
    """
    groups: dict[str, list[FoundCard]] = {}
    for found in cards:
        groups.setdefault(json.dumps(_conditions(found[1]), sort_keys=True), []).append(found)
    all_conditions = [_flat(_conditions(members[0][1])) for members in groups.values()]
    differing = [
        key
        for key in dict.fromkeys(key for conditions in all_conditions for key in conditions)
        if len({json.dumps(conditions.get(key)) for conditions in all_conditions}) > 1
    ]
    return [
        Comparison(_heading(members[0][1], conditions, differing), _cells(members))
        for members, conditions in zip(groups.values(), all_conditions, strict=True)
    ]


def _conditions(card: Card) -> dict[str, Any]:
    return {
        "dataset": card.dataset.name,
        "fingerprint": card.dataset.fingerprint,
        "selection": card.selection,
        "protocol": card.protocol,
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
        elif key not in ("dataset", "selection"):
            parts.append(f"{key} {conditions.get(key, '(not set)')}")
    if "selection" in differing or card.selection == "test_leaky":
        parts.append(f"chosen: {SELECTIONS[card.selection]}")
    return "; ".join(parts)


def _cells(members: Sequence[FoundCard]) -> pandas.DataFrame:
    pools: dict[tuple[str, int, str], list[Evaluation]] = {}
    names = _row_names(members)
    for name, (_, card) in zip(names, members, strict=True):
        for evaluation in card.evaluations:
            pools.setdefault((name, card.ipc, evaluation.network), []).append(evaluation)
    measured = {(c.ipc, e.network) for _, c in members if c.method == RANDOM for e in c.evaluations}
    seen: set[tuple[int, int, str]] = set()
    for _, card in members:
        for evaluation in card.random_subset or ():
            place = (card.ipc, evaluation.network)
            if place not in measured and (card.seed, *place) not in seen:  # methods of one seed draw the same subsets
                seen.add((card.seed, *place))
                pools.setdefault((RANDOM_ROW, *place), []).append(evaluation)
    dataset = members[0][1].dataset.name
    rows = []
    for (name, ipc, network), evaluations in pools.items():
        summary = summarise([value for evaluation in evaluations for value in evaluation.accuracy.values])
        counts = {"networks": len(summary["values"]), "runs": len(evaluations)}
        rows.append({"method": name, "dataset": dataset, "ipc": ipc, "network": network,
                     "mean": summary["mean"], "std": summary["std"], **counts})  # fmt: skip
    return pandas.DataFrame(rows)


def _row_names(members: Sequence[FoundCard]) -> list[str]:
    """Return each card's row: its title, with the method's short name or the folder where the title would mislead."""
    methods: dict[str, set[str]] = {}
    for _, card in members:
        methods.setdefault(card.title, set()).add(card.method)
    counts = Counter((card.method, card.title, card.ipc, card.seed) for _, card in members)
    repeated = {key[:2] for key, count in counts.items() if count > 1}
    folders = [path.parent if path.name == FILE_NAME else path for path, _ in members]
    common = os.path.commonpath(folders)
    names = []
    for folder, (_, card) in zip(folders, members, strict=True):
        name = card.title if len(methods[card.title]) == 1 else f"{card.title} [{card.method}]"
        alone = (card.method, card.title) not in repeated
        names.append(name if alone else f"{name} ({folder.relative_to(common)})")
    return names


def _text(cell: Any) -> str:
    return f"{percent(cell.mean, cell.std)} ({cell.networks})"


def print_comparison(console: Console, comparisons: Sequence[Comparison]) -> None:
    """Print every table with its heading; each column's best is bold on a terminal."""
    for comparison in comparisons:
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("method")
        for _, ipc, network in comparison.columns():
            table.add_column(Text(f"IPC {ipc}\n{network}"), justify="right")
        for name, cells in comparison.rows():
            table.add_row(Text(name), *(Text(text, "bold" if best else "") for text, best in cells))
        console.print(Text(comparison.heading, "bold"), soft_wrap=True)
        console.print(table)
    console.print(
        Text("Accuracy in percent: mean ± population std (number of networks, pooled over seeds)."), soft_wrap=True
    )
    if any(RANDOM_ROW in set(comparison.cells["method"]) for comparison in comparisons):
        console.print(Text(FOOTNOTE), soft_wrap=True)


def render(comparisons: Sequence[Comparison], form: Format) -> str:
    """Return the tables as text: Markdown in percent with the best in bold, or CSV or JSON with fractions."""
    if form == "markdown":
        tables = [_markdown(comparison) for comparison in comparisons]
        notes = [FOOTNOTE.replace("*", r"\*")] if any(r"\*" in table for table in tables) else []
        return "\n\n".join([*tables, *notes]) + "\n"
    cells = pandas.concat([comparison.cells.assign(group=comparison.heading) for comparison in comparisons])
    if form == "csv":
        return cells.to_csv(index=False)
    return json.dumps(cells.to_dict("records"), indent=2, ensure_ascii=False) + "\n"


def _markdown(comparison: Comparison) -> str:
    columns = comparison.columns()
    lines = [["method", *(_escaped(f"IPC {ipc}, {network}") for _, ipc, network in columns)]]
    lines.append(["---", *("--:" for _ in columns)])
    for name, cells in comparison.rows():
        lines.append([_escaped(name), *(f"**{text}**" if best else text for text, best in cells)])
    return f"{_escaped(comparison.heading)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*")
