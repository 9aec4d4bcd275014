"""What is to be known of a table's rows before they are held against each other: one line each, below the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from statistics import fmean
from typing import Final, TypeVar

from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.words import from_other_data, percent
from hoptm_plugin.tables.cells import Cell, same_result, set_digest
from hoptm_plugin.tables.metrics import METRICS

V = TypeVar("V")
MOST_NAMED: Final = 8
UNEVEN: Final = 1.5  # times as many tested images of the most frequent class as of the rarest
DIRTY: Final = "-dirty"
MADE_WITH: Final[Mapping[str, Callable[[Card], str | None]]] = {
    "versions of hoptm_plugin": lambda card: card.software.hoptm_plugin,
    "commits of hoptm_plugin": lambda card: _short(card.software.commit),
    "versions of torch": lambda card: card.software.torch,
    "devices": lambda card: card.cost.device,
}


def notes_on(cells: Sequence[Cell], bounds: Sequence[Cell]) -> list[str]:
    """Return what sets the rows of one table, and the bounds below it, apart, and what a reader would not see."""
    own = [cell for cell in cells if cell.own]  # what was judged beside a set goes with its row
    return [
        *_scales([*own, *bounds]), *_made_otherwise([*own, *bounds]), *_once(cells), *_alike(cells), *_seeds(cells),
        *_sizes(own), *_from_other_data(cells), *_searched(own), *_published([*cells, *bounds]), *_uneven(cells),
        *_undefined(cells), *_given(own),
    ]  # fmt: skip


def _uneven(cells: Sequence[Cell]) -> list[str]:
    """Say what accuracy hides where the tested images of some class outnumber those of another by far."""
    card, evaluation = cells[0].runs[0][0][1], cells[0].runs[0][1]
    counts, classes = evaluation.support, card.dataset.classes
    most, fewest = (pick(evaluation.present, key=counts.__getitem__) for pick in (max, min))
    if cells[0].metric != "accuracy" or counts[most] < UNEVEN * counts[fewest]:
        return []
    rows: dict[str, list[float]] = {}
    for cell in cells:
        recalls = [each.recall_per_class[fewest] for _, each in cell.runs]
        rows.setdefault(cell.row, []).extend(value for value in recalls if value is not None)
    found = sorted(
        ((percent(fmean(recalls)), row) for row, recalls in rows.items() if recalls), key=lambda each: each[1]
    )
    shown = f": {'; '.join(f'{row} {recall}' for recall, row in found)}" if len(found) <= MOST_NAMED else ""
    return [f"The {card.split} images are uneven: {percent(counts[most] / card.tested)} percent are of class "
            f"{classes[most]}, so answering always that has this accuracy, and {percent(counts[fewest] / card.tested)} "
            f"are of class {classes[fewest]}, which accuracy hardly shows. Recall of it{shown or ' is in the cards'}. "
            f"The metrics balanced_accuracy and worst_recall count every class alike."]  # fmt: skip


def _undefined(cells: Sequence[Cell]) -> list[str]:
    """Name the rows of which some networks have no value of the metric, and what that does to their means."""
    short = {cell.row: None for cell in cells if len(cell.values) < cell.networks}
    if not short:
        return []
    return [f"{METRICS[cells[0].metric].title} is undefined or not known for some networks of {named(short)}: those "
            f"that diverged, or whose cards do not hold it; their means are over the others."]  # fmt: skip


def _given(cells: Sequence[Cell]) -> list[str]:
    """Return the notes of the cards, with whose they are where they are not everybody's."""
    rows, every = _rows(cells, lambda card: card.note), {cell.row for cell in cells}
    return sorted(f"Note{'' if {*names} == every else f' on {named(names)}'}: {note}" for note, names in rows.items())


def _made_otherwise(cells: Sequence[Cell]) -> list[str]:
    made = {what: _rows(cells, partial(_known, of)) for what, of in MADE_WITH.items()}
    notes = [f"Made with different {what}: {_each(rows)}." for what, rows in made.items() if len(rows) > 1]
    edited = _rows(cells, lambda card: (card.software.commit or "").endswith(DIRTY) or None)
    if edited:
        notes.append(f"Made with edited files of hoptm_plugin, so by what code is not known: {named(edited[True])}.")
    return notes


def _scales(cells: Sequence[Cell]) -> list[str]:
    rows = _rows(cells, lambda card: card.scale or "none, or not known")
    if all(card.scale is None for cell in cells for (_, card), _ in cell.runs):
        return []
    return [f"Made at different scales: {_each(rows)}." if len(rows) > 1 else f"Made at scale {next(iter(rows))}."]


def _known(of: Callable[[Card], str | None], card: Card) -> str:
    return of(card) or "not known"


def _short(commit: str | None) -> str | None:
    """Return as much of a commit as tells it from others, and whether files were edited."""
    return commit and commit.removesuffix(DIRTY)[:12] + (DIRTY if commit.endswith(DIRTY) else "")


def _once(cells: Sequence[Cell]) -> list[str]:
    twice = [(cell, each.seeds) for cell in cells for each in cell.distillations if len(each.seeds) > 1]
    return [f"{cell.where}: seeds {_numbers(seeds)} have the same set, or the same accuracies network for network, so "
            f"they count as one distillation." for cell, seeds in twice]  # fmt: skip


def _alike(cells: Sequence[Cell]) -> list[str]:
    """Name rows of a column that agree network for network, or judge one set, as a result under another name would."""
    marks = {id(cell): {mark: cell.seed_of(card) for (_, card), each in cell.runs
                        for mark in (*same_result(each), *filter(None, [set_digest(card) if cell.own else None]))}
             for cell in cells}  # fmt: skip
    notes = []
    for one, other in combinations(cells, 2):
        shared = marks[id(one)].keys() & marks[id(other)].keys()
        if shared and one.column == other.column and one.row != other.row:
            seeds = _numbers(sorted({marks[id(one)][mark] for mark in shared}))
            notes.append(f"{one.where}, and {other.row} have the same set, or the same accuracies network for network "
                         f"(seeds {seeds}).")  # fmt: skip
    return notes


def _seeds(cells: Sequence[Cell]) -> list[str]:
    rows: dict[str, dict[str, None]] = {}
    for cell in cells:
        seeds = _numbers(sorted({cell.seed_of(card) for (_, card), _ in cell.runs}))
        rows.setdefault(seeds, {})[cell.row] = None
    return [f"Rows have different seeds: {_each(rows)}."] if len(rows) > 1 else []


def _sizes(cells: Sequence[Cell]) -> list[str]:
    """Name rows that are trained on other numbers of images than IPC and classes make."""
    rows: dict[str, dict[str, None]] = {}
    for cell in cells:
        for (_, card), _ in cell.runs:
            wanted, trained = (cell.ipc or 0) * len(card.dataset.classes), card.images_trained_on
            if wanted and trained is not None and trained != wanted:
                stored = "" if card.images_stored is None else f", of {card.images_stored:,} stored,"
                said = f"IPC {cell.ipc}: {trained:,} images{stored} instead of {wanted:,}"
                rows.setdefault(cell.row, {})[said] = None
    return [f"{row} is trained on other numbers of images than IPC x classes: {'; '.join(said)}."
            for row, said in rows.items()]  # fmt: skip


def _from_other_data(cells: Sequence[Cell]) -> list[str]:
    others = [(cell, card) for cell in cells if cell.from_other_data for (_, card), _ in cell.runs]
    notes = {f"{cell.row}: {from_other_data(card, card.distilled_from)}; it is never marked as best."
             for cell, card in others if card.distilled_from is not None}  # fmt: skip
    return sorted(notes)


def _searched(cells: Sequence[Cell]) -> list[str]:
    """Say how many settings were tried for each row, where not equally many."""
    rows = _rows(
        [cell for cell in cells if not cell.floor and cell.ipc is not None],
        lambda card: "no search on record" if card.tuning is None else f"{len(card.tuning.candidates)} candidates",
    )
    return [f"Settings were searched for unequally: {_each(rows)}."] if len(rows) > 1 else []


def _published(cells: Sequence[Cell]) -> list[str]:
    """Say what published numbers had more to train on."""
    data = next((cell.runs[0][0][1].dataset for cell in cells if cell.reported is not None), None)
    if data is None or data.validation_carved == 0:
        return []
    if data.validation_carved is None:
        return [f"If the {data.validation:,} validation images were carved from the training images, what was reported "
                f"had these as well."]  # fmt: skip
    return [f"What was reported had all {data.train + data.validation_carved:,} training images; here "
            f"{data.validation_carved:,} of them are the validation split."]  # fmt: skip


def _rows(cells: Iterable[Cell], of: Callable[[Card], V | None]) -> dict[V, dict[str, None]]:
    """Return the rows whose cards have each value, in the order met; cards without one are left out."""
    rows: dict[V, dict[str, None]] = {}
    for cell in cells:
        for (_, card), _ in cell.runs:
            if (value := of(card)) is not None:
                rows.setdefault(value, {})[cell.row] = None
    return rows


def _each(rows: Mapping[str, Iterable[str]]) -> str:
    return "; ".join(f"{value} ({named(names)})" for value, names in sorted(rows.items()))


def named(names: Iterable[str]) -> str:
    """Return names in one line, the first of them where there are many."""
    known = [f'"{name}"' if "," in name else name for name in sorted(names, key=str.casefold)]
    more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    return f"{', '.join(known[:MOST_NAMED])}{more}"


def _numbers(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) if len(seeds) <= MOST_NAMED else f"{len(seeds)} from {seeds[0]} to {seeds[-1]}"
