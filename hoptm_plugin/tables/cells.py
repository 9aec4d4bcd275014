"""Cells of comparison tables: networks of a method pooled over seeds, the best of a column, and tests against it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from hoptm_plugin.cards.card import FILE_NAME, Card, ReportedAccuracy
from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.cards.significance import LEVEL, Difference, Test, holm, paired, welch
from hoptm_plugin.engine.metrics import summarise

FoundCard: TypeAlias = tuple[Path, Card]
Column: TypeAlias = tuple[int | None, str]
EXPORTED = "export.json"
RANDOM, RANDOM_ROW, AVERAGED, WARM = "random", "random subset*", ", EMA", " (warm)"


@dataclass(frozen=True)
class Cell:
    """One method on one data set, IPC and network.

    Attributes:
        row: the method's name in the table.
        method: its short name; of the averaged set and of the random subset as well.
        ipc: images per class; None for the whole training split.
        network: the architecture.
        values: accuracies of all networks that were pooled, fractions; None where undefined.
        runs: cards that were pooled.
        reported: what was published, or None.
        source: of ``reported``.
        best: the column's highest mean.
        against: the row it is tested against, or None where it is not.
        difference: from that row.
        p_holm: the difference's p-value, corrected over all tests of the table.
        by_seed: (distillation seed, mean accuracy of its networks) of each run; None where undefined.
        found: the cards that were pooled, and their files.
        lrs: label-robust score, where asked for and defined (:mod:`hoptm_plugin.tables.robust`).
        ars: augmentation-robust score, likewise.
    """

    row: str
    method: str
    ipc: int | None
    network: str
    values: tuple[float | None, ...]
    runs: int
    reported: ReportedAccuracy | None = None
    source: str | None = None
    best: bool = False
    against: str | None = None
    difference: Difference | None = None
    p_holm: float | None = None
    by_seed: tuple[tuple[int, float | None], ...] = field(default=(), repr=False)
    found: tuple[FoundCard, ...] = field(default=(), repr=False, compare=False)
    lrs: float | None = None
    ars: float | None = None

    @property
    def column(self) -> Column:
        """(IPC, network)."""
        return self.ipc, self.network

    @property
    def mean(self) -> float | None:
        """Mean of the values, a fraction; None where one is undefined."""
        return summarise(self.values)["mean"]

    @property
    def std(self) -> float | None:
        """Population standard deviation (ddof 0) of the values, a fraction."""
        return summarise(self.values)["std"]

    @property
    def indistinct(self) -> bool:
        """Whether a test could be done and found no significant difference."""
        return self.p_holm is not None and self.p_holm >= LEVEL

    @property
    def untested(self) -> bool:
        """Whether a test was asked for and could not be done."""
        return self.against is not None and self.p_holm is None


@dataclass
class _Pool:
    method: str
    evaluations: list[Evaluation] = field(default_factory=list)
    found: list[FoundCard] = field(default_factory=list)
    reported: set[tuple[ReportedAccuracy, str]] = field(default_factory=set)

    def cell(self, row: str, ipc: int | None, network: str) -> Cell:
        values = tuple(value for evaluation in self.evaluations for value in evaluation.accuracy.values)
        reported, source = next(iter(self.reported)) if len(self.reported) == 1 else (None, None)
        seeds = (distillation_seed(card) for _, card in self.found)
        means = (evaluation.accuracy.mean for evaluation in self.evaluations)
        return Cell(
            row, self.method, ipc, network, values, len(self.evaluations), reported, source,
            by_seed=tuple(zip(seeds, means, strict=True)), found=tuple(self.found),
        )  # fmt: skip


def pooled(members: Sequence[FoundCard]) -> tuple[list[Cell], list[str]]:
    """Return the cells of cards that were judged alike, and notes on what could not be pooled.

    Networks are pooled over seeds. Two runs of a method with the same seed differ in their settings: they get a row
    each, named by their folders.
    """
    pools: dict[tuple[str, int | None, str], _Pool] = {}

    def add(row: str, found: FoundCard, evaluation: Evaluation, method: str) -> _Pool:
        pool = pools.setdefault((row, found[1].ipc, evaluation.network), _Pool(method))
        pool.evaluations.append(evaluation)
        pool.found.append(found)
        return pool

    for row, found in zip(_row_names(members), members, strict=True):
        card = found[1]
        for evaluation in card.evaluations:
            pool = add(row, found, evaluation, card.method)
            if card.reported is not None and (published := _reported(card, evaluation.network)):
                pool.reported.add((published, card.reported.source))
        warm = WARM if card.protocol.get("warm_start_average") else ""
        for evaluation in card.averaged or ():
            add(f"{row}{AVERAGED}{warm}", found, evaluation, card.method)
    _add_random_subsets(members, add)
    notes = [
        f"{row}, {_column(ipc, network)}: the pooled runs name different reported accuracies, so none is shown"
        for (row, ipc, network), pool in pools.items()
        if len(pool.reported) > 1
    ]
    return [pool.cell(*key) for key, pool in pools.items()], notes


def _reported(card: Card, network: str) -> ReportedAccuracy | None:
    """Return what was published for ``network``; the headline figure is that of the card's first network."""
    assert card.reported is not None
    if network in card.reported.networks:
        return card.reported.networks[network]
    if network != card.evaluations[0].network:
        return None
    return ReportedAccuracy(accuracy=card.reported.accuracy, std=card.reported.std)


def _add_random_subsets(members: Sequence[FoundCard], add: Callable[[str, FoundCard, Evaluation, str], _Pool]) -> None:
    """Pool the random subsets that runs evaluated beside their sets, except where the random method itself was run."""
    measured = {(c.ipc, e.network) for _, c in members if c.method == RANDOM for e in c.evaluations}
    seen: set[tuple[int, int | None, str]] = set()
    for found in members:
        card = found[1]
        for evaluation in card.random_subset or ():
            place = (card.ipc, evaluation.network)
            if place not in measured and (card.seed, *place) not in seen:  # methods of one seed draw the same subsets
                seen.add((card.seed, *place))
                add(RANDOM_ROW, found, evaluation, RANDOM)


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
    folders = [path.parent if path.name == FILE_NAME else path for path, _ in members]
    common = os.path.commonpath(folders)
    names = []
    for folder, (_, card) in zip(folders, members, strict=True):
        name = card.title if len(methods[card.title]) == 1 else f"{card.title} [{card.method}]"
        alone = (card.method, card.title) not in repeated
        names.append(name if alone else f"{name} ({folder.relative_to(common)})")
    return names


def _origin(card: Card) -> str | None:
    """Return what tells how a set was made: a digest of its settings, or of the set where nothing says more."""
    return card.distillation_sha256 or card.artefacts.get(EXPORTED)


def distillation_seed(card: Card) -> int:
    """Return the seed that the set was distilled with: in cards that do not say, the run's."""
    return card.seed if card.distillation_seed is None else card.distillation_seed


def _column(ipc: int | None, network: str) -> str:
    return f"{'all images' if ipc is None else f'IPC {ipc}'}, {network}"


def with_best(cells: Sequence[Cell]) -> list[Cell]:
    """Mark every column's highest mean; ties are all best."""
    means = [cell.mean for cell in cells]
    tops: dict[Column, float] = {}
    for cell, mean in zip(cells, means, strict=True):
        if mean is not None:
            tops[cell.column] = max(mean, tops.get(cell.column, 0.0))
    return [
        replace(cell, best=mean is not None and mean == tops[cell.column])
        for cell, mean in zip(cells, means, strict=True)
    ]


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
        difference = _paired(cell, reference) if tests == "paired" else _welch(cell, reference)
        tested.append(replace(cell, against=reference.row, difference=difference))
    corrected = holm([cell.difference.p if cell.difference else None for cell in tested])
    return [replace(cell, p_holm=p) for cell, p in zip(tested, corrected, strict=True)]


def _welch(cell: Cell, reference: Cell) -> Difference | None:
    values, others = ([v for v in side.values if v is not None] for side in (cell, reference))
    complete = len(values) == len(cell.values) and len(others) == len(reference.values)
    return welch(values, others) if complete else None


def _paired(cell: Cell, reference: Cell) -> Difference | None:
    means = [{seed: mean for seed, mean in side.by_seed if mean is not None} for side in (cell, reference)]
    complete = all(len(known) == len(side.by_seed) for known, side in zip(means, (cell, reference), strict=True))
    return paired(*means) if complete else None
