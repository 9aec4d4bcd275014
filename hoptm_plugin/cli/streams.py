"""What the command line prints, also where stdout or stderr is a file on a full disk."""

from __future__ import annotations

import codecs
import io
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

from hoptm_plugin.core.text import one_line, printable

# of the characters that tables are drawn with: "?" in the place of "≈" would be another mark
LOOKALIKES: Final = {"≈": "~", "\N{MINUS SIGN}": "-", "±": "+-", "→": "->"}
TOLERANT: Final = "hoptm_plugin.lookalikes"


def _lookalike(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(LOOKALIKES.get(char, "?") for char in error.object[error.start : error.end]), error.end


codecs.register_error(TOLERANT, _lookalike)


def tolerate_encodings() -> None:
    """Let stdout and stderr lose a character that their encoding does not have, and not the work that it tells of."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors=TOLERANT)


def tell(message: str) -> None:
    """Print a line on stdout, without control characters."""
    print(one_line(message))


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
