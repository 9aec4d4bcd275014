"""The mini-batch plan: which synthetic images each student step sees, drawn before the unroll."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchPlan:
    """Indices into the synthetic set for all steps, concatenated, and how many each step takes.

    Attributes:
        indices: (sum of sizes,) int64.
        sizes: one batch size per student step.
    """

    indices: Tensor
    sizes: tuple[int, ...]


def plan_batches(images: int, batch: int | None, steps: int, generator: torch.Generator) -> BatchPlan:
    """Draw mini-batches for ``steps`` student steps over ``images`` synthetic images.

    A random permutation is cut into consecutive chunks of ``batch`` (None: the whole set), and the chunks are taken
    from the last to the first, so that a short remainder comes first; then a new permutation is drawn.

    Source: MTT's distillation loop (docs/methods.md 1.7).
    """
    chunks: list[Tensor] = []
    taken: list[Tensor] = []
    for _ in range(steps):
        if not chunks:
            chunks = list(torch.randperm(images, generator=generator).split(batch or images))
        taken.append(chunks.pop())
    return BatchPlan(torch.cat(taken), tuple(len(chunk) for chunk in taken))
