"""Augmenting the mini-batches of networks that are trained side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hoptm_plugin.core.interfaces import Augmentation


def augment_side_by_side(
    augmentation: Augmentation, batches: Sequence[Tensor], generators: Sequence[torch.Generator]
) -> Tensor:
    """Augment E mini-batches (B, C, H, W), each with numbers from its own generator, and return (E, B, C, H, W)."""
    if len(batches) == 1:
        return augmentation(batches[0], generators[0])[None]
    size, *shape = batches[0].shape
    pairs = zip(batches, generators, strict=True)
    draws = [augmentation.draw(len(batch), tuple(shape), generator) for batch, generator in pairs]  # type: ignore
    return augmentation.apply_many(torch.cat(list(batches)), draws, [size] * len(batches)).unflatten(0, (-1, size))
