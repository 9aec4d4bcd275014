"""Cells of comparison tables: networks of a method pooled over seeds, the best of a column, and tests against it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import TypeAlias

from hoptm_plugin.cards.card import FILE_NAME, Card, ReportedAccuracy
from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.engine.significance import LEVEL, Difference, Test, holm, paired, welch
from hoptm_plugin.exchange.manifest import FILE_NAME as EXPORTED

FoundCard: TypeAlias = tuple[Path | int, Card]
"""A card and its file; of a card that was given as an object, its number among all that were given."""
Column: TypeAlias = tuple[int | None, str]
"""Images per class, None for the whole training split; and network."""
RANDOM, RANDOM_ROW, AVERAGED, WARM = "random", "random subset*", ", EMA", " (warm)"


@dataclass(frozen=True)
class Cell:
    """One method on one data set, IPC and network.

    Attributes:
        row: the method's name in the table.
        method: its short name; of the averaged set and of the random subset as well.
        ipc: images per class; None for the whole training split.
        network: the architecture.
        runs: the cards that were pooled, each with what its networks achieved.
        reported: what was published, or None.
        source: of ``reported``.
        best: the column's highest mean.
        against: the row it is tested against, or None where it is not.
        difference: from that row; None where no seed is on both sides.
        p_holm: the difference's p-value, corrected over all tests of the table.
        lrs: label-robust score, where asked for and defined (``tables/robust.py``).
        ars: augmentation-robust score, likewise.
    """

    row: str
    method: str
    ipc: int | None
    network: str
    runs: tuple[tuple[FoundCard, Evaluation], ...] = field(repr=False)
    reported: ReportedAccuracy | None = None
    source: str | None = None
    best: bool = False
    against: str | None = None
    difference: Difference | None = None
    p_holm: float | None = None
    lrs: float | None = None
    ars: float | None = None

    @property
    def column(self) -> Column:
        """(IPC, network)."""
        return self.ipc, self.network

    @property
    def floor(self) -> bool:
        """Whether it is of random subsets, what every method must beat."""
        return self.row == RANDOM_ROW or all(card.floor for (_, card), _ in self.runs)

    @property
    def values(self) -> tuple[float, ...]:
        """Accuracies of all networks, fractions; a card without one of them is refused."""
        return accuracies_of(evaluation for _, evaluation in self.runs)

    @property
    def mean(self) -> float:
        """Mean of the values, a fraction."""
        return fmean(self.values)

    @property
    def std(self) -> float:
        """Population standard deviation (ddof 0) of the values, a fraction."""
        return pstdev(self.values)

    @property
    def by_seed(self) -> tuple[tuple[int, float], ...]:
        """(distillation seed, mean accuracy of its networks) of each run."""
        return tuple((distillation_seed(card), fmean(accuracies_of([each]))) for (_, card), each in self.runs)

    @property
    def indistinct(self) -> bool:
        """Whether a test could be done and found no significant difference."""
        return self.p_holm is not None and self.p_holm >= LEVEL

    @property
    def untested(self) -> bool:
        """Whether a test was asked for and could not be done."""
        return self.against is not None and self.p_holm is None


def accuracies_of(evaluations: Iterable[Evaluation]) -> tuple[float, ...]:
    """Return the accuracies of all networks."""
    return tuple(value for each in evaluations for value in each.accuracy.values if value is not None)


def pooled(members: Sequence[FoundCard]) -> tuple[list[Cell], list[str]]:
    """Return the cells of cards that were judged alike, and notes on what could not be pooled.

    Networks are pooled over seeds. Two runs of a method with the same seed differ in their settings: they get a row
    each, named by their folders. Random subsets that runs evaluated beside their sets are pooled, a seed once, except
    where a method that draws them was run.
    """
    pools: dict[tuple[str, str, int | None, str], list[tuple[FoundCard, Evaluation]]] = {}

    def add(row: str, method: str, found: FoundCard, evaluation: Evaluation) -> None:
        pools.setdefault((row, method, found[1].ipc, evaluation.network), []).append((found, evaluation))

    measured = {(card.ipc, each.network) for _, card in members if card.floor for each in card.evaluations}
    seen: set[tuple[int, int | None, str]] = set()
    for row, found in zip(_row_names(members), members, strict=True):
        card = found[1]
        for each in card.evaluations:
            add(row, card.method, found, each)
        for each in card.averaged or ():
            add(f"{row}{AVERAGED}{WARM if card.protocol.get('warm_start_average') else ''}", card.method, found, each)
        for each in card.random_subset or ():
            drawn = (card.seed, card.ipc, each.network)  # methods of one seed draw the same subsets
            if drawn[1:] not in measured and drawn not in seen:
                seen.add(drawn)
                add(RANDOM_ROW, RANDOM, found, each)
    cells, notes = [], []
    for (row, method, ipc, network), runs in pools.items():
        published = {_published(card, each) for (_, card), each in runs} - {None}
        if len(published) > 1:
            where = f"{'all images' if ipc is None else f'IPC {ipc}'}, {network}"
            notes.append(f"{row}, {where}: the pooled runs name different reported accuracies, so none is shown")
        reported, source = (published.pop() if len(published) == 1 else None) or (None, None)
        cells.append(Cell(row, method, ipc, network, tuple(runs), reported, source))
    return cells, notes


def _published(card: Card, evaluation: Evaluation) -> tuple[ReportedAccuracy, str] | None:
    """Return what was published for a card's own set on a network, and where; the headline figure is of the first."""
    if card.reported is None or not any(evaluation is own for own in card.evaluations):
        return None
    figure = card.reported.networks.get(evaluation.network)
    if figure is None and evaluation is card.evaluations[0]:
        figure = ReportedAccuracy(accuracy=card.reported.accuracy, std=card.reported.std)
    return None if figure is None else (figure, card.reported.source)


def _row_names(members: Sequence[FoundCard]) -> list[str]:
    """Return each card's row: its title, with the method's short name or the folder where the title would mislead.

    Only cards of different distillation seeds and otherwise equal settings share a row and an IPC.
    """
    methods: dict[str, set[str]] = {}
    for _, card in members:
        methods.setdefault(card.title, set()).add(card.method)
    counts = Counter((card.method, card.title, card.ipc, distillation_seed(card)) for _, card in members)
    repeated = {key[:2] for key, count in counts.items() if count > 1}
    settings = {(c.method, c.title, c.ipc, _origin(c)) for _, c in members if _origin(c)}
    variants = Counter(key[:3] for key in settings)
    repeated |= {key[:2] for key, count in variants.items() if count > 1}
    names = []
    for where, (_, card) in zip(_places(members), members, strict=True):
        name = card.title if len(methods[card.title]) == 1 else f"{card.title} [{card.method}]"
        names.append(f"{name} ({where})" if (card.method, card.title) in repeated else name)
    return names


def _places(members: Sequence[FoundCard]) -> list[str]:
    """Return where each card is from: its folder, as far as it tells it from the others, or its number."""
    folders = [place.parent if isinstance(place, Path) and place.name == FILE_NAME else place for place, _ in members]
    parents = [folder.parent for folder in folders if isinstance(folder, Path)]
    common = os.path.commonpath(parents) if parents else ""
    return [f"card {place}" if isinstance(place, int) else str(place.relative_to(common)) for place in folders]


def _origin(card: Card) -> str | None:
    """Return what tells how a set was made: a digest of its settings, or of the set where nothing says more."""
    return card.distillation_sha256 or card.artefacts.get(EXPORTED)


def distillation_seed(card: Card) -> int:
    """Return the seed that the set was distilled with: in cards that do not say, the run's."""
    return card.seed if card.distillation_seed is None else card.distillation_seed


def with_best(cells: Sequence[Cell]) -> list[Cell]:
    """Mark every column's highest mean; ties are all best."""
    tops: dict[Column, float] = {}
    for cell in cells:
        tops[cell.column] = max(cell.mean, tops.get(cell.column, 0.0))
    return [replace(cell, best=cell.mean == tops[cell.column]) for cell in cells]


def with_tests(cells: Sequence[Cell], against: str | None, tests: Test) -> list[Cell]:
    """Test every cell against its column's first best one, or against the row called ``against`` where it has one."""
    references: dict[Column, Cell] = {}
    for cell in sorted(cells, key=lambda cell: cell.row):
        if cell.row == against or (against is None and cell.best):
            references.setdefault(cell.column, cell)
    tested = []
    for cell in cells:
        reference = references.get(cell.column)
        if reference is None or reference.row == cell.row:
            tested.append(cell)
            continue
        difference = _paired(cell, reference) if tests == "paired" else welch(cell.values, reference.values)
        tested.append(replace(cell, against=reference.row, difference=difference))
    corrected = holm([cell.difference.p if cell.difference else None for cell in tested])
    return [replace(cell, p_holm=p) for cell, p in zip(tested, corrected, strict=True)]


def _paired(cell: Cell, reference: Cell) -> Difference | None:
    """Test over seeds; a side that has one of them twice, as evaluations of one set may be, has no pairs."""
    sides = [dict(side.by_seed) for side in (cell, reference)]
    once = all(len(seeds) == len(side.runs) for seeds, side in zip(sides, (cell, reference), strict=True))
    return paired(*sides) if once else None
