"""The classical way of the trajectory-matching literature, written out literally from its formulas: the baseline.

Eager float32 throughout, one network at a time, one mini-batch at a time, ``loss.item()`` after every training step.
What is computed is what the library computes: the same draws from the same generators, and the same matchers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from hoptm_plugin.core.interfaces import Augmentation
from hoptm_plugin.core.observations import TrajectoryPair
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.trajectory import TrajectoryMatching

TINY = 1e-12


def student_path(
    network: nn.Module,
    start: Tensor,
    images: Tensor,
    labels: Tensor,
    step_size: Tensor,
    steps: int,
    batch: int,
    augmentation: Augmentation,
    order: torch.Generator,
    draws: torch.Generator,
) -> list[Tensor]:
    """Return theta_0 ... theta_N, theta_{i+1} = theta_i - alpha grad l_i(theta_i), with the graph of all N steps.

    Args:
        network: the student; its own parameters do not matter.
        start: theta_0, (P,).
        images: synthetic images (n, C, H, W).
        labels: their classes (n,).
        step_size: alpha, 0-d.
        steps: N.
        batch: synthetic images per step: consecutive parts of a permutation, the last one first.
        augmentation: drawn and applied in every step.
        order: permutations.
        draws: numbers of the augmentation.
    """
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]
    path, chunks = [start.detach().clone().requires_grad_()], []
    for _ in range(steps):
        if not chunks:
            chunks = list(torch.randperm(len(images), generator=order).split(batch))
        indices = chunks.pop()
        x, y = augmentation(images[indices], draws), labels[indices]
        parts = zip(shapes.items(), path[-1].split(sizes), strict=True)
        parameters = {name: part.view(shape) for (name, shape), part in parts}
        loss = cross_entropy(functional_call(network, parameters, (x,)), y)
        (gradient,) = torch.autograd.grad(loss, path[-1], create_graph=True)
        path.append(path[-1] - step_size * gradient)
    return path


class ClassicalMatching(TrajectoryMatching):
    """Trajectory matching with the classical unroll; segments, matchers and pacing are the library's."""

    def observe(self, synthetic: SyntheticSet, step: int) -> TrajectoryPair:
        """Return the expert's segment and the student's path of iteration ``step``."""
        task, network = self._task, self._network
        assert synthetic.step_size is not None
        expert, start = self.sampler.draw(len(self._trajectories), self._bounds(step), step, task.seeds)
        segment = self._trajectories.segment(expert, start, start + self.expert_epochs)
        path = student_path(
            network.module, segment[0], synthetic.images, synthetic.targets, synthetic.step_size,
            self.student_steps, self.student_batch or len(synthetic.images), task.augmentation,
            task.seeds.generator("batches", step), task.seeds.generator("augmentation", step),
        )  # fmt: skip
        return TrajectoryPair(segment, path, step, network.sizes)


@dataclass(frozen=True)
class Sharpness:
    """GSAM's radius and weight of the orthogonal part, as in :class:`hoptm_plugin.experts.ExpertTraining`."""

    rho: float = 0.01
    alpha: float = 0.3


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    batch: int,
    optimiser: torch.optim.Optimizer,
    augmentation: Augmentation,
    order: torch.Generator,
    draws: torch.Generator,
    sharpness: Sharpness | None = None,
) -> list[list[Tensor]]:
    """Train a network in place; return its parameters before and after every epoch, a list of tensors each."""
    snapshots = [snapshot(network)]
    for _ in range(epochs):
        total = 0.0
        for indices in torch.randperm(len(images), generator=order).split(batch):
            x, y = augmentation(images[indices], draws), labels[indices]
            optimiser.zero_grad()
            loss = cross_entropy(network(x), y)
            loss.backward()
            if sharpness is not None:
                sharpen(network, x, y, sharpness)
            optimiser.step()
            total += loss.item() * len(y)
        snapshots.append(snapshot(network))
    return snapshots


def sharpen(network: nn.Module, images: Tensor, labels: Tensor, sharpness: Sharpness) -> None:
    """Turn the gradients g1 that the parameters hold into GSAM's, by a second backward pass at w + eps.

    eps = rho w^2 g1 / || |w| g1 ||; g2 the gradient there; c = <g1, g2> / (||g1|| ||g2||); result
    g2 - alpha (g1 - c ||g1|| g2 / ||g2||). Zhuang et al. 2022, with the adaptive radius of FTD, DATM and HoP-TM.
    """
    weights = list(network.parameters())
    first = [weight.grad.clone() for weight in weights]
    scale = sharpness.rho / (_norm([w.detach().abs() * g for w, g in zip(weights, first, strict=True)]) + TINY)
    perturbations = [w.detach().square() * g * scale for w, g in zip(weights, first, strict=True)]
    with torch.no_grad():
        for weight, perturbation in zip(weights, perturbations, strict=True):
            weight.add_(perturbation)
    network.zero_grad()
    cross_entropy(network(images), labels).backward()
    with torch.no_grad():
        for weight, perturbation in zip(weights, perturbations, strict=True):
            weight.sub_(perturbation)
    second = [weight.grad for weight in weights]
    norm1, norm2 = _norm(first), _norm(second)
    inner = torch.stack([(g1 * g2).sum() for g1, g2 in zip(first, second, strict=True)]).sum()
    cosine = inner / (norm1 * norm2 + TINY)
    for weight, g1, g2 in zip(weights, first, second, strict=True):
        weight.grad = g2 - sharpness.alpha * (g1 - cosine * norm1 * g2 / (norm2 + TINY))


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensor.norm() for tensor in tensors]).norm()


def snapshot(network: nn.Module) -> list[Tensor]:
    """Return copies of a network's parameters on the CPU."""
    return [parameter.detach().cpu().clone() for parameter in network.parameters()]


def save(trajectory: list[list[Tensor]], path: Path) -> None:
    """Store a trajectory as the literature does: a pickled list of lists of tensors."""
    torch.save(trajectory, path)


def read_segment(path: Path, first: int, last: int) -> Tensor:
    """Load the whole trajectory, then return epochs ``first`` to ``last``, both included, (last - first + 1, P)."""
    trajectory = torch.load(path, weights_only=True)
    return torch.stack([torch.cat([part.reshape(-1) for part in trajectory[at]]) for at in range(first, last + 1)])
