"""Random numbers from explicit generators, derived from one seed and a name; the global generators stay untouched."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Seeds:
    """A tree of independent random streams under one seed.

    ``Seeds(0).generator("distil", 17)`` is the same stream whenever it is asked for, so an iteration, an epoch or an
    expert can be repeated or resumed without having saved any generator's state.
    """

    seed: int

    def number(self, *path: str | int) -> int:
        """Return a 63-bit number derived by SHA-256 from the seed and the path."""
        text = "/".join(map(str, (self.seed, *path)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def generator(self, *path: str | int) -> torch.Generator:
        """Return a fresh CPU generator for the stream named by ``path``.

        It lives on the CPU so that a CPU and a CUDA run draw the same numbers.
        """
        return torch.Generator().manual_seed(self.number(*path))

    def child(self, *path: str | int) -> Seeds:
        """Return the subtree under ``path``."""
        return Seeds(self.number(*path))


def epoch_order(size: int, images: int | None, generator: torch.Generator) -> Tensor:
    """Return the indices, of ``size`` images, that one epoch trains on.

    Args:
        size: how many images there are.
        images: how many an epoch has, in as many shuffled passes over all as that takes; None: each once.
        generator: of the order.
    """
    passes = 1 if images is None else -(-images // size)
    return torch.cat([torch.randperm(size, generator=generator) for _ in range(passes)])[:images]
