"""Training experts: SGD and GSAM on flat parameter vectors, a copy of them after every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from hoptm_plugin.augment.side_by_side import augment_side_by_side
from hoptm_plugin.core.compute import Compute, keep_freed_memory
from hoptm_plugin.core.dataset import Split
from hoptm_plugin.core.errors import NonFiniteLossError
from hoptm_plugin.core.interfaces import Augmentation
from hoptm_plugin.core.progress import Progress, ProgressFactory
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.experts.recipe import ExpertTraining
from hoptm_plugin.experts.store import ExpertStore, StoredTrajectories
from hoptm_plugin.networks.stack import TrainingLoss

TINY = 1e-12


def sharpness_aware_gradient(
    gradient: Callable[[Tensor], Tensor], weights: Tensor, first: Tensor, rho: float, alpha: float, adaptive: bool
) -> Tensor:
    """Return GSAM's gradient at ``weights`` (P,), given there the plain gradient ``first`` = g1.

    eps = rho * w^2 g1 / (|| |w| g1 || + tiny) if adaptive, else rho * g1 / (||g1|| + tiny); g2 = gradient(w + eps);
    c = <g1, g2> / (||g1|| ||g2|| + tiny); g_perp = g1 - c ||g1|| g2 / (||g2|| + tiny); result g2 - alpha * g_perp.
    Of several networks (E, P) each row is one.

    Source: Zhuang et al. 2022 (arXiv 2203.08065) as FTD, DATM and HoP-TM use it (methods.md 1.5).
    """

    def norm(rows: Tensor) -> Tensor:
        return torch.linalg.vector_norm(rows, dim=-1, keepdim=True)

    if adaptive:
        perturbation = rho * weights.square() * first / (norm(weights.abs() * first) + TINY)
    else:
        perturbation = rho * first / (norm(first) + TINY)
    second = gradient(weights + perturbation)
    norm1, norm2 = norm(first), norm(second)
    cosine = (first * second).sum(-1, keepdim=True) / (norm1 * norm2 + TINY)
    return second - alpha * (first - cosine * norm1 * second / (norm2 + TINY))


def train_experts(
    loss: TrainingLoss,
    starts: Tensor,
    split: Split,
    training: ExpertTraining,
    augmentation: Augmentation,
    seeds: Sequence[Seeds],
    epochs: int,
    after_epoch: Callable[[float], None] = lambda loss: None,
) -> tuple[Tensor, list[list[float]]]:
    """Train E experts side by side; return their trajectories (E, epochs+1, P) on the CPU, and losses per epoch.

    Every epoch has random streams of its own, so that a longer training repeats a shorter one bit by bit.

    Args:
        loss: the training loss of their architecture.
        starts: (E, P), row 0 of each trajectory.
        split: what they are trained on.
        training: how.
        augmentation: of every mini-batch.
        seeds: of each expert.
        epochs: how many.
        after_epoch: is told the mean loss of each epoch.

    Raises:
        NonFiniteLossError: a training diverged.
    """
    device = split.labels.device
    theta = starts.detach().clone()
    velocity = torch.zeros_like(theta)
    trajectories = torch.empty(len(theta), epochs + 1, theta.shape[1], dtype=theta.dtype)
    trajectories[:, 0] = theta
    losses = []
    for epoch in range(epochs):
        order = torch.stack([torch.randperm(len(split), generator=part.generator("order", epoch)) for part in seeds])
        draws = [part.generator("augmentation", epoch) for part in seeds]
        total = torch.zeros(len(seeds), device=device)
        for indices in order.to(device).split(training.batch, dim=1):
            batches = split.batch(indices.flatten()).unflatten(0, indices.shape)
            images = augment_side_by_side(augmentation, list(batches), draws)
            labels = split.labels[indices]
            values, step = loss(theta, images, labels)
            if training.algorithm == "gsam":
                gradient = partial(_gradient, loss, images, labels)
                step = sharpness_aware_gradient(gradient, theta, step, training.rho, training.alpha, training.adaptive)
            if training.weight_decay:
                step = step + training.weight_decay * theta
            velocity = training.momentum * velocity + step
            theta = theta - training.learning_rate * velocity
            total += values * indices.shape[1]
        losses.append([value / len(split) for value in total.tolist()])
        if not bool(torch.isfinite(theta).all()):
            raise NonFiniteLossError(f"an expert diverged in epoch {epoch + 1}; lower experts.training.learning_rate")
        trajectories[:, epoch + 1] = theta
        after_epoch(sum(losses[-1]) / len(seeds))
    return trajectories, [list(rows) for rows in zip(*losses, strict=True)]


def _gradient(loss: TrainingLoss, images: Tensor, labels: Tensor, at: Tensor) -> Tensor:
    return loss(at, images, labels)[1]


def _advance(bar: Progress, networks: int, loss: float) -> None:
    bar.advance(networks, loss=loss)


def build_experts(
    store: ExpertStore,
    create: Callable[[torch.Generator], nn.Module],
    split: Split,
    augmentation: Augmentation,
    count: int,
    epochs: int,
    progress: ProgressFactory,
    compute: Compute | None = None,
) -> StoredTrajectories:
    """Train the experts that the store lacks, or holds for fewer epochs, and return the first ``count``.

    Each is written when it is finished, so an interrupted build goes on at the missing one.
    """
    missing = store.missing(count, epochs)
    if missing:
        compute, training = compute or Compute(), store.recipe.training
        seeds = Seeds(store.recipe.seed)
        loss = TrainingLoss(create(torch.Generator()), compute.compiled, training.precision)
        rows, device = torch.arange(min(training.batch, len(split)), device=split.labels.device), split.labels.device

        def step_bytes() -> int:
            return loss.bytes_per_network(split.batch(rows), split.labels[rows])

        keep_freed_memory(device, step_bytes)
        together = compute.side_by_side(device, step_bytes)
        with progress("experts", len(missing) * epochs) as bar:
            for first in range(0, len(missing), together):
                group, began = missing[first : first + together], time.perf_counter()
                own = [seeds.child("expert", expert) for expert in group]
                starts = torch.stack([loss.network.flatten(create(part.generator("initialisation"))) for part in own])
                trajectories, losses = train_experts(
                    loss, starts, split, training, augmentation, own, epochs,
                    partial(_advance, bar, len(group)),
                )  # fmt: skip
                seconds = (time.perf_counter() - began) / len(group)
                for expert, trajectory, per_epoch in zip(group, trajectories, losses, strict=True):
                    store.write(expert, trajectory, per_epoch, seconds)
    return StoredTrajectories(store, count, split.labels.device)
