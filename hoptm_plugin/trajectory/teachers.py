"""What the stored experts say about images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from hoptm_plugin.core.interfaces import Task
from hoptm_plugin.networks.flat import FlatNetwork


@torch.no_grad()
def teacher_logits(task: Task, batches: Callable[[], Iterable[Tensor]], epoch: int) -> Iterator[Tensor]:
    """Yield, expert by expert, the logits (n, K) of images at the expert's parameters after ``epoch``.

    ``batches`` gives the images (b, C, H, W) anew for every expert, so that they need not fit into memory at once.
    """
    trajectories = task.experts(epoch)
    network = FlatNetwork(task.network(task.seeds.generator("container")))
    for expert in range(len(trajectories)):
        theta = trajectories.segment(expert, epoch, epoch)[0]
        yield torch.cat([network(theta, batch) for batch in batches()])
