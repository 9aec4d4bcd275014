"""Schedules: pure functions from the distillation iteration to a number."""

from __future__ import annotations

from typing import Annotated

from hoptm_plugin.core.interfaces import Schedule
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.roles import Symbol


@register("geometric")
class Geometric(Schedule):
    """A number that grows by a factor every so many iterations: start * growth^floor(step / every) (HoP-TM Eq. 7).

    Args:
        start: the number at iteration 0.
        growth: factor per period (mu in the paper).
        every: iterations per period (P in the paper; 500 there).
    """

    cites = ("dong2025hoptm",)

    def __init__(self, start: Annotated[float, Symbol("")], growth: float, every: int = 500) -> None:
        if start <= 0 or growth <= 0 or every < 1:
            raise ValueError("start and growth must be above 0 and every at least 1")
        self.start, self.growth, self.every = start, growth, every

    def at(self, step: int) -> float:
        """Return the number at iteration ``step``."""
        return self.start * self.growth ** (step // self.every)  # HoP-TM Eq. 7


@register("linear")
class Linear(Schedule):
    """A number that goes from one to another in equal steps: start + (end - start) * min(1, step / over).

    Args:
        start: the number at iteration 0.
        end: the number from iteration ``over`` on.
        over: iterations that it takes.
    """

    def __init__(self, start: Annotated[float, Symbol("")], end: float, over: int) -> None:
        if over < 1:
            raise ValueError("over must be at least 1")
        self.start, self.end, self.over = start, end, over

    def at(self, step: int) -> float:
        """Return the number at iteration ``step``."""
        return self.start + (self.end - self.start) * min(1.0, step / self.over)
