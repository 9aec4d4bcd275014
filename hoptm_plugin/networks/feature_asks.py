"""Asking for features, so that those of several runs' networks are one computation."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from hoptm_plugin.core.asking import Ask
from hoptm_plugin.core.interfaces import Task
from hoptm_plugin.networks.layers import features


class _Features(nn.Module):
    """A network up to its features."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return features(self.network, images)


@dataclass(frozen=True, eq=False)
class Features(Ask[Tensor]):
    """Asks for what :func:`hoptm_plugin.features` returns, (B, F).

    Attributes:
        network: whose parameters nothing is to flow back to.
        images: (B, C, H, W); where they require gradients, the features do.
        task: of the run.
    """

    turn = 2

    network: nn.Module
    images: Tensor
    task: Task

    def alike(self) -> Hashable:
        """Return the architecture, what the images are, and in which mode; None of one that keeps statistics."""
        if self.task.architecture is None or next(self.network.buffers(), None) is not None:
            return None
        images = self.images.shape, self.images.dtype, self.images.device, self.images.requires_grad
        return self.task.architecture, self.network.training, images, self.task.compute.stacked

    @classmethod
    def answers(cls, asks: Sequence[Features | None]) -> list[Tensor]:
        """Return the features of each, of several as one computation where that pays."""
        first = next(ask for ask in asks if ask is not None)
        if len(asks) == 1 or not first.task.compute.stacked:
            return [first.images if ask is None else features(ask.network, ask.images) for ask in asks]
        # a run that has left is stood in for
        every = [ask or replace(first, images=first.images.detach()) for ask in asks]
        stacks = {
            name: torch.stack([dict(ask.network.named_parameters())[name].detach() for ask in every])
            for name, _ in first.network.named_parameters()
        }
        whole = _Features(first.network)

        def one(parameters: dict[str, Tensor], batch: Tensor) -> Tensor:
            return functional_call(whole, {f"network.{name}": part for name, part in parameters.items()}, (batch,))

        return list(vmap(one)(stacks, torch.stack([ask.images for ask in every])).unbind())
