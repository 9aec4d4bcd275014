"""Which cards the scores of :mod:`hoptm_plugin.tables.robust` are computed from, and which runs are missing for that.

A score belongs to a cell of a table: a set judged with augmentation and its own labels. It takes the mean over all
networks pooled there, and such means of the same sets judged otherwise, of random subsets and of all training images,
from cards of the same data, IPC and network under the same protocol. What was judged without augmentation or under hard
labels only for that is no table of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.engine.metrics import summarise
from hoptm_plugin.storage.files import sha256
from hoptm_plugin.storage.sets import read_set
from hoptm_plugin.tables.cells import AVERAGED, EXPORTED, RANDOM, Cell, FoundCard, distillation_seed
from hoptm_plugin.tables.compare import HARMLESS, Comparison
from hoptm_plugin.tables.robust import augmentation_robust_score, label_robust_score

ScoreName: TypeAlias = Literal["lrs", "ars"]
SET_FILE, PLAIN = "synthetic.safetensors", "none"
AUGMENTED = "dsa"  # what to try where nothing was evaluated with augmentation
FULL: Final = "full"


@dataclass
class Missing:
    """A run that scores need and no card is of; data, networks and protocol are to be those of a card there is.

    Attributes:
        kind: a set judged "again", a "random" subset, or the "full" training split.
        like: cards to make it like; of any of them, except where the same set is judged again.
        conditions: data and protocol that it will have, as :func:`_conditions` gives them.
        augment: its augmentation, where that differs.
        labels: its labels, where they differ.
        networks: on which it is needed.
        scores: what needs it.
        random: whether to judge random subsets along with the set.
    """

    kind: Literal["again", "random", "full"]
    like: list[FoundCard]
    conditions: str
    augment: str | None = None
    labels: str | None = None
    networks: set[str] = field(default_factory=set)
    scores: set[ScoreName] = field(default_factory=set)
    random: bool = False


def tabled(cards: Sequence[FoundCard]) -> list[FoundCard]:
    """Return the cards that stand in tables: not those judged otherwise only to score others of the same protocol."""
    mains = [card for _, card in cards if card.ipc is not None and card.method != RANDOM]
    return [found for found in cards if not any(_accompanies(found[1], main) for main in mains)]


def scored(
    comparisons: Sequence[Comparison], cards: Sequence[FoundCard], wanted: Sequence[ScoreName]
) -> tuple[list[Comparison], list[Missing]]:
    """Return the comparisons with scores in the cells of distilled sets, and what is missing for them.

    Scores of the moving average stay None where only its own cards are missing: a set may have been judged alone.

    Args:
        comparisons: of :func:`tabled` cards.
        cards: all of them.
        wanted: which scores.
    """
    scorer = _Scorer(cards)
    results = []
    for comparison in comparisons:
        if not any(map(_is_scored, comparison.cells)):
            results.append(comparison)
            continue
        cells = tuple(scorer.with_scores(cell, wanted) if _is_scored(cell) else cell for cell in comparison.cells)
        mains = [card for cell in comparison.cells if _is_scored(cell) for _, card in cell.found]
        count = sum(any(_accompanies(card, main) for main in mains) for _, card in cards)
        read = f"Scores read {count} more card{'s' * (count > 1)}, without augmentation or under hard labels."
        notes = (*comparison.notes, *([read] if count else []))
        results.append(replace(comparison, cells=cells, scores=tuple(wanted), notes=notes))
    return results, _with_random_subsets(list(scorer.missing.values()))


def _is_scored(cell: Cell) -> bool:
    return cell.ipc is not None and cell.method != RANDOM


class _Scorer:
    """Finds accuracies among cards and notes what it cannot find."""

    def __init__(self, cards: Sequence[FoundCard]) -> None:
        self.cards = [(found, _conditions(found[1])) for found in sorted(cards, key=lambda found: found[0])]
        self.missing: dict[tuple[Any, ...], Missing] = {}
        self.hard: dict[Path, bool] = {}

    def with_scores(self, cell: Cell, wanted: Sequence[ScoreName]) -> Cell:
        """Return the cell with its scores, None where an accuracy is missing."""
        if "ars" in wanted and any(_is_plain(card) for _, card in cell.found):
            self._judge_again(cell, "ars", augment=AUGMENTED)  # first: all else depends on the augmentation
            return cell
        if any(_under_hard_labels(found[1]) and not self.has_hard_labels(found) for found in cell.found):
            self._judge_again(cell, wanted[0], labels="stored")
            return cell
        return replace(
            cell,
            lrs=self._label_robust(cell) if "lrs" in wanted else None,
            ars=self._augmentation_robust(cell) if "ars" in wanted else None,
        )

    def _label_robust(self, cell: Cell) -> float | None:
        needed = (cell.mean, self._of_sets(cell, "lrs", labels="hard"), self._random(cell, "lrs"), self._full(cell))
        accuracies = [accuracy for accuracy in needed if accuracy is not None]
        return label_robust_score(*accuracies) if len(accuracies) == len(needed) else None

    def _augmentation_robust(self, cell: Cell) -> float | None:
        needed = (cell.mean, self._random(cell, "ars"), self._of_sets(cell, "ars", augment=PLAIN),
                  self._random(cell, "ars", augment=PLAIN))  # fmt: skip
        accuracies = [accuracy for accuracy in needed if accuracy is not None]
        return augmentation_robust_score(*accuracies) if len(accuracies) == len(needed) else None

    def _of_sets(self, cell: Cell, score: ScoreName, *, augment: str | None = None, labels: str | None = None
                 ) -> float | None:  # fmt: skip
        """Return the mean accuracy of the cell's own sets judged otherwise; every one of them is needed."""
        values: list[float | None] = []
        for found in cell.found:
            hard = self.has_hard_labels(found)
            judged = [found[1]] if labels == "hard" and hard else self._judged(cell, found, augment, labels, hard)
            evaluations = [_evaluation(card, cell) for card in judged]
            accuracies = [value for each in evaluations if each is not None for value in each.accuracy.values]
            if not accuracies:
                self._judge_again(replace(cell, found=(found,)), score, augment, labels)
            values += accuracies or [None]
        return _mean(values)

    def _judged(self, cell: Cell, found: FoundCard, augment: str | None, labels: str | None, hard: bool) -> list[Card]:
        """Return the cards of the same set that were judged as asked, of the same evaluation seed where there are."""
        card, conditions = found[1], _conditions(found[1], augment)
        alike = [
            other
            for (_, other), its in self.cards
            if its == conditions and _same_set(other, card) and _evaluation(other, cell) is not None
            and (hard or _under_hard_labels(other) == (labels == "hard"))
            and (AVERAGED not in cell.row or _warm(other) == _warm(card))
        ]  # fmt: skip
        return [other for other in alike if other.seed == card.seed] or alike

    def _random(self, cell: Cell, score: ScoreName, augment: str | None = None) -> float | None:
        """Return the mean accuracy of random subsets; labels are left out of account, since theirs are hard anyway."""
        conditions = _conditions(cell.found[0][1], augment)
        alike = [card for (_, card), its in self.cards if its == conditions and card.ipc == cell.ipc]
        runs = [each for card in alike if card.method == RANDOM for each in card.evaluations]
        runs = [each for each in runs if each.network == cell.network]
        beside = {  # cards of one seed have the same subsets
            card.seed: each for card in alike for each in card.random_subset or () if each.network == cell.network
        }
        if evaluations := runs or list(beside.values()):
            return _mean(value for each in evaluations for value in each.accuracy.values)
        self._note(Missing("random", [], conditions, augment), (cell.ipc,), cell, score)
        return None

    def _full(self, cell: Cell) -> float | None:
        """Return the mean accuracy of all training images, from as many networks as there are: training one is dear."""
        like = cell.found[0][1]
        conditions, networks = _conditions(like), _conditions(like, networks=False)
        whole = [card for (_, card), _ in self.cards if card.ipc is None]
        alike = [card for card in whole if _conditions(card, networks=False) == networks]
        named = [card for card in alike if card.method == FULL] or alike  # plug-ins may train on all images otherwise
        evaluations = [each for card in named for each in card.evaluations if each.network == cell.network]
        if not evaluations:
            self._note(Missing(FULL, [], conditions), (), cell, "lrs")
        return _mean([value for each in evaluations for value in each.accuracy.values])

    def _judge_again(self, cell: Cell, score: ScoreName, augment: str | None = None, labels: str | None = None) -> None:
        for found in cell.found:
            again = Missing("again", [], _conditions(found[1], augment), augment, labels, random=augment == AUGMENTED)
            self._note(again, (found[0],), replace(cell, found=(found,)), score)

    def _note(self, missing: Missing, place: tuple[Any, ...], cell: Cell, score: ScoreName) -> None:
        if AVERAGED in cell.row:  # judging a run's set judges its moving average as well
            return
        key = (missing.kind, missing.conditions, missing.labels, *place)
        missing = self.missing.setdefault(key, missing)
        missing.like += [found for found in cell.found if found not in missing.like]
        missing.networks.add(cell.network)
        missing.scores.add(score)

    def has_hard_labels(self, found: FoundCard) -> bool:
        """Say whether a set is known to have hard labels: by any card of it, or by the set beside an older card."""
        path, card = found
        if path not in self.hard:
            self.hard[path] = self._find_out(path, card)
        return self.hard[path]

    def _find_out(self, path: Path, card: Card) -> bool:
        known = {other.labels for (_, other), _ in self.cards if other.labels and _same_set(other, card)}
        known |= {card.labels} if card.labels else set()
        if known:
            return known == {"hard"}
        file = path.parent / SET_FILE
        try:
            return file.is_file() and sha256(file) == card.artefacts.get(SET_FILE) and not read_set(file).soft
        except (FileFormatError, OSError):
            return False


def _with_random_subsets(missing: list[Missing]) -> list[Missing]:
    """Let sets that are to be judged again bring the random subsets along, so that no run is asked for twice."""
    kept = []
    for need in missing:
        bringing = [
            other for other in missing
            if need.kind == "random" and other.kind == "again" and other.conditions == need.conditions
            and other.like[0][1].ipc == need.like[0][1].ipc
        ]  # fmt: skip
        for other in bringing:
            other.random = True
            need.networks -= {evaluation.network for evaluation in other.like[0][1].evaluations}
        if need.networks:
            kept.append(need)
    return kept


def _conditions(card: Card, augment: str | None = None, *, networks: bool = True) -> str:
    """Return data and protocol as text, labels left out, and the number of networks unless ``networks``.

    ``augment`` takes the place of the augmentation.
    """
    left_out = (*HARMLESS, "labels", *(() if networks else ("repeats",)))
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
    return otherwise and (card.ipc is None or card.method == RANDOM or _same_set(card, main))


def _same_set(one: Card, other: Card) -> bool:
    """Say whether two cards are of one synthetic set: by its digest, else by all that determines it."""
    digests = [_digest(card) for card in (one, other)]
    if None not in digests:
        return digests[0] == digests[1]
    origins = [
        (card.method, card.title, card.ipc, card.distillation_sha256, distillation_seed(card)) for card in (one, other)
    ]
    return origins[0] == origins[1] and one.distillation_sha256 is not None


def _digest(card: Card) -> str | None:
    """Return the digest of the judged set, also where its file has another name, as outside of run folders."""
    sets = {name: digest for name, digest in card.artefacts.items() if name.endswith(".safetensors")}
    found = sets.get(SET_FILE) or (next(iter(sets.values())) if len(sets) == 1 else None)
    return found or card.artefacts.get(EXPORTED)  # whose manifest has the digests of all its files


def _evaluation(card: Card, cell: Cell) -> Evaluation | None:
    evaluations = (card.averaged or ()) if AVERAGED in cell.row else card.evaluations
    return next((each for each in evaluations if each.network == cell.network), None)


def _mean(values: Iterable[float | None]) -> float | None:
    mean: float | None = summarise(list(values))["mean"]
    return mean
