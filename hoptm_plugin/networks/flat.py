"""A network as a function of one flat parameter vector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parameters_to_vector


class FlatNetwork:
    """The function (theta, images) -> logits of a module whose parameters, in ``parameters()`` order, are theta (P,).

    It is differentiable in both, as often as the module's layers are; attention is computed by its definition, since
    PyTorch's fused kernels can be differentiated only once. The images decide device and precision; those of the module
    do not matter, and calls leave it as it is, but for running statistics (BatchNorm).

    Attributes:
        module: the network whose shapes and forward pass are used.
        sizes: number of elements of each parameter tensor.
        num_parameters: how many there are, P.

    Args:
        module: the network.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._buffers = tuple(name for name, _ in module.named_buffers())
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
        """Return logits (B, K) of images (B, C, H, W) under parameters ``theta`` (P,), with ``buffers`` by name.

        Buffers that are not given are the module's own. It is computed in the precision of the images.
        """
        held = {name: _like(self.module.get_buffer(name), images) for name in self._buffers}
        # each by itself: torch 2.11 does not compile a convolution with a part of what was cast as a whole
        parts = {name: part.to(images.dtype) for name, part in self.unflatten(theta).items()}
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(self.module, {**parts, **held, **(buffers or {})}, (images,))

    @torch.no_grad()
    def load(self, theta: Tensor, module: nn.Module | None = None) -> None:
        """Copy ``theta`` (P,) into ``module``, by default the own one, cast to its precision and device."""
        for parameter, part in zip((module or self.module).parameters(), self.unflatten(theta).values(), strict=True):
            parameter.copy_(part)


def _like(buffer: Tensor, images: Tensor) -> Tensor:
    """Return a buffer on the images' device and, unless it counts something, in their precision."""
    return buffer.to(images) if buffer.is_floating_point() else buffer.to(images.device)
