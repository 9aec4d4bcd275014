"""Training experts: SGD and GSAM on flat parameter vectors, a copy of them after every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from hoptm_plugin.augment.side_by_side import augment_side_by_side
from hoptm_plugin.core.dataset import Split
from hoptm_plugin.core.errors import NonFiniteLossError
from hoptm_plugin.core.interfaces import Augmentation
from hoptm_plugin.core.seeding import Seeds, epoch_order
from hoptm_plugin.experts.recipe import ExpertTraining
from hoptm_plugin.experts.store import Begun
from hoptm_plugin.networks.stack import TrainingLoss
from hoptm_plugin.runtime.stopping import deferred

TINY = 1e-12
SAVE_EVERY = 300.0  # seconds between copies of a training on disk


def sharpness_aware_gradient(
    gradient: Callable[[Tensor], Tensor], weights: Tensor, first: Tensor, rho: float, alpha: float, adaptive: bool
) -> Tensor:
    """Return GSAM's gradient at ``weights`` (P,), given there the plain gradient ``first`` = g1.

    eps = rho * w^2 g1 / (|| |w| g1 || + tiny) if adaptive, else rho * g1 / (||g1|| + tiny); g2 = gradient(w + eps);
    c = <g1, g2> / (||g1|| ||g2|| + tiny); g_perp = g1 - c ||g1|| g2 / (||g2|| + tiny); result g2 - alpha * g_perp.
    Of several networks (E, P) each row is one.

    Source: Zhuang et al. 2022 (arXiv 2203.08065) as FTD, DATM and HoP-TM use it (docs/methods.md 1.6).
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
    begun: Sequence[Begun] = (),
    save: Callable[[list[Begun]], None] = lambda begun: None,
    ranked: Sequence[Tensor] = (),
) -> list[Begun]:
    """Train E experts side by side for ``epochs`` and return them, trajectories on the CPU.

    Every epoch has random streams of its own, so that a longer training repeats a shorter one bit by bit, and one that
    goes on repeats one that was never interrupted.

    Args:
        loss: the training loss of their architecture.
        starts: (E, P), row 0 of each trajectory.
        split: what they are trained on.
        training: how.
        augmentation: of every mini-batch.
        seeds: of each expert.
        epochs: how many.
        after_epoch: is told the mean loss of each epoch.
        begun: the E experts as far as they were trained before, all equally far.
        save: is given all finished epochs every few minutes, and where the training is interrupted.
        ranked: of each class the indices of its images, the easiest first; only a curriculum reads it.

    Raises:
        NonFiniteLossError: a training diverged.
        ValueError: there is a curriculum and no order.
    """
    if training.curriculum is not None and sum(map(len, ranked)) != len(split):
        raise ValueError("a curriculum needs the order of all images by difficulty")
    path = _Path(starts, epochs, begun)
    saved = time.monotonic()
    try:
        for epoch in range(path.done, epochs):
            theta, velocity, losses = _train_epoch(loss, path, split, training, augmentation, seeds, epoch, ranked)
            if not bool(torch.isfinite(theta).all()):
                raise NonFiniteLossError(
                    f"an expert diverged in epoch {epoch + 1}; lower experts.training.learning_rate"
                )
            path.extend(theta, velocity, losses)
            after_epoch(sum(losses) / len(seeds))
            if time.monotonic() - saved > SAVE_EVERY:
                save(path.begun())
                saved = time.monotonic()
    except KeyboardInterrupt:  # a signal that asks to stop as well
        if path.done:
            with deferred():  # another signal must not throw away what is being stored
                save(path.begun())
        raise
    return path.begun()


class _Path:
    """Where E trainings have got to; changes only at the end of an epoch, so that it can be saved at any time."""

    def __init__(self, starts: Tensor, epochs: int, begun: Sequence[Begun]) -> None:
        began = time.perf_counter()
        self.theta, self.velocity = starts.detach().clone(), torch.zeros_like(starts)
        self.rows = torch.empty(len(starts), epochs + 1, starts.shape[1], dtype=starts.dtype)
        self.rows[:, 0] = starts
        self.losses: list[list[float]] = [[] for _ in starts]
        self.done, earlier = 0, 0.0
        if begun and begun[0].epochs:
            self.done, earlier = begun[0].epochs, begun[0].seconds
            self.rows[:, : self.done + 1] = torch.stack([each.trajectory for each in begun])
            self.velocity = torch.stack([each.velocity for each in begun]).to(starts.device)
            self.theta = self.rows[:, self.done].to(starts.device)
            self.losses = [list(each.epoch_losses) for each in begun]
        self.began = began - earlier * len(starts)

    def extend(self, theta: Tensor, velocity: Tensor, losses: Sequence[float]) -> None:
        """Add an epoch."""
        self.rows[:, self.done + 1] = theta
        for mine, value in zip(self.losses, losses, strict=True):
            mine.append(value)
        self.theta, self.velocity, self.done = theta, velocity, self.done + 1

    def begun(self) -> list[Begun]:
        """Return all that there is; seconds are shared out evenly."""
        seconds = (time.perf_counter() - self.began) / len(self.rows)
        return [
            Begun(rows[: self.done + 1], velocity, losses[: self.done], seconds)
            for rows, velocity, losses in zip(self.rows, self.velocity, self.losses, strict=True)
        ]


def _train_epoch(
    loss: TrainingLoss,
    path: _Path,
    split: Split,
    training: ExpertTraining,
    augmentation: Augmentation,
    seeds: Sequence[Seeds],
    epoch: int,
    ranked: Sequence[Tensor],
) -> tuple[Tensor, Tensor, list[float]]:
    """Return parameters (E, P), velocities (E, P) and mean losses after one more epoch."""
    device, theta, velocity = split.labels.device, path.theta, path.velocity
    curriculum = training.curriculum
    opened = torch.arange(len(split)) if curriculum is None else curriculum.open_images(epoch, ranked)
    orders = [part.generator("order", epoch) for part in seeds]
    order = torch.stack([opened[epoch_order(len(opened), training.epoch_images, each)] for each in orders])
    draws = [part.generator("augmentation", epoch) for part in seeds]
    total = torch.zeros(len(seeds), device=device)
    for indices in order.to(device).split(training.batch, dim=1):
        batches = split.batch(indices.flatten()).unflatten(0, indices.shape)
        images = augment_side_by_side(augmentation, batches, draws)
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
    return theta, velocity, [value / order.shape[1] for value in total.tolist()]


def _gradient(loss: TrainingLoss, images: Tensor, labels: Tensor, at: Tensor) -> Tensor:
    return loss(at, images, labels)[1]
