"""The exponential moving average of a synthetic set (FTD, ATT)."""

from __future__ import annotations

from dataclasses import replace

import torch

from hoptm_plugin.core.interfaces import State
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.checkpoint import take_back


class MovingAverage:
    """E <- decay * E + (1 - decay) * S after every iteration, from E = S at the start; it feeds nothing back.

    Args:
        synthetic: S at the start.
        decay: beta in the papers.
        labels: average learned label logits as well; otherwise they are those of S, as alpha always is.

    Source: FTD (Du et al. 2023, arXiv 2211.11004) and ATT average the images; DATM's configurations name a decay that
    its released code does not use. No bias correction; docs/methods.md 5.
    """

    def __init__(self, synthetic: SyntheticSet, decay: float, labels: bool) -> None:
        self.decay = decay
        self._tensors = {"images": synthetic.images.detach().clone()}
        if labels and synthetic.soft:
            self._tensors["labels"] = synthetic.labels.detach().clone()

    @torch.no_grad()
    def update(self, synthetic: SyntheticSet) -> None:
        """Move towards ``synthetic``."""
        for name, tensor in self._tensors.items():
            tensor.lerp_(getattr(synthetic, name).detach(), 1 - self.decay)

    def of(self, synthetic: SyntheticSet) -> SyntheticSet:
        """Return E, with the rest from ``synthetic``, as a copy without gradients."""
        images, labels = self._tensors["images"], self._tensors.get("labels", synthetic.labels)
        return replace(synthetic, images=images, labels=labels).detached()

    def state_dict(self) -> State:
        """Return the averaged tensors."""
        return dict(self._tensors)

    def load_state_dict(self, state: State) -> None:
        """Take the averaged tensors back."""
        for name, tensor in self._tensors.items():
            take_back(tensor, state[name])
