"""Looks out for a distillation that comes to nothing, and remembers the best of it until then."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from hoptm_plugin.core.errors import DivergedError, StepSizeError
from hoptm_plugin.core.interfaces import LossTerm, State
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.checkpoint import set_of, tensors_of
from hoptm_plugin.engine.settings import Distillation

MARGIN = 0.25  # of the range of pictures, beyond which a pixel value counts as saturated
MOVED = 3.0  # times its start: alpha is then what went astray
LESS = 10.0


@dataclass(frozen=True)
class Saturation:
    """Shares of pixel values that lie outside the range of pictures by more than a quarter of it.

    Attributes:
        start: of the initial images.
        end: of the distilled ones.
    """

    start: float
    end: float


def saturated(pixels: Tensor) -> float:
    """Return the share of pixel values, of pictures in [0, 1], that lie further outside than :data:`MARGIN`."""
    return float(((pixels < -MARGIN) | (pixels > 1 + MARGIN)).float().mean())


def advice(settings: Distillation, start: float | None, now: float | None) -> str:
    """Say which learning rate to lower, and to what; of alpha where that has moved far from its start."""
    alpha = settings.step_size
    strayed = start is not None and now is not None and not start / MOVED <= now <= start * MOVED
    if strayed and alpha.learning_rate:
        free = alpha.constraint == "none"
        also = ", or set distillation.step_size.constraint=damped, under which the step size stays positive" * free
        return f"Lower {_lowered('step_size', alpha.learning_rate)}{also}"
    if settings.images.learning_rate:
        return f"Lower {_lowered('images', settings.images.learning_rate)}"
    return "Lower method.step_size" if start is not None else "Nothing of it has a learning rate to lower"


def _lowered(what: str, rate: float) -> str:
    return f"distillation.{what}.learning_rate from {rate:g} to {rate / LESS:g}"


class Guard:
    """Looks at a distillation after every window of iterations; waits for the device no more often than that.

    Args:
        settings: of the loop.
        synthetic: the set at the start.
        no_progress: what the method's watched number comes to where nothing is learned.
        pixels: gives the pictures (n, C, H, W) in [0, 1] that images are of.

    Attributes:
        best: the set at the end of the window with the lowest median of what is watched, or of the last window where
            nothing is; None before the first one has ended.
        best_at: how many iterations it has seen.
        saturation: of the images, at the start and when last looked.
    """

    def __init__(
        self,
        settings: Distillation,
        synthetic: SyntheticSet,
        no_progress: float,
        pixels: Callable[[Tensor], Tensor],
    ) -> None:
        self.settings, self._pixels, self._no_progress = settings, pixels, no_progress
        self._alpha = None if synthetic.step_size is None else float(synthetic.step_size.detach())
        self._pending: list[Tensor | float] = []
        self._first: float | None = None
        self._lowest: float | None = None
        self.best: SyntheticSet | None = None
        self.best_at = 0
        share = saturated(pixels(synthetic.images.detach()))
        self.saturation, self._warned = Saturation(share, share), False

    @property
    def best_is(self) -> str:
        """Why :attr:`best` is the best, in words."""
        return "the last one in order" if self._lowest is None else "that of the lowest loss, smoothed"

    def advice(self, synthetic: SyntheticSet, error: DivergedError | None = None) -> str:
        """Say what to lower, given the set that something is wrong with, and what is wrong."""
        if isinstance(error, StepSizeError):
            return advice(self.settings, self._alpha, 0.0)
        now = None if synthetic.step_size is None else float(synthetic.step_size.detach())
        return advice(self.settings, self._alpha, now)

    def look_at_images(self, synthetic: SyntheticSet) -> float:
        """Return the share of saturated pixel values; warn once where it is large.

        Warns:
            UserWarning: saying which learning rate to lower.
        """
        self.saturation = Saturation(self.saturation.start, saturated(self._pixels(synthetic.images.detach())))
        most, more = self.settings.guard.saturation, self.saturation.end - self.saturation.start
        if most is not None and more > most and not self._warned:
            self._warned = True
            warnings.warn(
                f"the images saturate: {self.saturation.end:.0%} of their pixel values lie far outside the range of "
                f"pictures ({self.saturation.start:.0%} did at the start); where the accuracy suffers, lower "
                f"{_lowered('images', self.settings.images.learning_rate)}",
                stacklevel=2,
            )
        return self.saturation.end

    def look(self, done: int, terms: Sequence[LossTerm], synthetic: SyntheticSet) -> None:
        """Be shown an iteration that is over; ``done`` counts it.

        Raises:
            DivergedError: at the end of a window, saying what grew and which setting to lower.
        """
        watched = [term.watched for term in terms if term.watched is not None]
        if watched and len(watched) == len(terms):
            self._pending.append(torch.stack(watched).sum())
        if done % self.settings.guard.window:
            return
        values = self._numbers()
        self._pending = []
        self._check_step_size(done, synthetic)
        level = median(values) if values else None
        if level is not None:
            self._first = level if self._first is None else self._first
            self._check_level(done, level, self._first, synthetic)
        if level is None or self._lowest is None or level < self._lowest:
            self._lowest, self.best, self.best_at = level, synthetic.detached(), done

    def _check_step_size(self, done: int, synthetic: SyntheticSet) -> None:
        most, start = self.settings.guard.step_size, self._alpha
        if most is None or start is None or synthetic.step_size is None:
            return
        now = float(synthetic.step_size.detach())
        if now > most * start:
            raise DivergedError(
                f"iteration {done - 1}: the step size has grown from {start:.3g} to {now:.3g}, more than "
                f"distillation.guard.step_size={most:g} times. {self.advice(synthetic)}; method.step_size is where it "
                f"starts"
            )

    def _check_level(self, done: int, level: float, first: float, synthetic: SyntheticSet) -> None:
        most = self.settings.guard.loss
        if most is not None and level > most * max(first, self._no_progress):
            raise DivergedError(
                f"iteration {done - 1}: the loss has grown to {level:.3g} in the median of the last "
                f"{self.settings.guard.window} iterations, from {first:.3g} in the first ones, more than "
                f"distillation.guard.loss={most:g} times what it was or is where nothing is learned. "
                f"{self.advice(synthetic)}"
            )

    def _numbers(self) -> list[float]:
        """Return what was seen of this window and is finite."""
        return [value for value in map(float, self._pending) if math.isfinite(value)]

    def state_dict(self) -> State:
        """Return what was seen of a window that goes on, the first window's level, and the best set's tensors."""
        state: State = {
            "pending": self._numbers(), "first": self._first, "lowest": self._lowest, "best_at": self.best_at,
            "saturation": self.saturation.end, "warned": self._warned,
        }  # fmt: skip
        return state if self.best is None else state | {"best": tensors_of(self.best)}

    def load_state_dict(self, state: State, synthetic: SyntheticSet) -> None:
        """Take back what :meth:`state_dict` gave; ``synthetic`` is of the method's shapes."""
        self._pending = [float(value) for value in state["pending"]]
        self._first, self._lowest, self.best_at = state["first"], state["lowest"], int(state["best_at"])
        self.saturation = Saturation(self.saturation.start, float(state["saturation"]))
        self._warned = bool(state["warned"])
        self.best = set_of(synthetic, state["best"]) if "best" in state else None
