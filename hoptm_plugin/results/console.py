"""What a person reads: progress on stderr, tables on stdout; drawn on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from rich import box, progress
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hoptm_plugin.core.progress import Progress, ProgressFactory, Shown
from hoptm_plugin.results.by_class import print_by_class
from hoptm_plugin.results.card import Card, Cost, ReportedAccuracy
from hoptm_plugin.results.evaluation import Evaluation

PLAIN_WIDTH = 1000  # of a log file or pipe: nothing is wrapped
DRAWS_PER_SECOND = 5
SELECTIONS = {
    "last": "last iteration",
    "validation": "best on the validation split",
    "test_leaky": "best on the TEST split (leaky: not comparable)",
}


def output_console(stream: TextIO | None = None) -> Console:
    """Return a console on ``stream`` (stdout): colours on a terminal; else plain text, unwrapped, without colours."""
    stream = sys.stdout if stream is None else stream
    if is_terminal(stream):
        return Console(file=stream, highlight=False)
    return Console(file=stream, force_terminal=False, color_system=None, highlight=False, width=PLAIN_WIDTH)


def is_terminal(stream: TextIO) -> bool:
    """Say whether ``stream`` is a terminal that can redraw a line."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def console_progress(stream: TextIO | None = None, interval: float = 10) -> ProgressFactory:
    """Return the factory of progress reports on ``stream`` (stderr).

    On a terminal they are bars with the time left; elsewhere (Slurm log, pipe) lines such as
    ``Experts 3/10  loss 0.123  ETA 0:01:20``, at most one in ``interval`` seconds, and a last one with the elapsed
    time. Reports may be nested.
    """
    stream = sys.stderr if stream is None else stream
    console = Console(file=stream) if is_terminal(stream) else None  # one, since nested bars must share it

    def begin(title: str, total: int, done: int = 0) -> Progress:
        title = title[:1].upper() + title[1:]
        if console is not None:
            return _Bar(console, title, total, done)
        return _Lines(stream, interval, title, total, done)

    return begin


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
        if values:
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        with suppress(OSError):  # a log file on a full disk must not end the run
            self.stream.write("  ".join(part for part in parts if part) + "\n")
            self.stream.flush()


class _Bar(_Throttled):
    """A bar on a terminal."""

    def __init__(self, console: Console, title: str, total: int, done: int) -> None:
        super().__init__(1 / DRAWS_PER_SECOND, title, total, done)
        self.bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[values]}", markup=False),
            progress.TimeElapsedColumn(),
            progress.TextColumn("ETA"),
            progress.TimeRemainingColumn(),
            console=console,
            refresh_per_second=DRAWS_PER_SECOND,
            speed_estimate_period=600,
            redirect_stdout=sys.stdout.isatty(),  # else a table piped from stdout would come out here
        )

    def __enter__(self) -> Self:
        self.bar.start()
        self.task = self.bar.add_task(self.title, total=self.total, completed=self.done, values="")
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.draw()
        self.bar.stop()

    def draw(self) -> None:
        self.bar.update(self.task, completed=self.done, values=self.shown())


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def percent(mean: float | None, std: float | None) -> str:
    """Return fractions as "52.31 ± 1.20", mean and population std in percent, or "-" where undefined."""
    return "-" if mean is None or std is None else f"{100 * mean:.2f} ± {100 * std:.2f}"


def print_card(card: Card, folder: Path | None = None, console: Console | None = None) -> None:
    """Print a card: per network the method's metrics in percent, below them the random subset's; then by class."""
    console = console or output_console()
    table = Table(box=box.SIMPLE_HEAD)
    networks = len(card.evaluations[0].accuracy.values)
    title = (
        f"{card.title} on {card.dataset.name}, {_trained_on(card)}, seed {card.seed}"
        f" (percent; mean ± std, networks per line: {networks})"
    )
    for name in ("network", "set"):
        table.add_column(name)
    for name in ("accuracy", "balanced\naccuracy", "macro\nAUROC", "macro\nF1"):
        table.add_column(name, justify="right", no_wrap=True)  # 80 columns suffice
    beside = ((f"{card.title}, EMA", card.averaged), ("random subset", card.random_subset))
    for evaluation in card.evaluations:
        table.add_row(*_cells(evaluation, card.title), style="bold")
        for name, evaluations in beside:
            for other in evaluations or ():
                if other.network == evaluation.network:
                    table.add_row(*_cells(other, name))
    console.print(Text(title, "bold"), soft_wrap=True)
    console.print(table)
    print_by_class(card, console)
    lines = []
    if card.reported is not None:
        others = [f"{network} {published(value)}" for network, value in card.reported.networks.items()]
        lines.append(f"reported: {', '.join([published(card.reported), *others])} ({card.reported.source})")
    if card.split == "validation":
        lines.append(f"tested on the {card.tested:,} validation images: for choosing settings, not a result")
    if card.note is not None:
        lines.append(f"note: {card.note}")
    if card.tuning is not None:
        tried = card.tuning
        of = "" if tried.reused is None else f" in the search of {tried.reused}"
        lines.append(f"settings: {tried.chosen}, the best of {len(tried.candidates)} on the validation split{of} "
                     f"(seed {tried.seed}, networks for each: {tried.networks})")  # fmt: skip
    lines += [f"chosen: {SELECTIONS[card.selection]}", f"cost: {_cost(card.cost)}"]
    if folder is not None:
        lines.append(f"folder: {folder}")
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def published(value: ReportedAccuracy) -> str:
    """Return a published accuracy in percent, with its standard deviation where there is one."""
    return f"{100 * value.accuracy:.2f}" if value.std is None else percent(value.accuracy, value.std)


def _trained_on(card: Card) -> str:
    if card.ipc is None:
        return f"all {card.dataset.train:,} training images"
    return f"{card.ipc} image{'s' if card.ipc > 1 else ''} per class"


def _cells(evaluation: Evaluation, trained_on: str) -> list[Text]:
    metrics = (evaluation.accuracy, evaluation.balanced_accuracy, evaluation.macro_auroc, evaluation.macro_f1)
    percents = [percent(metric.mean, metric.std) for metric in metrics]
    return [Text(text) for text in (evaluation.network, trained_on, *percents)]


def _cost(cost: Cost) -> str:
    stages = {"experts": cost.experts_s, "distillation": cost.distill_s, "evaluation": cost.evaluate_s}
    parts = [f"{name} {seconds:.1f} s" for name, seconds in stages.items() if seconds is not None]
    if cost.seconds_per_iteration is not None:
        parts.append(f"{cost.seconds_per_iteration:.3g} s per iteration")
    if cost.peak_memory_bytes is not None:
        parts.append(f"peak memory {cost.peak_memory_bytes / 2**30:.2f} GiB")
    return ", ".join([*parts, cost.device])
