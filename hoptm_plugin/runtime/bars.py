"""Progress on stderr: bars on a terminal or in a notebook, plain lines in a log file."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from datetime import timedelta
from typing import Self, TextIO

from rich import progress
from rich.console import Console

from hoptm_plugin.core.text import printable
from hoptm_plugin.runtime.progress import Progress, ProgressFactory, Shown, silent

DRAWS_PER_SECOND = 5


def is_terminal(stream: TextIO) -> bool:
    """Say whether ``stream`` is a terminal that can redraw a line."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def usual_progress() -> ProgressFactory:
    """Return what a library call reports to unless told: bars on a terminal or in a notebook, else nobody."""
    return console_progress() if is_terminal(sys.stderr) or Console().is_jupyter else silent


def console_progress(stream: TextIO | None = None, interval: float = 10) -> ProgressFactory:
    """Return the factory of progress reports on ``stream`` (stderr).

    On a terminal they are bars with the time left; elsewhere (Slurm log, pipe) lines such as
    ``Experts 3/10  loss 0.123  ETA 0:01:20``, at most one in ``interval`` seconds, and a last one with the elapsed
    time. Reports may be nested; one of no steps is a line.
    """
    stream = sys.stderr if stream is None else stream
    console = None  # one, since nested bars must share it
    if is_terminal(stream):
        console = Console(file=stream)
    elif Console().is_jupyter:
        console = Console()

    display = None if console is None else _Display(console)

    def begin(title: str, total: int, done: int = 0) -> Progress:
        title = printable(title[:1].upper() + title[1:])
        if not total:  # a line to say
            if console is not None:
                console.print(title, markup=False, highlight=False, soft_wrap=True)
            else:
                _say(stream, title)
            return Progress()
        if display is not None:
            return _Bar(display, title, total, done)
        return _Lines(stream, interval, title, total, done)

    return begin


def _say(stream: TextIO, line: str) -> None:
    with suppress(OSError):  # a log file on a full disk must not end the run
        stream.write(f"{line}\n")
        stream.flush()


class _Throttled(Progress):
    """Counts, and draws when ``interval`` seconds have passed since it last did."""

    def __init__(self, interval: float, title: str, total: int, done: int) -> None:
        self.interval, self.title, self.total, self.done = interval, title, total, done
        self.first = done
        self.values: dict[str, Shown] = {}

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        self.next = self.began + self.interval
        return self

    def advance(self, steps: int = 1, **values: Shown) -> None:
        self.done += steps
        self.values.update(values)
        now = time.monotonic()
        if now >= self.next:
            self.next = now + self.interval
            self.draw()

    def draw(self) -> None:
        """Show the count and the values."""
        raise NotImplementedError

    def shown(self) -> str:
        """Return the values as text, "loss 0.123  accuracy 0.5"; only here do tensors become numbers."""
        numbers = {name: value() if callable(value) else value for name, value in self.values.items()}
        return "  ".join(f"{name} {float(number):.3g}" for name, number in numbers.items() if number is not None)


class _Lines(_Throttled):
    """Plain lines in a log file."""

    def __init__(self, stream: TextIO, interval: float, title: str, total: int, done: int) -> None:
        super().__init__(interval, title, total, done)
        self.stream = stream

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        elapsed = _clock(time.monotonic() - self.began)
        if kind is not None:
            self.values.clear()  # reading them could fail as well, and hide the error
        self._line(f"done in {elapsed}" if kind is None else f"stopped after {elapsed}")

    def draw(self) -> None:
        steps = self.done - self.first
        left = (time.monotonic() - self.began) / steps * (self.total - self.done) if steps else None
        self._line("" if left is None else f"ETA {_clock(left)}")

    def _line(self, end: str) -> None:
        parts = [f"{self.title} {self.done}/{self.total}", self.shown(), end]
        _say(self.stream, "  ".join(part for part in parts if part))


class _Bar(_Throttled):
    """A bar on a terminal."""

    def __init__(self, display: _Display, title: str, total: int, done: int) -> None:
        super().__init__(1 / DRAWS_PER_SECOND, title, total, done)
        self.display = display

    def __enter__(self) -> Self:
        self.task = self.display.begin(self.title, self.total, self.done)
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.draw()
        self.display.end(self.task, f"{self.title} {self.done}/{self.total}  {'' if kind else self.shown()}")

    def draw(self) -> None:
        self.display.bars.update(self.task, completed=self.done, values=self.shown())


class _Display:
    """All bars that are shown at a time: one below the other, since a terminal has one place that is redrawn."""

    def __init__(self, console: Console) -> None:
        self.console, self.shown = console, 0

    def begin(self, title: str, total: int, done: int) -> progress.TaskID:
        """Show one bar more."""
        if not self.shown:
            self.bars = self._made()
            self.bars.start()
        self.shown += 1
        return self.bars.add_task(title, total=total, completed=done, values="")

    def end(self, task: progress.TaskID, line: str) -> None:
        """Leave the last bar as it is; of one among others, that may be one of hundreds, a line above them."""
        self.shown -= 1
        if not self.shown:
            self.bars.stop()
        else:
            self.bars.remove_task(task)
            self.console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)

    def _made(self) -> progress.Progress:
        return progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[values]}", markup=False),
            progress.TimeElapsedColumn(),
            progress.TextColumn("ETA"),
            progress.TimeRemainingColumn(),
            console=self.console,
            refresh_per_second=DRAWS_PER_SECOND,
            speed_estimate_period=600,
            redirect_stdout=sys.stdout.isatty(),  # else a table piped from stdout would come out here
        )


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
