"""Cells of comparison tables: networks of a method pooled over seeds, tests of its seeds, and the best of a column."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from hoptm_plugin.cards.card import FILE_NAME, Card, ReportedAccuracy
from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.cards.words import FRESH
from hoptm_plugin.core.text import one_line
from hoptm_plugin.engine.significance import LEVEL, Difference, Test, holm, of_seeds
from hoptm_plugin.exchange.manifest import FILE_NAME as EXPORTED
from hoptm_plugin.storage.run_files import SYNTHETIC
from hoptm_plugin.tables.labels import FoundCard, differing, flat, found_at, label, names_of, settings_of
from hoptm_plugin.tables.metrics import METRICS, Metric, MetricName, summary

Column: TypeAlias = tuple[int | None, str]
"""Images per class, None for the whole training split; and network."""
UNOFFICIAL = " ("  # in the name of a data set whose files are not the official ones, which it then says
RANDOM, RANDOM_ROW, AVERAGED, WARM = "random", f"{FRESH}*", ", EMA", " (warm)"


class Distillation(NamedTuple):
    """A distilled set of a cell: its seeds, several where the same came of them, and its networks' mean."""

    seeds: tuple[int, ...]
    mean: float | None


@dataclass(frozen=True)
class Cell:
    """One method on one data set, IPC and network.

    Attributes:
        row: the method's name in the table, with the settings that tell it from others of the method.
        method: its short name; of the averaged set and of the random subset as well.
        ipc: images per class; None for the whole training split.
        network: the architecture.
        runs: the cards that were pooled, each with what its networks achieved.
        reported: what was published, or None.
        source: of ``reported``.
        metric: that its numbers are of.
        settings: in which it differs from other rows of the method, by dotted path.
        best: the column's best mean, where it took part in a test; a set distilled from other data never is.
        against: the row it is tested against, or None where it is not.
        difference: from that row.
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
    metric: MetricName = "accuracy"
    settings: Mapping[str, Any] = field(default_factory=dict)
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
    def where(self) -> str:
        """The cell in words."""
        return f"{self.row}, {'all images' if self.ipc is None else f'IPC {self.ipc}'}, {self.network}"

    @property
    def floor(self) -> bool:
        """Whether it is of random subsets, what every method must beat."""
        return self.row == RANDOM_ROW or all(card.floor for (_, card), _ in self.runs)

    @property
    def own(self) -> bool:
        """Whether it is of the runs' sets themselves, and not of what was judged beside these."""
        return all(any(evaluation is own for own in card.evaluations) for (_, card), evaluation in self.runs)

    @property
    def values(self) -> tuple[float, ...]:
        """The metric of all networks for which it is defined, fractions; accuracy always is."""
        return self.values_of(self.metric)

    def values_of(self, metric: MetricName) -> tuple[float, ...]:
        """Return a metric of all networks for which it is defined, fractions."""
        return values_of((evaluation for _, evaluation in self.runs), METRICS[metric])

    @property
    def mean(self) -> float | None:
        """Mean of the values, a fraction; None where there are none."""
        return summary(self.values)[0]

    @property
    def std(self) -> float | None:
        """Population standard deviation (ddof 0) of the values, a fraction; None where there are none."""
        return summary(self.values)[1]

    @property
    def networks(self) -> int:
        """How many networks were pooled."""
        return sum(len(evaluation.accuracy.values) for _, evaluation in self.runs)

    @property
    def merit(self) -> float | None:
        """A number that is the higher, the better the mean is."""
        return None if self.mean is None else METRICS[self.metric].better(self.mean)

    @property
    def distillations(self) -> tuple[Distillation, ...]:
        """What repeated distillations came to. Runs that judge one set, or agree network for network, are one."""
        found: list[tuple[set[Hashable], list[int], list[Evaluation]]] = []
        for (_, card), evaluation in self.runs:
            seed, *marks = self.seed_of(card), *same_result(evaluation)
            if self.row != RANDOM_ROW and (digest := set_digest(card)) is not None:
                marks.append(digest)
            known = next((each for each in found if not each[0].isdisjoint({seed, *marks})), None)
            if known is None:
                found.append(known := (set(), [], []))
            known[0].update({seed, *marks})
            known[1].append(seed)
            known[2].append(evaluation)
        return tuple(
            Distillation(tuple(sorted(set(seeds))), summary(values_of(evaluations, METRICS[self.metric]))[0])
            for _, seeds, evaluations in found
        )

    @property
    def by_seed(self) -> dict[int, float]:
        """Mean of each distillation's networks, by its lowest seed: what is tested."""
        return {each.seeds[0]: each.mean for each in self.distillations if each.mean is not None}

    @property
    def diverged(self) -> int:
        """How many of the networks are known to have diverged."""
        return sum(evaluation.diverged or 0 for _, evaluation in self.runs)

    @property
    def from_other_data(self) -> bool:
        """Whether a set of it was distilled from other data than it is judged on."""
        return self.row != RANDOM_ROW and any(card.distilled_from is not None for (_, card), _ in self.runs)

    def seed_of(self, card: Card) -> int:
        """Return the seed that the judged set was made with; random subsets are drawn anew in every evaluation."""
        return card.seed if self.row == RANDOM_ROW else distillation_seed(card)

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
    return values_of(evaluations, METRICS["accuracy"])


def values_of(evaluations: Iterable[Evaluation], metric: Metric) -> tuple[float, ...]:
    """Return a metric of all networks for which it is defined."""
    return tuple(value for each in evaluations for value in metric.of(each) if value is not None)


def same_result(evaluation: Evaluation) -> list[Hashable]:
    """Return what evaluations share that agree network for network; nothing where all networks diverged."""
    metrics = (evaluation.accuracy, evaluation.balanced_accuracy, evaluation.macro_auroc, evaluation.macro_f1)
    alike = (*(metric.values for metric in metrics), evaluation.recall_per_class)
    return [] if evaluation.diverged == len(evaluation.accuracy.values) else [alike]


def set_digest(card: Card) -> str | None:
    """Return the digest of the judged set, also where its file has another name, as outside of run folders."""
    sets = {name: digest for name, digest in card.artefacts.items() if name.endswith(".safetensors")}
    found = sets.get(SYNTHETIC) or (next(iter(sets.values())) if len(sets) == 1 else None)
    return found or card.artefacts.get(EXPORTED)  # whose manifest has the digests of all its files


def pooled(members: Sequence[FoundCard], metric: MetricName = "accuracy") -> tuple[list[Cell], list[str]]:
    """Return the cells of cards that were judged alike, and notes on what could not be pooled.

    Networks are pooled over seeds. Runs of a method that differ in their settings get a row each, named by these, or by
    their folders where the cards do not tell them. Random subsets that runs evaluated beside their sets are pooled, a
    seed once, except where a method that draws them was run.
    """
    pools: dict[tuple[str, str, int | None, str], list[tuple[FoundCard, Evaluation]]] = {}
    changed: dict[str, Mapping[str, Any]] = {}

    def add(row: str, method: str, found: FoundCard, evaluation: Evaluation, settings: Mapping[str, Any]) -> None:
        pools.setdefault((row, method, found[1].ipc, evaluation.network), []).append((found, evaluation))
        changed[row] = settings

    measured = {(card.ipc, each.network) for _, card in members if card.floor for each in card.evaluations}
    seen: set[tuple[int, int | None, str]] = set()
    for (row, settings), found in zip(_rows(members), members, strict=True):
        card = found[1]
        average = f"{row}{AVERAGED}{WARM if card.protocol.get('warm_start_average') else ''}"
        for each in card.evaluations:
            add(row, card.method, found, each, settings)
        for each in card.averaged or ():
            add(average, card.method, found, each, settings)
        for each in card.random_subset or ():
            drawn = (card.seed, card.ipc, each.network)  # methods of one seed draw the same subsets
            if drawn[1:] not in measured and drawn not in seen:
                seen.add(drawn)
                add(RANDOM_ROW, RANDOM, found, each, {})
    cells, notes = [], []
    for (row, method, ipc, network), runs in pools.items():
        published = {shown for (_, card), each in runs if (shown := _published(card, each)) is not None
                     and metric == "accuracy"}  # fmt: skip
        cell = Cell(row, method, ipc, network, tuple(runs), metric=metric, settings=changed[row])
        if len(published) > 1:
            notes.append(f"{cell.where}: the pooled runs name different reported accuracies, so none is shown")
        elif published and UNOFFICIAL in runs[0][0][1].dataset.name:
            notes.append(f"{cell.where}: what was reported is not shown, since it is of the official data set")
        elif published:
            reported, source = published.pop()
            cell = replace(cell, reported=reported, source=source)
        cells.append(cell)
    return cells, notes


def _published(card: Card, evaluation: Evaluation) -> tuple[ReportedAccuracy, str] | None:
    """Return what was published for a card's own set on a network, and where; the headline figure is of the first."""
    if card.reported is None or not any(evaluation is own for own in card.evaluations):
        return None
    figure = card.reported.networks.get(evaluation.network)
    if figure is None and evaluation is card.evaluations[0]:
        figure = ReportedAccuracy(accuracy=card.reported.accuracy, std=card.reported.std)
    return None if figure is None else (figure, card.reported.source)


def _rows(members: Sequence[FoundCard]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return each card's row, and the settings in which it differs from others of the method.

    Its name is the title, with these settings, and with the method's short name or the folder where that would mislead.
    Only cards of different distillation seeds and otherwise equal settings share a row and an IPC; of several scales
    each has rows of its own.
    """
    several = len({card.scale for _, card in members}) > 1
    told = _told(members)
    titles = [
        ", ".join(filter(None, (_title(card), _scale(card) if several else "", text)))
        for (_, card), (text, _) in zip(members, told, strict=True)
    ]
    methods: dict[str, set[str]] = {}
    for title, (_, card) in zip(titles, members, strict=True):
        methods.setdefault(title, set()).add(card.method)
    named = [(card.method, title, card) for title, (_, card) in zip(titles, members, strict=True)]
    counts = Counter((method, title, card.ipc, distillation_seed(card)) for method, title, card in named)
    repeated = {key[:2] for key, count in counts.items() if count > 1}
    origins = {(method, title, card.ipc, _origin(card)) for method, title, card in named if _origin(card)}
    variants = Counter(key[:3] for key in origins)
    repeated |= {key[:2] for key, count in variants.items() if count > 1}
    labelled = {(method, _title(card)) for (method, _, card), (text, _) in zip(named, told, strict=True) if text}
    rows = []
    for where, (method, title, card), (text, settings) in zip(_places(members), named, told, strict=True):
        taken = title == RANDOM_ROW or AVERAGED in title  # what rows of other kinds are called
        name = f"{title} [{method}]" if taken or len(methods[title]) > 1 else title
        unknown = not text and (method, _title(card)) in labelled
        rows.append((f"{name} ({where})" if unknown or (method, title) in repeated else name, settings))
    return rows


def _told(members: Sequence[FoundCard]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return in words, and by path, the settings in which each card differs from others of its method and title."""
    groups: dict[tuple[str, str], list[int]] = {}
    for number, (_, card) in enumerate(members):
        groups.setdefault((card.method, _title(card)), []).append(number)
    told: list[tuple[str, Mapping[str, Any]]] = [("", {})] * len(members)
    for numbers in groups.values():
        if len({_origin(members[number][1]) for number in numbers}) < 2:
            continue
        known = {number: settings for number in numbers if (settings := settings_of(members[number])) is not None}
        variants = {number: flat(settings) for number, settings in known.items()}
        # of several scales each has rows of its own, which say so
        kinds = [(members[number][1].ipc, members[number][1].scale) for number in variants]
        paths = differing(list(variants.values()), kinds)
        names = names_of(paths, list(known.values())) if paths else {}
        for number, variant in variants.items():
            told[number] = label(variant, names), {path: found_at(variant, path) for path in names}
    return told


def _title(card: Card) -> str:
    """Return the method's name, and what it did otherwise than others in a column of this precision and data."""
    other = card.distilled_from
    from_other = "" if other is None else f" (distilled from {other.name})"
    return f"{card.title}{'' if card.lower_precision is None else f', {card.lower_precision}'}{from_other}"


def _scale(card: Card) -> str:
    return "no scale" if card.scale is None else f"scale {card.scale}"


def _places(members: Sequence[FoundCard]) -> list[str]:
    """Return where each card is from: its folder, as far as it tells it from the others, or its number."""
    folders = [place.parent if isinstance(place, Path) and place.name == FILE_NAME else place for place, _ in members]
    parents = [folder.parent for folder in folders if isinstance(folder, Path)]
    common = os.path.commonpath(parents) if parents else ""
    return [f"card {place}" if isinstance(place, int) else one_line(str(place.relative_to(common)))
            for place in folders]  # fmt: skip


def _origin(card: Card) -> str | None:
    """Return what tells how a set was made: a digest of its settings, or of the set where nothing says more."""
    return card.distillation_sha256 or card.artefacts.get(EXPORTED)


def distillation_seed(card: Card) -> int:
    """Return the seed that the set was distilled with: in cards that do not say, the run's."""
    return card.seed if card.distillation_seed is None else card.distillation_seed


def with_tests(cells: Sequence[Cell], against: str | None, tests: Test) -> list[Cell]:
    """Test every cell against its column's best one, or against the row called ``against`` where it has one.

    Of a column the best mean is marked as such, of equal ones all, where a test was made with it.
    """
    tops: dict[Column, float] = {}
    able = [cell for cell in cells if cell.merit is not None and not cell.from_other_data]
    for cell in able:
        tops[cell.column] = max(cell.merit or 0.0, tops.get(cell.column, -1.0))
    best = [cell for cell in able if cell.merit == tops[cell.column]]
    candidates = best if against is None else [cell for cell in cells if cell.row == against]
    references: dict[Column, Cell] = {}
    for cell in sorted(candidates, key=lambda cell: cell.row):
        references.setdefault(cell.column, cell)
    tested = []
    for cell in cells:
        reference = references.get(cell.column)
        if reference is None or reference.row == cell.row or not cell.by_seed or not reference.by_seed:
            tested.append(cell)
        else:
            difference = of_seeds(cell.by_seed, reference.by_seed, tests)
            tested.append(replace(cell, against=reference.row, difference=difference))
    corrected = holm([cell.difference.p if cell.difference else None for cell in tested])
    took_part = {(cell.column, row) for cell, p in zip(tested, corrected, strict=True) if p is not None
                 for row in (cell.row, cell.against)}  # fmt: skip
    top = {(cell.column, cell.row) for cell in best} & took_part
    return [replace(cell, p_holm=p, best=(cell.column, cell.row) in top)
            for cell, p in zip(tested, corrected, strict=True)]  # fmt: skip
