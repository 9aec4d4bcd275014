"""What DM and IDM share: batches of real images of one class, and the network as both see it."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from hoptm_plugin import ConfigurationError, Task, features


def real_batch(task: Task, label: int, size: int, generator: Generator) -> Tensor:
    """Return up to ``size`` training images (n, C, H, W) of one class, drawn without replacement."""
    members = task.train.of_class(label)
    order = torch.randperm(len(members), generator=generator)[:size]
    return task.train.batch(members[order.to(members.device)])


def network_problems(task: Task) -> list[str]:
    """Return why the task's network cannot be matched on its features; one line each."""
    try:
        network = task.network(Generator())
        features(network, torch.zeros((2, *task.data.image_shape), device=task.data.device))
    except ConfigurationError as error:
        return error.problems
    return []
