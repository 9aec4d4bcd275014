"""Segments of expert trajectories, read from disk while the iteration before computes."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from hoptm_plugin.core.interfaces import ContinuousTrajectories, Trajectories


class PrefetchedSegments:
    """Trajectories whose next segment can be announced; one thread reads it.

    Args:
        trajectories: where segments come from; where these are continuous, a segment may start between epochs.
    """

    def __init__(self, trajectories: Trajectories) -> None:
        self._trajectories = trajectories
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="segments")
        self._reader.submit(_alone).result()
        self._announced: tuple[tuple[int, float, float], Future[Tensor]] | None = None

    def __len__(self) -> int:
        """Return the number of experts."""
        return len(self._trajectories)

    def segment(self, expert: int, first: float, last: float) -> Tensor:
        """Return parameters at ``first``, an epoch later, and so on to ``last``, (last-first+1, P)."""
        announced, self._announced = self._announced, None
        if announced is not None and announced[0] == (expert, first, last):
            return announced[1].result()
        return self._read(expert, first, last)

    def announce(self, expert: int, first: float, last: float) -> None:
        """Begin to read the segment that is asked for next; an error is raised when it is asked for."""
        key = (expert, first, last)
        self._announced = key, self._reader.submit(self._read, *key)

    def _read(self, expert: int, first: float, last: float) -> Tensor:
        if isinstance(self._trajectories, ContinuousTrajectories):
            return self._trajectories.at(expert, [first + epoch for epoch in range(round(last - first) + 1)])
        return self._trajectories.segment(expert, _whole(first), _whole(last))


def _whole(time: float) -> int:
    if not float(time).is_integer():
        raise ValueError(f"experts as they are stored have no parameters at time {time:g}, between epochs")
    return int(time)


def _alone() -> None:
    """Let this thread compute without others.

    With OpenMP threads of its own there would be more of them than cores, and libgomp has all of them sleep at once
    where they wait for each other: an iteration took 2.4 times as long.
    """
    threads = torch.get_num_threads()  # which is also what makes torch ask once how many this thread has
    torch.set_num_threads(1)
    elsewhere = threading.Thread(target=torch.set_num_threads, args=(threads,))  # what new threads take over
    elsewhere.start()
    elsewhere.join()
