"""Work shared out to processes of this machine, which end with the one that started them."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from hoptm_plugin.core.errors import first_line
from hoptm_plugin.runtime.stopping import (
    INTERRUPTED,
    SIGNALS,
    STOPPED,
    Stopped,
    asked_to_stop,
    deferred,
    stop_if_asked,
    stop_on_signals,
)

T = TypeVar("T")
LOOKS_EVERY_S = 0.2  # whether a signal waits
THREADS = "OMP_NUM_THREADS"


class WorkerDiedError(Exception):
    """A process ended without an answer: it was killed."""


@dataclass(frozen=True)
class _Done:
    found: Any


@dataclass(frozen=True)
class _Ended:
    """A process was asked to stop; it has an exit code for that."""

    code: int


@dataclass(frozen=True)
class _Raised:
    error: Exception


class _Worker:
    """A process that is given one job after the other.

    Attributes:
        connection: to it.
        job: that it does, by its number; None: none.
    """

    def __init__(self) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,))
        self.process.start()
        theirs.close()  # so that its end is told
        self.job: int | None = None

    def give(self, number: int, work: Callable[..., Any], job: tuple[Any, ...]) -> None:
        """Let it do ``work(*job)``; of one that is dead the end of its connection is its answer."""
        self.job = number
        with suppress(OSError):
            self.connection.send((work, job))

    def answer(self) -> _Done | _Ended | _Raised | None:
        """Return its answer where there is one."""
        if not self.connection.poll():
            return None
        try:
            found: _Done | _Ended | _Raised = self.connection.recv()
        except (EOFError, OSError):
            found = _Raised(WorkerDiedError())
        self.job = None
        return found


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shared_out(
    work: Callable[..., T],
    jobs: Sequence[tuple[Any, ...]],
    at_once: int,
    after_each: Callable[[], object] = lambda: None,
) -> list[T]:
    """Return ``work(*job)`` for each job, done by ``at_once`` new processes, each with its share of the cores.

    A signal to stop reaches all of them, also where it was sent to this process alone, and none outlives it. Where one
    of them cannot go on, the others come to where they can be gone on with. ``after_each`` is called after
    each that is done.

    Raises:
        WorkerDiedError: one was killed.
        Stopped: this process was asked to stop, and all have.
        SystemExit: one of them was asked to stop; what was not begun is left.
        Exception: that work raised.
    """
    at_once = min(at_once, len(jobs))
    found: dict[int, T] = {}
    left = deque(enumerate(jobs))
    with stop_on_signals(), deferred(), _threads_for(max(1, at_once)):
        workers = [_Worker() for _ in range(at_once)]
        wrong: _Ended | _Raised | None = None
        told = False
        try:
            while True:
                for worker in workers:
                    if worker.job is None and left and wrong is None and not asked_to_stop():
                        number, job = left.popleft()
                        worker.give(number, work, job)
                busy = [worker for worker in workers if worker.job is not None]
                if not busy:
                    break
                wait([worker.connection for worker in busy], LOOKS_EVERY_S)
                for worker in busy:
                    of, answer = worker.job, worker.answer()
                    if isinstance(answer, _Done) and of is not None:
                        found[of] = answer.found
                        after_each()
                    elif isinstance(answer, _Ended | _Raised):
                        wrong = wrong or answer
                if not told and (asked_to_stop() or wrong is not None):
                    told = True
                    _tell(workers)  # after Ctrl-C a second one would not wait for what is being done
        finally:
            _tell(workers)
            for worker in workers:
                worker.connection.close()
            for worker in workers:
                worker.process.join()
        stop_if_asked()
        if isinstance(wrong, _Raised):
            raise wrong.error
        if wrong is not None:
            raise SystemExit(wrong.code)
    return [found[number] for number in range(len(jobs))]


def _tell(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        if worker.job is not None:
            worker.process.terminate()


@contextmanager
def _threads_for(at_once: int) -> Iterator[None]:
    """Let processes that are started in the block have their share of the cores, unless the user said otherwise."""
    if THREADS in os.environ:
        yield
        return
    os.environ[THREADS] = str(max(1, cores() // at_once))
    try:
        yield
    finally:
        del os.environ[THREADS]


_asked = threading.Event()  # to stop, while nothing was being done


def _serve(connection: Connection) -> None:
    """Do what is asked for until nobody asks any more."""
    for each in SIGNALS:
        signal.signal(each, lambda *_: _asked.set())
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    while True:
        try:
            work, job = connection.recv()
        except (EOFError, OSError):
            return
        answer = _outcome(work, job)
        try:
            connection.send(answer)
        except OSError:  # nobody is left to be told
            return


def _stop_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _outcome(work: Callable[..., T], job: tuple[Any, ...]) -> _Done | _Ended | _Raised:
    try:
        with stop_on_signals():
            if _asked.is_set():
                return _Ended(STOPPED)
            return _Done(work(*job))
    except Stopped as stopped:
        return _Ended(stopped.exit_code)
    except SystemExit as leaving:
        if leaving.code in (STOPPED, INTERRUPTED):
            return _Ended(int(leaving.code))
        return _Raised(RuntimeError(f"a job ended its process with {leaving.code!r}"))
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return _Raised(RuntimeError(f"{type(error).__name__}: {first_line(error)}"))
        return _Raised(error)
