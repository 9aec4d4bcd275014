"""Match where the student arrives: the normalised parameter distance of MTT, masked where a scheduler paces it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from hoptm_plugin.core.interfaces import Matcher
from hoptm_plugin.core.observations import TrajectoryPair
from hoptm_plugin.core.registry import register

Reduction: TypeAlias = Literal["masked_ratio", "sum_of_ratios", "unmasked_denominator"]


def endpoint_loss(
    errors: Tensor, distances: Tensor, weights: Tensor | None, reduction: Reduction, eps: float
) -> Tensor:
    """Reduce squared errors d and squared distances n, both (P,), to one number; see :class:`Endpoint`."""
    v = torch.ones_like(errors) if weights is None else weights.to(errors)
    if reduction == "sum_of_ratios":
        return (v * errors / (distances + eps)).sum()  # HoP-TM Eq. 5, its first sum as printed
    denominator = (v * distances).sum() if reduction == "masked_ratio" else distances.sum()
    # HoP-TM Eq. 2 where v = 1; else the first sum of HoP-TM Eq. 5 and 8, reduced as released.
    # torch.where keeps an empty mask (0/0) from poisoning the images, without asking the device for a number
    return torch.where(denominator > eps, (v * errors).sum() / denominator.clamp_min(eps), 0.0)


@register("endpoint")
class Endpoint(Matcher):
    """Distance of the student's end from the expert's target, over the segment's length (MTT; HoP-TM Eq. 2 and 5).

    L = sum_i v_i d_i / sum_i v_i n_i, with d_i = (student_N,i - target_i)^2, n_i = (start_i - target_i)^2 and the
    scheduler's weights v in [0, 1]; v = 1 gives MTT's loss.

    Args:
        reduction: "masked_ratio" (default, as HoP-TM's code), "sum_of_ratios" (sum_i v_i d_i / (n_i + eps), as the
            paper's Eq. 5 reads), or "unmasked_denominator" (sum_i v_i d_i / sum_i n_i).
        eps: denominators up to this give a loss of 0, so that an empty mask is harmless; in "sum_of_ratios" it is added
            to each n_i, because convolution biases before a norm layer never move (0/0).

    Source: Cazenavette et al. 2022 (arXiv 2203.11932), Eq. 2; HoP-TM Eq. 2, 5; docs/methods.md 2.4 and 3.
    Deviates: the released code gives NaN on an empty mask. -kappa * sum(v) of Eq. 8 has no gradient and is absent here,
    as in the code; the self-paced scheduler logs it.
    """

    cites = ("cazenavette2022mtt",)

    def __init__(self, reduction: Reduction = "masked_ratio", eps: float = 1e-12) -> None:
        if eps <= 0:
            raise ValueError("eps must be above 0")
        self.reduction, self.eps = reduction, eps

    def loss(self, pair: TrajectoryPair) -> Tensor:
        """Return the loss, 0-d."""
        return endpoint_loss(pair.squared_errors, pair.squared_distances, pair.weights, self.reduction, self.eps)
