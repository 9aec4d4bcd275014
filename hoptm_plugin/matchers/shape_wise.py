"""Match the shape of the path: the angles of the triangle start, middle, end (HoP-TM)."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from hoptm_plugin.core.interfaces import Matcher
from hoptm_plugin.core.observations import TrajectoryPair
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.roles import Symbol

Vertices: TypeAlias = Literal["all", "middle"]


def triangle_cosines(start: Tensor, middle: Tensor, end: Tensor) -> Tensor:
    """Return the cosines (3,) of the angles at start, middle and end of a triangle of vectors (P,).

    An edge of length zero counts as the zero vector, so its cosines are 0 and nothing is divided by zero.
    """
    first, second, third = (normalize(edge, dim=0) for edge in (middle - start, end - middle, end - start))
    return torch.stack([first @ third, -(first @ second), second @ third])  # HoP-TM Eq. 3 at each vertex


@register("shape_wise_potential")
class ShapeWisePotential(Matcher):
    """Angles of the student's path against the expert's: smooth L1 of the differences of cosines (HoP-TM Eq. 3, 4).

    With psi the cosines at the vertices of (start, middle, end), middle = epoch floor(M/2) of the expert and step
    floor(N/2) of the student, over all P parameters, unmasked:

    - vertices="all" (default, the released code): L = (2/27) * sum over the 3 vertices of smoothL1(psi_s - psi_e). The
      27 are all ordered triples of points, of which 15 are always 0, 6 always 1, and the 3 cosines appear twice.
    - vertices="middle" (the paper's Eq. 4): L = smoothL1(psi_s - psi_e) at the middle alone; 13.5 times the strength of
      the same term above, so lambda means something else.

    Args:
        vertices: "all" or "middle".
        beta: where smooth L1 turns from quadratic to linear; at 1 it is quadratic below a difference of 1.

    Source: HoP-TM (Dong et al. 2025), Eq. 3 and 4; docs/methods.md 2.2.
    """

    cites = ("dong2025hoptm",)
    weight_symbol = "λ"

    def __init__(self, vertices: Vertices = "all", beta: Annotated[float, Symbol("β")] = 1.0) -> None:
        if beta <= 0:
            raise ValueError("beta must be above 0")
        self.vertices, self.beta = vertices, beta

    def loss(self, pair: TrajectoryPair) -> Tensor:
        """Return the loss, 0-d."""
        segment, path = pair.expert, pair.student
        expert = triangle_cosines(segment[0], segment[(len(segment) - 1) // 2], segment[-1])
        student = triangle_cosines(path[0], path[(len(path) - 1) // 2], path[-1])
        if self.vertices == "middle":
            return smooth_l1_loss(student[1], expert[1], beta=self.beta)  # HoP-TM Eq. 4 as printed
        # HoP-TM Eq. 4 as released: the mean over all triples of points
        return smooth_l1_loss(student, expert, beta=self.beta, reduction="sum") * (2 / 27)

    def problems(self, expert_epochs: int, student_steps: int) -> list[str]:
        """Refuse segments without a point between start and end: an edge would have length zero."""
        if min(expert_epochs, student_steps) >= 2:
            return []
        return [
            "the angle needs a point between start and end; "
            "set method.expert_epochs and method.student_steps to 2 or more"
        ]
