"""A network as a function of one flat parameter vector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector

from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.networks.initialise import has_buffers


class FlatNetwork:
    """The function (theta, images) -> logits of a module whose parameters, in ``parameters()`` order, are theta (P,).

    It is differentiable in both, as often as the module's layers are. ``theta`` and the images decide device and
    precision; those of the module do not matter, and calls leave it as it is.

    Attributes:
        module: the network whose shapes and forward pass are used.
        sizes: number of elements of each parameter tensor.
        num_parameters: how many there are, P.

    Args:
        module: the network.
        running_statistics: whether the module may keep some; calls then update its own, or those given to the call.

    Raises:
        ConfigurationError: the module keeps running statistics, which theta does not hold, and may not.
    """

    def __init__(self, module: nn.Module, running_statistics: bool = False) -> None:
        if has_buffers(module) and not running_statistics:
            raise ConfigurationError(
                "network.norm: this network keeps running statistics (BatchNorm), which a vector of parameters does "
                "not hold; use network.norm=instance"
            )
        self.module = module
        self._shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        self.sizes = tuple(shape.numel() for shape in self._shapes.values())
        self.num_parameters = sum(self.sizes)

    def flatten(self, module: nn.Module | None = None) -> Tensor:
        """Return a detached copy (P,) of the parameters of ``module``, by default of the own one."""
        return parameters_to_vector((module or self.module).parameters()).detach()

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """Return views of ``theta`` (P,) under the parameters' names and shapes."""
        parts = zip(self._shapes.items(), theta.split(self.sizes), strict=True)
        return {name: part.view(shape) for (name, shape), part in parts}

    def __call__(self, theta: Tensor, images: Tensor, buffers: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return logits (B, K) of images (B, C, H, W) under parameters ``theta`` (P,), with ``buffers`` by name."""
        return functional_call(self.module, {**self.unflatten(theta), **(buffers or {})}, (images,))

    @torch.no_grad()
    def load(self, theta: Tensor, module: nn.Module | None = None) -> None:
        """Copy ``theta`` (P,) into ``module``, by default the own one, cast to its precision and device."""
        for parameter, part in zip((module or self.module).parameters(), self.unflatten(theta).values(), strict=True):
            parameter.copy_(part)
