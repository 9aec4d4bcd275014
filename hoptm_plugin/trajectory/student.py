"""One step of the student's gradient descent: its gradient, and that gradient's derivatives along a direction."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import grad
from torch.func import grad_and_value, jvp, vmap
from torch.nn.functional import cross_entropy

from hoptm_plugin.core.compute import Precision
from hoptm_plugin.core.errors import first_line
from hoptm_plugin.networks.flat import FlatNetwork
from hoptm_plugin.runtime.capture import Captured, Work
from hoptm_plugin.runtime.compute import compile_step, graph_bytes

Products: TypeAlias = tuple[Tensor, tuple[Tensor, ...]]


@dataclass(frozen=True)
class StepGraph:
    """The gradient of one step with its graph, and the leaves that the graph hangs on."""

    leaves: tuple[Tensor, Tensor, Tensor]
    gradient: Tensor

    def products(self, direction: Tensor, wanted: Sequence[int]) -> Products:
        """See :meth:`StudentStep.products`; once, since the graph is freed."""
        inputs = [self.leaves[index] for index in wanted]
        products = grad(self.gradient, inputs, direction) if inputs else ()
        return torch.linalg.vecdot(self.gradient.detach(), direction), tuple(products)


class StudentStep:
    """The loss of one student step, l(theta; X, Y) = mean cross-entropy(network(theta, X), Y), differentiated twice.

    Derivatives of <grad_theta l, v> have two exact forms. Eager, reverse over reverse: the gradient's graph is built,
    then walked back. Compiled, forward over reverse: the tangent of (grad_theta l, grad_X l, grad_Y l) along v in theta
    is (d/dtheta, d/dX, d/dY) <grad_theta l, v>, since second derivatives commute; it keeps nothing between two steps.
    Eager, the first is the faster one on a CPU; compiled, both take the same time there.

    Several students of one architecture side by side are one batched computation: everything has a leading K, theta
    (K, P), images (K, B, C, H, W), and l is the sum of their losses, so that every derivative is each student's own.

    Args:
        network: flat-vector view of the student.
        compiled: compile each function once per batch size and device; on CUDA, what one call returns is overwritten
            by the next.
        precision: "bf16" lets the network compute in bfloat16; parameters, loss and gradients keep theirs.
        captured: on CUDA, launch all steps of a path as one.
    """

    def __init__(
        self, network: FlatNetwork, compiled: bool = False, precision: Precision = "float32", captured: bool = False
    ) -> None:
        self.network, self.compiled, self.precision = network, compiled, precision
        self.captured = Captured() if captured else None
        self._functions: dict[object, Callable[..., Any]] = {}
        self._graph_bytes: dict[tuple[torch.Size, torch.dtype], int] = {}

    def whole(self, key: Hashable, work: Work, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return ``work(*inputs)``, which takes many steps; of what is captured see :class:`Captured`."""
        return work(*inputs) if self.captured is None else self.captured(key, work, *inputs)

    def loss(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """Return l, 0-d."""
        if theta.dim() == 2:
            return vmap(self._loss)(theta, images, targets).sum()
        return self._loss(theta, images, targets)

    def _loss(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        if self.precision == "bf16":  # not by autocast, which cannot be compiled together with jvp
            logits = self.network(theta, images.bfloat16()).to(theta.dtype)
        else:
            logits = self.network(theta, images)
        return cross_entropy(logits, targets)

    def gradient(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """Return grad_theta l (P,), without a graph."""
        if self.compiled:
            gradient: Tensor = self._call("gradient", torch.func.grad(self._loss), theta, images, targets)
            return gradient
        theta = theta.detach().requires_grad_()
        with torch.enable_grad():
            return grad(self.loss(theta, images, targets), theta)[0]

    def graph(self, theta: Tensor, images: Tensor, targets: Tensor, wanted: Sequence[int] = (0, 1, 2)) -> StepGraph:
        """Return grad_theta l with a graph that reaches the ``wanted`` of theta, images and targets (0, 1, 2)."""
        leaves = tuple(
            part.detach().requires_grad_(part.is_floating_point() and (index == 0 or index in wanted))
            for index, part in enumerate((theta, images, targets))
        )
        with torch.enable_grad():
            (gradient,) = grad(self.loss(*leaves), leaves[0], create_graph=True)
        return StepGraph(leaves, gradient)  # type: ignore[arg-type]

    def products(
        self, theta: Tensor, images: Tensor, targets: Tensor, direction: Tensor, wanted: Sequence[int]
    ) -> Products:
        """Return <grad_theta l, v>, 0-d, of K students (K,), and its derivatives.

        Args:
            theta: parameters (P,), of students side by side (K, P), and so on.
            images: (B, C, H, W).
            targets: class indices (B,) or probabilities (B, classes).
            direction: v, (P,).
            wanted: ascending, which derivatives: 0 for theta (the Hessian-vector product H v), 1 images, 2 targets.
        """
        if not self.compiled:
            return self.graph(theta, images, targets, wanted).products(direction, wanted)
        wanted = tuple(wanted)
        products: Products = self._call(wanted, self._forward_over_reverse(wanted), theta, images, targets, direction)
        return products

    def _forward_over_reverse(self, wanted: tuple[int, ...]) -> Callable[..., Products]:
        def products(theta: Tensor, images: Tensor, targets: Tensor, direction: Tensor) -> Products:
            def loss_and_gradients(at: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
                if not wanted:
                    return self._loss(at, images, targets), ()
                gradients, loss = grad_and_value(self._loss, argnums=wanted)(at, images, targets)
                return loss, gradients

            along, tangents = jvp(loss_and_gradients, (theta,), (direction,))[1]
            return along, tangents

        return products

    def problems(self, images: Tensor, targets: Tensor) -> list[str]:
        """Return, before any work, why the step cannot be differentiated twice, by trying it on a mini-batch."""
        theta, wanted = self.network.flatten(), (0, 1)
        try:
            if self.compiled:  # the same derivatives as they will be compiled
                self._forward_over_reverse(wanted)(theta, images, targets, torch.ones_like(theta))
            else:
                self.products(theta, images, targets, torch.ones_like(theta), wanted)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            return [
                f"network {type(self.network.module).__name__}: a training step cannot be differentiated twice, which "
                f"matching trajectories needs ({first_line(error)}); replace that operation in its forward pass, or "
                f"only evaluate on this network: networks=[...]"
            ]
        return []

    def _call(self, key: object, function: Callable[..., Any], theta: Tensor, images: Tensor, *others: Tensor) -> Any:
        key, function = ((key, "stacked"), vmap(function)) if theta.dim() == 2 else (key, function)
        if key not in self._functions:
            self._functions[key] = compile_step(function, theta.device, graphs=self.captured is None)
        if images.dim() == 4:  # convolutions of three channels are many times faster so
            images = images.contiguous(memory_format=torch.channels_last)
        return self._functions[key](theta.detach(), images.detach(), *(other.detach() for other in others))

    def graph_bytes(self, theta: Tensor, images: Tensor, targets: Tensor) -> int:
        """Return what :meth:`graph` keeps, in bytes, for a mini-batch of this shape."""
        key = (images.shape, images.dtype)
        if key not in self._graph_bytes:
            own = images.clone(), targets.clone()  # of a view, the whole memory would count
            self._graph_bytes[key] = graph_bytes(lambda: self.graph(theta, *own))
        return self._graph_bytes[key]
