"""Several runs in one process: what they compute alike is one computation, everything else is each run's own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from hoptm_plugin.cards.card import Card
from hoptm_plugin.core.asking import Asking, together
from hoptm_plugin.core.dataset import ImageData
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.runs.assembly import workbench
from hoptm_plugin.runs.folder import as_settings
from hoptm_plugin.runs.planning import planned
from hoptm_plugin.runs.running import running
from hoptm_plugin.runtime.bars import usual_progress
from hoptm_plugin.runtime.device import computing, kind_of_device, resolve
from hoptm_plugin.runtime.progress import Progress, ProgressFactory, silent
from hoptm_plugin.runtime.stopping import Stopped, ask_to_stop, stop_if_asked
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.files import as_path

T = TypeVar("T")
AT_ONCE = 16  # runs
SHAPES = ("name", "student_steps")  # of a method; what else must agree is seen when it is asked for


def run_side_by_side(
    jobs: Sequence[tuple[RunSettings, str | Path]],
    progress: ProgressFactory | None = None,
    ended: Callable[[int, Card | Exception], object] = lambda number, outcome: None,
) -> list[Card | Exception]:
    """Do what :func:`run` does for several runs, those that agree side by side; return their cards, or why one failed.

    On a GPU, and on the CPU for very small networks, students (trajectory matching), features (distribution matching)
    and evaluated networks of runs that agree are one computation: about as fast as one run. Every run has its own
    folder, as :func:`run` leaves it; its bits depend on how many are beside it, by rounding. One that fails stops no
    other. ``runtime.side_by_side`` says how many at once.

    Args:
        jobs: settings and folder of each.
        progress: as in :func:`run`.
        ended: is told of each at once, by its number.

    Raises:
        ConfigurationError: two are to work in one folder, or on different devices or with different threads.
    """
    todo = [(as_settings(settings), as_path(folder, "folder")) for settings, folder in jobs]
    if len({folder.absolute() for _, folder in todo}) < len(todo):
        raise ConfigurationError("run_side_by_side: two of the runs are given the same folder; give each its own")
    if len({computing_of(settings) for settings, _ in todo}) > 1:
        raise ConfigurationError("run_side_by_side: device, precision and threads belong to the process; give all runs "
                                 "the same runtime.device, runtime.precision and runtime.threads")  # fmt: skip
    found: dict[int, Card | Exception] = {}
    for numbers in alike([settings for settings, _ in todo]):
        read: dict[str, ImageData] = {}
        size = _fitting(todo[numbers[0]][0], read)
        for at in range(0, len(numbers), size):
            group = {number: todo[number] for number in numbers[at : at + size]}
            found |= _group(group, progress or usual_progress(), ended, read)
    return [found[number] for number in range(len(todo))]


def alike(runs: Sequence[RunSettings]) -> list[list[int]]:
    """Return groups of the runs' numbers: those that agree in what decides shapes."""
    groups: dict[Hashable, list[int]] = {}
    for number, settings in enumerate(runs):
        groups.setdefault(_shapes(settings), []).append(number)
    return list(groups.values())


def worth_it(runs: Sequence[RunSettings], after_each: Callable[[], object] = lambda: None) -> bool:
    """Tell whether all runs that agree are faster as one computation than one after the other.

    Args:
        runs: their settings.
        after_each: is called after each that was looked at.
    """
    read: dict[str, ImageData] = {}
    for numbers in alike(runs):
        if kind_of_device(runs[numbers[0]].runtime.device) != "cuda":  # where it always is: no need to read the data
            with workbench(runs[numbers[0]], silent, read) as bench:
                if not bench.task.compute.stacked:
                    return False
        for _ in numbers:
            after_each()
    return True


def _fitting(settings: RunSettings, read: dict[str, ImageData]) -> int:
    """Return how many runs like one are side by side; of a GPU's memory they leave a fifth free."""
    if settings.runtime.side_by_side is not None:
        return settings.runtime.side_by_side
    if kind_of_device(settings.runtime.device) != "cuda":
        return AT_ONCE
    with workbench(settings, silent, read) as bench:
        try:
            bench.check()
        except ConfigurationError:
            return AT_ONCE  # which each run will say itself
        memory = planned(bench).memory_bytes
        whole = torch.cuda.get_device_properties(bench.device).total_memory
    return max(1, min(AT_ONCE, int(0.8 * whole // max(1, memory))))


def _shapes(settings: RunSettings) -> Hashable:
    method, distillation = settings.method, settings.distillation
    shapes: dict[str, Any] = {name: method[name] for name in SHAPES if name in method}
    rest = settings.network, settings.dataset, settings.data_seed, settings.ipc, distillation.iterations
    return repr((shapes, *rest, settings.runtime, settings.protocol))


def computing_of(settings: RunSettings) -> Hashable:
    """Return what belongs to a process, and so must be the same for all runs side by side."""
    return settings.runtime.device, settings.runtime.precision, settings.runtime.threads


def _group(
    jobs: dict[int, tuple[RunSettings, Path]],
    progress: ProgressFactory,
    ended: Callable[[int, Any], object],
    read: dict[str, ImageData],
) -> dict[int, Card | Exception]:
    """Make runs side by side."""
    runtime = next(iter(jobs.values()))[0].runtime

    def begin(settings: RunSettings, folder: Path) -> Asking[Card]:
        stop_if_asked()  # while another one was made ready
        return (yield from running(settings, folder, labelled(folder.name), lambda plan: None, read))

    def labelled(name: str) -> ProgressFactory:
        return lambda title, total, done=0: _said(progress, told, name, title, total, done)

    told: set[str] = set()
    device = resolve(runtime.device, runtime.precision, runtime.compile is True, runtime.capture)
    with computing(device, runtime.precision, runtime.threads):
        askings = {str(number): begin(*job) for number, job in jobs.items()}
        outcomes = driven(askings, lambda name, outcome: ended(int(name), outcome))
    return {int(name): outcome for name, outcome in outcomes.items()}


def driven(
    askings: Mapping[str, Asking[T]], ended: Callable[[str, T | Exception], object] = lambda name, outcome: None
) -> dict[str, T | Exception]:
    """Drive work side by side; where a signal asks one to stop, all come to where they can go on from.

    Raises:
        Stopped: a signal asked to stop.
    """
    stopped: list[Stopped] = []

    def note(name: str, outcome: T | BaseException) -> None:
        if isinstance(outcome, Stopped):
            stopped.append(outcome)
            ask_to_stop(outcome.number)
        elif isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            raise outcome
        else:
            ended(name, outcome)

    outcomes = together(askings, note)
    if stopped:
        ask_to_stop(stopped[0].number)
        stop_if_asked()
    return outcomes  # type: ignore[return-value]


def _said(progress: ProgressFactory, told: set[str], name: str, title: str, total: int, done: int) -> Progress:
    """Begin a run's report under its name; a line that several would say is said once."""
    if total:
        return progress(f"{name}: {title}", total, done)
    if title in told:
        return Progress()
    told.add(title)
    return progress(title, 0)
