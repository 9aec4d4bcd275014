"""The evaluation protocol: fresh networks trained on a synthetic set, several per architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from hoptm_plugin.core.dataset import ImageData, Split
from hoptm_plugin.core.interfaces import Augmentation
from hoptm_plugin.core.progress import ProgressFactory
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.metrics import classification_metrics
from hoptm_plugin.engine.settings import Protocol
from hoptm_plugin.engine.training import predict, train_network

CreateNetwork: TypeAlias = Callable[[torch.Generator], nn.Module]


@dataclass(frozen=True)
class Evaluator:
    """Judges synthetic sets of one data set under one protocol.

    Attributes:
        protocol: how networks are trained.
        networks: architectures by the name they have in the card.
        augmentation: used while training, never while testing.
        seeds: random streams of the evaluation; the j-th network starts alike for every set that is judged.
        progress: reports network by network.
    """

    protocol: Protocol
    networks: Mapping[str, CreateNetwork]
    augmentation: Augmentation
    seeds: Seeds
    progress: ProgressFactory

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
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in self.networks}
        with self.progress(f"evaluating {what}", len(self.networks) * self.protocol.repeats) as bar:
            for name in self.networks:
                for repeat in range(self.protocol.repeats):
                    results[name].append(self.score(name, subset(repeat), split, repeat, warm_up))
                    bar.advance(1, accuracy=results[name][-1]["accuracy"])
        return results

    def score(
        self, name: str, synthetic: SyntheticSet, split: Split, repeat: int, warm_up: SyntheticSet | None = None
    ) -> dict[str, Any]:
        """Train one fresh network of architecture ``name`` on a set and return its metrics on ``split``."""
        seeds = self.seeds.child(name, repeat)
        network = self.networks[name](seeds.generator("initialisation"))
        if warm_up is not None:
            self._train(network, warm_up, seeds.child("warm-up"))
        self._train(network, synthetic, seeds)
        return classification_metrics(split.labels.cpu(), predict(network, split))

    def _train(self, network: nn.Module, synthetic: SyntheticSet, seeds: Seeds) -> None:
        rate = self.protocol.learning_rate if synthetic.step_size is None else float(synthetic.step_size)
        whole = synthetic.expanded()
        train_network(network, whole.images, whole.targets.detach(), self.protocol, rate, self.augmentation, seeds)


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
