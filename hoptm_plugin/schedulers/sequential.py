"""Open the range of start epochs over the run: DATM's schedule."""

from __future__ import annotations

from hoptm_plugin.core.interfaces import Scheduler
from hoptm_plugin.core.registry import register


@register("sequential_start_epochs")
class SequentialStartEpochs(Scheduler):
    """Start epochs up to upper(step) - 1, where upper = min(last, first + int((last - first) * step / expansion_end)).

    Args:
        first: upper end (not included) at iteration 0 (T in DATM).
        last: upper end (not included) from ``expansion_end`` on (T+ in DATM).
        expansion_end: iteration at which ``last`` is reached (E in DATM).

    Source: DATM (Guo et al. 2023, arXiv 2310.05773), "sequential generation"; docs/methods.md 7. The lower end T- is
    the sampler's.
    """

    cites = ("guo2024datm",)

    def __init__(self, first: int, last: int, expansion_end: int) -> None:
        if not 1 <= first <= last or expansion_end < 1:
            raise ValueError("needs 1 <= first <= last and expansion_end >= 1")
        self.first, self.last, self.expansion_end = first, last, expansion_end

    def start_epochs(self, step: int) -> tuple[int, int]:
        """Return (0, upper(step) - 1)."""
        return 0, min(self.last, self.first + (self.last - self.first) * step // self.expansion_end) - 1
