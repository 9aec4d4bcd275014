"""Match the shape of the path: the angles of the triangle start, middle, end (HoP-TM), or of more points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from hoptm_plugin.core.interfaces import Matcher
from hoptm_plugin.core.observations import TrajectoryPair
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.roles import Decides, Symbol

Vertices: TypeAlias = Literal["all", "middle"]


def triangle_cosines(start: Tensor, middle: Tensor, end: Tensor) -> Tensor:
    """Return the cosines (3,) of the angles at start, middle and end of a triangle of vectors (P,).

    An edge of length zero counts as the zero vector, so its cosines are 0 and nothing is divided by zero.
    """
    first, second, third = (normalize(edge, dim=0) for edge in (middle - start, end - middle, end - start))
    return torch.stack([first @ third, -(first @ second), second @ third])  # HoP-TM Eq. 3 at each vertex


def inner_products(points: Sequence[Tensor]) -> Tensor:
    """Return <p_b - p_a, p_c - p_a> for all a, b, c of K vectors (P,), as (K, K, K) in float64.

    From the products of the K - 1 edges between neighbours, so that no more vectors than these are held. Two points
    that are closer than the rounding of what lies between them count as one.
    """
    edges = [after - before for before, after in pairwise(points)]
    products = {(i, j): edges[i] @ edges[j] for j in range(len(edges)) for i in range(j + 1)}
    rows = [torch.stack([products[min(i, j), max(i, j)] for j in range(len(edges))]) for i in range(len(edges))]
    gram = torch.stack(rows).double()
    before = torch.ones(len(points), len(edges), dtype=gram.dtype, device=gram.device).tril(-1)
    between = before[None] - before[:, None]  # [a, b, i]: 1 or -1 where edge i leads from a to b or back
    inner = torch.einsum("abi,ij,acj->abc", between, gram, between)
    travelled = between.square() @ gram.detach().diagonal()
    same = _squares(inner) <= torch.finfo(points[0].dtype).eps * travelled
    return torch.where(same[:, :, None] | same[:, None, :], 0.0, inner)


def vertex_cosines(inner: Tensor) -> Tensor:
    """Return the cosines at a between b and c, (K, K, K), from :func:`inner_products`; 0 where an edge has length 0."""
    lengths = _lengths(inner)
    lengths = torch.where(lengths == 0, 1.0, lengths)
    return inner / (lengths[:, :, None] * lengths[:, None, :])


def relative_distances(inner: Tensor) -> Tensor:
    """Return ||p_k - p_l|| / sum_j ||p_{j+1} - p_j||, (K, K), from :func:`inner_products`; 0 on a path of length 0."""
    lengths = _lengths(inner)
    path = lengths.diagonal(1).sum()
    return lengths / torch.where(path == 0, 1.0, path)


def _squares(inner: Tensor) -> Tensor:
    return inner.diagonal(dim1=1, dim2=2)


def _lengths(inner: Tensor) -> Tensor:
    """Return the distances (K, K); where one is 0, so is its gradient."""
    squares = _squares(inner)
    return torch.where(squares == 0, 0.0, torch.where(squares == 0, 1.0, squares).sqrt())


@register("shape_wise_potential")
class ShapeWisePotential(Matcher):
    """Angles of the student's path against the expert's: smooth L1 of the differences of cosines (HoP-TM Eq. 3, 4).

    With psi the cosines at the vertices of (start, middle, end), middle = epoch floor(M/2) of the expert and step
    floor(N/2) of the student, over all P parameters, unmasked:

    - vertices="all" (default, the released code): L = (2/27) * sum over the 3 vertices of smoothL1(psi_s - psi_e). The
      27 are all ordered triples of points, of which 15 are always 0, 6 always 1, and the 3 cosines appear twice.
    - vertices="middle" (the paper's Eq. 4): L = smoothL1(psi_s - psi_e) at the middle alone; 13.5 times the strength of
      the same term above, so lambda means something else.

    With K = points, these are k = 0 to K - 1, epoch floor(k M / (K - 1)) and step floor(k N / (K - 1)): "all" is
    2 / K^3 times the sum over all vertices of all triangles, "middle" the mean over the inner points k of the angle at
    k between k - 1 and k + 1.

    Args:
        vertices: "all" or "middle".
        beta: where smooth L1 turns from quadratic to linear; at 1 it is quadratic below a difference of 1.
        points: how many points of each path, 3 or more.
        distances: weight of a second term beside the angles, the mean over all K^2 ordered pairs of the smooth L1 of
            differences of D_kl = ||p_k - p_l|| / sum_j ||p_{j+1} - p_j||; 0 leaves it out.

    Source: HoP-TM (Dong et al. 2025), Eq. 3 and 4; potentials of angles and distances on tuples of points: relational
    knowledge distillation (Park et al. 2019, arXiv 1904.05068); docs/methods.md 2.2.
    Deviates: more points and the distances are in neither paper on trajectories; Park et al. divide distances by their
    mean over pairs, here by the path's length.
    """

    cites = ("dong2025hoptm", "park2019rkd")
    weight_symbol = "λ"

    @classmethod
    def cited(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Leave out where potentials on any tuple of points are from, unless it is one."""
        published = settings.get("points", 3) == 3 and not settings.get("distances", 0)
        return cls.cites[:1] if published else cls.cites

    def __init__(
        self,
        vertices: Vertices = "all",
        beta: Annotated[float, Symbol("β")] = 1.0,
        points: Annotated[int, Decides("result", unless=(3,))] = 3,
        distances: Annotated[float, Decides("result", unless=(0.0,))] = 0.0,
    ) -> None:
        if beta <= 0:
            raise ValueError("beta must be above 0")
        if points < 3 or distances < 0:
            raise ValueError("points must be at least 3 and distances at least 0")
        self.vertices, self.beta, self.points, self.distances = vertices, beta, points, distances

    def loss(self, pair: TrajectoryPair) -> Tensor:
        """Return the loss, 0-d."""
        expert, student = self._chosen(pair.expert), self._chosen(pair.student)
        if self.points == 3 and self.distances == 0:
            return self._triangle(expert, student)
        theirs, own = inner_products(expert), inner_products(student)
        loss = self._triangle(expert, student) if self.points == 3 else self._polygon(theirs, own)
        if self.distances > 0:
            apart = smooth_l1_loss(relative_distances(own), relative_distances(theirs), beta=self.beta)
            loss = loss + self.distances * apart
        return loss.to(pair.expert.dtype)

    def _chosen(self, path: Tensor | Sequence[Tensor]) -> list[Tensor]:
        return [path[k * (len(path) - 1) // (self.points - 1)] for k in range(self.points)]

    def _triangle(self, expert: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
        """Return the loss of three points."""
        theirs, own = triangle_cosines(*expert), triangle_cosines(*student)
        if self.vertices == "middle":
            return smooth_l1_loss(own[1], theirs[1], beta=self.beta)  # HoP-TM Eq. 4 as printed
        # HoP-TM Eq. 4 as released: the mean over all triples of points
        return smooth_l1_loss(own, theirs, beta=self.beta, reduction="sum") * (2 / 27)

    def _polygon(self, theirs: Tensor, own: Tensor) -> Tensor:
        """Return the loss of the angles of any number of points, from their inner products."""
        differences = smooth_l1_loss(vertex_cosines(own), vertex_cosines(theirs), beta=self.beta, reduction="none")
        k = torch.arange(self.points, device=own.device)
        if self.vertices == "middle":
            return differences[k[1:-1], k[:-2], k[2:]].mean()
        a, b, c = k[:, None, None], k[None, :, None], k[None, None, :]
        # triples of fewer than three points are constants: 0, or 1 where an edge is compared with itself
        return torch.where((a != b) & (b != c) & (a != c), differences, 0.0).mean()

    def problems(self, expert_epochs: int, student_steps: int) -> list[str]:
        """Refuse segments without a point for each of these: an edge would have length zero."""
        least = self.points - 1
        if min(expert_epochs, student_steps) >= least:
            return []
        if self.points > 3:
            return [
                f"{self.points} points need {least} epochs and {least} steps between start and end; "
                f"set method.expert_epochs and method.student_steps to {least} or more, or points to fewer"
            ]
        return [
            "the angle needs a point between start and end; "
            "set method.expert_epochs and method.student_steps to 2 or more"
        ]
