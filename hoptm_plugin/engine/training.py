"""Training networks on synthetic sets, and reading their predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hoptm_plugin.augment.side_by_side import augment_side_by_side
from hoptm_plugin.core.dataset import Split
from hoptm_plugin.core.errors import HopTMError
from hoptm_plugin.core.interfaces import Augmentation
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.engine.settings import Protocol
from hoptm_plugin.networks.stack import NetworkStack, TrainingLoss


def epochs_before_decay(epochs: int) -> int:
    """Return how many epochs run at the full learning rate: indices 0 to (epochs-1)//2+1, so 502 of 1001."""
    return min(epochs, (epochs - 1) // 2 + 2)


def train_networks(
    networks: Sequence[nn.Module],
    loss: TrainingLoss,
    sets: Sequence[tuple[Tensor, Tensor]],
    protocol: Protocol,
    learning_rate: float,
    augmentation: Augmentation,
    seeds: Sequence[Seeds],
    after_epoch: Callable[[], None] = lambda: None,
) -> None:
    """Train networks of one architecture in place, side by side, each on a set of its own.

    SGD; after :func:`epochs_before_decay` epochs the learning rate drops and the momentum starts anew.

    Args:
        networks: E networks.
        loss: their training loss.
        sets: E times images (n, C, H, W) and targets, class indices or probabilities; all of one size.
        protocol: epochs, batch and optimiser.
        learning_rate: before the drop.
        augmentation: of every mini-batch.
        seeds: E times, of orders and augmentation.
        after_epoch: told of each epoch.

    Raises:
        HopTMError: the learning rate is not a positive number.
    """
    if not learning_rate > 0:
        raise HopTMError(
            f"the step size to train with is {learning_rate:g}; it must be above 0. Distil again with "
            "distillation.step_size.constraint=clamped or log, or a smaller distillation.step_size.learning_rate."
        )
    orders, draws = ([part.generator(name) for part in seeds] for name in ("order", "augmentation"))
    stack, size = NetworkStack(networks, loss), len(sets[0][0])
    full = epochs_before_decay(protocol.epochs)
    for rate, epochs in ((learning_rate, full), (learning_rate * protocol.decay, protocol.epochs - full)):
        optimiser = torch.optim.SGD(
            [stack.parameters], rate, momentum=protocol.momentum, weight_decay=protocol.weight_decay
        )
        for _ in range(epochs):
            shuffled = torch.stack([torch.randperm(size, generator=order) for order in orders]).to(sets[0][0].device)
            for indices in shuffled.split(protocol.batch, dim=1):
                pairs = list(zip(sets, indices, strict=True))
                images = augment_side_by_side(augmentation, [images[rows] for (images, _), rows in pairs], draws)
                targets = torch.stack([targets[rows] for (_, targets), rows in pairs])
                stack.parameters.grad = stack.losses_and_gradients(images, targets)[1]
                optimiser.step()
            after_epoch()
    stack.unload()


@torch.no_grad()
def predict(network: nn.Module, split: Split, batch: int = 512) -> Tensor:
    """Return class probabilities (n, K) for a split, without augmentation, on the CPU."""
    network.eval()
    starts = range(0, len(split), batch)
    return torch.cat([network(split.batch(slice(at, at + batch))).softmax(dim=1) for at in starts]).cpu()
