"""The classical way of the trajectory-matching literature, written out literally from its formulas: the baseline.

Eager float32 throughout, one network at a time, one mini-batch at a time, ``loss.item()`` after every training step.
What is computed is what the library computes: the same draws from the same generators, and the same matchers.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, pad

from hoptm_plugin.augment import DSA
from hoptm_plugin.augment.dsa import DSAParameters
from hoptm_plugin.core.asking import Asking
from hoptm_plugin.core.interfaces import Augmentation
from hoptm_plugin.core.observations import TrajectoryPair
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.trajectory import TrajectoryMatching

TINY = 1e-12
RHO, ALPHA = 0.01, 0.3  # of GSAM, as in hoptm_plugin.experts.ExpertTraining


class ClassicalDSA(DSA):
    """DSA as the literature writes it: every operation a few lines of torch on one mini-batch. The draws are ours."""

    def apply(self, images: Tensor, parameters: DSAParameters) -> Tensor:
        """Apply a draw to images (B, C, H, W)."""
        values = parameters.values.to(images.device).expand(len(images), -1)
        height, width = images.shape[2:]
        if parameters.group == "color":
            offset, saturation, contrast = (part.to(images).view(-1, 1, 1, 1) for part in values.unbind(1))
            images = images + offset
            mean = images.mean(dim=1, keepdim=True)
            images = (images - mean) * saturation + mean
            mean = images.mean(dim=(1, 2, 3), keepdim=True)
            return (images - mean) * contrast + mean
        if parameters.group == "flip":
            return torch.where(values.view(-1, 1, 1, 1), images.flip(3), images)
        batch, rows, columns = torch.meshgrid(
            *(torch.arange(size, device=images.device) for size in (len(images), height, width)), indexing="ij"
        )
        if parameters.group == "crop":
            rows = (rows + values[:, :1, None] + 1).clamp(0, height + 1)
            columns = (columns + values[:, 1:, None] + 1).clamp(0, width + 1)
            return pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1)[batch, rows, columns].permute(0, 3, 1, 2)
        if parameters.group == "cutout":
            first = [
                values[:, at].view(-1, 1, 1) - int(self.cutout_ratio * side + 0.5) // 2
                for at, side in enumerate((height, width))
            ]
            inside = [
                (at >= start) & (at < start + int(self.cutout_ratio * side + 0.5))
                for at, start, side in zip((rows, columns), first, (height, width), strict=True)
            ]
            mask = torch.ones_like(images[:, 0])
            mask[inside[0] & inside[1]] = 0
            return images * mask.unsqueeze(1)
        theta = torch.zeros(len(images), 2, 3, dtype=images.dtype, device=images.device)
        if parameters.group == "scale":
            theta[:, 0, 0], theta[:, 1, 1] = values.to(images).unbind(1)
        else:
            angle = values[:, 0].to(images)
            theta[:, 0, 0] = theta[:, 1, 1] = angle.cos()
            theta[:, 0, 1], theta[:, 1, 0] = -angle.sin(), angle.sin()
        grid = affine_grid(theta, list(images.shape), align_corners=self.align_corners)
        return grid_sample(images, grid, align_corners=self.align_corners)


class ClassicalMatching(TrajectoryMatching):
    """Trajectory matching with the classical unroll; segments, matchers and pacing are the library's."""

    def observe(self, synthetic: SyntheticSet, step: int) -> Asking[TrajectoryPair]:
        """Return the expert's segment and the student's path of iteration ``step``, with the graph of all N steps.

        theta_{i+1} = theta_i - alpha grad l_i(theta_i) over mini-batches that are consecutive parts of a permutation,
        the last one first, augmented in every step.
        """
        task, network = self._task, self._network
        assert synthetic.step_size is not None
        expert, start = self.sampler.draw(len(self._trajectories), self._bounds(step), step, task.seeds)
        segment = self._trajectories.segment(expert, start, start + self.expert_epochs)
        order, draws = (task.seeds.generator(name, step) for name in ("batches", "augmentation"))
        shapes = {name: parameter.shape for name, parameter in network.module.named_parameters()}
        sizes = [shape.numel() for shape in shapes.values()]
        path, chunks = [segment[0].detach().clone().requires_grad_()], []
        for _ in range(self.student_steps):
            if not chunks:
                count = len(synthetic.images)
                chunks = list(torch.randperm(count, generator=order).split(self.student_batch or count))
            indices = chunks.pop()
            x, y = task.augmentation(synthetic.images[indices], draws), synthetic.targets[indices]
            parts = zip(shapes.items(), path[-1].split(sizes), strict=True)
            parameters = {name: part.view(shape) for (name, shape), part in parts}
            loss = cross_entropy(functional_call(network.module, parameters, (x,)), y)
            (gradient,) = torch.autograd.grad(loss, path[-1], create_graph=True)
            path.append(path[-1] - synthetic.step_size * gradient)
        yield from ()  # it asks for nothing
        return TrajectoryPair(segment, path, step, network.sizes)


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
    gsam: bool = False,
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
            if gsam:
                sharpen(network, x, y)
            optimiser.step()
            total += loss.item() * len(y)
        snapshots.append(snapshot(network))
    return snapshots


def sharpen(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Turn the gradients g1 that the parameters hold into GSAM's, by a second backward pass at w + eps.

    eps = rho w^2 g1 / || |w| g1 ||; g2 the gradient there; c = <g1, g2> / (||g1|| ||g2||); result
    g2 - alpha (g1 - c ||g1|| g2 / ||g2||). Zhuang et al. 2022, with the adaptive radius of FTD, DATM and HoP-TM.
    """
    weights = list(network.parameters())
    first = [weight.grad.clone() for weight in weights]
    scale = RHO / (_norm([w.detach().abs() * g for w, g in zip(weights, first, strict=True)]) + TINY)
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
        weight.grad = g2 - ALPHA * (g1 - cosine * norm1 * g2 / (norm2 + TINY))


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensor.norm() for tensor in tensors]).norm()


def snapshot(network: nn.Module) -> list[Tensor]:
    """Return copies of a network's parameters on the CPU."""
    return [parameter.detach().cpu().clone() for parameter in network.parameters()]


def read_segment(path: Path, first: int, last: int) -> Tensor:
    """Load a whole trajectory as the literature stores it, a pickled list of lists of tensors; return a part of it.

    Returns:
        Epochs ``first`` to ``last``, both included, (last - first + 1, P).
    """
    trajectory = torch.load(path, weights_only=True)
    return torch.stack([torch.cat([part.reshape(-1) for part in trajectory[at]]) for at in range(first, last + 1)])
