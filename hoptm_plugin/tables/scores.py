"""Which cards the scores of :mod:`hoptm_plugin.tables.robust` are computed from, and which runs are missing for that.

A score belongs to a cell of a table: a set judged with augmentation and its own labels. It takes the mean over all
networks pooled there, and such means of the same sets judged otherwise, of random subsets and of all training images,
from cards of the same data, IPC and network under the same protocol. What was judged without augmentation or under hard
labels only for that is no table of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Literal, TypeAlias

from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.tables.cells import AVERAGED, Cell, FoundCard, accuracies_of, distillation_seed, set_digest
from hoptm_plugin.tables.robust import augmentation_robust_score, label_robust_score
from hoptm_plugin.tables.table import BESIDE, ComparisonTable

ScoreName: TypeAlias = Literal["lrs", "ars"]
PLAIN = "none"
AUGMENTED = "dsa"  # what to try where nothing was evaluated with augmentation
HINT = (
    "make them with `hoptm-bench eval synthetic=RUN augment=none` or `protocol.labels=hard` (random subsets come along "
    "with `protocol.random_subset=true`), and with the methods for random and for all images that `hoptm-bench list "
    "methods` names; then compare again with the new folders as well"
)


@dataclass
class Missing:
    """A run that scores need and no card is of; what is not named here is to be as it was for a card there is.

    Attributes:
        kind: a set judged "again", a "random" subset, or the "full" training split.
        like: the card that it is to be like; of the same set, where that is judged again.
        conditions: data and protocol that it will have, as :func:`_conditions` gives them.
        augment: its augmentation, where that differs.
        labels: its labels, where they differ.
        networks: on which it is needed.
        scores: what needs it.
    """

    kind: Literal["again", "random", "full"]
    like: FoundCard
    conditions: str
    augment: str | None = None
    labels: str | None = None
    networks: set[str] = field(default_factory=set)
    scores: set[ScoreName] = field(default_factory=set)

    def __str__(self) -> str:
        """Say what to run."""
        place, card = self.like
        what = {
            "again": f"{card.title}, seed {distillation_seed(card)}, IPC {card.ipc}",
            "random": f"random subset, IPC {card.ipc}",
            "full": "all images",
        }[self.kind]
        how = {None: "", PLAIN: " without augmentation", AUGMENTED: " with augmentation (then more may be missing)"}
        labels = {None: "", "hard": " under hard labels", "stored": " under its own labels"}
        scores = " and ".join(name.upper() for name in sorted(self.scores, reverse=True))
        return (
            f"{what}, {card.dataset.name}: judged{how[self.augment]}{labels[self.labels]} on "
            f"{', '.join(sorted(self.networks))}, else as {f'card {place}' if isinstance(place, int) else place}, "
            f"for {scores}"
        )


def refuse_missing(missing: Sequence[Missing], asked: str) -> None:
    """Refuse where runs are missing for the scores that were ``asked`` for.

    Raises:
        ConfigurationError: names all of them, and how they are made.
    """
    if missing:
        count = "a run is" if len(missing) == 1 else f"{len(missing)} runs are"
        order = ("again", "random", "full")
        lines = [f"  {need}" for need in sorted(missing, key=lambda need: order.index(need.kind))]
        raise ConfigurationError([f"scores {asked}: {count} missing", *lines, HINT])


def tabled(cards: Sequence[FoundCard]) -> list[FoundCard]:
    """Return the cards that stand in tables: not those judged otherwise only to score others of the same protocol."""
    mains = [card for _, card in cards if card.ipc is not None and not card.floor]
    return [found for found in cards if not any(_accompanies(found[1], main) for main in mains)]


def scored(
    tables: Sequence[ComparisonTable], cards: Sequence[FoundCard], wanted: Sequence[ScoreName]
) -> tuple[list[ComparisonTable], list[Missing]]:
    """Return the tables with scores in the cells of distilled sets, and what is missing for them.

    Scores of the moving average stay None where only its own cards are missing: a set may have been judged alone.

    Args:
        tables: of :func:`tabled` cards.
        cards: all of them.
        wanted: which scores.
    """
    scorer = _Scorer(cards)
    results = []
    for table in tables:
        if not any(map(_is_scored, table.cells)):
            results.append(table)
            continue
        cells = tuple(scorer.with_scores(cell, wanted) if _is_scored(cell) else cell for cell in table.cells)
        mains = [card for cell in table.cells if _is_scored(cell) for (_, card), _ in cell.runs]
        count = sum(any(_accompanies(card, main) for main in mains) for _, card in cards)
        read = f"Scores read {count} more card{'s' * (count > 1)}, without augmentation or under hard labels."
        notes = (*table.notes, *([read] if count else []))
        results.append(replace(table, cells=cells, scores=tuple(wanted), notes=notes))
    return results, _with_random_subsets(list(scorer.missing.values()))


def _is_scored(cell: Cell) -> bool:
    return cell.ipc is not None and not cell.floor


class _Scorer:
    """Finds accuracies among cards and notes what it cannot find."""

    def __init__(self, cards: Sequence[FoundCard]) -> None:
        self.cards = [(card, _conditions(card)) for _, card in cards]
        self.missing: dict[tuple[Any, ...], Missing] = {}

    def with_scores(self, cell: Cell, wanted: Sequence[ScoreName]) -> Cell:
        """Return the cell with its scores, None where an accuracy is missing."""
        found = [each for each, _ in cell.runs]
        if "ars" in wanted and any(_is_plain(card) for _, card in found):
            for each in found:  # first: all else depends on the augmentation
                self._note("again", each, cell, "ars", augment=AUGMENTED)
            return cell
        if any(_under_hard_labels(card) and card.labels != "hard" for _, card in found):
            for each in found:
                self._note("again", each, cell, wanted[0], labels="stored")
            return cell
        lrs = ars = None
        accuracy = fmean(cell.values_of("accuracy"))
        if "lrs" in wanted:
            hard, whole = self._of_sets(cell, "lrs", labels="hard"), self._full(cell)
            lrs = _score(label_robust_score, accuracy, hard, self._random(cell, "lrs"), whole)
        if "ars" in wanted:
            plain = self._of_sets(cell, "ars", augment=PLAIN), self._random(cell, "ars", PLAIN)
            ars = _score(augmentation_robust_score, accuracy, self._random(cell, "ars"), *plain)
        return replace(cell, lrs=lrs, ars=ars)

    def _of_sets(self, cell: Cell, score: ScoreName, *, augment: str | None = None, labels: str | None = None
                 ) -> float | None:  # fmt: skip
        """Return the mean accuracy of the cell's own sets judged otherwise; every one of them is needed."""
        values: list[float] = []
        complete = True
        for found, _ in cell.runs:
            card = found[1]
            same = labels == "hard" and card.labels == "hard"
            judged = [card] if same else self._judged(cell, card, augment, labels)
            evaluations = [_evaluation(each, cell) for each in judged]
            accuracies = accuracies_of(each for each in evaluations if each is not None)
            if not accuracies:
                self._note("again", found, cell, score, augment, labels)
                complete = False
            values += accuracies
        return fmean(values) if complete else None

    def _judged(self, cell: Cell, card: Card, augment: str | None, labels: str | None) -> list[Card]:
        """Return the cards of the same set that were judged as asked, of the same evaluation seed where there are."""
        conditions = _conditions(card, augment)
        alike = [
            other
            for other, its in self.cards
            if its == conditions and _same_set(other, card) and _evaluation(other, cell) is not None
            and (card.labels == "hard" or _under_hard_labels(other) == (labels == "hard"))
            and (AVERAGED not in cell.row or _warm(other) == _warm(card))
        ]  # fmt: skip
        return [other for other in alike if other.seed == card.seed] or alike

    def _random(self, cell: Cell, score: ScoreName, augment: str | None = None) -> float | None:
        """Return the mean accuracy of random subsets; labels are left out of account, since theirs are hard anyway."""
        like = cell.runs[0][0]
        conditions = _conditions(like[1], augment)
        alike = [card for card, its in self.cards if its == conditions and card.ipc == cell.ipc]
        runs = [each for card in alike if card.floor for each in card.evaluations]
        runs = [each for each in runs if each.network == cell.network]
        beside = {  # cards of one seed have the same subsets
            card.seed: each for card in alike for each in card.random_subset or () if each.network == cell.network
        }
        if evaluations := runs or list(beside.values()):
            return fmean(accuracies_of(evaluations))
        self._note("random", like, cell, score, augment)
        return None

    def _full(self, cell: Cell) -> float | None:
        """Return the mean accuracy of all training images, from as many networks as there are: training one is dear."""
        like = cell.runs[0][0]
        networks = _conditions(like[1], networks=False)
        alike = [c for c, _ in self.cards if c.ipc is None and _conditions(c, networks=False) == networks]
        evaluations = [each for card in alike for each in card.evaluations if each.network == cell.network]
        if evaluations:
            return fmean(accuracies_of(evaluations))
        self._note("full", like, cell, "lrs")
        return None

    def _note(
        self, kind: Literal["again", "random", "full"], like: FoundCard, cell: Cell, score: ScoreName,
        augment: str | None = None, labels: str | None = None,
    ) -> None:  # fmt: skip
        if AVERAGED in cell.row:  # judging a run's set judges its moving average as well
            return
        conditions = _conditions(like[1], augment)
        of = {"again": like[0], "random": cell.ipc, "full": None}[kind]
        missing = self.missing.setdefault(
            (kind, of, conditions, labels), Missing(kind, like, conditions, augment, labels)
        )
        missing.networks.add(cell.network)
        missing.scores.add(score)


def _score(formula: Callable[..., float], *accuracies: float | None) -> float | None:
    return None if None in accuracies else formula(*accuracies)


def _with_random_subsets(missing: Sequence[Missing]) -> list[Missing]:
    """Let sets that are to be judged again bring the random subsets along, so that no run is asked for twice."""
    brought = {(need.conditions, need.like[1].ipc, network) for need in missing if need.kind == "again"
               for network in need.networks}  # fmt: skip
    for need in missing:
        if need.kind == "random":
            place = need.conditions, need.like[1].ipc
            need.networks -= {network for network in need.networks if (*place, network) in brought}
    return [need for need in missing if need.networks]


def _conditions(card: Card, augment: str | None = None, *, networks: bool = True) -> str:
    """Return data and protocol as text, labels left out, and the number of networks unless ``networks``.

    ``augment`` takes the place of the augmentation.
    """
    left_out = (*BESIDE, "labels", *(() if networks else ("repeats",)))
    protocol = {key: value for key, value in card.protocol.items() if key not in left_out}
    if augment is not None:
        protocol["augment"] = {"name": augment}
    return json.dumps([card.dataset.name, card.dataset.fingerprint, protocol], sort_keys=True)


def _is_plain(card: Card) -> bool:
    return card.protocol.get("augment") == {"name": PLAIN}


def _under_hard_labels(card: Card) -> bool:
    return card.protocol.get("labels") == "hard"


def _warm(card: Card) -> bool:
    return bool(card.protocol.get("warm_start_average"))


def _accompanies(card: Card, main: Card) -> bool:
    """Say whether a card is read only to score ``main``, or others under its protocol."""
    hardened = _under_hard_labels(card) and _conditions(card) == _conditions(main)
    plain = _is_plain(card) and not _is_plain(main) and _conditions(card) == _conditions(main, PLAIN)
    otherwise = not _under_hard_labels(main) and (hardened or plain)
    return otherwise and (card.ipc is None or card.floor or _same_set(card, main))


def _same_set(one: Card, other: Card) -> bool:
    return set_digest(one) is not None and set_digest(one) == set_digest(other)


def _evaluation(card: Card, cell: Cell) -> Evaluation | None:
    evaluations = (card.averaged or ()) if AVERAGED in cell.row else card.evaluations
    return next((each for each in evaluations if each.network == cell.network), None)
