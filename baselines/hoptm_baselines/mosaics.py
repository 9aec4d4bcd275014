"""What the baselines that store mosaics share: real images to start from, and sizes that cannot be cut."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from hoptm_baselines.real_batches import real_batch
from hoptm_plugin import Task


def real_mosaics(task: Task, tiles: int) -> Tensor:
    """Return real images (K * ipc, C, H, W), class-major, of ``tiles`` x ``tiles`` shrunk ones each; 1: as they are."""
    stored = []
    for label in range(len(task.data.class_names)):
        seeds = task.seeds.child("initial images", label)
        # each tile draws independently: a class needs no more than ipc images
        drawn_tiles = [real_batch(task, label, task.ipc, seeds.generator(tile)) for tile in range(tiles**2)]
        # bilinear at half size is the exact mean of 2x2 pixels
        small = [interpolate(tile, scale_factor=1 / tiles, mode="bilinear") for tile in drawn_tiles]
        columns = [torch.cat(small[at : at + tiles], dim=2) for at in range(0, tiles**2, tiles)]
        stored.append(torch.cat(columns, dim=3))
    return torch.cat(stored)


def mosaic_problems(task: Task, tiles: int) -> list[str]:
    """Return why the task's images cannot be cut into ``tiles`` x ``tiles``; one line each."""
    if not any(side % tiles for side in task.data.image_shape[1:]):
        return []
    size = "x".join(map(str, task.data.image_shape[1:]))
    return [f"method.mosaic: images of {size} pixels cannot be cut into {tiles}x{tiles} tiles;"
            f" set method.mosaic=1 or another dataset.preprocess.image_size"]  # fmt: skip
