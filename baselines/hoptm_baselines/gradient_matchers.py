"""What DC and DSA compare: gradients of the training loss by real and by synthetic images of one class."""

from __future__ import annotations

import torch
from torch import Tensor

from hoptm_plugin import GradientMatcher, GradientPair, register

# (S, R) below: the synthetic images' gradient and the real ones'


@register("rowwise_cosine")
class RowwiseCosine(GradientMatcher):
    """Sum over rows of 1 - cosine: a row for each output of every layer (DC, DSA).

    D = sum over tensors and rows of 1 - <S_r, R_r> / (norm(S_r) norm(R_r) + eps). A tensor of two dimensions or more is
    a matrix (out, rest), and so has a row for each of its filters or units; one of one dimension (a bias, or a norm's
    scale) counts 0.

    Args:
        eps: added to the product of lengths, and so not small beside that of small gradients: rows whose product of
            lengths is 1e-6 lose half of their cosine at the released value.

    Source: DC (Zhao et al. 2021, arXiv 2006.05929), Section 3.3; docs/methods.md 15.
    """

    cites = ("zhao2021dc",)

    def __init__(self, eps: float = 1e-6) -> None:
        self.eps = _positive(eps)

    def loss(self, pair: GradientPair) -> Tensor:
        """Return D, 0-d."""
        distances = [
            1 - (ours * theirs).sum(dim=1) / (_lengths(ours) * _lengths(theirs) + self.eps)
            for ours, theirs in (
                (synthetic.flatten(1), real.flatten(1))
                for synthetic, real in zip(pair.synthetic, pair.real, strict=True)
                if real.dim() > 1
            )
        ]
        return torch.cat(distances).sum()


@register("squared")
class Squared(GradientMatcher):
    """Squared distance of the whole gradients, summed over all parameters: D = norm(S - R)^2.

    Source: the released code of DC and DSA, option ``mse``; docs/methods.md 15.
    """

    cites = ("zhao2021dc",)

    def loss(self, pair: GradientPair) -> Tensor:
        """Return D, 0-d."""
        ours, theirs = _whole(pair)
        return (ours - theirs).square().sum()


@register("cosine")
class Cosine(GradientMatcher):
    """1 - cosine of the whole gradients, each as one vector: D = 1 - <S, R> / (norm(S) norm(R) + eps).

    Args:
        eps: added to the product of lengths.

    Source: the released code of DC and DSA, option ``cos``; docs/methods.md 15.
    """

    cites = ("zhao2021dc",)

    def __init__(self, eps: float = 1e-6) -> None:
        self.eps = _positive(eps)

    def loss(self, pair: GradientPair) -> Tensor:
        """Return D, 0-d."""
        ours, theirs = _whole(pair)
        return 1 - (ours * theirs).sum() / (ours.norm() * theirs.norm() + self.eps)


def _positive(eps: float) -> float:
    if not eps > 0:
        raise ValueError("eps must be above 0, or gradients of length 0 have no distance")
    return eps


def _lengths(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1)


def _whole(pair: GradientPair) -> tuple[Tensor, Tensor]:
    """Return the synthetic and the real gradient, each as one vector (P,)."""
    ours, theirs = (torch.cat([part.flatten() for part in parts]) for parts in (pair.synthetic, pair.real))
    return ours, theirs
