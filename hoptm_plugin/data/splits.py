"""Seeded stratified splits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hoptm_plugin.core.seeding import Seeds


def stratified(labels: Tensor, class_names: Sequence[str], fraction: float, seeds: Seeds) -> tuple[Tensor, Tensor]:
    """Return (kept, held) indices, both ascending, with the same ``fraction`` of every class held out.

    Of n images of a class floor(n * fraction + 1/2) are held out, but at least one and at most n - 1; of a single image
    none. Each class draws from its own stream, named after it, so that leaving other classes out does not move its
    images between the splits.
    """
    kept, held = [], []
    for label, name in enumerate(class_names):
        members = torch.nonzero(labels == label).flatten()
        count = len(members)
        number = min(max(int(count * fraction + 0.5), 1), count - 1) if count > 1 else 0
        order = members[torch.randperm(count, generator=seeds.generator(name))]
        held.append(order[:number])
        kept.append(order[number:])
    return torch.cat(kept).sort().values, torch.cat(held).sort().values
