"""The runs of a sweep or a tuning side by side: ``hydra/launcher=side_by_side``.

Of a sweep Hydra's own launcher goes through the jobs, each of which is collected here instead of being done; then all
are made.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hoptm_plugin.cli.help import PROGRAM
from hoptm_plugin.cli.streams import fail, plain_warnings, say, show, tolerate_encodings
from hoptm_plugin.core.errors import HopTMError, OutOfMemoryError, StorageError
from hoptm_plugin.core.text import pasted
from hoptm_plugin.runtime.stopping import INTERRUPTED, Stopped, hand_on, stop_on_signals

if TYPE_CHECKING:
    from hoptm_plugin.cards.card import Card
    from hoptm_plugin.runs.tuning import Job as Trial
    from hoptm_plugin.settings import RunSettings

    Job = tuple[RunSettings, Path]

T = TypeVar("T")
NAME = "side_by_side"


@dataclass
class Sweep:
    """What Hydra's launcher came by.

    Attributes:
        jobs: that are to be made.
        refused: why others cannot be, which was said.
    """

    jobs: list[Job] = field(default_factory=list)
    refused: list[HopTMError] = field(default_factory=list)


_sweep = Sweep()


def asked_for(hydra_config: Any) -> bool:
    """Tell whether a job belongs to a sweep whose runs are made side by side."""
    return hydra_config.runtime.choices.get("hydra/launcher") == NAME


def wanted(overrides: Sequence[str]) -> bool:
    """Tell whether overrides ask for runs side by side."""
    return f"hydra/launcher={NAME}" in overrides


def refuse(command: str, overrides: Sequence[str]) -> None:
    """End a command whose jobs are no runs side by side, where that was asked for."""
    if wanted(overrides):
        fail(f"hydra/launcher: {NAME} makes the runs of {PROGRAM} run -m and tune; for {command} take processes", 2)


def collect(settle: Callable[[], RunSettings], folder: Path) -> None:
    """Note a job instead of doing it."""
    from hoptm_plugin.cli.jobs import do

    try:
        do("run", settle, lambda settings, folder: _sweep.jobs.append((settings, folder)), folder, sweep=True)
    except HopTMError as error:
        _sweep.refused.append(error)


@contextmanager
def collected() -> Iterator[None]:
    """Make the runs that were collected in the block: as one computation where that is faster, else one to a core.

    Raises:
        HopTMError: why the first of those failed that did; the others are done.
    """
    global _sweep
    _sweep = sweep = Sweep()
    yield
    if not sweep.jobs and not sweep.refused:
        return
    for recipe in dict.fromkeys(settings.recipe for settings, _ in sweep.jobs):
        if recipe:
            say(recipe)
    failed: list[Exception] = [*sweep.refused]
    if sweep.jobs:
        as_one = _as_one([settings for settings, _ in sweep.jobs])
        failed += (_as_one_computation if as_one else _by_processes)(sweep.jobs)
    if failed:
        raise failed[0]


def _as_one(runs: Sequence[RunSettings]) -> bool:
    """Tell whether runs are faster as one computation; those that cannot be tried will say why themselves."""
    from hoptm_plugin.runs.company import worth_it
    from hoptm_plugin.runtime.bars import console_progress

    try:
        with console_progress()("looking at the runs", len(runs)) as bar:
            return worth_it(runs, bar.advance)
    except HopTMError:
        return True


def _as_one_computation(jobs: Sequence[Job]) -> list[Exception]:
    """Make runs side by side; return why those failed that did."""
    from hoptm_plugin.cli.console import print_card
    from hoptm_plugin.runs.company import run_side_by_side
    from hoptm_plugin.runs.folder import remove_if_empty
    from hoptm_plugin.runtime.bars import console_progress
    from hoptm_plugin.storage.run_files import CARD, CONFIG

    def ended(number: int, outcome: Any) -> None:
        folder = jobs[number][1]
        if isinstance(outcome, HopTMError):
            mended = isinstance(outcome, StorageError | OutOfMemoryError) and (folder / CONFIG).exists()
            again = f"; go on with: {PROGRAM} run {pasted('hydra.run.dir', folder)} resume=true" if mended else ""
            say(f"job {folder.name} failed: {outcome}{again}")
        elif not isinstance(outcome, Exception):
            show(lambda: print_card(outcome, folder), folder / CARD)
        remove_if_empty(folder)

    try:
        with stop_on_signals():
            outcomes = run_side_by_side(jobs, console_progress(interval=10.0 * len(jobs)), ended)
    except Stopped as stopped:
        said = "interrupted" if stopped.exit_code == INTERRUPTED else f"stopped by {stopped}"
        place = pasted("hydra.sweep.dir", jobs[0][1].parent)
        say(f"error: {said}; go on with all runs by the same command, {place} and resume=auto")
        hand_on(stopped)
        raise SystemExit(stopped.exit_code) from None
    finally:
        gc.collect()
    return [outcome for outcome in outcomes if isinstance(outcome, Exception)]


def _by_processes(jobs: Sequence[Job]) -> list[Exception]:
    """Make runs by processes that share out the cores; return why those failed that did."""
    outcomes = _shared_out(_process, jobs, jobs[0][0].runtime.side_by_side)
    return [outcome for outcome in outcomes if isinstance(outcome, HopTMError)]


def _process(settings: RunSettings, folder: Path) -> HopTMError | None:
    """Make one run; return why it failed."""
    from hoptm_plugin.cli.jobs import do, make
    from hoptm_plugin.core.plugins import load_plugins

    load_plugins()
    try:
        do("run", lambda: settings, partial(make, ()), folder, sweep=True)
    except HopTMError as error:
        return error
    return None


def _shared_out(work: Callable[[RunSettings, Path], T], jobs: Sequence[Job], at_once: int | None) -> list[T]:
    """Return what ``work`` gives for each job, by processes that share out the cores."""
    from hoptm_plugin.runtime.processes import WorkerDiedError, cores, shared_out

    at_once = min(at_once or cores(), len(jobs))
    how = f"{at_once} at a time, each in a process with its share of {cores()} cores" if at_once > 1 else "one by one"
    say(f"{len(jobs)} runs: on this CPU they are no faster as one computation; {how}")
    try:
        return shared_out(work, jobs, at_once)
    except WorkerDiedError:
        place = pasted("hydra.sweep.dir", jobs[0][1].parent)
        raise HopTMError(f"a process that made runs was killed, maybe for want of memory; what it did until its last "
                         f"checkpoint is kept: the same command, {place} and resume=auto goes on, with a smaller "
                         f"runtime.side_by_side=NUMBER") from None  # fmt: skip


def _attempt(settings: RunSettings, folder: Path) -> str | None:
    """Make one run of a tuning; return why it failed, or None."""
    from hoptm_plugin.core.plugins import load_plugins
    from hoptm_plugin.runs.tuning import attempt
    from hoptm_plugin.runtime.bars import console_progress

    load_plugins()
    tolerate_encodings()
    plain_warnings()
    try:
        return attempt(settings, folder, console_progress())
    finally:
        gc.collect()  # data and networks stand in cycles


def tried(folder: Path, trials: Sequence[Trial]) -> list[str | None]:
    """Make the runs of a tuning in its folder; return for each why it failed, or None."""
    from hoptm_plugin.runs.company import computing_of, run_side_by_side
    from hoptm_plugin.runs.tuning import attempts
    from hoptm_plugin.runtime.bars import console_progress

    jobs = [(trial.settings, folder / trial.name) for trial in trials]
    if not _as_one([settings for settings, _ in jobs]):
        return _shared_out(_attempt, jobs, jobs[0][0].runtime.side_by_side)
    progress = console_progress(interval=10.0 * len(jobs))

    def make(some: list[Job]) -> list[Card | Exception]:
        groups: dict[Hashable, list[int]] = {}
        for number, (settings, _) in enumerate(some):
            groups.setdefault(computing_of(settings), []).append(number)
        found: dict[int, Card | Exception] = {}
        for numbers in groups.values():
            cards = run_side_by_side([some[number] for number in numbers], progress)
            found |= dict(zip(numbers, cards, strict=True))
            gc.collect()
        return [found[number] for number in range(len(some))]

    return attempts(jobs, make, progress)
