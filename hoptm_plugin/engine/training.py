"""Training networks on synthetic sets, and reading their predictions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hoptm_plugin.augment.side_by_side import augment_side_by_side
from hoptm_plugin.core.dataset import Split
from hoptm_plugin.core.errors import FileFormatError, HopTMError
from hoptm_plugin.core.interfaces import Augmentation, State
from hoptm_plugin.core.seeding import Seeds, epoch_order
from hoptm_plugin.engine.checkpoint import take_back
from hoptm_plugin.engine.settings import Protocol
from hoptm_plugin.networks.stack import TrainingLoss
from hoptm_plugin.runtime.randomness import reseed, seeded
from hoptm_plugin.runtime.stopping import asked_to_stop, stop_if_asked

SAVE_EVERY = 300.0  # seconds between copies of a training on disk
PREDICTED_AT_ONCE = 512  # images


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
    begun: State | None = None,
    save: Callable[[State], None] | None = None,
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
        begun: what ``save`` was given before an interruption; the bits are those of a training without one.
        save: is given the state every few minutes at the end of an epoch, and where a deferred signal asks to stop.

    Raises:
        HopTMError: the learning rate is not a positive number.
        Stopped: a signal asked to stop.
    """
    if not learning_rate > 0:
        raise HopTMError(
            f"the step size to train with is {learning_rate:g}; it must be above 0. Distil again with "
            "distillation.step_size.constraint=damped, or a smaller distillation.step_size.learning_rate."
        )
    training = _Training(networks, loss, protocol, learning_rate, seeds)
    if begun is not None:
        try:
            training.load(begun)
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise FileFormatError(
                f"evaluating.safetensors: what is stored of an interrupted training does not fit it ({error!r}); "
                f"delete it, and the training begins again"
            ) from None
        for _ in range(training.done):
            after_epoch()
    saved, device = time.monotonic(), sets[0][0].device
    with seeded(0, device):
        while training.done < protocol.epochs:
            # what a network draws itself (dropout) begins anew with each epoch, so that one which goes on repeats it
            reseed(seeds[0].number("network", training.done), device)
            training.epoch(sets, augmentation)
            after_epoch()
            if save is not None and (asked_to_stop() or time.monotonic() - saved > SAVE_EVERY):
                save(training.state())
                saved = time.monotonic()
                stop_if_asked()
    training.unload()


class _Training:
    """Networks as one matrix of parameters, with all that decides how their training goes on.

    Attributes:
        parameters: (E, P), a copy; :meth:`unload` writes it back.
        done: epochs so far.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        loss: TrainingLoss,
        protocol: Protocol,
        learning_rate: float,
        seeds: Sequence[Seeds],
    ) -> None:
        self.networks, self.loss, self.protocol, self.learning_rate = networks, loss, protocol, learning_rate
        self.parameters = torch.stack([loss.network.flatten(network) for network in networks])
        self._buffers = dict(networks[0].named_buffers())
        names = {"orders": "order", "draws": "augmentation"}
        self._generators = {kind: [part.generator(name) for part in seeds] for kind, name in names.items()}
        self.done, self._full = 0, epochs_before_decay(protocol.epochs)
        self._optimiser = self._sgd()

    def _sgd(self) -> torch.optim.SGD:
        rate = self.learning_rate * (1 if self.done < self._full else self.protocol.decay)
        return torch.optim.SGD(
            [self.parameters], rate, momentum=self.protocol.momentum, weight_decay=self.protocol.weight_decay
        )

    def epoch(self, sets: Sequence[tuple[Tensor, Tensor]], augmentation: Augmentation) -> None:
        """Train for one epoch; at the drop of the learning rate the momentum starts anew."""
        size, device = len(sets[0][0]), sets[0][0].device
        trained = self.protocol.epoch_images
        shuffled = torch.stack([epoch_order(size, trained, order) for order in self._generators["orders"]])
        for indices in shuffled.to(device).split(self.protocol.batch, dim=1):
            pairs = list(zip(sets, indices, strict=True))
            batches = torch.stack([images[rows] for (images, _), rows in pairs])
            images = augment_side_by_side(augmentation, batches, self._generators["draws"])
            targets = torch.stack([targets[rows] for (_, targets), rows in pairs])
            self.parameters.grad = self.loss(self.parameters, images, targets, self._buffers)[1]
            self._optimiser.step()
        self.done += 1
        if self.done == self._full:
            self._optimiser = self._sgd()

    def unload(self) -> None:
        """Write the parameters back into the networks."""
        for network, theta in zip(self.networks, self.parameters, strict=True):
            self.loss.network.load(theta, network)

    def _numbers(self) -> dict[str, Tensor]:
        """Return the parameters, and running statistics by name; changed by later steps."""
        return {"parameters": self.parameters, **{f"buffer {name}": each for name, each in self._buffers.items()}}

    def state(self) -> State:
        """Return everything at the end of an epoch."""
        momentum = self._optimiser.state[self.parameters].get("momentum_buffer")
        generators = {
            kind: {str(at): each.get_state() for at, each in enumerate(some)} for kind, some in self._generators.items()
        }
        stack = self._numbers()
        return {"done": self.done, "stack": stack, **generators, **({} if momentum is None else {"momentum": momentum})}

    def load(self, state: State) -> None:
        """Take back what :meth:`state` gave.

        Raises:
            KeyError, ValueError, TypeError, RuntimeError: it does not fit.
        """
        self.done = int(state["done"])
        for name, tensor in self._numbers().items():
            take_back(tensor, state["stack"][name])
        for kind, some in self._generators.items():
            for at, each in enumerate(some):
                each.set_state(state[kind][str(at)])
        self._optimiser = self._sgd()
        if "momentum" in state:
            buffer = take_back(torch.zeros_like(self.parameters), state["momentum"])
            self._optimiser.state[self.parameters]["momentum_buffer"] = buffer


@torch.no_grad()
def predict(network: nn.Module, split: Split, batch: int = PREDICTED_AT_ONCE) -> Tensor:
    """Return class probabilities (n, K) for a split, without augmentation, on the CPU."""
    network.eval()
    starts = range(0, len(split), batch)
    return torch.cat([network(split.batch(slice(at, at + batch))).softmax(dim=1) for at in starts]).cpu()
