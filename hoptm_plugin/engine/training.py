"""Training one network on a synthetic set, and reading its predictions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hoptm_plugin.core.dataset import Split
from hoptm_plugin.core.errors import HopTMError
from hoptm_plugin.core.interfaces import Augmentation
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.engine.settings import Protocol


def epochs_before_decay(epochs: int) -> int:
    """Return how many epochs run at the full learning rate: indices 0 to (epochs-1)//2+1, so 502 of 1001."""
    return min(epochs, (epochs - 1) // 2 + 2)


def train_network(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    protocol: Protocol,
    learning_rate: float,
    augmentation: Augmentation,
    seeds: Seeds,
) -> None:
    """Train ``network`` in place on images (n, C, H, W) and targets, class indices or probabilities.

    SGD; after :func:`epochs_before_decay` epochs the learning rate drops and the momentum starts anew.

    Raises:
        HopTMError: the learning rate is not a positive number.
    """
    if not learning_rate > 0:
        raise HopTMError(
            f"the step size to train with is {learning_rate:g}; it must be above 0. Distil again with "
            "distillation.step_size.constraint=clamped or log, or a smaller distillation.step_size.learning_rate."
        )
    order, draws = seeds.generator("order"), seeds.generator("augmentation")
    full = epochs_before_decay(protocol.epochs)
    network.train()
    for rate, epochs in ((learning_rate, full), (learning_rate * protocol.decay, protocol.epochs - full)):
        optimiser = torch.optim.SGD(
            network.parameters(), rate, momentum=protocol.momentum, weight_decay=protocol.weight_decay
        )
        for _ in range(epochs):
            shuffled = torch.randperm(len(images), generator=order).to(images.device)
            for indices in shuffled.split(protocol.batch):
                loss = cross_entropy(network(augmentation(images[indices], draws)), targets[indices])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()


@torch.no_grad()
def predict(network: nn.Module, split: Split, batch: int = 512) -> Tensor:
    """Return class probabilities (n, K) for a split, without augmentation, on the CPU."""
    network.eval()
    starts = range(0, len(split), batch)
    return torch.cat([network(split.batch(slice(at, at + batch))).softmax(dim=1) for at in starts]).cpu()
