"""Being asked to stop: SIGINT, SIGTERM and SIGUSR2 end the work at a point from which it can go on.

Signals belong to a process, so this is one of the few global states. Where nobody calls :func:`stop_on_signals`, as in
library use, signals do what they always do.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR2] if hasattr(signal, "SIGUSR2") else []))
INTERRUPTED: Final = 130
STOPPED: Final = 75
"""Exit code of a process that was asked to stop (SIGTERM, SIGUSR2) and can go on: EX_TEMPFAIL, requeue it."""


class Stopped(KeyboardInterrupt):
    """The work was asked to stop; no error, and nothing that a plug-in or a launcher should catch.

    Attributes:
        number: of the signal.
        exit_code: for the process: 130 after Ctrl-C, 75 otherwise.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.exit_code = INTERRUPTED if number == signal.SIGINT else STOPPED

    def __str__(self) -> str:
        """Return the signal's name."""
        return signal.Signals(self.number).name


class _State:
    def __init__(self) -> None:
        self.asked: int | None = None
        self.deferring = 0
        self.earlier: dict[int, Any] = {}


_state = _State()


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise :class:`Stopped` on a signal, from now to the end of the block; only a main thread can do so."""
    if _state.earlier or threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.asked = None
    for each in SIGNALS:
        _state.earlier[each] = signal.signal(each, _stop)
    ending = False
    try:
        yield
    except (Stopped, SystemExit) as leaving:
        ending = isinstance(leaving, Stopped) or leaving.code in (STOPPED, INTERRUPTED)
        raise
    finally:
        for number, handler in _state.earlier.items():
            # a process that is about to end must not be ended by a second one, with another exit code
            signal.signal(number, signal.SIG_IGN if ending and number != signal.SIGINT else handler)
        _state.earlier.clear()


def hand_on(stopped: Stopped) -> None:
    """Do what the signal would have done without us, where that is more than to end the process.

    submitit's handler requeues the job; it had to wait until the work was saved.
    """
    handler = _state.earlier.get(stopped.number)
    if callable(handler) and handler is not signal.default_int_handler:
        handler(stopped.number, None)


@contextmanager
def deferred() -> Iterator[None]:
    """Let signals wait until :func:`stop_if_asked` is called or the block ends; a second Ctrl-C does not wait."""
    _state.deferring += 1
    try:
        yield
    finally:
        _state.deferring -= 1
    if not _state.deferring:
        stop_if_asked()


def asked_to_stop() -> bool:
    """Tell whether a signal waits."""
    return _state.asked is not None


def ask_to_stop(number: int) -> None:
    """Let a signal wait, as if it came now."""
    _state.asked = number


def stop_if_asked() -> None:
    """Raise :class:`Stopped` where a signal waits."""
    number, _state.asked = _state.asked, None
    if number is not None:
        raise Stopped(number)


def _stop(number: int, frame: FrameType | None) -> None:
    if _state.deferring and not (number == signal.SIGINT == _state.asked):
        # the first one counts: schedulers send SIGTERM after SIGUSR2
        _state.asked = number if _state.asked is None else _state.asked
        return
    _state.asked = None
    raise Stopped(number)
