"""What a run will do, and about how long that takes here, before it does any of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import ceil, prod
from pathlib import Path

from hoptm_plugin.core.dataset import ImageData
from hoptm_plugin.engine.checkpoint import iterations_done
from hoptm_plugin.engine.distil import CHECKPOINT
from hoptm_plugin.experts.difficulty import has_scores
from hoptm_plugin.experts.store import ExpertStore
from hoptm_plugin.runs import timing
from hoptm_plugin.runs.assembly import Workbench, device_name, workbench
from hoptm_plugin.runs.folder import as_settings
from hoptm_plugin.runtime.bars import usual_progress
from hoptm_plugin.runtime.progress import ProgressFactory
from hoptm_plugin.runtime.randomness import seeded
from hoptm_plugin.settings import RunSettings

# on two cores (benchmarks/speed/results): compiled code needs this part of the time, and is made in so many seconds
COMPILED, COMPILING = 0.8, 17.0
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Stage:
    """One part of a run.

    Attributes:
        amount: of experts, iterations or networks.
        done: of these before, and stored.
        seconds: that the others take; None where that cannot be told.
        memory_bytes: this process's at its peak meanwhile.
        disk_bytes: that are written.
    """

    amount: int = 0
    done: int = 0
    seconds: float | None = 0.0
    memory_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True)
class ExpertStage:
    """The experts of a run.

    Attributes:
        folder: of their store; None where the method reads none.
        epochs: of each.
        stored: epochs of each that need not be trained any more.
        epoch_seconds: of an epoch of one; None where that cannot be told.
        begin_seconds: before the first.
        row_bytes: of an expert's parameters after an epoch.
        memory_bytes: this process's at its peak meanwhile.
    """

    folder: Path | None = None
    epochs: int = 0
    stored: tuple[int, ...] = ()
    epoch_seconds: float | None = 0.0
    begin_seconds: float = 0.0
    row_bytes: int = 0
    memory_bytes: int = 0

    @property
    def amount(self) -> int:
        """How many there are."""
        return len(self.stored)

    @property
    def done(self) -> int:
        """How many are stored."""
        return sum(epochs >= self.epochs for epochs in self.stored)

    @property
    def seconds(self) -> float | None:
        """Seconds that the others take; None where that cannot be told."""
        missing = sum(max(0, self.epochs - epochs) for epochs in self.stored)
        if missing and self.epoch_seconds is None:
            return None
        return missing * (self.epoch_seconds or 0.0) + (self.begin_seconds if missing else 0)

    @property
    def disk_bytes(self) -> int:
        """Bytes of those that are written."""
        return (self.amount - self.done) * (self.epochs + 1) * self.row_bytes


@dataclass(frozen=True)
class Plan:
    """What a run will do, and about how long it takes here.

    Attributes:
        experts: how many it reads, and what the training of the missing ones takes.
        distillation: its iterations, a selection of checkpoints included.
        evaluation: the networks that are trained and tested in the end.
        device: where, in words.
        scoring: experts without a curriculum that score the images of one, before the others.
    """

    experts: ExpertStage
    distillation: Stage
    evaluation: Stage
    device: str
    scoring: ExpertStage = field(default_factory=ExpertStage)

    @property
    def seconds(self) -> float | None:
        """Seconds of it all; None where a part cannot be told."""
        parts = (self.scoring.seconds, self.experts.seconds, self.distillation.seconds, self.evaluation.seconds)
        return None if None in parts else sum(filter(None, parts))

    @property
    def memory_bytes(self) -> int:
        """This process's memory at its peak."""
        return max(part.memory_bytes for part in (self.scoring, self.experts, self.distillation, self.evaluation))

    @property
    def disk_bytes(self) -> int:
        """Bytes of all that is written."""
        return sum(part.disk_bytes for part in (self.scoring, self.experts, self.distillation, self.evaluation))

    def __str__(self) -> str:
        """Return it as one line."""
        experts, loop, parts = self.experts, self.distillation, []
        if scoring := self.scoring.amount - self.scoring.done:
            parts.append(f"{_counted(scoring, 'expert')} that score images {about(self.scoring.seconds)}")
        if missing := experts.amount - experts.done:
            stored = f" ({experts.done} stored)" if experts.done else ""
            parts.append(f"{_counted(missing, 'expert')} {about(experts.seconds)}{stored}")
        elif experts.amount:
            parts.append(f"{_counted(experts.amount, 'expert')} stored")
        if left := loop.amount - loop.done:
            parts.append(f"{_counted(left, 'iteration')} {about(loop.seconds)}")
        parts.append(f"evaluation {about(self.evaluation.seconds)}")
        said = f"{', '.join(parts)}; memory about {shown_bytes(self.memory_bytes)}, disk {shown_bytes(self.disk_bytes)}"
        if self.seconds is None:
            return f"plan: {said}"
        end = datetime.now() + timedelta(seconds=self.seconds)
        whole = f"in all {about(self.seconds)}, " if len(parts) > 1 and self.seconds >= 60 else ""
        today = end.date() == datetime.now().date()
        return f"plan: {said}; {whole}done about {end:%H:%M}" if today else (
            f"plan: {said}; {whole}done about {end:%Y-%m-%d %H:%M}")  # fmt: skip


def plan(
    settings: RunSettings, progress: ProgressFactory | None = None, read: dict[str, ImageData] | None = None
) -> Plan:
    """Return what :func:`run` would do with these settings, and about how long it takes here; nothing is written.

    A moment of every part is computed, on the run's own data and networks, with random parameters in the place of
    experts. On CUDA, where the run compiles its steps and this does not, it may be done much earlier.

    Args:
        settings: as :func:`hoptm_plugin.compose` gives them.
        progress: is told what is done to the data; None: on a terminal or in a notebook, else nobody.
        read: data that other plans for the same device have read, and into which go those that this one reads.

    Raises:
        ConfigurationError: all that does not fit together.
        DataError: the data cannot be read.
    """
    with workbench(as_settings(settings), progress or usual_progress(), read) as bench:
        bench.check()
        return planned(bench)


def planned(bench: Workbench, folder: Path | None = None, judged: bool = False) -> Plan:
    """Return what a run will do.

    Args:
        bench: of the run.
        folder: where it is going on; None: it begins.
        judged: nothing is distilled, and a set that is there is evaluated.
    """
    with warnings.catch_warnings(), seeded(0, bench.device):
        warnings.simplefilter("ignore")  # the run itself will say it
        try:
            evaluation, selection = _evaluation(bench)
        except Exception:  # such as for want of memory: the run will meet it in its place, and say it
            evaluation, selection = Stage(seconds=None), None
        experts, scoring, distillation = ExpertStage(), ExpertStage(), Stage()
        if not judged:
            (experts, scoring), distillation = _experts(bench), _distillation(bench, folder, selection)
    return Plan(experts, distillation, evaluation, device_name(bench), scoring)


def plans(
    runs: Iterable[tuple[str, Callable[[], Plan]]], after_each: Callable[[], object] = lambda: None
) -> list[Plan]:
    """Return the plans of runs that follow each other: what one trains of experts is stored for the next.

    Args:
        runs: of each, what makes it take as long as another, see :func:`alike`, and what plans it.
        after_each: is called after each run.
    """
    known: dict[str, Plan] = {}
    found = []
    for key, make in runs:
        if key not in known:
            known[key] = make()
        found.append(known[key])
        after_each()
    return _one_after_the_other(found)


def alike(settings: RunSettings) -> str:
    """Return what is the same for runs that differ in their seed alone."""
    return repr(settings.model_copy(update={"seed": 0}))


def _one_after_the_other(plans: Iterable[Plan]) -> list[Plan]:
    trained: dict[tuple[Path | None, int], int] = {}

    def rest(experts: ExpertStage) -> ExpertStage:
        keys = [(experts.folder, number) for number in range(experts.amount)]
        stored = tuple(
            experts.epochs if trained.get(key, 0) >= experts.epochs else epochs
            for key, epochs in zip(keys, experts.stored, strict=True)
        )
        trained.update({key: max(trained.get(key, 0), experts.epochs) for key in keys})
        return replace(experts, stored=stored)

    return [replace(each, scoring=rest(each.scoring), experts=rest(each.experts)) for each in plans]


def _evaluation(bench: Workbench) -> tuple[Stage, float | None]:
    """Return the evaluation, and the seconds of scoring a checkpoint's set once."""
    settings, method, evaluator = bench.settings, bench.parts.method, bench.evaluator()
    protocol, classes = settings.protocol, len(bench.data.class_names)
    averaged = settings.distillation.average_decay is not None
    own = len(bench.task.train) if method.whole_split else method.training_images(classes, settings.ipc)
    # images of each set that networks are trained on, and how many trainings
    sets = {own: 1 + averaged + (averaged and protocol.warm_start_average)}
    if protocol.random_subset and not method.whole_split:
        sets[classes * settings.ipc] = sets.get(classes * settings.ipc, 0) + 1
    tested = 1 + averaged + (protocol.random_subset and not method.whole_split)
    seconds, memory, first = 0.0, 0, None
    for name in evaluator.networks:
        trained = {images: timing.training(bench, evaluator, name, images, times * protocol.repeats)
                   for images, times in sets.items()}  # fmt: skip
        split = getattr(bench.data, protocol.split)
        test = timing.testing(bench, evaluator, name, split, tested * protocol.repeats)
        each = sum(times * trained[images].seconds for images, times in sets.items())
        seconds += protocol.repeats * (_computed(each, evaluator.compute.compiled) + tested * test.seconds)
        seconds += COMPILING if evaluator.compute.compiled else 0
        memory = max(memory, test.memory_bytes, *(each.memory_bytes for each in trained.values()))
        if first is None:
            looked_at = {"validation": bench.data.validation, "test_leaky": bench.data.test}
            scored = looked_at.get(settings.distillation.selection, ())
            first = _computed(trained[own].seconds, evaluator.compute.compiled)
            first += test.seconds * len(scored) / len(split)
    networks = len(evaluator.networks) * protocol.repeats * tested
    return Stage(networks, 0, seconds, memory), first


def _computed(seconds: float, compiled: bool) -> float:
    return seconds * (COMPILED if compiled else 1)


def _experts(bench: Workbench) -> tuple[ExpertStage, ExpertStage]:
    """Return the experts, and those that score images for their curriculum."""
    settings, needed = bench.settings.experts, bench.parts.method.last_expert_epoch()
    if not needed:
        return ExpertStage(), ExpertStage()
    curriculum, store = settings.training.curriculum, bench.store()
    experts = _stage(store, settings.count, max(needed, settings.epochs or 0))
    if curriculum is None:
        return _timed(bench, experts), ExpertStage()
    share = curriculum.share(experts.epochs) if settings.training.epoch_images is None else 1.0
    if experts.done == experts.amount or has_scores(store):
        return _timed(bench, experts, share), ExpertStage()
    scoring = _stage(store.scoring(), curriculum.scoring_networks, curriculum.scoring_epochs)
    return _timed(bench, experts, share), _timed(bench, scoring)


def _stage(store: ExpertStore, count: int, epochs: int) -> ExpertStage:
    stored = tuple(_stored(store, expert, epochs) for expert in range(count))
    return ExpertStage(store.folder, epochs, stored, row_bytes=store.num_parameters * FLOAT_BYTES)


def _timed(bench: Workbench, stage: ExpertStage, share: float = 1.0) -> ExpertStage:
    """Return experts with what they take, where an epoch has that share of the images on average."""
    missing, compute = sum(stage.epochs - each for each in stage.stored), bench.expert_compute()
    if not missing:
        return stage
    try:
        found = timing.expert_epoch(bench, missing)
    except Exception:  # as of the other parts
        return replace(stage, epoch_seconds=None)
    held = 0 if bench.device.type == "cuda" else (stage.epochs + 1) * stage.row_bytes
    return replace(
        stage, epoch_seconds=share * _computed(found.seconds, compute.compiled),
        begin_seconds=COMPILING if compute.compiled else 0.0, memory_bytes=found.memory_bytes + held,
    )  # fmt: skip


def _stored(store: ExpertStore, expert: int, epochs: int) -> int:
    """Return how many epochs of an expert need not be trained: one that is stored too short is trained anew."""
    if store.epochs(expert) >= epochs:
        return epochs
    begun = store.begun(expert)
    return 0 if begun is None else min(begun.epochs, epochs)


def _distillation(bench: Workbench, folder: Path | None, selection: float | None) -> Stage:
    settings = bench.settings.distillation
    if bench.parts.method.whole_split:
        return Stage()
    done = 0 if folder is None else iterations_done(folder / CHECKPOINT)
    left = max(0, settings.iterations - done)
    averaged = settings.average_decay is not None
    numbers = len(bench.data.class_names) * bench.settings.ipc * prod(bench.data.image_shape)
    # the set and its average, both again in a checkpoint with the momentum, what the guard keeps, and what was best so
    # far, twice at the end for a run that goes further
    copies = 4 + 2 * averaged + 2 * (settings.selection != "last") * (1 + averaged)
    disk = copies * FLOAT_BYTES * numbers + 16 * len(bench.task.train)
    try:
        found = timing.iteration(bench, left)
    except Exception:  # not only ours: whatever it is, the run will meet it and say it, or it came of trying
        return Stage(settings.iterations, done, None, 0, disk)
    compiled = bench.task.compute.compiled and bool(bench.parts.method.last_expert_epoch())
    seconds = found.begin + left * _computed(found.seconds, compiled) + (2 * COMPILING if compiled else 0)
    if settings.selection != "last":
        times = ceil(settings.iterations / settings.evaluate_every) - done // settings.evaluate_every
        seconds += times * (1 + averaged) * (selection or 0.0)
    return Stage(settings.iterations, done, seconds, found.memory_bytes, disk)


def about(seconds: float | None) -> str:
    """Return a duration as a person would say it."""
    if seconds is None:
        return "that cannot be told beforehand"
    for unit, size, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 36)):
        if seconds < most * size:
            return f"about {max(1, round(seconds / size))} {unit}"
    return f"about {round(seconds / 86400)} days"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shown_bytes(number: int) -> str:
    """Return an amount of memory or disk as a person would say it."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if number >= size:
            return f"{number / size:.2g} {unit}" if number < 10 * size else f"{number / size:.0f} {unit}"
    return "1 MiB" if number else "-"
