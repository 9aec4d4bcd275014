"""Augmenting the mini-batches of networks that are trained side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hoptm_plugin.core.interfaces import Augmentation


def augment_side_by_side(augmentation: Augmentation, batches: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Augment E mini-batches (E, B, C, H, W), each with numbers from its own generator, and return them."""
    if len(batches) == 1:
        return augmentation(batches[0], generators[0])[None]
    count, size, *shape = batches.shape
    draws = [augmentation.draw(size, tuple(shape), generator) for generator in generators]  # type: ignore[arg-type]
    return augmentation.apply_many(batches.flatten(0, 1), draws, [size] * count).unflatten(0, (count, size))
