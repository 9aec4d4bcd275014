"""Training experts: SGD and GSAM on the flat parameter vector, a copy of it after every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.functional import cross_entropy

from hoptm_plugin.core.dataset import Split
from hoptm_plugin.core.errors import NonFiniteLossError
from hoptm_plugin.core.interfaces import Augmentation
from hoptm_plugin.core.progress import ProgressFactory
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.experts.recipe import ExpertTraining
from hoptm_plugin.experts.store import ExpertStore, StoredTrajectories
from hoptm_plugin.networks.flat import FlatNetwork

TINY = 1e-12


def sharpness_aware_gradient(
    gradient: Callable[[Tensor], Tensor], weights: Tensor, first: Tensor, rho: float, alpha: float, adaptive: bool
) -> Tensor:
    """Return GSAM's gradient at ``weights`` (P,), given there the plain gradient ``first`` = g1.

    eps = rho * w^2 g1 / (|| |w| g1 || + tiny) if adaptive, else rho * g1 / (||g1|| + tiny); g2 = gradient(w + eps);
    c = <g1, g2> / (||g1|| ||g2|| + tiny); g_perp = g1 - c ||g1|| g2 / (||g2|| + tiny); result g2 - alpha * g_perp.

    Source: Zhuang et al. 2022 (arXiv 2203.08065) as FTD, DATM and HoP-TM use it (methods.md 1.5).
    """
    if adaptive:
        perturbation = rho * weights.square() * first / ((weights.abs() * first).norm() + TINY)
    else:
        perturbation = rho * first / (first.norm() + TINY)
    second = gradient(weights + perturbation)
    norm1, norm2 = first.norm(), second.norm()
    cosine = first @ second / (norm1 * norm2 + TINY)
    return second - alpha * (first - cosine * norm1 * second / (norm2 + TINY))


def train_expert(
    network: FlatNetwork,
    start: Tensor,
    split: Split,
    training: ExpertTraining,
    augmentation: Augmentation,
    seeds: Seeds,
    epochs: int,
    after_epoch: Callable[[float], None] = lambda loss: None,
) -> tuple[Tensor, list[float]]:
    """Train from ``start`` (P,); return parameters (epochs+1, P) on the CPU, row 0 the start, and losses per epoch.

    Every epoch has random streams of its own, so that a longer training repeats a shorter one bit by bit.

    Raises:
        NonFiniteLossError: the training diverged.
    """
    device = split.labels.device
    theta = start.detach().clone()
    velocity = torch.zeros_like(theta)
    snapshots, losses = [theta.cpu().clone()], []
    for epoch in range(epochs):
        order = torch.randperm(len(split), generator=seeds.generator("order", epoch)).to(device)
        draws = seeds.generator("augmentation", epoch)
        total = torch.zeros((), device=device)
        for indices in order.split(training.batch):
            images, labels = augmentation(split.batch(indices), draws), split.labels[indices]

            def gradient(at: Tensor, images: Tensor = images, labels: Tensor = labels) -> Tensor:
                return _loss_and_gradient(network, at, images, labels)[1]

            loss, step = _loss_and_gradient(network, theta, images, labels)
            if training.algorithm == "gsam":
                step = sharpness_aware_gradient(gradient, theta, step, training.rho, training.alpha, training.adaptive)
            if training.weight_decay:
                step = step + training.weight_decay * theta
            velocity = training.momentum * velocity + step
            theta = theta - training.learning_rate * velocity
            total += loss * len(indices)
        losses.append(float(total) / len(split))
        if not bool(torch.isfinite(theta).all()):
            raise NonFiniteLossError(f"an expert diverged in epoch {epoch + 1}; lower experts.training.learning_rate")
        # a copy even on the CPU: an alias would make all snapshots the last one
        snapshots.append(theta.cpu().clone())
        after_epoch(losses[-1])
    return torch.stack(snapshots), losses


def _loss_and_gradient(network: FlatNetwork, at: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    theta = at.detach().requires_grad_()
    loss = cross_entropy(network(theta, images), labels)
    return loss.detach(), grad(loss, theta)[0]


def build_experts(
    store: ExpertStore,
    create: Callable[[torch.Generator], nn.Module],
    split: Split,
    augmentation: Augmentation,
    count: int,
    epochs: int,
    progress: ProgressFactory,
) -> StoredTrajectories:
    """Train the experts that the store lacks, or holds for fewer epochs, and return the first ``count``.

    Each is written when it is finished, so an interrupted build goes on at the missing one.
    """
    missing = store.missing(count, epochs)
    if missing:
        seeds = Seeds(store.recipe.seed)
        with progress("experts", len(missing) * epochs) as bar:
            for expert in missing:
                own, began = seeds.child("expert", expert), time.perf_counter()
                module = create(own.generator("initialisation"))
                network = FlatNetwork(module)
                trajectory, losses = train_expert(
                    network, network.flatten(), split, store.recipe.training, augmentation, own, epochs,
                    lambda loss: bar.advance(1, loss=loss),
                )  # fmt: skip
                store.write(expert, trajectory, losses, time.perf_counter() - began)
    return StoredTrajectories(store, count, split.labels.device)
