"""What the command line prints, also where stdout or stderr is a file on a full disk."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from hoptm_plugin.core.text import printable


def say(message: str) -> None:
    """Print a line on stderr, without control characters; a log on a full disk must not end the work."""
    with suppress(OSError):
        print(printable(message), file=sys.stderr)


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong on stderr and exit."""
    say(f"error: {message}")
    raise SystemExit(code)


def show(print_it: Callable[[], None], result: Path | None = None) -> None:
    """Print what a job ended with, which lies in ``result``; where it cannot be printed, the job has not failed."""
    try:
        print_it()
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        where = "" if result is None else f"; it is in {result}"
        say(f"warning: the result cannot be printed: {error.strerror}{where}")
        let_go(sys.stdout)


def let_go(*streams: TextIO) -> None:
    """Give up what streams cannot write any more, so that Python does not complain of it at its end."""
    for stream in streams:
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def plain_warnings() -> None:
    """Print warnings meant for the user as one line, without the source code they come from."""
    usual: Callable[..., str] = warnings.formatwarning

    def form(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
        return f"warning: {message}\n" if category is UserWarning else usual(message, category, *where, **line)

    if usual.__module__ != __name__:
        warnings.formatwarning = form
