"""The student's N steps of gradient descent as one differentiable function of images, targets and step size.

Both strategies give the same exact gradients. ``full`` keeps the graph of all N steps, so memory grows with N;
``adjoint`` keeps the N+1 parameter vectors and rebuilds one step's graph at a time, walking backwards. TESLA's
approximation is the adjoint without the steps' Hessians.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from hoptm_plugin.core.interfaces import Gradient, UnrollStrategy
from hoptm_plugin.networks.flat import FlatNetwork


def unroll(
    network: FlatNetwork,
    start: Tensor,
    images: Tensor,
    targets: Tensor,
    sizes: Sequence[int],
    step_size: Tensor,
    strategy: UnrollStrategy = "auto",
    gradient: Gradient = "exact",
) -> tuple[Tensor, ...]:
    """Return the student's path theta_0 ... theta_N, N+1 vectors (P,).

    theta_{i+1} = theta_i - alpha * grad_theta mean cross-entropy(network(theta_i, X_i), Y_i)

    Args:
        network: flat-vector view of the student.
        start: theta_0, (P,); no gradient flows into it.
        images: augmented mini-batches of all steps, concatenated, (sum of sizes, C, H, W).
        targets: class indices (sum of sizes,), or probabilities (sum of sizes, K).
        sizes: mini-batch size of each of the N steps.
        step_size: alpha, 0-d.
        strategy: "full", "adjoint", or "auto" (adjoint: the graph of one step, whatever N). An approximate gradient has
            one way to be computed, and leaves this out of account.
        gradient: "exact"; "tesla", which takes every step's gradient as if theta_i did not depend on earlier images
            and on alpha; or "tesla_halved", with half of that for the images, as TESLA's released code has it.

    Source of TESLA: Cui et al. 2023 (arXiv 2211.10586); methods.md 6.
    """
    start = start.detach()
    if strategy == "full" and gradient == "exact":
        return _full(network, start, images, targets, sizes, step_size)
    return start, *_Adjoint.apply(network, tuple(sizes), start, images, targets, step_size, gradient)


def _full(
    network: FlatNetwork, start: Tensor, images: Tensor, targets: Tensor, sizes: Sequence[int], step_size: Tensor
) -> tuple[Tensor, ...]:
    path = [start.requires_grad_()]
    for x, y in zip(images.split(list(sizes)), targets.split(list(sizes)), strict=True):
        (gradient,) = grad(cross_entropy(network(path[-1], x), y), path[-1], create_graph=True)
        path.append(path[-1] - step_size * gradient)
    return tuple(path)


class _Adjoint(torch.autograd.Function):
    """Discrete adjoint of gradient descent.

    With lam_i the gradient of the loss with respect to theta_i through all later steps, and l_i the loss of step i:
    lam_i = dL/dtheta_i + lam_{i+1} - alpha * H_i lam_{i+1}, dL/dX_i = -alpha * d<grad l_i, lam_{i+1}>/dX_i (targets
    likewise), dL/dalpha = -sum_i <grad l_i, lam_{i+1}>. H_i lam is a Hessian-vector product of one step,
    recomputed here; TESLA's gradient is the same with H_i = 0.
    """

    @staticmethod
    def forward(
        ctx: Any,
        network: FlatNetwork,
        sizes: tuple[int, ...],
        start: Tensor,
        images: Tensor,
        targets: Tensor,
        step_size: Tensor,
        gradient_kind: Gradient,
    ) -> tuple[Tensor, ...]:
        path = [start]
        for x, y in zip(images.split(sizes), targets.split(sizes), strict=True):
            theta = path[-1].detach().requires_grad_()
            with torch.enable_grad():
                (gradient,) = grad(cross_entropy(network(theta, x), y), theta)
            path.append(theta.detach() - step_size * gradient)
        ctx.network, ctx.sizes, ctx.gradient_kind = network, sizes, gradient_kind
        ctx.save_for_backward(images, targets, step_size, *path)
        ctx.set_materialize_grads(False)
        return tuple(path[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *path_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        images, targets, step_size, *path = ctx.saved_tensors
        _, _, _, wants_images, wants_targets, wants_step_size, _ = ctx.needs_input_grad
        exact, image_factor = ctx.gradient_kind == "exact", 0.5 if ctx.gradient_kind == "tesla_halved" else 1.0
        image_parts, target_parts = images.split(ctx.sizes), targets.split(ctx.sizes)
        image_grads = [torch.zeros_like(part) for part in image_parts] if wants_images else []
        target_grads = [torch.zeros_like(part) for part in target_parts] if wants_targets else []
        step_size_grad = torch.zeros_like(step_size)
        adjoint: Tensor | None = None
        for i in reversed(range(len(ctx.sizes))):
            direct = path_grads[i]
            if direct is not None:
                adjoint = direct if adjoint is None else adjoint + direct
            if adjoint is None:  # nothing of the loss depends on this step or a later one
                continue
            theta = path[i].detach().requires_grad_()
            x = image_parts[i].detach().requires_grad_(wants_images)
            y = target_parts[i].detach().requires_grad_(wants_targets)
            hessian = exact and i > 0
            wanted = [theta] * hessian + [x] * wants_images + [y] * wants_targets
            with torch.enable_grad():
                (gradient,) = grad(cross_entropy(ctx.network(theta, x), y), theta, create_graph=True)
            step_size_grad -= gradient.detach() @ adjoint
            products = iter(grad(gradient, wanted, adjoint) if wanted else ())
            if hessian:
                adjoint = adjoint - step_size * next(products)
            if wants_images:
                image_grads[i] = -image_factor * step_size * next(products)
            if wants_targets:
                target_grads[i] = -step_size * next(products)
        return (
            None,
            None,
            None,
            torch.cat(image_grads) if wants_images else None,
            torch.cat(target_grads) if wants_targets else None,
            step_size_grad if wants_step_size else None,
            None,
        )
