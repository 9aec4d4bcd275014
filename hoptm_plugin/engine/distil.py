"""The distillation loop: losses in, synthetic set out; checkpointed, resumable, logged."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

from hoptm_plugin.core.asking import Asking, alone, own_seconds
from hoptm_plugin.core.errors import DivergedError, FileFormatError, NonFiniteLossError, PluginError, StepSizeError
from hoptm_plugin.core.interfaces import LossTerm, Method, State, Task, Trajectories, with_each
from hoptm_plugin.core.loggers import RunLogger
from hoptm_plugin.core.observations import is_scalar_loss
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.average import MovingAverage
from hoptm_plugin.engine.checkpoint import REMEDY, read_checkpoint, set_of, tensors_of, write_checkpoint
from hoptm_plugin.engine.guard import Guard, Saturation
from hoptm_plugin.engine.optimisers import Optimisers
from hoptm_plugin.engine.settings import Distillation
from hoptm_plugin.loggers import GuardedLoggers, JsonLines, Mark
from hoptm_plugin.runtime.memory import memory_named
from hoptm_plugin.runtime.progress import Progress, ProgressFactory
from hoptm_plugin.runtime.starving import Starvation
from hoptm_plugin.runtime.stopping import asked_to_stop, deferred, stop_if_asked

Score: TypeAlias = Callable[[SyntheticSet], float | Asking[float]]

CHECKPOINT = "checkpoint.safetensors"
NEEDS_LESS = (
    "set runtime.unroll=adjoint, runtime.memory_budget=0 or runtime.precision=bf16 (other rounding), or take a smaller "
    "method.student_batch"
)


@dataclass(frozen=True)
class Selected:
    """How an iteration was chosen by score.

    Attributes:
        iteration: that was chosen, by how many were done.
        curve: (iterations done, accuracy) of every set that was scored, in order.
    """

    iteration: int
    curve: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Distilled:
    """What a distillation made, without gradients.

    Attributes:
        synthetic: the synthetic set of the selected iteration.
        average: its moving average, if one was kept; a selection by score chooses its iteration by its own score.
        selected: how that of the set was chosen; None: it is the last.
        average_selected: the same for the average.
        saturation: of the images at the start and at the end; None where that is not known.
    """

    synthetic: SyntheticSet
    average: SyntheticSet | None
    selected: Selected | None = None
    average_selected: Selected | None = None
    saturation: Saturation | None = None


@dataclass(frozen=True)
class Kept:
    """What is left of a distillation that was stopped.

    Attributes:
        synthetic: the best set so far, without gradients.
        iteration: it was made by, as a number of iterations done.
        why: it is called the best, in words.
    """

    synthetic: SyntheticSet
    iteration: int
    why: str


@dataclass(frozen=True)
class _Best:
    accuracy: float
    iteration: int
    synthetic: SyntheticSet


class Distiller:
    """Runs a method on a task inside a run folder.

    Args:
        method: yields the losses.
        task: what it distils.
        settings: of the loop.
        folder: where checkpoint and metrics lie; a checkpoint found there is continued.
        progress: reports iteration by iteration.
        score: accuracy of a set, for the selection of a checkpoint, or what asks for all that it needs; None keeps the
            last iteration.
        logger: told what ``metrics.jsonl`` holds, and of the images; begun here, closed by whoever made it.
        begun: is shown the set that the method starts from, also where a checkpoint is continued.
    """

    def __init__(
        self,
        method: Method,
        task: Task,
        settings: Distillation,
        folder: Path,
        progress: ProgressFactory,
        score: Score | None = None,
        logger: RunLogger | None = None,
        begun: Callable[[SyntheticSet], None] = lambda synthetic: None,
    ) -> None:
        self.method, self.settings, self.folder, self.progress, self.score = method, settings, folder, progress, score
        self.logger, self._data = logger or GuardedLoggers(), task.data
        self._mark: Mark | None = None
        stored = self._stored()  # first: what is refused changes nothing in the folder
        with memory_named("preparing the distillation", NEEDS_LESS):
            self.synthetic, self.preparing = _prepared(method, task)
        self._check_ipc = partial(_check_ipc, method, task.ipc)
        self._check_ipc(self.synthetic)
        begun(self.synthetic)
        self.optimisers = Optimisers(self.synthetic, settings, task.compute.stacked)
        self.average: MovingAverage | None = None
        if settings.average_decay is not None:
            self.average = MovingAverage(self.synthetic, settings.average_decay, settings.average_labels)
        self.guard = Guard(settings, self.synthetic, method.no_progress, self._data.pixels)
        self._best: dict[str, _Best] = {}
        self._curves: dict[str, list[tuple[int, float]]] = {}
        self._onward: State = {}
        self.first = self._done = 0
        self.seconds = self.preparing
        """Seconds spent, the set's preparation and earlier sessions of a resumed run included, experts not."""
        if stored is not None:
            try:
                self._load(stored)
            except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
                path = folder / CHECKPOINT
                raise FileFormatError(f"{path}: does not fit this run ({error!r}); {REMEDY}") from error

    def run(self) -> Distilled:
        """Run the remaining iterations and return what they made.

        Raises:
            DivergedError: a loss became NaN or infinite, alpha not positive, or the guard saw it come to nothing; the
                last checkpoint is kept, and :meth:`kept` returns the best set so far.
            OutOfMemoryError: likewise.
            StorageError: a file cannot be written.
            Stopped: a signal asked to stop; a checkpoint of the last finished iteration is written.
        """
        return alone(self.run_side_by_side())

    def run_side_by_side(self) -> Asking[Distilled]:
        """Do what :meth:`run` does, and ask for what runs side by side compute as one."""
        with (
            closing(JsonLines(self._mark)) as metrics,
            self.progress("distilling", self.settings.iterations, self.first) as bar,
            memory_named("distilling", NEEDS_LESS),
        ):
            metrics.begin(self.folder, self.first)
            self.logger.begin(self.folder, self.first)
            yield from self._loop(metrics, bar)
        chosen = self._candidates() | {name: best.synthetic for name, best in self._best.items()}
        for made in chosen.values():
            self._check_ipc(made)
        selected = {name: Selected(best.iteration, tuple(self._curves[name])) for name, best in self._best.items()}
        return Distilled(
            chosen["synthetic"], chosen.get("average"), selected.get("synthetic"), selected.get("average"),
            self.guard.saturation,
        )  # fmt: skip

    def kept(self) -> Kept:
        """Return the best set so far of a distillation that diverged."""
        if best := self._best.get("synthetic"):
            return Kept(best.synthetic, best.iteration, "the best by accuracy of those that were scored")
        if self.guard.best is not None:
            return Kept(self.guard.best, self.guard.best_at, self.guard.best_is)
        return Kept(self.synthetic.detached(), self._done, "the last one")

    def _loop(self, metrics: JsonLines, bar: Progress) -> Asking[None]:
        settings, began = self.settings, own_seconds() - self.seconds
        starvation = Starvation(lambda line: self.progress(line, 0), self.synthetic.images.device)
        with deferred():
            for step in range(self.first, settings.iterations):
                terms = yield from self._iterate(step)
                self._done = done = step + 1
                self.guard.look(done, terms, self.synthetic)
                self.seconds = own_seconds() - began
                last, logged = done == settings.iterations, step % settings.log_every == 0
                scored = self.score is not None and done % settings.evaluate_every == 0
                yield from self._record(step, terms if logged else None, scored, metrics, bar)
                if last:
                    self._onward = self._so_far(metrics.mark())  # a run of more iterations goes on from here
                    scored = self.score is not None and not scored
                    yield from self._record(step, None if logged else terms, scored, metrics, bar)
                self.logger.images(step, lambda: self._data.pixels(self.synthetic.images.detach()).cpu())
                stopping = asked_to_stop()
                if done % settings.checkpoint_every == 0 or done == settings.iterations or stopping:
                    write_checkpoint(self.folder / CHECKPOINT, self._state(done, metrics.mark()))
                bar.advance(1)
                starvation.look()
                if stopping:
                    stop_if_asked()

    def _record(
        self, step: int, terms: list[LossTerm] | None, scored: bool, metrics: JsonLines, bar: Progress
    ) -> Asking[None]:
        """Write one line of what is asked for: of the ``terms``, and of the accuracies by which one is chosen."""
        row = {} if terms is None else self._row(terms)
        if scored and self.score is not None:
            row |= yield from self._select(step + 1, self.score)
        if row or terms is not None:  # a method without losses has its lines as well
            metrics.scalars(step, row)
            self.logger.scalars(step, row)
        if terms is not None:
            bar.advance(0, **{key: row[key] for key in ("loss",) if key in row})

    def _iterate(self, step: int) -> Asking[list[LossTerm]]:
        found: list[LossTerm] = []

        def descend(term: LossTerm) -> Asking[None]:
            found.append((yield from self._descend(term, step)))

        yield from with_each(self.method.losses_side_by_side(self.synthetic, step), descend)
        if self.average is not None:
            self.average.update(self.synthetic)
        self.method.after_step(step)
        return found

    def _descend(self, term: LossTerm, step: int) -> Asking[LossTerm]:
        """Take a step down one term; return it without its graph, and what that holds."""
        if not is_scalar_loss(term.loss):
            shape = getattr(term.loss, "shape", term.loss)
            raise PluginError(f"{type(self.method).__name__}: yields losses that are no scalars but {shape!r}; "
                              f"reduce them, such as by .sum()")  # fmt: skip
        if term.watched is not None and not is_scalar_loss(term.watched):
            shape = getattr(term.watched, "shape", term.watched)
            raise PluginError(f"{type(self.method).__name__}: what is watched of its losses is no scalar but "
                              f"{shape!r}; reduce it, such as by .sum(), or leave it out")  # fmt: skip
        try:
            yield from self.optimisers.step_side_by_side(term.loss, self.settings.skip_above)
        except (NonFiniteLossError, StepSizeError) as error:
            raise type(error)(self._explain(error, step, term)) from None
        watched = None if term.watched is None else term.watched.detach()
        return replace(term, loss=term.loss.detach(), watched=watched)

    def _explain(self, error: DivergedError, step: int, term: LossTerm) -> str:
        numbers = {name: float(part) for name, part in term.logs.items()}
        if self.synthetic.step_size is not None:
            numbers["step size"] = float(self.synthetic.step_size.detach())
        parts = ", ".join(f"{name}={number:g}" for name, number in numbers.items())
        return f"iteration {step}: {error} ({parts}). {self.guard.advice(self.synthetic, error)}"

    def _row(self, terms: list[LossTerm]) -> dict[str, float]:
        row: dict[str, float] = {}
        losses = [float(term.loss) for term in terms]
        if losses:
            row["loss"] = sum(losses)
        if self.settings.skip_above is not None:
            row["skipped"] = sum(loss > self.settings.skip_above for loss in losses)
        numbers: dict[str, list[float]] = {}
        for term in terms:
            for name, value in term.logs.items():
                numbers.setdefault(name, []).append(float(value))
        row |= {name: fmean(values) for name, values in numbers.items()}
        if self.synthetic.step_size is not None:
            row["step_size"] = float(self.synthetic.step_size.detach())
        if self.settings.images.learning_rate:
            row["saturation"] = self.guard.look_at_images(self.synthetic)
        return row

    def _candidates(self) -> dict[str, SyntheticSet]:
        candidates = {"synthetic": self.synthetic.detached()}
        if self.average is not None:
            candidates["average"] = self.average.of(self.synthetic)
        return candidates

    def _select(self, done: int, score: Score) -> Asking[dict[str, float]]:
        """Score the set and its average, keep the best of each, and return the accuracies by the log's names."""
        row = {}
        for name, candidate in self._candidates().items():
            found = score(candidate)
            accuracy = (yield from found) if isinstance(found, Generator) else found
            self._curves.setdefault(name, []).append((done, accuracy))
            if name not in self._best or accuracy > self._best[name].accuracy:
                self._best[name] = _Best(accuracy, done, candidate)
            split = "validation" if self.settings.selection == "validation" else "test"
            row[f"{split}_accuracy" + ("" if name == "synthetic" else f"_{name}")] = accuracy
        return row

    def _so_far(self, mark: Mark) -> State:
        """Return how far the log is written, and which sets were scored with what accuracies."""
        state: State = {"metrics": {"length": mark.length, "sha256": mark.sha256}}
        for name, best in self._best.items():
            scored = {"accuracy": best.accuracy, "iteration": best.iteration, "curve": list(self._curves[name])}
            state.setdefault("best", {})[name] = scored | tensors_of(best.synthetic)
        return state

    def _state(self, done: int, mark: Mark) -> State:
        state: State = {
            "done": done,
            "data": self._data.fingerprint,
            "seconds": self.seconds,
            **self._so_far(mark),
            "guard": self.guard.state_dict(),
            "optimisers": self.optimisers.state_dict(),
            "method": self.method.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        return state | ({"onward": self._onward} if done == self.settings.iterations else {})

    def _stored(self) -> State | None:
        """Return what an interrupted process stored, or None.

        Raises:
            FileFormatError: damaged, or of other data.
        """
        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        state = read_checkpoint(path)
        if state.get("data") != self._data.fingerprint:
            raise FileFormatError(
                f"{path}: was made with other data: their fingerprint was {state.get('data')} and is now "
                f"{self._data.fingerprint}; bring the data back as they were, or begin again in another folder"
            )
        return state

    def _load(self, state: State) -> None:
        self.first = self._done = int(state["done"])
        self.seconds = float(state["seconds"])
        if not 0 < self.first <= self.settings.iterations or not 0 <= self.seconds < math.inf:
            raise ValueError(f"{self.first} iterations are done, in {self.seconds:g} s")
        # what the last iteration added off the beat is none of a run that goes further
        so_far: State = state.get("onward", state) if self.first < self.settings.iterations else state
        self._mark = Mark(int(so_far["metrics"]["length"]), str(so_far["metrics"]["sha256"]))
        self.optimisers.load_state_dict(state["optimisers"])
        self.method.load_state_dict(state.get("method", {}))
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if "guard" in state:  # not in those of earlier versions
            self.guard.load_state_dict(state["guard"], self.synthetic)
        for name, stored in so_far.get("best", {}).items():
            best, curve = set_of(self.synthetic, stored), stored.get("curve", [])
            self._curves[name] = [(int(done), float(accuracy)) for done, accuracy in curve]
            self._best[name] = _Best(float(stored["accuracy"]), int(stored.get("iteration", 0)), best)


def _prepared(method: Method, task: Task) -> tuple[SyntheticSet, float]:
    """Return the set that a method starts from, and the seconds it took without those of opening experts."""
    began, opening = own_seconds(), 0.0

    def opened(epochs: int) -> Trajectories:
        nonlocal opening
        since = own_seconds()
        try:
            return task.experts(epochs)
        finally:
            opening += own_seconds() - since

    synthetic = method.setup(replace(task, experts=opened))
    return synthetic, own_seconds() - began - opening


def _check_ipc(method: Method, ipc: int, synthetic: SyntheticSet) -> None:
    try:
        synthetic.check_ipc(ipc)
    except ValueError as error:
        raise PluginError(f"{type(method).__name__}: the set it makes is not of that many images per class: {error}; "
                          f"return ipc images of every class from setup()") from None  # fmt: skip
