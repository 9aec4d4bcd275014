"""Match parameters by difficulty: HoP-TM's self-paced mask, easy first, and its mirror image and soft forms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from hoptm_plugin.core.interfaces import Number, Scheduler, State, value_at
from hoptm_plugin.core.observations import TrajectoryPair
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.roles import Decides, Symbol
from hoptm_plugin.schedulers.weighting import Weights, weight_at


@register("self_paced")
class SelfPaced(Scheduler):
    """Weights 1 for parameters whose error is below kappa, 0 for the others; kappa grows (HoP-TM Eq. 5 to 7).

    v_i = 1 if e_i < kappa(step), else 0; sticky (default): once 1, always 1, over all experts and start epochs.

    A kappa belongs to the size of the errors, so to a network's width, a data set and an expert's learning rate: too
    large, and the mask is open at once; too small, and it stays empty. A quantile does not: kappa(step) is then the
    error of the last parameter that is let in until the mask holds the fraction quantile(step).

    Matched is a range, from ``lower`` to kappa or quantile: easy first is a quantile that grows; hard first a lower
    that falls to 0, with quantile 1; neither is lower 0 and quantile 1.

    Args:
        kappa: threshold, a number or a schedule; for raw errors around 1e-10 to 1e-4. Either this or ``quantile``.
        quantile: upper end, as a fraction of the parameters in [0, 1] (beyond, the nearest end), a number or a
            schedule: the easiest of this iteration join those that stickiness holds until there are
            round(quantile * P), and equal errors join together.
        lower: lower end, likewise: the floor(lower * P) easiest of this iteration, besides those that stickiness holds,
            are left out, so that quantile - lower of all are matched; equal errors stay together.
        difficulty: "errors", or "depth": by position in the flat vector, shallow first, whatever the errors; with a
            quantile alone. Whole tensors by ``granularity``: the position at which each begins.
        ranked: fractions of "all" parameters, or of each "tensor"; with a quantile of scalars alone.
        weights: "hard", or "linear", "logarithmic", "mixture": from 1 down to 0 at the threshold, by the error over it;
            in mirror image at the lower end, by its threshold (the easiest error that is kept) over the error. No end
            where nothing is left out, so that quantile 1 and lower 0 match all. Formulas:
            ``weight_at`` in ``schedulers/weighting.py``.
        softness: s in (0, 1) of "logarithmic" (close to linear near 0) and of "mixture" (1 up to s * kappa).
        sticky: keep v_i = 1 once it was (the released code), and the largest weight so far of soft ones, all of which
            make up the range; False recomputes it every iteration (the paper's Eq. 6). A range that does not grow is
            decided by the first iteration if it is sticky.
        errors: "raw", e_i = d_i = (student_i - target_i)^2 (the released code, which the published kappas are for),
            or "normalised", e_i = d_i / (n_i + eps) (the paper's l_i), which needs a kappa of its own.
        granularity: "scalar" (every entry of the flat vector on its own) or "tensor" (a parameter tensor's mean error
            decides for all of its entries).
        eps: added to n_i = (start_i - target_i)^2 when errors are normalised.

    Source: HoP-TM (Dong et al. 2025), Eq. 5 to 7; the stickiness is the released code's; soft weights are of Jiang et
    al. 2014; without stickiness, lower = r with quantile 1 is what PAD leaves out (Li et al. 2024, arXiv 2408.03360),
    by loss or by depth; docs/methods.md 2.3.
    Deviates: the quantile is this library's. The mask can be empty without harm (see the endpoint matcher).
    ``regulariser`` in the logs is -kappa * sum(v), the term of Eq. 8 that carries no gradient.
    """

    cites = ("dong2025hoptm", "jiang2014spar")

    @classmethod
    def cited(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Leave out where soft weights are from, unless they are."""
        return cls.cites if settings.get("weights", "hard") != "hard" else cls.cites[:1]

    def __init__(
        self,
        kappa: Annotated[Number | None, Symbol("κ")] = None,
        sticky: bool = True,
        errors: Literal["raw", "normalised"] = "raw",
        granularity: Literal["scalar", "tensor"] = "scalar",
        eps: float = 1e-12,
        quantile: Annotated[Number | None, Symbol("quantile")] = None,
        lower: Annotated[Number, Symbol("lower"), Decides("result", unless=(0.0,))] = 0.0,
        difficulty: Annotated[Literal["errors", "depth"], Decides("result", unless=("errors",))] = "errors",
        ranked: Annotated[Literal["all", "tensor"], Decides("result", unless=("all",))] = "all",
        weights: Annotated[Weights, Decides("result", unless=("hard",))] = "hard",
        softness: Annotated[float, Decides("result", unless=(0.5,))] = 0.5,
    ) -> None:
        if (kappa is None) == (quantile is None):
            raise ValueError("needs either kappa or quantile; set the other one to null")
        if kappa is not None and difficulty == "depth":
            raise ValueError("difficulty=depth has no errors for a kappa; set kappa to null and give a quantile")
        if ranked == "tensor" and (kappa is not None or granularity == "tensor"):
            raise ValueError("ranked=tensor needs a quantile, kappa set to null, and granularity=scalar")
        if not 0 < softness < 1:
            raise ValueError("softness must be above 0 and below 1")
        self.kappa, self.quantile, self.lower, self.sticky, self.eps = kappa, quantile, lower, sticky, eps
        self.errors, self.granularity, self.difficulty, self.ranked = errors, granularity, difficulty, ranked
        self.weights, self.softness = weights, softness
        self._weights: Tensor | None = None  # (P,): bool if hard
        self._groups: list[int] = []  # lengths of what is ranked by itself
        self._kappas: list[float | Tensor] = []  # of each group

    def parameter_weights(self, pair: TrajectoryPair) -> Tensor:
        """Return the weights (P,) as the parameters' type, from a pair without gradients."""
        errors = self._errors(pair)
        before = self._weights.to(errors.device) if self.sticky and self._weights is not None else None
        self._groups = list(pair.tensor_sizes) if self.ranked == "tensor" else [len(errors)]
        self._kappas, parts = [], []
        known = torch.zeros_like(errors, dtype=torch.bool) if before is None else before
        for group in zip(errors.split(self._groups), known.split(self._groups), strict=True):
            parts.append(self._now(*group, pair.step))
        now = torch.cat(parts) if len(parts) > 1 else parts[0]
        if before is not None:
            now = before | now if self.weights == "hard" else torch.maximum(before, now.to(before.dtype))
        self._weights = now if self.weights == "hard" else now.to(pair.expert.dtype)
        return self._weights.to(pair.expert.dtype)

    def _now(self, errors: Tensor, before: Tensor, step: int) -> Tensor:
        """Return this iteration's weights of a group of parameters, without what stickiness adds; bool if hard."""
        left_out, let_in, held = math.floor(_fraction(self.lower, step) * len(errors)), 0, before > 0
        if self.kappa is not None:
            kappa: float | Tensor = value_at(self.kappa, step)
            matched = errors < kappa  # HoP-TM Eq. 6
        else:
            assert self.quantile is not None
            let_in = round(_fraction(self.quantile, step) * len(errors))
            if let_in - left_out == len(errors):  # where nothing is left out a weight may still rise to 1
                held = before >= 1
            kappa, matched = self._easiest(errors, held, left_out, let_in)
        self._kappas.append(kappa)
        low = self._hardest_from(errors, held, left_out) if left_out else None
        if low is not None:
            matched = matched & (errors >= low)
        if self.weights == "hard":
            return matched
        weights = matched.to(errors.dtype)
        if let_in < len(errors):  # an error of 0 is the easiest there is, whatever the threshold
            weights = weights * weight_at(torch.where(errors > 0, errors / kappa, 0.0), self.weights, self.softness)
        if low is not None:
            weights = weights * weight_at(torch.where(errors > 0, low / errors, 1.0), self.weights, self.softness)
        return weights

    def _easiest(self, errors: Tensor, held: Tensor, left_out: int, let_in: int) -> tuple[float | Tensor, Tensor]:
        """Return the threshold and the parameters up to it: enough to make up the range with those held."""
        candidates = errors[~held & errors.isfinite()]  # a diverged parameter is not easy
        missing = let_in - left_out - int(held.sum())
        if min(missing, len(candidates)) < 1:
            return 0.0, torch.zeros_like(held)
        kappa = candidates.kthvalue(min(left_out + missing, len(candidates))).values
        return kappa, errors <= kappa

    def _hardest_from(self, errors: Tensor, held: Tensor, left_out: int) -> float | Tensor:
        """Return the smallest error that is kept where ``left_out`` of those not held are not; inf for none."""
        if left_out >= len(errors):
            return math.inf
        # a diverged parameter comes last; without asking the device for a number
        return torch.where(~held & errors.isfinite(), errors, math.inf).kthvalue(left_out + 1).values

    def _errors(self, pair: TrajectoryPair) -> Tensor:
        """Return how difficult each parameter is, (P,): its error or, by depth, its position in (0, 1]."""
        if self.difficulty == "depth":
            return self._depths(pair)
        errors = pair.squared_errors
        if self.errors == "normalised":
            errors = errors / (pair.squared_distances + self.eps)
        if self.granularity == "tensor":
            means = torch.stack([part.mean() for part in errors.split(pair.tensor_sizes)])
            errors = means.repeat_interleave(torch.tensor(pair.tensor_sizes, device=means.device))
        return errors

    def _depths(self, pair: TrajectoryPair) -> Tensor:
        """Return positions in float64, which tells those of any network apart."""
        count, device = sum(pair.tensor_sizes), pair.expert.device
        positions = torch.arange(1, count + 1, dtype=torch.float64, device=device) / count
        if self.granularity == "scalar":
            return positions
        return torch.cat([part[:1].expand(len(part)) for part in positions.split(pair.tensor_sizes)])

    def logs(self) -> dict[str, float | Tensor]:
        """Return kappa (the mean over tensors if these are ranked), the mean weight, and the term -kappa * sum(v)."""
        if self._weights is None or not self._kappas:
            return {}
        counts = [part.sum() for part in self._weights.split(self._groups)]
        # "regulariser": the second sum of HoP-TM Eq. 5 and 8
        regulariser = sum(-kappa * count for kappa, count in zip(self._kappas, counts, strict=True))
        return {
            "kappa": sum(self._kappas) / len(self._kappas),
            "mask_fraction": sum(counts) / self._weights.numel(),
            "regulariser": regulariser,
        }

    def state_dict(self) -> State:
        """Return what is sticky: the mask or, of soft weights, the largest so far."""
        if self._weights is None or not self.sticky:
            return {}
        return {"mask" if self.weights == "hard" else "weights": self._weights}

    def load_state_dict(self, state: State) -> None:
        """Take the sticky weights back."""
        self._weights = state.get("mask" if self.weights == "hard" else "weights")


def _fraction(number: Number, step: int) -> float:
    return min(max(value_at(number, step), 0.0), 1.0)
