"""Optimisers of what a distillation learns: images, step size, label logits."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hoptm_plugin.core.asking import Ask, Asking, alone
from hoptm_plugin.core.errors import NonFiniteLossError, StepSizeError
from hoptm_plugin.core.interfaces import State
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.checkpoint import take_back
from hoptm_plugin.engine.settings import Distillation, ImagesOptimiser, Optimiser

AVERAGES = "step", "exp_avg", "exp_avg_sq"  # of AdamW, by torch's names


@dataclass(frozen=True, eq=False)
class Backward(Ask[None]):
    """Asks for the backward pass of a loss.

    Attributes:
        loss: 0-d.
        shared: a part of its graph may be that of other runs as well.
    """

    turn = 1
    repeatable = False

    loss: Tensor
    shared: bool

    def alike(self) -> Hashable:
        """Return whether the graph is one with others'."""
        return self.shared or None

    @classmethod
    def answers(cls, asks: Sequence[Backward | None]) -> list[None]:
        """Go back through one graph once."""
        torch.autograd.backward([ask.loss for ask in asks if ask is not None])
        return [None] * len(asks)


class Optimisers:
    """SGD with momentum, or AdamW, on the learned tensors of a synthetic set, which become leaves with gradients.

    Args:
        synthetic: the set; its tensors are replaced and updated in place.
        settings: learning rates, momenta, and the constraint on alpha.
        shared: losses may come of what several runs compute as one.
    """

    def __init__(self, synthetic: SyntheticSet, settings: Distillation, shared: bool = False) -> None:
        self.synthetic, self.settings, self._shared = synthetic, settings, shared
        synthetic.images = synthetic.images.detach().clone().requires_grad_()
        self._tensors: dict[str, Tensor] = {"images": synthetic.images}
        if synthetic.soft:
            synthetic.labels = synthetic.labels.detach().clone().requires_grad_()
            self._tensors["labels"] = synthetic.labels
        if synthetic.step_size is not None:
            alpha = synthetic.step_size.detach()
            raw = alpha.log() if settings.step_size.constraint == "log" else alpha.clone()
            self._tensors["step_size"] = raw.requires_grad_()
            synthetic.step_size = raw
        self._steppers = {
            name: _stepper(tensor, rule)
            for name, tensor in self._tensors.items()
            if (rule := getattr(settings, name)).learning_rate > 0
        }
        self.refresh()

    def refresh(self) -> None:
        """Make the set's alpha a differentiable function of what is learned; needed before every loss."""
        if self.synthetic.step_size is not None and self.settings.step_size.constraint == "log":
            self.synthetic.step_size = self._tensors["step_size"].exp()

    def step(self, loss: Tensor, skip_above: float | None = None) -> None:
        """Go one step down ``loss``; a loss that depends on nothing learned changes nothing.

        The host waits for the device once, when the backward pass is done; with ``skip_above`` before it as well, and
        where nothing constrains alpha after it.

        Args:
            loss: 0-d.
            skip_above: a loss above this takes no step.

        Raises:
            NonFiniteLossError: the loss or a gradient is NaN or infinite; nothing was changed.
            StepSizeError: alpha, which nothing constrains, would no longer be positive; the set is as it was.
        """
        alone(self.step_side_by_side(loss, skip_above))

    def step_side_by_side(self, loss: Tensor, skip_above: float | None = None) -> Asking[None]:
        """Do what :meth:`step` does, and ask for the backward pass."""
        for tensor in self._tensors.values():
            tensor.grad = None
        if skip_above is not None and skip_above < float(loss.detach()) < math.inf:
            return
        if loss.requires_grad:
            yield Backward(loss, self._shared)
        gradients = [tensor.grad for tensor in self._tensors.values() if tensor.grad is not None]
        finite = torch.stack([torch.isfinite(part).all() for part in (loss.detach(), *gradients)])
        if not bool(finite.all()):
            what = "gradient of the loss is NaN or infinite" if bool(finite[0]) else f"loss is {float(loss.detach())}"
            raise NonFiniteLossError(f"the {what}")
        if loss.requires_grad:
            if "step_size" in self._steppers:
                self._step_alpha()
            for name, stepper in self._steppers.items():
                if name != "step_size":
                    stepper.step()
        self.refresh()

    @torch.no_grad()
    def _step_alpha(self) -> None:
        alpha, rule = self._tensors["step_size"], self.settings.step_size
        before = alpha.clone()
        self._steppers["step_size"].step()
        if rule.constraint == "clamped":
            alpha.clamp_(min=rule.minimum)
        elif rule.constraint == "damped":
            down = (before - alpha).clamp_min(0)
            damped = (before * (before / (before + down))).clamp_min(torch.finfo(alpha.dtype).tiny)
            alpha.copy_(torch.where(down > 0, damped, alpha))
        elif rule.constraint == "none" and not alpha > 0:
            reached = float(alpha)
            alpha.copy_(before)
            raise StepSizeError(f"the step size would go from {float(before):.3g} to {reached:.3g}")

    def state_dict(self) -> State:
        """Return the learned tensors and what their optimisers remember: momentum buffers, or AdamW's averages."""
        state: State = {f"value_{name}": tensor.detach() for name, tensor in self._tensors.items()}
        for name, stepper in self._steppers.items():
            kept = stepper.state[self._tensors[name]]
            if isinstance(stepper, torch.optim.AdamW):
                state |= {f"{part}_{name}": kept[part] for part in AVERAGES if part in kept}
            elif kept.get("momentum_buffer") is not None:
                state[f"momentum_{name}"] = kept["momentum_buffer"]
        return state

    def load_state_dict(self, state: State) -> None:
        """Take back what :meth:`state_dict` gave."""
        for name, tensor in self._tensors.items():
            take_back(tensor, state[f"value_{name}"])
        for name, stepper in self._steppers.items():
            tensor = self._tensors[name]
            if isinstance(stepper, torch.optim.AdamW):
                if f"step_{name}" in state:
                    stepper.state[tensor] = {
                        part: take_back(torch.tensor(0.0) if part == "step" else torch.zeros_like(tensor),
                                        state[f"{part}_{name}"]) for part in AVERAGES
                    }  # fmt: skip
            elif f"momentum_{name}" in state:
                buffer = take_back(torch.zeros_like(tensor), state[f"momentum_{name}"])
                stepper.state[tensor]["momentum_buffer"] = buffer
        self.refresh()


def _stepper(tensor: Tensor, rule: Optimiser) -> torch.optim.SGD | torch.optim.AdamW:
    if isinstance(rule, ImagesOptimiser) and rule.algorithm == "adamw":
        return torch.optim.AdamW([tensor], lr=rule.learning_rate, weight_decay=rule.weight_decay)
    return torch.optim.SGD([tensor], lr=rule.learning_rate, momentum=rule.momentum)
