"""What the stored experts say about images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from hoptm_plugin.core.interfaces import Task
from hoptm_plugin.networks.flat import FlatNetwork

AT_ONCE = 256  # images


def teachers(task: Task, epoch: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield, expert by expert, the function from images (n, C, H, W) to logits (n, K) that it is after ``epoch``."""
    with torch.enable_grad():  # experts that are missing are trained now, whoever asks
        trajectories = task.experts(epoch)
    network = FlatNetwork(task.network(task.seeds.generator("container")))
    for expert in range(len(trajectories)):
        yield partial(network, trajectories.segment(expert, epoch, epoch)[0])
