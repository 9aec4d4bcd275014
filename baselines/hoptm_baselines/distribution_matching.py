"""DM: match class means of features under random networks."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hoptm_baselines.real_batches import feature_problems, real_batch, real_features, with_fewer_images
from hoptm_plugin import (
    Ask,
    Excerpt,
    FeatureMatcher,
    FeaturePair,
    Features,
    Initialiser,
    LossTerm,
    Method,
    SyntheticSet,
    Task,
    class_major,
    features,
    register,
    terms,
)


@register("distribution_matching")
class DistributionMatching(Method):
    """Matches features of real and synthetic images under a fresh random network every iteration (DM).

    L = sum_c matcher(phi(A(real_c)), phi(A(S_c))) with phi the features before the classifier, ``real_batch`` real
    images of class c, all its synthetic images, and one Siamese draw of the augmentation A for both. Images alone are
    learned; labels are hard.

    Args:
        matcher: compares the features of one class.
        initial_images: where distillation starts.
        real_batch: real images per class and iteration, without replacement.
        stepping: "joint" sums all classes into one optimiser step; "per_class" steps after each, which needs the
            memory of one class, and moves the others by momentum meanwhile.

    Source: DM (Zhao & Bilen 2023, arXiv 2110.04181), Algorithm 1; docs/methods.md 8. With BatchNorm and joint
    steps the classes go through the network in one batch, as in the released code, so that its statistics are not those
    of one class; per_class has only that class to offer.
    """

    cites = ("zhao2023dm",)

    def __init__(
        self,
        matcher: FeatureMatcher,
        initial_images: Initialiser,
        real_batch: int = 256,
        stepping: Literal["joint", "per_class"] = "joint",
    ) -> None:
        if real_batch < 1:
            raise ValueError("real_batch must be at least 1")
        self.matcher, self.initial_images = matcher, initial_images
        self.real_batch, self.stepping = real_batch, stepping
        self.images_are = initial_images.images_are

    def last_expert_epoch(self) -> int:
        """Return what the initial images need; the matching needs none."""
        return self.initial_images.last_expert_epoch()

    def problems(self, task: Task) -> list[str]:
        """Return why the initial images do not fit, or the network's features cannot be matched."""
        own = [f"method.initial_images.{problem}" for problem in self.initial_images.problems(task)]
        return [*own, *feature_problems(task)]

    def setup(self, task: Task) -> SyntheticSet:
        """Return the initial synthetic set."""
        self._task = task
        images = self.initial_images.images(task)
        self.images_are = self.initial_images.images_are  # it may know better by now
        return SyntheticSet(images, class_major(task), None, task.data.class_names, task.data.normalisation)

    def losses(self, synthetic: SyntheticSet, step: int) -> Iterator[LossTerm]:
        """Yield the sum over classes, or one term per class."""
        yield from terms(self._losses(synthetic, step))

    def losses_side_by_side(self, synthetic: SyntheticSet, step: int) -> Generator[LossTerm | Ask[Any], Any, None]:
        """Yield the same, and ask for the features."""
        yield from self._losses(synthetic, step)

    def _losses(self, synthetic: SyntheticSet, step: int) -> Generator[LossTerm | Ask[Any], Any, None]:
        network = self._task.network(self._task.seeds.generator("network", step)).train().requires_grad_(False)
        classes = list(range(len(synthetic.class_names)))
        for labels in [[label] for label in classes] if self.stepping == "per_class" else [classes]:
            loss = torch.stack((yield from self._matched(network, synthetic, step, labels))).sum()
            yield LossTerm(loss, watched=loss.detach())

    def _matched(
        self, network: nn.Module, synthetic: SyntheticSet, step: int, labels: list[int]
    ) -> Generator[Ask[Any], Any, list[Tensor]]:
        """Return the matcher's loss of each class."""
        pairs = [self._batches(synthetic, step, label) for label in labels]
        real, own = zip(*pairs, strict=True)
        if mixes := next(network.buffers(), None) is not None:
            with torch.no_grad():
                seen = _joint_features(network, real)
        else:
            seen = []
            for batch in real:
                seen.append((yield from real_features(network, batch, self._task)))
        shown = _joint_features(network, own) if mixes else []
        for batch in [] if mixes else own:
            shown.append((yield Features(network, batch, self._task)))
        return [
            self.matcher.loss(
                FeaturePair(theirs, ours, label, step, self._task.seeds.generator("matcher", step, label))
            )
            for label, theirs, ours in zip(labels, seen, shown, strict=True)
        ]

    def _batches(self, synthetic: SyntheticSet, step: int, label: int) -> tuple[Tensor, Tensor]:
        """Return augmented real and synthetic images of one class."""
        task = self._task
        real = real_batch(task, label, self.real_batch, task.seeds.generator("real", step, label))
        generator = task.seeds.generator("augmentation", step, label)
        draw = task.augmentation.draw(len(real), task.data.image_shape, generator, siamese=True)
        own = synthetic.images[synthetic.labels == label]
        return task.augmentation.apply(real, draw), task.augmentation.apply(own, draw)

    def image_passes(self, classes: int, ipc: int) -> float:
        """Return the synthetic images, and a third of the real ones, which only go forward."""
        return classes * (ipc + self.real_batch / 3)

    def excerpt(self, share: float, task: Task) -> Excerpt:
        """Return it with fewer real images."""
        if share >= 1:
            return Excerpt(self)
        return with_fewer_images(self, share, task, "real_batch")


def _joint_features(network: nn.Module, batches: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the features of each batch, from one pass over all of them."""
    return list(features(network, torch.cat(batches)).split([len(batch) for batch in batches]))
