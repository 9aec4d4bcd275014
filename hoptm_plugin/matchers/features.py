"""Match what a network sees: class means of features (DM, IDM)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from hoptm_plugin.core.interfaces import FeatureMatcher
from hoptm_plugin.core.observations import FeaturePair
from hoptm_plugin.core.registry import register


@register("mean_features")
class MeanFeatures(FeatureMatcher):
    """Squared distance of mean features: L = sum_d (mean_n real_nd - mean_m synthetic_md)^2 (DM, IDM).

    Args:
        reduction: over feature dimensions, "sum" (default: the published learning rates assume it) or "mean".

    Source: DM (Zhao & Bilen 2023, arXiv 2110.04181), Eq. 5, with one network and one augmentation per step;
    docs/methods.md 8.
    """

    cites = ("zhao2023dm",)

    def __init__(self, reduction: Literal["sum", "mean"] = "sum") -> None:
        self.reduction = reduction

    def loss(self, pair: FeaturePair) -> Tensor:
        """Return the loss, 0-d."""
        squares = (pair.real.mean(dim=0) - pair.synthetic.mean(dim=0)).square()
        return squares.sum() if self.reduction == "sum" else squares.mean()
