"""IDM: distribution matching with mosaics, networks in training, and a class-aware cross-entropy."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hoptm_baselines.mosaics import mosaic_problems, real_mosaics
from hoptm_baselines.network_queue import QueuedNetwork, QueueTraining, drawn
from hoptm_baselines.real_batches import feature_problems, real_batch, real_features, with_fewer_images
from hoptm_plugin import (
    Ask,
    Excerpt,
    FeatureMatcher,
    FeaturePair,
    Features,
    LossTerm,
    Method,
    SyntheticSet,
    Task,
    class_major,
    expand_mosaic,
    register,
    terms,
)


@register("improved_distribution_matching")
class ImprovedDistributionMatching(Method):
    """Matches features of mosaics under networks in training, with a class-aware cross-entropy (IDM).

    Each stored image is a mosaic of ``mosaic^2`` images, which are enlarged to full size before anything sees them. Per
    class c and matched network f, with one Siamese draw of the augmentation A for both sides:

    L_c = matcher(phi(A(real_c)), phi(A(expand(S_c)))) + ce_weight * acc * CE(f(A(expand(S_c))), c)

    with phi the features before f's classifier and acc f's running training accuracy. Each class is an optimiser step;
    with momentum the others move along meanwhile.

    Args:
        matcher: compares the features of one class.
        mosaic: tiles per side; 1 stores images as they are.
        initial: real images shrunk into every tile, "mosaic" (default), or "plain" whole real images, which the
            released script for Tiny ImageNet has by an inverted test.
        real_batch: real images per class and iteration, without replacement.
        ce_weight: of the cross-entropy.
        ce_scale: acc in "percent" (0 to 100; the published weights are for it), as a "fraction", or "constant" 1.
        queue_size: networks kept; the oldest leaves.
        queue_start: fresh networks before iteration 0.
        new_network_every: iterations between fresh networks, the first at iteration 0.
        networks_matched: networks drawn for matching per iteration.
        networks_trained: networks drawn for training after it.
        training_steps: of each network trained.
        training_batch: real images per training step, without augmentation.
        training: SGD of the networks.
        reset_meters_every: iterations between resets of all running accuracies (released scripts do so at every
            evaluation, after which the cross-entropy starts from weight 0); None never resets.

    Source: IDM (Zhao et al. 2023, arXiv 2307.09742); docs/methods.md 9.
    Deviates: networks for matching and training are drawn without replacement.
    """

    cites = ("zhao2023idm",)

    def __init__(
        self,
        matcher: FeatureMatcher,
        mosaic: Literal[1, 2] = 2,
        initial: Literal["mosaic", "plain"] = "mosaic",
        real_batch: int = 256,
        ce_weight: float = 0.5,
        ce_scale: Literal["percent", "fraction", "constant"] = "percent",
        queue_size: int = 100,
        queue_start: int = 3,
        new_network_every: int = 30,
        networks_matched: int = 1,
        networks_trained: int = 2,
        training_steps: int = 10,
        training_batch: int = 256,
        training: QueueTraining = QueueTraining(),  # noqa: B008  frozen
        reset_meters_every: int | None = None,
    ) -> None:
        counts = (real_batch, queue_size, new_network_every, networks_matched, training_batch)
        if min(counts) < 1 or min(queue_start, networks_trained, training_steps, ce_weight) < 0:
            raise ValueError("sizes and intervals must be at least 1; counts and ce_weight at least 0")
        if reset_meters_every is not None and reset_meters_every < 1:
            raise ValueError("reset_meters_every must be at least 1, or null")
        self.matcher, self.mosaic, self.initial, self.real_batch = matcher, mosaic, initial, real_batch
        self.ce_weight, self.ce_scale = ce_weight, ce_scale
        self.queue_size, self.queue_start, self.new_network_every = queue_size, queue_start, new_network_every
        self.networks_matched, self.networks_trained = networks_matched, networks_trained
        self.training_steps, self.training_batch, self.training = training_steps, training_batch, training
        self.reset_meters_every = reset_meters_every
        self.images_are = "real" if initial == "plain" or mosaic == 1 else "from_real"
        self._queue: list[QueuedNetwork] = []

    def problems(self, task: Task) -> list[str]:
        """Return what does not fit together."""
        return [*feature_problems(task), *mosaic_problems(task, self.mosaic)]

    def setup(self, task: Task) -> SyntheticSet:
        """Start the queue and return the initial synthetic set."""
        self._task = task
        self._queue = [self._fresh("start", index) for index in range(self.queue_start)]
        names, normalisation = task.data.class_names, task.data.normalisation
        images = real_mosaics(task, self.mosaic if self.initial == "mosaic" else 1)
        return SyntheticSet(images, class_major(task), None, names, normalisation, mosaic=self.mosaic)

    def losses(self, synthetic: SyntheticSet, step: int) -> Iterator[LossTerm]:
        """Yield one term per matched network and class."""
        yield from terms(self._losses(synthetic, step))

    def losses_side_by_side(self, synthetic: SyntheticSet, step: int) -> Generator[LossTerm | Ask[Any], Any, None]:
        """Yield the same, and ask for the features."""
        yield from self._losses(synthetic, step)

    def _losses(self, synthetic: SyntheticSet, step: int) -> Generator[LossTerm | Ask[Any], Any, None]:
        if step % self.new_network_every == 0:
            self._queue = [*self._queue[max(0, len(self._queue) + 1 - self.queue_size) :], self._fresh("new", step)]
        generator = self._task.seeds.generator("matched", step)
        for number, network in enumerate(drawn(self._queue, self.networks_matched, generator)):
            for label in range(len(synthetic.class_names)):
                yield (yield from self._term(network, synthetic, label, step, number))

    def _term(
        self, network: QueuedNetwork, synthetic: SyntheticSet, label: int, step: int, number: int
    ) -> Generator[Ask[Any], Any, LossTerm]:
        task = self._task
        real = real_batch(task, label, self.real_batch, task.seeds.generator("real", step, number, label))
        generator = task.seeds.generator("augmentation", step, number, label)
        draw = task.augmentation.draw(len(real), task.data.image_shape, generator, siamese=True)
        own = expand_mosaic(synthetic.images[synthetic.labels == label], synthetic.mosaic)
        seen = yield from real_features(network.module, task.augmentation.apply(real, draw), task)
        shown = yield Features(network.module, task.augmentation.apply(own, draw), task)
        matched = self.matcher.loss(
            FeaturePair(seen, shown, label, step, task.seeds.generator("matcher", step, number, label))
        )
        logits = network.module.classifier(shown)  # type: ignore[operator]
        accuracy = {"percent": 100 * network.accuracy, "fraction": network.accuracy, "constant": 1.0}[self.ce_scale]
        weight = self.ce_weight * accuracy
        entropy = cross_entropy(logits, torch.full((len(logits),), label, device=logits.device))
        logs: dict[str, float | Tensor] = {
            "matched": matched.detach(),
            "cross_entropy": entropy.detach(),
            "ce_weight": weight,
        }
        return LossTerm(matched + weight * entropy, logs)

    def after_step(self, step: int) -> None:
        """Train some networks of the queue a little further."""
        seeds = self._task.seeds.child("queue training", step)
        for network in drawn(self._queue, self.networks_trained, seeds.generator("drawn")):
            own = seeds.child(self._queue.index(network))
            network.train(self._task, self.training, self.training_steps, self.training_batch, own)
        if self.reset_meters_every is not None and (step + 1) % self.reset_meters_every == 0:
            for network in self._queue:
                network.seen = network.correct = 0

    def _fresh(self, *path: str | int) -> QueuedNetwork:
        module = self._task.network(self._task.seeds.generator("queue", *path))
        return QueuedNetwork(module.eval().requires_grad_(False))

    def training_images(self, classes: int, ipc: int) -> int:
        """Return the number of tiles."""
        return classes * ipc * self.mosaic**2

    def image_passes(self, classes: int, ipc: int) -> float:
        """Return synthetic images, a third of the real ones, which only go forward, and those trained on."""
        matched = self.networks_matched * classes * (ipc * self.mosaic**2 + self.real_batch / 3)
        return matched + self.networks_trained * self.training_steps * self.training_batch

    def excerpt(self, share: float, task: Task) -> Excerpt:
        """Return it with fewer real images, to match and to train on."""
        if share >= 1:
            return Excerpt(self)
        return with_fewer_images(self, share, task, "real_batch", "training_batch")

    def state_dict(self) -> dict[str, Any]:
        """Return the queue."""
        return {"queue": {str(index): network.state_dict() for index, network in enumerate(self._queue)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the queue back."""
        stored = sorted(state.get("queue", {}).items(), key=lambda item: int(item[0]))
        self._queue = [QueuedNetwork.restored(self._fresh("start", 0).module, entry) for _, entry in stored]
