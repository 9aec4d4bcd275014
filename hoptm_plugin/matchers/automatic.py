"""Match wherever the student came nearest: the automatic choice of the step (ATT)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hoptm_plugin.core.interfaces import Matcher
from hoptm_plugin.core.observations import TrajectoryPair
from hoptm_plugin.core.registry import register
from hoptm_plugin.matchers.endpoint import Reduction, endpoint_loss


@register("automatic")
class Automatic(Matcher):
    """Endpoint distance of the student step that lies nearest to the target, instead of the last one (ATT).

    k* = argmin over 1 <= k <= N of ||student_k - target||_1, of equal ones the latest; no gradient goes through the
    choice. L = sum_i v_i d_i / sum_i v_i n_i, with d_i = (student_k*,i - target_i)^2 and n, v as in
    :class:`hoptm_plugin.matchers.Endpoint`, which this equals when k* = N. The choice looks at all parameters.

    Args:
        choice: the norm that chooses, "l1" (default) or "l2" (a comment in the released code).
        reduction: as in ``endpoint``.
        eps: as in ``endpoint``.

    Source: ATT (Liu et al. 2024), docs/methods.md 6.
    Deviates: no distance is too large to be chosen; the released code starts its running minimum at 10000 and has no
    defined step where every L1 sum is above it.
    """

    cites = ("liu2024att",)

    def __init__(
        self, choice: Literal["l1", "l2"] = "l1", reduction: Reduction = "masked_ratio", eps: float = 1e-12
    ) -> None:
        if eps <= 0:
            raise ValueError("eps must be above 0")
        self.choice, self.reduction, self.eps = choice, reduction, eps
        self._matched = 0

    def loss(self, pair: TrajectoryPair) -> Tensor:
        """Return the loss, 0-d."""
        self._matched = self.nearest_step(pair)
        errors = (pair.student[self._matched] - pair.expert[-1]).square()
        return endpoint_loss(errors, pair.squared_distances, pair.weights, self.reduction, self.eps)

    def nearest_step(self, pair: TrajectoryPair) -> int:
        """Return k*, in 1..N."""
        order, target = (1 if self.choice == "l1" else 2), pair.expert[-1]
        with torch.no_grad():
            distances = torch.stack([torch.linalg.vector_norm(point - target, order) for point in pair.student[1:]])
        # from the end, so that of equal distances the latest is found; the one number that the host must know, since
        # the steps after it need no backward pass
        return len(distances) - int(distances.flip(0).argmin())

    def logs(self) -> dict[str, float | Tensor]:
        """Return the step that was matched."""
        return {"matched_step": self._matched} if self._matched else {}
