"""What the baselines share: batches of real images of one class, and the network as they see it."""

from __future__ import annotations

import copy
from collections.abc import Generator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hoptm_plugin import Ask, Excerpt, Features, Method, Task, network_problems

BLOCK = 256  # real images that go through a network at once, whatever the batch


def real_batch(task: Task, label: int, size: int, generator: torch.Generator) -> Tensor:
    """Return up to ``size`` training images (n, C, H, W) of one class, drawn without replacement."""
    members = task.train.of_class(label)
    order = torch.randperm(len(members), generator=generator)[:size]
    return task.train.batch(members[order.to(members.device)])


def real_features(network: nn.Module, images: Tensor, task: Task) -> Generator[Ask[Any], Any, Tensor]:
    """Ask for the features (n, F) of real images, block by block, of a network that does not mix a batch's images."""
    found = []
    for block in images.split(BLOCK):
        found.append((yield Features(network, block, task)).detach())
    return torch.cat(found)


def feature_problems(task: Task, *more: Literal["no_state"]) -> list[str]:
    """Return why features of the task's network cannot be compared, and what it lacks ``more``; one line each."""
    images, classes = task.train.batch(slice(0, 2)), len(task.data.class_names)
    return network_problems(
        task.network(torch.Generator()), images, "features", "no_randomness", *more, classes=classes
    )


def with_fewer_images(method: Method, share: float, task: Task, *batches: str) -> Excerpt:
    """Return a method that takes ``share`` of the images of its settings ``batches``; a class has only so many."""
    whole, part, sizes = copy.copy(method), copy.copy(method), (len(task.data.class_names), task.ipc)
    for name in batches:
        most = len(task.train) // (sizes[0] if name == "real_batch" else 1)
        count = min(getattr(method, name), most)
        setattr(whole, name, count)
        setattr(part, name, max(1, round(share * count)))
    time = part.image_passes(*sizes) / whole.image_passes(*sizes)
    return Excerpt(part, time, time)
