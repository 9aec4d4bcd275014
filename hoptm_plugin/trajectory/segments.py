"""Segments of expert trajectories, read from disk while the iteration before computes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from hoptm_plugin.core.interfaces import Trajectories


class PrefetchedSegments:
    """Trajectories whose next segment can be announced; one thread reads it.

    Args:
        trajectories: where segments come from.
    """

    def __init__(self, trajectories: Trajectories) -> None:
        self._trajectories = trajectories
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="segments")
        self._announced: tuple[tuple[int, int, int], Future[Tensor]] | None = None

    def __len__(self) -> int:
        """Return the number of experts."""
        return len(self._trajectories)

    def segment(self, expert: int, first: int, last: int) -> Tensor:
        """Return parameters after epochs ``first`` to ``last``, (last-first+1, P)."""
        announced, self._announced = self._announced, None
        if announced is not None and announced[0] == (expert, first, last):
            return announced[1].result()
        return self._trajectories.segment(expert, first, last)

    def announce(self, expert: int, first: int, last: int) -> None:
        """Begin to read the segment that is asked for next; an error is raised when it is asked for."""
        key = (expert, first, last)
        self._announced = key, self._reader.submit(self._trajectories.segment, *key)
