"""Training networks on synthetic sets, and reading their predictions."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hoptm_plugin.augment.side_by_side import augment_side_by_side
from hoptm_plugin.core.asking import Ask
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
    _train([Train(networks, loss, sets, protocol, learning_rate, augmentation, seeds, after_epoch, begun, save)])


@dataclass(frozen=True, eq=False)
class Train(Ask[None]):
    """Asks for networks to be trained: what :func:`train_networks` is given.

    Attributes:
        together: how many networks may be trained at once.
        architecture: what networks must have in common for that; None: nothing is known of these.
        turn: of networks that choose a checkpoint, that of what comes before an unroll.
    """

    networks: Sequence[nn.Module]
    loss: TrainingLoss
    sets: Sequence[tuple[Tensor, Tensor]]
    protocol: Protocol
    learning_rate: float
    augmentation: Augmentation
    seeds: Sequence[Seeds]
    after_epoch: Callable[[], None] = lambda: None
    begun: State | None = None
    save: Callable[[State], None] | None = None
    together: int = 1
    architecture: Hashable = None
    turn: int = 3

    def alike(self) -> Hashable:
        """Return the architecture, the protocol, the augmentation, the shapes, and how far it was trained."""
        if self.architecture is None or self.together == 1:
            return None
        shapes = [(part.shape, part.dtype, part.device) for part in self.sets[0]]
        augmentation = type(self.augmentation), repr(vars(self.augmentation))
        done = None if self.begun is None else self.begun.get("done")
        return self.architecture, self.protocol, augmentation, *shapes, done, self.together, self.turn

    @classmethod
    def answers(cls, asks: Sequence[Train | None]) -> list[None]:
        """Train the networks of all, as many at once as may be."""
        group: list[Train] = []
        for ask in (each for each in asks if each is not None):
            if group and sum(len(each.networks) for each in (*group, ask)) > ask.together:
                _train(group)
                group = []
            group.append(ask)
        _train(group)
        return [None] * len(asks)


def _train(asks: Sequence[Train]) -> None:
    """Train the networks of asks that are alike, side by side."""
    for ask in asks:
        if not ask.learning_rate > 0:
            raise HopTMError(
                f"the step size to train with is {ask.learning_rate:g}; it must be above 0. Distil again with "
                "distillation.step_size.constraint=damped, or a smaller distillation.step_size.learning_rate."
            )
    training = _Training(asks)
    if asks[0].begun is not None:
        try:
            training.load([ask.begun or {} for ask in asks])
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise FileFormatError(
                f"evaluating.safetensors: what is stored of an interrupted training does not fit it ({error!r}); "
                f"delete it, and the training begins again"
            ) from None
        for _ in range(training.done):
            for ask in asks:
                ask.after_epoch()
    saved, device, seeds = time.monotonic(), asks[0].sets[0][0].device, asks[0].seeds[0]
    with seeded(0, device):
        while training.done < asks[0].protocol.epochs:
            # what a network draws itself (dropout) begins anew with each epoch, so that one which goes on repeats it
            reseed(seeds.number("network", training.done), device)
            training.epoch()
            for ask in asks:
                ask.after_epoch()
            if asked_to_stop() or time.monotonic() - saved > SAVE_EVERY:
                for ask, state in zip(asks, training.states(), strict=True):
                    if ask.save is not None:
                        ask.save(state)
                saved = time.monotonic()
                if all(ask.save is not None for ask in asks):
                    stop_if_asked()
    training.unload()


class _Training:
    """Networks as matrices of parameters, one of each ask, with all that decides how their training goes on.

    Attributes:
        parameters: (E, P) of each ask, copies; :meth:`unload` writes them back.
        done: epochs so far.
    """

    def __init__(self, asks: Sequence[Train]) -> None:
        self.asks, self.loss, self.protocol = asks, asks[0].loss, asks[0].protocol
        flatten = self.loss.network.flatten
        self.parameters = [torch.stack([flatten(network) for network in ask.networks]) for ask in asks]
        self._sizes = [len(ask.networks) for ask in asks]
        self._sets = [each for ask in asks for each in ask.sets]
        self._buffers = dict(asks[0].networks[0].named_buffers())
        names = {"orders": "order", "draws": "augmentation"}
        self._generators = {
            kind: [[part.generator(name) for part in ask.seeds] for ask in asks] for kind, name in names.items()
        }
        self.done, self._full = 0, epochs_before_decay(self.protocol.epochs)
        self._optimiser = self._sgd()

    def _sgd(self) -> torch.optim.SGD:
        decay = 1 if self.done < self._full else self.protocol.decay
        groups = [
            {"params": [rows], "lr": ask.learning_rate * decay}
            for ask, rows in zip(self.asks, self.parameters, strict=True)
        ]
        return torch.optim.SGD(groups, momentum=self.protocol.momentum, weight_decay=self.protocol.weight_decay)

    def epoch(self) -> None:
        """Train for one epoch; at the drop of the learning rate the momentum starts anew."""
        size, device, trained = len(self._sets[0][0]), self._sets[0][0].device, self.protocol.epoch_images
        orders, draws = ([each for some in self._generators[kind] for each in some] for kind in ("orders", "draws"))
        shuffled = torch.stack([epoch_order(size, trained, order) for order in orders])
        for indices in shuffled.to(device).split(self.protocol.batch, dim=1):
            pairs = list(zip(self._sets, indices, strict=True))
            batches = torch.stack([images[rows] for (images, _), rows in pairs])
            images = augment_side_by_side(self.asks[0].augmentation, batches, draws)
            targets = torch.stack([targets[rows] for (_, targets), rows in pairs])
            every = self.parameters[0] if len(self.parameters) == 1 else torch.cat(self.parameters)
            gradients = self.loss(every, images, targets, self._buffers)[1]
            for rows, gradient in zip(self.parameters, gradients.split(self._sizes), strict=True):
                rows.grad = gradient
            self._optimiser.step()
        self.done += 1
        if self.done == self._full:
            self._optimiser = self._sgd()

    def unload(self) -> None:
        """Write the parameters back into the networks."""
        for ask, rows in zip(self.asks, self.parameters, strict=True):
            for network, theta in zip(ask.networks, rows, strict=True):
                self.loss.network.load(theta, network)

    def _numbers(self, rows: Tensor) -> dict[str, Tensor]:
        """Return parameters, and running statistics by name; changed by later steps."""
        return {"parameters": rows, **{f"buffer {name}": each for name, each in self._buffers.items()}}

    def states(self) -> list[State]:
        """Return everything at the end of an epoch, for each ask."""
        found = []
        for at, rows in enumerate(self.parameters):
            generators = {kind: {str(number): each.get_state() for number, each in enumerate(some[at])}
                          for kind, some in self._generators.items()}  # fmt: skip
            momentum = self._optimiser.state[rows].get("momentum_buffer")
            more = {} if momentum is None else {"momentum": momentum}
            found.append({"done": self.done, "stack": self._numbers(rows), **generators, **more})
        return found

    def load(self, states: Sequence[State]) -> None:
        """Take back what :meth:`states` gave, all of one epoch.

        Raises:
            KeyError, ValueError, TypeError, RuntimeError: it does not fit.
        """
        self.done = int(states[0]["done"])
        self._optimiser = self._sgd()
        for at, (rows, state) in enumerate(zip(self.parameters, states, strict=True)):
            for name, tensor in self._numbers(rows).items():
                take_back(tensor, state["stack"][name])
            for kind, some in self._generators.items():
                for number, each in enumerate(some[at]):
                    each.set_state(state[kind][str(number)])
            if "momentum" in state:
                buffer = take_back(torch.zeros_like(rows), state["momentum"])
                self._optimiser.state[rows]["momentum_buffer"] = buffer


@torch.no_grad()
def predict(network: nn.Module, split: Split, batch: int = PREDICTED_AT_ONCE) -> Tensor:
    """Return logits (n, K) for a split, without augmentation, on the CPU."""
    network.eval()
    starts = range(0, len(split), batch)
    return torch.cat([network(split.batch(slice(at, at + batch))) for at in starts]).cpu()
