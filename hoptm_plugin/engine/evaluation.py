"""The evaluation protocol: fresh networks trained on a synthetic set, several per architecture."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hoptm_plugin.core.asking import Asking, alone
from hoptm_plugin.core.compute import Compute
from hoptm_plugin.core.dataset import ImageData, Split
from hoptm_plugin.core.interfaces import Augmentation, State
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.metrics import classification_metrics
from hoptm_plugin.engine.settings import Protocol
from hoptm_plugin.engine.training import Train, predict
from hoptm_plugin.networks.stack import TrainingLoss
from hoptm_plugin.runtime.memory import memory_named
from hoptm_plugin.runtime.progress import ProgressFactory
from hoptm_plugin.runtime.randomness import seeded
from hoptm_plugin.runtime.stopping import deferred

CreateNetwork: TypeAlias = Callable[[torch.Generator], nn.Module]
NEEDS_LESS = "set runtime.parallel_networks=1 or runtime.compile=false, or take a smaller protocol.batch"


class FinishedNetworks:
    """What is known of networks that were trained and tested; this base forgets it all.

    One that is kept on the disk lets an interrupted evaluation go on: :mod:`hoptm_plugin.runs.finished`.
    """

    def known(self, kind: str, network: str, repeat: int) -> dict[str, Any] | None:
        """Return the metrics of a network that was evaluated before, or None."""
        return None

    def keep(self, kind: str, network: str, rows: Mapping[int, dict[str, Any]]) -> None:
        """Remember the metrics of networks, by repeat."""

    def begun(self, key: str) -> State | None:
        """Return the state of an interrupted training, or None; ``key`` says of which networks on which set."""
        return None

    def keep_begun(self, key: str, state: State) -> None:
        """Remember the state of a training instead of any earlier one."""


@dataclass(frozen=True)
class Evaluator:
    """Judges synthetic sets of one data set under one protocol.

    Attributes:
        protocol: how networks are trained.
        networks: architectures by the name they have in the card.
        augmentation: used while training, never while testing.
        seeds: random streams of the evaluation; the j-th network starts alike for every set that is judged.
        progress: reports epoch by epoch.
        compute: how it is computed.
        losses: the training loss of each architecture, filled when first needed.
        finished: networks that an interrupted evaluation had done.
        architectures: what networks of each must have in common with those of other runs to be trained beside them.
        turn: when they are trained where runs go side by side, see :class:`hoptm_plugin.core.asking.Ask`.
    """

    protocol: Protocol
    networks: Mapping[str, CreateNetwork]
    augmentation: Augmentation
    seeds: Seeds
    progress: ProgressFactory
    compute: Compute = field(default_factory=Compute)
    losses: dict[str, TrainingLoss] = field(default_factory=dict)
    finished: FinishedNetworks = field(default_factory=FinishedNetworks)
    architectures: Mapping[str, Hashable] = field(default_factory=dict)
    turn: int = 3

    def evaluate(
        self, subset: Callable[[int], SyntheticSet], split: Split, what: str, warm_up: SyntheticSet | None = None
    ) -> dict[str, list[dict[str, Any]]]:
        """Return, per architecture, one dict of metrics on ``split`` for each of ``protocol.repeats`` networks.

        Args:
            subset: what the j-th network trains on.
            split: where it is tested.
            what: named in the progress report.
            warm_up: a set that every network is trained on beforehand.
        """
        return alone(self.evaluate_side_by_side(subset, split, what, warm_up))

    def evaluate_side_by_side(
        self, subset: Callable[[int], SyntheticSet], split: Split, what: str, warm_up: SyntheticSet | None = None
    ) -> Asking[dict[str, list[dict[str, Any]]]]:
        """Do what :meth:`evaluate` does, and ask for the trainings."""
        results: dict[str, list[dict[str, Any]]] = {}
        sets = {repeat: subset(repeat) for repeat in range(self.protocol.repeats)}
        each = self.protocol.epochs * (1 if warm_up is None else 2)
        known = {
            name: {repeat: row for repeat in sets if (row := self.finished.known(what, name, repeat)) is not None}
            for name in self.networks
        }
        done = sum(map(len, known.values())) * each
        with (
            self.progress(f"evaluating {what}, epochs", len(self.networks) * len(sets) * each, done) as bar,
            memory_named(f"evaluating the {what}", NEEDS_LESS),
        ):
            for name, rows in known.items():
                missing = [repeat for repeat in sets if repeat not in rows]
                together = self._side_by_side(name, sets) if missing else 1
                for at in range(0, len(missing), together):
                    some = {repeat: sets[repeat] for repeat in missing[at : at + together]}
                    with deferred():  # the training looks for signals itself; what comes after it is soon done
                        scores = yield from self._scores(
                            name, some, split, warm_up, partial(bar.advance, len(some)), what
                        )
                        found = dict(zip(some, scores, strict=True))
                        self.finished.keep(what, name, found)
                    rows |= found
                    bar.advance(0, accuracy=scores[-1]["accuracy"])
                results[name] = [rows[repeat] for repeat in sets]
        return results

    def score(self, name: str, synthetic: SyntheticSet, split: Split, repeat: int) -> Asking[dict[str, Any]]:
        """Ask for one fresh network of architecture ``name`` trained on a set; return its metrics on ``split``."""
        return (yield from self._scores(name, {repeat: synthetic}, split, None))[0]

    def _scores(
        self,
        name: str,
        sets: Mapping[int, SyntheticSet],
        split: Split,
        warm_up: SyntheticSet | None,
        after_epoch: Callable[[], None] = lambda: None,
        what: str | None = None,
    ) -> Asking[list[dict[str, Any]]]:
        """Return the metrics of one fresh network for every repeat."""
        labels, rows = split.labels.cpu(), []
        networks = yield from self.trained(name, sets, warm_up, after_epoch, what)
        for repeat, network in zip(sets, networks, strict=True):
            rows.append(classification_metrics(labels, self.predicted(name, network, split, repeat).softmax(dim=1)))
        return rows

    def predicted(self, name: str, network: nn.Module, split: Split, repeat: int) -> Tensor:
        """Return the logits (n, K) of a network that was trained as the ``repeat``-th, on the CPU."""
        seeds = self.seeds.child(name, repeat)
        with seeded(seeds.number("prediction"), split.labels.device):  # for a network that draws even then
            return predict(network, split)

    def trained(
        self,
        name: str,
        sets: Mapping[int, SyntheticSet],
        warm_up: SyntheticSet | None = None,
        after_epoch: Callable[[], None] = lambda: None,
        what: str | None = None,
    ) -> Asking[list[nn.Module]]:
        """Ask for one fresh network for every repeat, trained on its set.

        Args:
            name: of the architecture.
            sets: by repeat.
            warm_up: a set that every network is trained on beforehand.
            after_epoch: told of each epoch.
            what: lets an interrupted training go on.
        """
        seeds = [self.seeds.child(name, repeat) for repeat in sets]
        networks = [self.networks[name](part.generator("initialisation")) for part in seeds]
        key = None if what is None else f"{what}, {name}, networks {list(sets)}"
        if warm_up is not None and key is not None and self.finished.begun(key) is not None:
            for _ in range(self.protocol.epochs):  # what is begun has had it
                after_epoch()
        elif warm_up is not None:
            again = [part.child("warm-up") for part in seeds]
            first = None if key is None else f"{key}, warm-up"
            yield self._training(name, networks, [warm_up] * len(networks), again, after_epoch, first)
        yield self._training(name, networks, list(sets.values()), seeds, after_epoch, key)
        return networks

    def _training(
        self,
        name: str,
        networks: Sequence[nn.Module],
        sets: Sequence[SyntheticSet],
        seeds: Sequence[Seeds],
        after_epoch: Callable[[], None],
        key: str | None,
    ) -> Train:
        distinct = {id(synthetic): synthetic.expanded() for synthetic in sets}
        expanded = [distinct[id(synthetic)] for synthetic in sets]
        whole = [(synthetic.images, self._targets(synthetic)) for synthetic in expanded]
        return Train(
            networks, self._loss(name), whole, self.protocol, self._learning_rate(sets[0]),
            self.augmentation, seeds, after_epoch, None if key is None else self.finished.begun(key),
            None if key is None else partial(self.finished.keep_begun, key),
            self._together(name, whole[0]), self.architectures.get(name), self.turn,
        )  # fmt: skip

    def _together(self, name: str, whole: tuple[Tensor, Tensor]) -> int:
        """Return how many networks may be trained at once on sets like this."""
        images, targets = (part[: self.protocol.batch] for part in whole)
        return self._loss(name).together(self.compute, images, targets)

    def _targets(self, synthetic: SyntheticSet) -> Tensor:
        """Return what the networks are to predict: class indices, or probabilities where labels are soft."""
        hardened = self.protocol.labels == "hard" and synthetic.soft
        return synthetic.labels.detach().argmax(dim=1) if hardened else synthetic.targets.detach()

    def _learning_rate(self, synthetic: SyntheticSet) -> float:
        return self.protocol.learning_rate if synthetic.step_size is None else float(synthetic.step_size)

    def _loss(self, name: str) -> TrainingLoss:
        if name not in self.losses:
            network = self.networks[name](torch.Generator())
            self.losses[name] = TrainingLoss(network, self.compute.compiled, self.protocol.precision)
        return self.losses[name]

    def _side_by_side(self, name: str, sets: Mapping[int, SyntheticSet]) -> int:
        """Return how many networks are trained at once: one where they or their sets do not allow more."""
        kinds = {(synthetic.images.shape, self._learning_rate(synthetic)) for synthetic in sets.values()}
        whole = sets[0].expanded()
        return self._together(name, (whole.images, self._targets(whole))) if len(kinds) == 1 else 1


def real_subset(data: ImageData, ipc: int, seeds: Seeds) -> SyntheticSet:
    """Return ``ipc`` random training images per class, class-major, with hard labels and no step size."""
    indices, classes = [], []
    for label in range(len(data.class_names)):
        members = data.train.of_class(label)
        order = torch.randperm(len(members), generator=seeds.generator(label))[:ipc]
        indices.append(members[order.to(members.device)])
        classes.append(torch.full_like(indices[-1], label))
    images = data.train.batch(torch.cat(indices))
    return SyntheticSet(images, torch.cat(classes), None, data.class_names, data.normalisation)
