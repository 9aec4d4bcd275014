"""Work shared out to processes of this machine, which end with the one that started them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from typing import Any, TypeVar

from hoptm_plugin.runtime.stopping import SIGNALS, STOPPED, Stopped, asked_to_stop, deferred, stop_on_signals

T = TypeVar("T")
LOOKS_EVERY_S = 0.2  # whether a signal waits


@dataclass(frozen=True)
class _Ended:
    """A process that was stopped, by its exit code."""

    code: int


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shared_out(work: Callable[..., T], jobs: Sequence[tuple[Any, ...]], at_once: int) -> list[T]:
    """Return ``work(*job)`` for each job, done by ``at_once`` new processes, each with its share of the cores.

    A signal to stop reaches all of them, also where it was sent to this process alone, and none outlives it.

    Raises:
        BrokenProcessPool: one was killed.
        Stopped: this process was asked to stop, and all have.
        SystemExit: one of them was asked to stop; what was not begun is left.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // at_once)))
    pool = ProcessPoolExecutor(at_once, get_context("spawn"), _begin)
    with stop_on_signals(), deferred(), pool:
        futures = [pool.submit(_do, work, job) for job in jobs]
        told = False
        while not all(each.done() for each in futures):
            wait(futures, LOOKS_EVERY_S)
            if not told and (asked_to_stop() or any(map(_stopped, futures))):
                told = True
                for each in futures:
                    each.cancel()
                for child in active_children():  # after Ctrl-C a second one would not wait for what is being done
                    child.terminate()
        if asked_to_stop():
            return []  # to nobody: the block ends with Stopped
    found: list[T] = []
    for each in futures:
        outcome = _Ended(STOPPED) if each.cancelled() else each.result()
        if isinstance(outcome, _Ended):
            raise SystemExit(outcome.code)
        found.append(outcome)
    return found


def _stopped(future: Any) -> bool:
    return future.done() and not future.cancelled() and not future.exception() and isinstance(future.result(), _Ended)


_ended: list[_Ended] = []
_orphaned = threading.Event()


def _begin() -> None:
    for each in SIGNALS:  # while nothing is being done
        signal.signal(each, lambda *_: _end(STOPPED))
    threading.Thread(target=_stop_with_parent, daemon=True).start()


def _stop_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    _orphaned.set()
    os.kill(os.getpid(), signal.SIGTERM)


def _end(code: int) -> _Ended:
    if _orphaned.is_set():
        os._exit(code)  # the pool's own end would wait for the next job
    _ended.append(_Ended(code))
    return _ended[0]


def _do(work: Callable[..., T], job: tuple[Any, ...]) -> T | _Ended:
    if _ended:  # the pool hands jobs over before they can be done
        return _ended[0]
    try:
        with stop_on_signals():
            return work(*job)
    except Stopped as stopped:
        return _end(stopped.exit_code)
    except SystemExit as leaving:
        return _end(int(leaving.code or 0))
