"""The student's N steps of gradient descent as one differentiable function of images, targets and step size.

All strategies give the same exact gradients. ``full`` keeps the graph of all N steps, so memory grows with N;
``adjoint`` keeps the N+1 parameter vectors and rebuilds one step's graph at a time, walking backwards; ``auto`` keeps
the graphs of as many steps as a memory budget holds and rebuilds the others. TESLA's approximation is the adjoint
without the steps' Hessians.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad
from torch.autograd.function import once_differentiable
from torch.nn.functional import one_hot

from hoptm_plugin.core.asking import Ask
from hoptm_plugin.core.compute import Compute, UnrollStrategy
from hoptm_plugin.core.interfaces import Gradient
from hoptm_plugin.trajectory.student import StepGraph, StudentStep


def unroll(
    step: StudentStep,
    start: Tensor,
    images: Tensor,
    targets: Tensor,
    sizes: Sequence[int],
    step_size: Tensor,
    strategy: UnrollStrategy = "auto",
    gradient: Gradient = "exact",
    memory_budget: int = 0,
) -> tuple[Tensor, ...]:
    """Return the student's path theta_0 ... theta_N, N+1 vectors (P,).

    theta_{i+1} = theta_i - alpha * grad_theta mean cross-entropy(network(theta_i, X_i), Y_i) (HoP-TM Eq. 1)

    K students side by side are the same with a leading K in everything but the sizes: vectors (K, P), alpha (K,).

    Args:
        step: the student's loss and its derivatives.
        start: theta_0, (P,); no gradient flows into it.
        images: augmented mini-batches of all steps, concatenated, (sum of sizes, C, H, W).
        targets: class indices (sum of sizes,), or probabilities (sum of sizes, classes).
        sizes: mini-batch size of each of the N steps.
        step_size: alpha, 0-d.
        strategy: "full" (never compiled), "adjoint", or "auto": the adjoint, with the graphs of the last steps kept as
            far as ``memory_budget`` holds them. Compiled steps keep none: building them again is faster there; nor do
            captured ones. An approximate gradient has one way to be computed, and leaves this out of account.
        gradient: "exact"; "tesla", which takes every step's gradient as if theta_i did not depend on earlier images
            and on alpha; or "tesla_halved", with half of that for the images, as TESLA's released code has it.
        memory_budget: bytes for kept graphs.

    Source of TESLA: Cui et al. 2023 (arXiv 2211.10586); docs/methods.md 4. The exact gradient: docs/methods.md 1.8.
    """
    start = start.detach()
    if strategy == "full" and gradient == "exact":
        return _full(step, start, images, targets, sizes, step_size)
    kept = 0
    if strategy == "auto" and gradient == "exact" and memory_budget and not step.compiled and step.captured is None:
        x, y = (part.detach().narrow(start.dim() - 1, 0, max(sizes)) for part in (images, targets))
        kept = memory_budget // step.graph_bytes(start, x, y)
    return start, *_Adjoint.apply(step, tuple(sizes), start, images, targets, step_size, gradient, kept)


def _full(
    step: StudentStep, start: Tensor, images: Tensor, targets: Tensor, sizes: Sequence[int], step_size: Tensor
) -> tuple[Tensor, ...]:
    path = [start.requires_grad_()]
    for x, y in zip(_batches(images, sizes, start), _batches(targets, sizes, start), strict=True):
        (gradient,) = grad(step.loss(path[-1], x, y), path[-1], create_graph=True)
        path.append(path[-1] - _times(step_size, gradient))  # HoP-TM Eq. 1
    return tuple(path)


def _batches(rows: Tensor, sizes: Sequence[int], start: Tensor) -> tuple[Tensor, ...]:
    """Return the mini-batches that ``rows`` are made of; students side by side stand before them, as in ``start``."""
    return rows.split(list(sizes), dim=start.dim() - 1)


def _times(step_size: Tensor, tensor: Tensor) -> Tensor:
    """Return alpha times a student's tensor; of students side by side each has its own alpha."""
    return step_size.view(step_size.shape + (1,) * (tensor.dim() - step_size.dim())) * tensor


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
        step: StudentStep,
        sizes: tuple[int, ...],
        start: Tensor,
        images: Tensor,
        targets: Tensor,
        step_size: Tensor,
        gradient_kind: Gradient,
        kept: int,
    ) -> tuple[Tensor, ...]:
        _, _, _, wants_images, wants_targets, *_ = ctx.needs_input_grad
        wanted, graphs = _wanted(gradient_kind, wants_images, wants_targets), dict[int, StepGraph]()

        def walk(start: Tensor, images: Tensor, targets: Tensor, step_size: Tensor) -> tuple[Tensor, ...]:
            path = [start]
            parts = zip(_batches(images, sizes, start), _batches(targets, sizes, start), strict=True)
            for i, (x, y) in enumerate(parts):
                if i >= len(sizes) - kept:
                    graphs[i] = step.graph(path[-1], x, y, wanted)
                    gradient = graphs[i].gradient.detach()
                else:
                    gradient = step.gradient(path[-1], x, y)
                path.append(path[-1] - _times(step_size, gradient))  # HoP-TM Eq. 1
            return tuple(path[1:])

        path = step.whole(("forward", sizes), walk, start, images, targets, step_size)
        ctx.step, ctx.sizes, ctx.gradient_kind, ctx.graphs = step, sizes, gradient_kind, graphs
        ctx.save_for_backward(images, targets, step_size, start, *path)
        ctx.set_materialize_grads(False)
        return path

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *path_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        step, sizes, gradient_kind, graphs = ctx.step, ctx.sizes, ctx.gradient_kind, ctx.graphs
        _, _, _, wants_images, wants_targets, wants_step_size, *_ = ctx.needs_input_grad
        wanted = _wanted(gradient_kind, wants_images, wants_targets)
        image_factor = 0.5 if gradient_kind == "tesla_halved" else 1.0
        # on which points of the path the loss depends; the others' zeros would be added to no effect, but some losses
        # choose other points every time, which would be other graphs
        if step.captured is not None:
            shown = next(each for each in path_grads if each is not None)
            path_grads = tuple(torch.zeros_like(shown) if each is None else each for each in path_grads)
        points = tuple(i for i, each in enumerate(path_grads) if each is not None)

        def walk_back(images: Tensor, targets: Tensor, step_size: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
            path, directs = others[: len(sizes)], dict(zip(points, others[len(sizes) :], strict=True))
            image_parts, target_parts = (_batches(rows, sizes, path[0]) for rows in (images, targets))
            image_grad = torch.zeros_like(images) if wants_images else None
            target_grad = torch.zeros_like(targets) if wants_targets else None
            image_grads = () if image_grad is None else _batches(image_grad, sizes, path[0])
            target_grads = () if target_grad is None else _batches(target_grad, sizes, path[0])
            step_size_grad = torch.zeros_like(step_size)
            adjoint: Tensor | None = None
            for i in reversed(range(len(sizes))):
                if i in directs:
                    adjoint = directs[i] if adjoint is None else adjoint + directs[i]
                if adjoint is None:  # nothing of the loss depends on this step or a later one
                    continue
                graph = graphs.pop(i, None)  # freed once walked; a second backward pass builds it again
                if graph is not None:
                    along, found = graph.products(adjoint, wanted)
                else:
                    along, found = step.products(path[i], image_parts[i], target_parts[i], adjoint, wanted)
                step_size_grad -= along
                products = dict(zip(wanted, found, strict=True))
                if 0 in products:
                    adjoint = adjoint - _times(step_size, products[0])
                if wants_images:
                    image_grads[i].copy_(_times(-image_factor * step_size, products[1]))
                if wants_targets:
                    target_grads[i].copy_(_times(-step_size, products[2]))
            return tuple(each for each in (step_size_grad, image_grad, target_grad) if each is not None)

        images, targets, step_size, *path = ctx.saved_tensors
        directs = (each for each in path_grads if each is not None)
        key = "backward", sizes, points, gradient_kind, wants_images, wants_targets
        step_size_grad, *found = step.whole(key, walk_back, images, targets, step_size, *path[:-1], *directs)
        image_grad = found.pop(0) if wants_images else None
        target_grad = found.pop(0) if wants_targets else None
        wanted_step_size = step_size_grad if wants_step_size else None
        return None, None, None, image_grad, target_grad, wanted_step_size, None, None


def _wanted(gradient_kind: Gradient, wants_images: bool, wants_targets: bool) -> tuple[int, ...]:
    """Return which derivatives of <grad l_i, lam> are needed: 0 for theta, 1 images, 2 targets."""
    asked = (gradient_kind == "exact", wants_images, wants_targets)
    return tuple(index for index, yes in enumerate(asked) if yes)


@dataclass(frozen=True, eq=False)
class Unroll(Ask[tuple[Tensor, ...]]):
    """Asks for the path of a student: what :func:`unroll` returns.

    Attributes:
        step: as in :func:`unroll`, and so on.
        compute: how it is computed.
        gradient: as in :func:`unroll`.
        architecture: what students must have in common to be one computation; None: nothing is known of this one.
    """

    turn = 2

    step: StudentStep
    start: Tensor
    images: Tensor
    targets: Tensor
    sizes: tuple[int, ...]
    step_size: Tensor
    compute: Compute
    gradient: Gradient = "exact"
    architecture: Hashable = None

    def alike(self) -> Hashable:
        """Return the network, what the mini-batches are, and how it is computed."""
        if self.architecture is None:
            return None
        batches = self.images.shape, self.images.dtype, self.images.device, self.sizes
        return self.architecture, self.start.shape, batches, self.compute, self.gradient

    @classmethod
    def answers(cls, asks: Sequence[Unroll | None]) -> list[tuple[Tensor, ...]]:
        """Return the path of each student, of several as one computation where that pays."""
        first = next(ask for ask in asks if ask is not None)
        if len(asks) == 1 or not first.compute.stacked:
            return [() if ask is None else ask._path() for ask in asks]
        # a run that has left is stood in for: the others' bits are those of so many students
        every = [ask or first._without_gradient() for ask in asks]
        if classes := max((ask.targets.shape[1] for ask in every if ask.targets.is_floating_point()), default=0):
            every = [ask._with_probabilities(classes) for ask in every]
        whole = replace(
            first,
            start=torch.stack([ask.start for ask in every]),
            images=torch.stack([ask.images for ask in every]),
            targets=torch.stack([ask.targets for ask in every]),
            step_size=torch.stack([ask.step_size for ask in every]),
        )
        path = whole._path()
        return list(zip(*(points.unbind() for points in path), strict=True))

    def _path(self) -> tuple[Tensor, ...]:
        return unroll(
            self.step, self.start, self.images, self.targets, self.sizes, self.step_size, self.compute.unroll,
            self.gradient, self.compute.memory_budget,
        )  # fmt: skip

    def _without_gradient(self) -> Unroll:
        return replace(self, images=self.images.detach(), targets=self.targets.detach(),
                       step_size=self.step_size.detach())  # fmt: skip

    def _with_probabilities(self, classes: int) -> Unroll:
        if self.targets.is_floating_point():
            return self
        return replace(self, targets=one_hot(self.targets, classes).to(self.start.dtype))
