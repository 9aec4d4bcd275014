"""What a matcher or scheduler is shown: frozen records, the only thing a plug-in receives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TrajectoryPair:
    """An expert's segment and the student's path that should follow it (P parameters, N steps, M epochs).

    Attributes:
        expert: (M+1, P) parameters after each expert epoch; [0] is the start, [-1] the target; no gradient.
        student: N+1 vectors (P,); [0] is the start; differentiable with respect to the synthetic set.
        step: distillation iteration, from 0.
        tensor_sizes: lengths of the network's parameter tensors inside the flat vector, in order; they sum to P.
        weights: (P,) in [0, 1] from the scheduler: what is matched now; None means everything.
    """

    expert: Tensor
    student: Sequence[Tensor]
    step: int
    tensor_sizes: tuple[int, ...]
    weights: Tensor | None = None

    @property
    def squared_errors(self) -> Tensor:
        """d_i = (student target_i - expert target_i)^2 for every scalar parameter, (P,)."""
        return (self.student[-1] - self.expert[-1]).square()

    @property
    def squared_distances(self) -> Tensor:
        """n_i = (start_i - expert target_i)^2 for every scalar parameter, (P,); no gradient."""
        return (self.expert[0] - self.expert[-1]).square()

    def detached(self) -> TrajectoryPair:
        """Return the same pair without gradients, for decisions that must not be differentiated."""
        student = tuple(point.detach() for point in self.student)
        return TrajectoryPair(self.expert, student, self.step, self.tensor_sizes, self.weights)


@dataclass(frozen=True)
class FeaturePair:
    """Features of real and synthetic images of one class.

    Attributes:
        real: (n, D) features of real images; no gradient.
        synthetic: (m, D) features of synthetic images; differentiable.
        label: class index.
        step: distillation iteration, from 0.
        generator: to draw from, on the CPU and of its own for each pair, so that a resumed run draws the same; None
            where the method has none to give, which a matcher that draws refuses by a ``ValueError``.
    """

    real: Tensor
    synthetic: Tensor
    label: int
    step: int
    generator: torch.Generator | None = None


@dataclass(frozen=True)
class GradientPair:
    """Gradients of the training loss in the network's parameters, by real and by synthetic images of one class.

    Attributes:
        real: one tensor per parameter tensor, in its shape; no gradient.
        synthetic: the same by the synthetic images; differentiable in these.
        label: class index.
        step: distillation iteration, from 0.
    """

    real: Sequence[Tensor]
    synthetic: Sequence[Tensor]
    label: int
    step: int


def is_scalar_loss(value: object) -> bool:
    """Say whether ``value`` is what a matcher must return: a 0-d floating-point tensor."""
    return isinstance(value, torch.Tensor) and value.ndim == 0 and value.is_floating_point()
