"""Methods that choose real images: the floor of every table is random ones, its ceiling is all of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hoptm_plugin import LossTerm, Method, SyntheticSet, Task, real_subset, register


class Chosen(Method):
    """Training images with hard labels that ``setup`` chooses; nothing is learned."""

    images_are = "real"

    def losses(self, synthetic: SyntheticSet, step: int) -> Iterator[LossTerm]:
        """Yield nothing."""
        yield from ()


@register("random_subset")
class RandomSubset(Chosen):
    """Random training images of each class, without replacement; nothing is learned.

    The protocol's own learning rate trains on it (docs/methods.md 10.1).
    """

    floor = True

    def setup(self, task: Task) -> SyntheticSet:
        """Return the subset."""
        return real_subset(task.data, task.ipc, task.seeds.child("random subset"))


@register("full_data")
class FullData(Chosen):
    """All training images with hard labels; nothing is learned, and the IPC asked for is left out of account.

    The protocol's own learning rate trains on them (docs/methods.md 11).
    """

    whole_split = True

    def setup(self, task: Task) -> SyntheticSet:
        """Return the training split."""
        images = task.train.batch(torch.arange(len(task.train), device=task.data.device))
        return SyntheticSet(images, task.train.labels, None, task.data.class_names, task.data.normalisation)
