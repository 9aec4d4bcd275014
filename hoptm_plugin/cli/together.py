"""The runs of a sweep side by side: ``hydra/launcher=side_by_side``.

Hydra's own launcher goes through the jobs, each of which is collected here instead of being done; then all are made.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hoptm_plugin.cli.streams import say, show
from hoptm_plugin.core.errors import HopTMError
from hoptm_plugin.core.text import pasted
from hoptm_plugin.runtime.stopping import INTERRUPTED, Stopped, hand_on, stop_on_signals

if TYPE_CHECKING:
    from hoptm_plugin.settings import RunSettings

    Job = tuple[RunSettings, Path]

NAME = "side_by_side"
_collected: list[Job] = []


def asked_for(hydra_config: Any) -> bool:
    """Tell whether a job belongs to a sweep whose runs are made side by side."""
    return hydra_config.runtime.choices.get("hydra/launcher") == NAME


def collect(settings: RunSettings, folder: Path) -> None:
    """Note a job instead of doing it."""
    _collected.append((settings, folder))


def make_collected() -> None:
    """Make the runs that were collected: as one computation where that is faster, else one to a core."""
    jobs, _collected[:] = list(_collected), []
    if not jobs:
        return
    for recipe in dict.fromkeys(settings.recipe for settings, _ in jobs):
        if recipe:
            say(recipe)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if _as_one([settings for settings, _ in jobs]):
        failed = _as_one_computation(jobs)
    else:
        at_once = min(jobs[0][0].runtime.side_by_side or cores, cores, len(jobs))
        how = f"{at_once} at a time, each by its own cores" if at_once > 1 else "one after the other"
        say(f"{len(jobs)} runs: as one computation they are no faster on this CPU; {how}")
        failed = _by_processes(jobs, at_once)
    if failed:
        raise SystemExit(failed[0])


def _as_one(runs: Sequence[RunSettings]) -> bool:
    """Tell whether runs are faster as one computation; those that cannot be tried will say why themselves."""
    from hoptm_plugin.runs.company import worth_it
    from hoptm_plugin.runtime.bars import console_progress

    try:
        with console_progress()("looking at the runs", len(runs)) as bar:
            return worth_it(runs, bar.advance)
    except HopTMError:
        return True


def _as_one_computation(jobs: Sequence[Job]) -> list[int]:
    """Make runs side by side; return the exit codes of those that failed."""
    from hoptm_plugin.cli.console import print_card
    from hoptm_plugin.runs.company import run_side_by_side
    from hoptm_plugin.runs.folder import remove_if_empty
    from hoptm_plugin.runtime.bars import console_progress
    from hoptm_plugin.storage.run_files import CARD

    def ended(number: int, outcome: Any) -> None:
        folder = jobs[number][1]
        if isinstance(outcome, HopTMError):
            say(f"job {folder.name} failed: {outcome}")
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
    failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    for outcome in failed:
        if not isinstance(outcome, HopTMError):  # a fault in code, with its traceback
            raise outcome
    return [outcome.exit_code for outcome in failed if isinstance(outcome, HopTMError)]


def _by_processes(jobs: Sequence[Job], at_once: int) -> list[int]:
    """Make runs by processes that share out the cores; return the exit codes of those that failed."""
    from joblib import Parallel, delayed

    codes = Parallel(n_jobs=at_once, batch_size=1)(delayed(_process)(*job) for job in jobs)
    return [code for code in codes if code]


def _process(settings: RunSettings, folder: Path) -> int:
    """Make one run; return the exit code that it ends with."""
    from hoptm_plugin.cli.jobs import do, make
    from hoptm_plugin.core.plugins import load_plugins

    load_plugins()
    try:
        do("run", lambda: settings, partial(make, ()), folder, sweep=True)
    except HopTMError as error:
        return error.exit_code
    return 0
