"""What the baselines share: batches of real images of one class, and the network as they see it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor, nn

from hoptm_plugin import Task, features, network_problems

BLOCK = 256  # real images that go through a network at once, whatever the batch


def real_batch(task: Task, label: int, size: int, generator: Generator) -> Tensor:
    """Return up to ``size`` training images (n, C, H, W) of one class, drawn without replacement."""
    members = task.train.of_class(label)
    order = torch.randperm(len(members), generator=generator)[:size]
    return task.train.batch(members[order.to(members.device)])


@torch.no_grad()
def real_features(network: nn.Module, images: Tensor) -> Tensor:
    """Return the features (n, F) of real images, block by block, of a network that does not mix a batch's images."""
    return torch.cat([features(network, block) for block in images.split(BLOCK)])


def feature_problems(task: Task, *more: Literal["no_state"]) -> list[str]:
    """Return why features of the task's network cannot be compared, and what it lacks ``more``; one line each."""
    images, classes = task.train.batch(slice(0, 2)), len(task.data.class_names)
    return network_problems(task.network(Generator()), images, "features", "no_randomness", *more, classes=classes)
