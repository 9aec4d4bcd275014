"""IDM's queue of networks, each trained a little at a time on real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hoptm_plugin import Seeds, Task


class QueueTraining(BaseModel):
    """SGD on the networks of the queue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: PositiveFloat = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 5e-4


@dataclass(eq=False)
class QueuedNetwork:
    """A network, its optimiser's momentum, and how many training images it classified and rightly.

    Attributes:
        module: frozen unless it is being trained.
        momentum: one buffer per parameter; empty before the first step.
        seen: training images so far.
        correct: of these, classified rightly at the time.
    """

    module: nn.Module
    momentum: list[Tensor] = field(default_factory=list)
    seen: int = 0
    correct: int = 0

    @property
    def accuracy(self) -> float:
        """Running training accuracy as a fraction; 0 before any training."""
        return self.correct / self.seen if self.seen else 0.0

    def train(self, task: Task, training: QueueTraining, steps: int, batch: int, seeds: Seeds) -> None:
        """Take ``steps`` SGD steps on random training images, without augmentation, counting what is right."""
        self.module.train().requires_grad_(True)
        parameters = list(self.module.parameters())
        optimiser = torch.optim.SGD(
            parameters, training.learning_rate, momentum=training.momentum, weight_decay=training.weight_decay
        )
        for parameter, buffer in zip(parameters, self.momentum, strict=False):
            optimiser.state[parameter]["momentum_buffer"] = buffer
        size = min(batch, len(task.train))
        correct = torch.zeros((), dtype=torch.int64, device=task.data.device)
        for step in range(steps):
            # a few of many without a permutation of all
            chosen = numpy.random.default_rng(seeds.number(step)).choice(len(task.train), size, replace=False)
            indices = torch.from_numpy(chosen).to(task.data.device)
            labels = task.train.labels[indices]
            logits = self.module(task.train.batch(indices))
            optimiser.zero_grad()
            cross_entropy(logits, labels).backward()
            optimiser.step()
            correct += (logits.argmax(dim=1) == labels).sum()
            self.seen += len(indices)
        self.correct += int(correct)
        if training.momentum:
            self.momentum = [optimiser.state[parameter]["momentum_buffer"] for parameter in parameters]
        optimiser.zero_grad()
        self.module.eval().requires_grad_(False)

    def state_dict(self) -> dict[str, object]:
        """Return parameters, running statistics, momentum and counts."""
        momentum = {str(index): buffer for index, buffer in enumerate(self.momentum)}
        return {"module": dict(self.module.state_dict()), "momentum": momentum,
                "seen": self.seen, "correct": self.correct}  # fmt: skip

    @classmethod
    def restored(cls, module: nn.Module, state: dict[str, object]) -> QueuedNetwork:
        """Return what :meth:`state_dict` described, in ``module``."""
        stored: dict[str, dict[str, Tensor]] = {"momentum": {}, **state}  # type: ignore[dict-item]
        module.load_state_dict(stored["module"])
        device = next(module.parameters()).device
        momentum = [
            buffer.to(device) for _, buffer in sorted(stored["momentum"].items(), key=lambda item: int(item[0]))
        ]
        return cls(module.eval().requires_grad_(False), momentum, int(state["seen"]), int(state["correct"]))  # type: ignore[call-overload]


def drawn(queue: Sequence[QueuedNetwork], count: int, generator: torch.Generator) -> list[QueuedNetwork]:
    """Return up to ``count`` different networks of the queue, drawn uniformly."""
    return [queue[int(index)] for index in torch.randperm(len(queue), generator=generator)[:count]]
