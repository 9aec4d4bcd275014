"""Match the easy parameters first: HoP-TM's self-paced mask."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from hoptm_plugin.core.interfaces import Number, Scheduler, State, value_at
from hoptm_plugin.core.observations import TrajectoryPair
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.roles import Symbol


@register("self_paced")
class SelfPaced(Scheduler):
    """Weights 1 for parameters whose error is below kappa, 0 for the others; kappa grows (HoP-TM Eq. 5 to 7).

    v_i = 1 if e_i < kappa(step), else 0; sticky (default): once 1, always 1, over all experts and start epochs.

    A kappa belongs to the size of the errors, so to a network's width, a data set and an expert's learning rate: too
    large, and the mask is open at once; too small, and it stays empty. A quantile does not: kappa(step) is then the
    error of the last parameter that is let in until the mask holds the fraction quantile(step).

    Args:
        kappa: threshold, a number or a schedule; for raw errors around 1e-10 to 1e-4. Either this or ``quantile``.
        quantile: fraction of parameters that are matched, in [0, 1] (beyond, the nearest end), a number or a schedule:
            the easiest of this iteration join those that stickiness holds until there are round(quantile * P), and
            equal errors join together.
        sticky: keep v_i = 1 once it was (the released code); False recomputes it every iteration (the paper's Eq. 6).
        errors: "raw", e_i = d_i = (student_i - target_i)^2 (the released code, which the published kappas are for),
            or "normalised", e_i = d_i / (n_i + eps) (the paper's l_i), which needs a kappa of its own.
        granularity: "scalar" (every entry of the flat vector on its own) or "tensor" (a parameter tensor's mean error
            decides for all of its entries).
        eps: added to n_i = (start_i - target_i)^2 when errors are normalised.

    Source: HoP-TM (Dong et al. 2025), Eq. 5 to 7; the stickiness is the released code's; docs/methods.md 2.3.
    Deviates: the quantile is this library's. The mask can be empty without harm (see the endpoint matcher).
    ``regulariser`` in the logs is -kappa * sum(v), the term of Eq. 8 that carries no gradient.
    """

    cites = ("dong2025hoptm",)

    def __init__(
        self,
        kappa: Annotated[Number | None, Symbol("κ")] = None,
        sticky: bool = True,
        errors: Literal["raw", "normalised"] = "raw",
        granularity: Literal["scalar", "tensor"] = "scalar",
        eps: float = 1e-12,
        quantile: Annotated[Number | None, Symbol("quantile")] = None,
    ) -> None:
        if (kappa is None) == (quantile is None):
            raise ValueError("needs either kappa or quantile; set the other one to null")
        self.kappa, self.quantile, self.sticky, self.eps = kappa, quantile, sticky, eps
        self.errors, self.granularity = errors, granularity
        self._mask: Tensor | None = None
        self._kappa: float | Tensor = 0.0

    def parameter_weights(self, pair: TrajectoryPair) -> Tensor:
        """Return the mask (P,) as the parameters' type, from a pair without gradients."""
        errors = self._errors(pair)
        held = torch.zeros_like(errors, dtype=torch.bool)
        if self.sticky and self._mask is not None:
            held = self._mask.to(errors.device)
        if self.kappa is not None:
            self._kappa = value_at(self.kappa, pair.step)
            self._mask = held | (errors < self._kappa)  # HoP-TM Eq. 6
        else:
            assert self.quantile is not None
            self._mask = held | self._easiest(errors, held, value_at(self.quantile, pair.step))
        return self._mask.to(pair.expert.dtype)

    def _easiest(self, errors: Tensor, held: Tensor, fraction: float) -> Tensor:
        """Return the parameters (P,) with the smallest errors, enough to make up ``fraction`` with those held."""
        candidates = errors[~held & errors.isfinite()]  # a diverged parameter is not easy
        missing = round(min(max(fraction, 0.0), 1.0) * len(errors)) - int(held.sum())
        if min(missing, len(candidates)) < 1:
            self._kappa = 0.0
            return torch.zeros_like(held)
        self._kappa = candidates.kthvalue(min(missing, len(candidates))).values
        return errors <= self._kappa

    def _errors(self, pair: TrajectoryPair) -> Tensor:
        errors = pair.squared_errors
        if self.errors == "normalised":
            errors = errors / (pair.squared_distances + self.eps)
        if self.granularity == "tensor":
            means = torch.stack([part.mean() for part in errors.split(pair.tensor_sizes)])
            errors = means.repeat_interleave(torch.tensor(pair.tensor_sizes, device=means.device))
        return errors

    def logs(self) -> dict[str, float | Tensor]:
        """Return kappa, the fraction of parameters matched, and the term -kappa * sum(v)."""
        if self._mask is None:
            return {}
        count = self._mask.sum()  # "regulariser": the second sum of HoP-TM Eq. 5 and 8
        return {"kappa": self._kappa, "mask_fraction": count / self._mask.numel(), "regulariser": -self._kappa * count}

    def state_dict(self) -> State:
        """Return the sticky mask."""
        return {} if self._mask is None or not self.sticky else {"mask": self._mask}

    def load_state_dict(self, state: State) -> None:
        """Take the sticky mask back."""
        self._mask = state.get("mask")
