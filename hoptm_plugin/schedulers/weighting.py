"""How a weight falls from 1 to 0 towards a threshold: the self-paced functions of Jiang et al. 2014."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Weights: TypeAlias = Literal["hard", "linear", "logarithmic", "mixture"]


def weight_at(ratio: Tensor, weights: Weights, softness: float) -> Tensor:
    """Return w(u) in [0, 1] for errors that are u = ``ratio`` times the threshold; 0 at u = 1 and beyond, hard or not.

    With s = softness: linear 1 - u; logarithmic log(1 - s + s u) / log(1 - s); mixture 1 up to u = s, then
    s / (1 - s) * (1 / u - 1); hard 1. Each w minimises w e + f(w), e = u kappa, for its regulariser f:

    - hard: -kappa w
    - linear: kappa (w^2 / 2 - w)
    - logarithmic: (kappa / s) (z w - z^w / log z), z = 1 - s: theirs, with errors in units of kappa / s
    - mixture: -z log(w + z / kappa), z = s kappa / (1 - s): theirs, with thresholds kappa and s kappa

    Source: Jiang et al. 2014 (Easy Samples First, ACM Multimedia).
    """
    u = ratio.nan_to_num(1.0).clamp(0, 1)  # what is no number is not easy
    if weights == "hard":
        return (u < 1).to(u.dtype)
    if weights == "linear":
        return 1 - u
    if weights == "logarithmic":
        return (torch.log1p(softness * (u - 1)) / math.log1p(-softness)).clamp(0, 1)
    beyond = softness / (1 - softness) * (1 / u.clamp_min(softness) - 1)
    return torch.where(u <= softness, 1.0, beyond.clamp(0, 1))
