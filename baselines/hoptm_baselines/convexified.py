"""MCT: experts as straight pieces between a few waypoints, at the experts' own speed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from math import floor

import torch
from torch import Tensor

from hoptm_plugin import Trajectories, TrajectoryView, register


@register("piecewise_linear")
class PiecewiseLinear(TrajectoryView):
    """Straight pieces between smoothed waypoints, each tensor at the expert's own relative speed, at any time (MCT).

    In the piece from waypoint a to waypoint b, for every parameter tensor l,
    beta_l(k) = sum_{a<j<=k} s_l(j) / sum_{a<j<=b} s_l(j) with s_l(j) = norm(theta_{j,l} - theta_{j-1,l}), 0 where
    nothing moves, linear between epochs, and at time tau (1 - beta_l(tau)) w_{a,l} + beta_l(tau) w_{b,l} is shown.
    Waypoints are w_0 = theta_0, w_k = (theta_{k-1} + theta_{k+1}) / 2 and, at the last epoch E,
    (theta_{E-1} + theta_E) / 2: what is shown at E is about the expert half an epoch before, and stays so afterwards.

    An expert's rates are measured when it is first asked for, from all its epochs, read one after the other, and kept
    in memory; waypoints are read each time, two to four epochs of an expert for a segment within a piece.

    Args:
        waypoints: epochs, ascending from 0.
        smooth: average waypoints as above; False takes the expert's own parameters, theta_k.

    Source: MCT (Zhong et al. 2025, arXiv 2406.19827) as released; docs/methods.md 20. Deviates: the paper has two
    waypoints, the first and the last epoch.
    """

    cites = ("zhong2025mct",)
    continuous = True

    def __init__(self, waypoints: tuple[int, ...] = (0, 17, 34, 50), smooth: bool = True) -> None:
        if len(waypoints) < 2 or waypoints[0] != 0 or any(b <= a for a, b in pairwise(waypoints)):
            raise ValueError(f"waypoints must be at least two epochs, ascending from 0, not {list(waypoints)}")
        self.waypoints, self.smooth = tuple(waypoints), smooth

    def view(self, trajectories: Trajectories, sizes: tuple[int, ...]) -> StraightPieces:
        """Return the experts between waypoints."""
        return StraightPieces(trajectories, sizes, self.waypoints, self.smooth)

    def last_expert_epoch(self, segments: int) -> int:
        """Return the last waypoint, wherever segments end."""
        return self.waypoints[-1]

    def problems(self, last_start: int, expert_epochs: int) -> list[str]:
        """Return that segments would start where the view ends: they would have no length."""
        if last_start < self.waypoints[-1]:
            return []
        return [f"waypoints: end at epoch {self.waypoints[-1]}, and segments start up to epoch {last_start}; lower "
                f"method.sampler.max_start_epoch or add a later waypoint"]  # fmt: skip


class StraightPieces:
    """Experts between waypoints; see :class:`PiecewiseLinear`.

    Args:
        trajectories: the experts as they are.
        sizes: lengths of the parameter tensors inside the flat vector.
        waypoints: epochs, ascending from 0.
        smooth: average waypoints with their neighbours.
    """

    def __init__(
        self, trajectories: Trajectories, sizes: tuple[int, ...], waypoints: tuple[int, ...], smooth: bool
    ) -> None:
        self.trajectories, self.sizes, self.waypoints, self.smooth = trajectories, sizes, waypoints, smooth
        self._lengths: dict[int, Tensor] = {}

    def __len__(self) -> int:
        """Return the number of experts."""
        return len(self.trajectories)

    def segment(self, expert: int, first: int, last: int) -> Tensor:
        """Return the view at epochs ``first`` to ``last``, both included, (last-first+1, P)."""
        return self.at(expert, range(first, last + 1))

    def at(self, expert: int, times: Sequence[float]) -> Tensor:
        """Return the view at times, in epochs, (len(times), P); after the last waypoint it stays as it is."""
        times = [min(time, self.waypoints[-1]) for time in times]
        pieces = [self._piece(time) for time in times]
        ends = {epoch: self._waypoint(expert, epoch) for epoch in sorted({each for piece in pieces for each in piece})}
        rows = []
        for time, (start, end) in zip(times, pieces, strict=True):
            beta = self.rates(expert, time).to(ends[start].dtype)
            sizes = torch.tensor(self.sizes, device=beta.device)
            weight = beta.repeat_interleave(sizes, output_size=sum(self.sizes))
            rows.append((1 - weight) * ends[start] + weight * ends[end])
        return torch.stack(rows)

    def rates(self, expert: int, time: float) -> Tensor:
        """Return beta at a time up to the last waypoint, of every parameter tensor, float64."""
        if expert not in self._lengths:
            self._lengths[expert] = self._measured(expert)
        lengths, (start, end) = self._lengths[expert], self._piece(time)
        before = min(floor(time), end - 1)
        at = torch.lerp(lengths[before], lengths[before + 1], time - before)
        whole = lengths[end] - lengths[start]
        return torch.where(whole > 0, (at - lengths[start]) / whole, 0.0)

    def _measured(self, expert: int) -> Tensor:
        """Return how far each parameter tensor has gone after each epoch up to the last waypoint, (E+1, tensors)."""
        before = self.trajectories.segment(expert, 0, 0)[0]
        moves = [before.new_zeros(len(self.sizes))]
        for epoch in range(1, self.waypoints[-1] + 1):
            now = self.trajectories.segment(expert, epoch, epoch)[0]
            moves.append(torch.stack([part.norm() for part in (now - before).split(self.sizes)]))
            before = now
        return torch.stack(moves).double().cumsum(dim=0)

    def _piece(self, time: float) -> tuple[int, int]:
        """Return the waypoints around a time: of two pieces that meet there, the later one."""
        number = min(bisect_right(self.waypoints, time), len(self.waypoints) - 1)
        return self.waypoints[number - 1], self.waypoints[number]

    def _waypoint(self, expert: int, epoch: int) -> Tensor:
        around = [epoch] if not self.smooth or epoch == 0 else [epoch - 1, min(epoch + 1, self.waypoints[-1])]
        return torch.stack([self.trajectories.segment(expert, each, each)[0] for each in around]).mean(dim=0)
