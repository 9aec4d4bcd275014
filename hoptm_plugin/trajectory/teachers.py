"""What the stored experts say about images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hoptm_plugin.core.interfaces import Task
from hoptm_plugin.networks.flat import FlatNetwork


@torch.no_grad()
def teacher_logits(task: Task, images: Tensor, epoch: int) -> Iterator[Tensor]:
    """Yield, expert by expert, the logits (n, K) of images (n, C, H, W) at the expert's parameters after ``epoch``."""
    trajectories = task.experts(epoch)
    network = FlatNetwork(task.network(task.seeds.generator("container")))
    for expert in range(len(trajectories)):
        theta = trajectories.segment(expert, epoch, epoch)[0]
        yield torch.cat([network(theta, chunk) for chunk in images.split(256)])
