"""Initialisers: the images a distillation starts from."""

from __future__ import annotations

import torch
from torch import Tensor

from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.interfaces import Initialiser, Task
from hoptm_plugin.core.registry import register
from hoptm_plugin.trajectory.teachers import AT_ONCE, teachers


def class_major(task: Task) -> Tensor:
    """Return the classes (K * ipc,) of a class-major synthetic set: 0, 0, ..., 1, 1, ..."""
    return torch.arange(len(task.data.class_names), device=task.data.device).repeat_interleave(task.ipc)


@register("real")
class RealImages(Initialiser):
    """Random training images of each class, without replacement."""

    images_are = "real"

    def images(self, task: Task) -> Tensor:
        """Return images (K * ipc, C, H, W)."""
        return task.train.batch(torch.cat([order[: task.ipc] for order in _shuffled(task)]))


@register("noise")
class Noise(Initialiser):
    """Standard normal noise in normalised space."""

    images_are = "made"

    def images(self, task: Task) -> Tensor:
        """Return images (K * ipc, C, H, W)."""
        shape = (len(task.data.class_names) * task.ipc, *task.data.image_shape)
        return torch.randn(shape, generator=task.seeds.generator("noise")).to(task.data.device)


@register("correct")
class CorrectlyPredicted(Initialiser):
    """Training images that an expert predicts correctly; the next expert serves where one does not suffice (DATM).

    Args:
        teacher_epoch: expert epoch whose parameters predict.

    Source: DATM (Guo et al. 2023), initialisation "samples predicted correctly"; docs/methods.md 7.
    Deviates: every class starts again from expert 0; the released code goes on with the expert at hand.
    """

    cites = ("guo2024datm",)
    images_are = "real"

    def __init__(self, teacher_epoch: int = 50) -> None:
        self.teacher_epoch = teacher_epoch

    def last_expert_epoch(self) -> int:
        """Return the epoch up to which experts are read."""
        return self.teacher_epoch

    @torch.no_grad()
    def images(self, task: Task) -> Tensor:
        """Return images (K * ipc, C, H, W).

        Raises:
            ConfigurationError: a class has fewer correctly predicted images than ``ipc``.
        """
        orders = _shuffled(task)
        found: list[Tensor] = [order[:0] for order in orders]
        for teacher in teachers(task, self.teacher_epoch):
            for label, order in enumerate(orders):
                for rows in order.split(AT_ONCE):
                    if len(found[label]) == task.ipc:
                        break
                    right = rows[teacher(task.train.batch(rows)).argmax(dim=1) == label]
                    new = right[~torch.isin(right, found[label])]
                    found[label] = torch.cat([found[label], new])[: task.ipc]
            if all(len(indices) == task.ipc for indices in found):
                break
        names = task.data.class_names
        if short := [f"{names[k]} ({len(f)})" for k, f in enumerate(found) if len(f) < task.ipc]:
            raise ConfigurationError(
                f"method.initial_images: the experts predict fewer than ipc={task.ipc} training images correctly for: "
                f"{', '.join(short)}. Use method.initial_images.name=real ~method.initial_images.teacher_epoch, train "
                f"experts longer, or lower ipc."
            )
        return task.train.batch(torch.cat(found))


def _shuffled(task: Task) -> list[Tensor]:
    """Return, per class, the indices of its training images in random order."""
    orders = []
    for label in range(len(task.data.class_names)):
        indices = task.train.of_class(label)
        order = torch.randperm(len(indices), generator=task.seeds.generator("initial images", label))
        orders.append(indices[order.to(indices.device)])
    return orders
