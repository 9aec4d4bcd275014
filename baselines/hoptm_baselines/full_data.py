"""The ceiling of every table: all training images."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hoptm_plugin import LossTerm, Method, SyntheticSet, Task, register


@register("full_data")
class FullData(Method):
    """All training images with hard labels; nothing is learned, and the IPC asked for is left out of account.

    The protocol's own learning rate trains on them (docs/methods.md 11).
    """

    whole_split = True
    images_are = "real"

    def setup(self, task: Task) -> SyntheticSet:
        """Return the training split."""
        images = task.train.batch(torch.arange(len(task.train), device=task.data.device))
        return SyntheticSet(images, task.train.labels, None, task.data.class_names, task.data.normalisation)

    def losses(self, synthetic: SyntheticSet, step: int) -> Iterator[LossTerm]:
        """Yield nothing."""
        yield from ()
