"""Noticing that other processes take the cores: threads that wait for each other then wait for them as well."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

TASKS = Path("/proc/self/task")
FIRST, SHARE = 20.0, 0.2  # seconds that are looked at; the part of them that a thread stands in line for a core


class Starvation:
    """Says once that threads of this process wait for cores, and what would help; on Linux only.

    The kernel counts for every thread how long it was ready to run and had no core. With several threads, all wait in
    every operation for the one that waits longest.

    Args:
        say: is given the line.
        device: where it is computed; nothing is said of a GPU.
    """

    def __init__(self, say: Callable[[str], object], device: torch.device) -> None:
        self._say, self._seconds = say, FIRST
        self._began: tuple[float, float] | None = None
        if device.type == "cpu" and torch.get_num_threads() > 1:
            self._began = time.monotonic(), waited()

    def look(self) -> None:
        """Look whether it is so, every now and then; cheap where it is not yet time."""
        if self._began is None or time.monotonic() - self._began[0] < self._seconds:
            return
        elapsed, threads = time.monotonic() - self._began[0], torch.get_num_threads()
        share = (waited() - self._began[1]) / (elapsed * threads)
        if share > SHARE:
            self._say(f"other processes use these cores: {threads} threads wait {100 * share:.0f} % of the time; "
                      f"runtime.threads=1 goes faster beside them, to other last bits")  # fmt: skip
            self._began = None
        else:
            self._began, self._seconds = (time.monotonic(), waited()), 4 * FIRST


def waited() -> float:
    """Return the seconds for which threads of this process were ready and had no core; 0 where nobody counts them."""
    total = 0
    try:
        for task in TASKS.iterdir():
            total += int((task / "schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):  # another system, or a thread that ended meanwhile
        return total / 1e9
    return total / 1e9
