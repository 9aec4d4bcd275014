"""The training loss of networks of one architecture, one or several side by side, as one matrix of parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import vmap
from torch.nn.functional import cross_entropy

from hoptm_plugin.core.compute import Compute, TrainingPrecision
from hoptm_plugin.networks.flat import FlatNetwork
from hoptm_plugin.networks.needs import network_problems
from hoptm_plugin.runtime.compute import compile_step, graph_bytes, keep_freed_memory
from hoptm_plugin.runtime.randomness import seeded


class TrainingLoss:
    """Mean cross-entropy of E networks of one architecture on a mini-batch each, and its gradients.

    E networks are one batched computation, a single one is computed as itself. Running statistics (BatchNorm) are
    updated in place; networks that keep them, or draw random numbers (dropout), are trained one at a time.

    Args:
        module: any network of the architecture; it is copied, and its parameters do not matter.
        compiled: compile it once for every shape of mini-batch.
        precision: "bf16": the forward pass runs under autocast to bfloat16; loss and gradients keep float32.
    """

    def __init__(self, module: nn.Module, compiled: bool = False, precision: TrainingPrecision = "float32") -> None:
        self.network = FlatNetwork(copy.deepcopy(module).train())
        self.compiled, self.precision = compiled, precision
        self._functions: dict[bool, Callable[..., Any]] = {}
        self._together: dict[Hashable, int] = {}

    def _loss(self, theta: Tensor, buffers: Mapping[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        low = self.precision == "bf16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=low):
            logits = self.network(theta, images, buffers)
        return cross_entropy(logits.float() if low else logits, targets)

    def _stacked(self, parameters: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        return vmap(lambda theta, x, y: self._loss(theta, {}, x, y))(parameters, images, targets)

    def __call__(
        self, parameters: Tensor, images: Tensor, targets: Tensor, buffers: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return losses (E,) and their gradients (E, P), without a graph.

        Args:
            parameters: (E, P).
            images: (E, B, C, H, W).
            targets: class indices (E, B) or probabilities (E, B, K).
            buffers: running statistics of a single network by name, updated in place.
        """
        at = parameters.detach().requires_grad_()
        if len(at) == 1:
            losses = self._function(True, at.device)(at.squeeze(0), buffers or {}, images[0], targets[0])[None]
        else:
            losses = self._function(False, at.device)(at, images, targets)
        losses, gradients = losses.detach(), grad(losses.sum(), at)[0]
        if self.compiled and at.device.type == "cuda":  # the next call overwrites them, and GSAM needs two at once
            losses, gradients = losses.clone(), gradients.clone()
        return losses, gradients

    def _function(self, single: bool, device: torch.device) -> Callable[..., Any]:
        if single not in self._functions:
            plain = self._loss if single else self._stacked
            self._functions[single] = compile_step(plain, device) if self.compiled else plain
        return self._functions[single]

    def bytes_per_network(self, images: Tensor, targets: Tensor) -> int:
        """Return about what one training step of one network takes beside its parameters, in bytes."""
        theta, images, targets = self.network.flatten().to(images.device), images.clone(), targets.clone()
        buffers = {name: buffer.clone() for name, buffer in self.network.module.named_buffers()}
        with seeded(0, images.device):  # dropout would draw
            return graph_bytes(lambda: self._loss(theta.requires_grad_(), buffers, images, targets))

    def together(self, compute: Compute, images: Tensor, targets: Tensor) -> int:
        """Return how many networks are trained at once on mini-batches like this one: one, where no more can be."""
        key = compute, images.shape, images.device, targets.shape
        if key not in self._together:
            bytes_per_network = partial(self.bytes_per_network, images, targets)
            keep_freed_memory(images.device, bytes_per_network)
            count = compute.side_by_side(images.device, bytes_per_network)
            self._together[key] = count if count > 1 and self.stackable(images[:2], targets[:2]) else 1
        return self._together[key]

    def stackable(self, images: Tensor, targets: Tensor) -> bool:
        """Return whether a training step of several networks can be one batched computation, by trying it."""
        if network_problems(copy.deepcopy(self.network.module), images, "no_randomness", "no_state"):
            return False
        pairs = (torch.stack([part, part]) for part in (self.network.flatten().to(images), images, targets))
        try:
            self._stacked(*pairs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # such as a forward pass that looks at values
            return False
        return True
