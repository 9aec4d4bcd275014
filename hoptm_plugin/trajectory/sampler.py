"""What an iteration draws before the unroll: expert and start epoch, and the mini-batches of its student steps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hoptm_plugin.core.interfaces import SegmentSampler
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.seeding import Seeds


@register("uniform")
class UniformSegments(SegmentSampler):
    """Start epochs drawn uniformly; experts in shuffled rounds, or each time at random.

    t ~ U{min_start_epoch, ..., max_start_epoch - 1}, or t ~ U(min_start_epoch, max_start_epoch) of real numbers,
    narrowed by a scheduler's bounds (docs/methods.md 1.7).

    Args:
        min_start_epoch: T- in the papers.
        max_start_epoch: T+ in the papers; not included, as in every released code.
        inclusive: include ``max_start_epoch`` (as HoP-TM's paper writes T- <= t <= T+).
        experts: "rounds" consumes all experts in a shuffled order before any returns (MTT's default); "random" draws
            each time (MTT's load_all).
        continuous: draw times between epochs as well, which needs a view that has them (``method.view``).
    """

    def __init__(
        self,
        max_start_epoch: int,
        min_start_epoch: int = 0,
        inclusive: bool = False,
        experts: Literal["rounds", "random"] = "rounds",
        continuous: bool = False,
    ) -> None:
        if continuous and inclusive:
            raise ValueError("inclusive says nothing of times between epochs; leave it out, or set continuous=false")
        self.first, self.experts, self.continuous = min_start_epoch, experts, continuous
        self.last = max_start_epoch - (not inclusive and not continuous)
        if not 0 <= self.first <= self.last - continuous:
            raise ValueError(
                f"no start epoch lies between min_start_epoch={min_start_epoch} and max_start_epoch={max_start_epoch}"
                f" ({'included' if inclusive else 'not included'})"
            )

    def draw(self, experts: int, bounds: tuple[int, int] | None, step: int, seeds: Seeds) -> tuple[int, float]:
        """Return (expert, start) of iteration ``step``; the same for the same step and seeds."""
        generator = seeds.generator("segment", step)
        first, last = self.first, self.last
        if bounds is not None:
            # the last epoch that is allowed, in which times go on up to the next one
            first, last = max(first, bounds[0]), min(last, bounds[1] + self.continuous)
        if first > last:
            raise ValueError(
                f"iteration {step}: the schedulers leave no start epoch (sampler {self.first}..{self.last})"
            )
        start = self._start(first, last, generator)
        if self.experts == "random":
            return int(torch.randint(experts, (), generator=generator)), start
        order = torch.randperm(experts, generator=seeds.generator("experts", step // experts))
        return int(order[step % experts]), start

    def _start(self, first: int, last: int, generator: torch.Generator) -> float:
        if self.continuous:
            return first + (last - first) * float(torch.rand((), generator=generator, dtype=torch.float64))
        return int(torch.randint(first, last + 1, (), generator=generator))

    def last_start_epoch(self) -> int:
        """Return the highest start epoch ever drawn, or ``max_start_epoch``, which no time reaches."""
        return self.last


def plan_batches(
    images: int, batch: int | None, steps: int, generator: torch.Generator
) -> tuple[Tensor, tuple[int, ...]]:
    """Draw mini-batches for ``steps`` student steps over ``images`` synthetic images.

    A random permutation is cut into consecutive chunks of ``batch`` (None: the whole set), and the chunks are taken
    from the last to the first, so that a short remainder comes first; then a new permutation is drawn.

    Returns:
        Indices of all steps, concatenated, int64, and how many each step takes.

    Source: MTT's distillation loop (docs/methods.md 1.7).
    """
    chunks: list[Tensor] = []
    taken: list[Tensor] = []
    for _ in range(steps):
        if not chunks:
            chunks = list(torch.randperm(images, generator=generator).split(batch or images))
        taken.append(chunks.pop())
    return torch.cat(taken), tuple(len(chunk) for chunk in taken)
