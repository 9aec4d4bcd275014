"""The distillation loop: losses in, synthetic set out; checkpointed, resumable, logged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

from torch import Tensor

from hoptm_plugin.core.errors import FileFormatError, NonFiniteLossError, PluginError
from hoptm_plugin.core.interfaces import LossTerm, Method, State, Task
from hoptm_plugin.core.loggers import RunLogger
from hoptm_plugin.core.observations import is_scalar_loss
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.average import MovingAverage
from hoptm_plugin.engine.checkpoint import REMEDY, read_checkpoint, take_back, write_checkpoint
from hoptm_plugin.engine.optimisers import Optimisers
from hoptm_plugin.engine.settings import Distillation
from hoptm_plugin.loggers import GuardedLoggers, JsonLines, Mark
from hoptm_plugin.runtime.memory import memory_named
from hoptm_plugin.runtime.progress import Progress, ProgressFactory
from hoptm_plugin.runtime.stopping import asked_to_stop, deferred, stop_if_asked

CHECKPOINT = "checkpoint.safetensors"
NEEDS_LESS = (
    "set runtime.unroll=adjoint, runtime.memory_budget=0 or runtime.precision=bf16 (other rounding), or take a smaller "
    "method.student_batch"
)


@dataclass(frozen=True)
class Distilled:
    """What a distillation made, without gradients.

    Attributes:
        synthetic: the synthetic set of the selected iteration.
        average: its moving average, if one was kept; a selection by score chooses its iteration by its own score.
    """

    synthetic: SyntheticSet
    average: SyntheticSet | None


class Distiller:
    """Runs a method on a task inside a run folder.

    Args:
        method: yields the losses.
        task: what it distils.
        settings: of the loop.
        folder: where checkpoint and metrics lie; a checkpoint found there is continued.
        progress: reports iteration by iteration.
        score: accuracy of a set, for the selection of a checkpoint; None keeps the last iteration.
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
        score: Callable[[SyntheticSet], float] | None = None,
        logger: RunLogger | None = None,
        begun: Callable[[SyntheticSet], None] = lambda synthetic: None,
    ) -> None:
        self.method, self.settings, self.folder, self.progress, self.score = method, settings, folder, progress, score
        self.logger, self._data = logger or GuardedLoggers(), task.data
        self._mark: Mark | None = None
        stored = self._stored()  # first: what is refused changes nothing in the folder
        with memory_named("preparing the distillation", NEEDS_LESS):
            self.synthetic = method.setup(task)
        self._check_ipc = partial(_check_ipc, method, task.ipc)
        self._check_ipc(self.synthetic)
        begun(self.synthetic)
        self.optimisers = Optimisers(self.synthetic, settings)
        self.average: MovingAverage | None = None
        if settings.average_decay is not None:
            self.average = MovingAverage(self.synthetic, settings.average_decay, settings.average_labels)
        self._best: dict[str, tuple[float, SyntheticSet]] = {}
        self.first = 0
        self.seconds = 0.0
        """Seconds spent in the loop, earlier sessions of a resumed run included."""
        if stored is not None:
            try:
                self._load(stored)
            except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
                path = folder / CHECKPOINT
                raise FileFormatError(f"{path}: does not fit this run ({error!r}); {REMEDY}") from error

    def run(self) -> Distilled:
        """Run the remaining iterations and return what they made.

        Raises:
            NonFiniteLossError: a loss became NaN or infinite; the last checkpoint is kept.
            OutOfMemoryError: likewise.
            StorageError: a file cannot be written.
            Stopped: a signal asked to stop; a checkpoint of the last finished iteration is written.
        """
        with (
            closing(JsonLines(self._mark)) as metrics,
            self.progress("distilling", self.settings.iterations, self.first) as bar,
            memory_named("distilling", NEEDS_LESS),
        ):
            metrics.begin(self.folder, self.first)
            self.logger.begin(self.folder, self.first)
            self._loop(metrics, bar)
        chosen = self._candidates() | {name: best for name, (_, best) in self._best.items()}
        for made in chosen.values():
            self._check_ipc(made)
        return Distilled(chosen["synthetic"], chosen.get("average"))

    def _loop(self, metrics: JsonLines, bar: Progress) -> None:
        settings, began = self.settings, time.perf_counter() - self.seconds
        with deferred():
            for step in range(self.first, settings.iterations):
                terms = self._iterate(step)
                done = step + 1
                self.seconds = time.perf_counter() - began
                if step % settings.log_every == 0 or done == settings.iterations:
                    row = self._row(terms)
                    metrics.scalars(step, row)
                    self.logger.scalars(step, row)
                    bar.advance(0, **{key: row[key] for key in ("loss",) if key in row})
                self.logger.images(step, lambda: self._data.pixels(self.synthetic.images.detach()).cpu())
                if self.score is not None and (done % settings.evaluate_every == 0 or done == settings.iterations):
                    self._select(self.score)
                stopping = asked_to_stop()
                if done % settings.checkpoint_every == 0 or done == settings.iterations or stopping:
                    write_checkpoint(self.folder / CHECKPOINT, self._state(done, metrics.mark()))
                bar.advance(1)
                if stopping:
                    stop_if_asked()

    def _iterate(self, step: int) -> list[LossTerm]:
        terms = []
        for term in self.method.losses(self.synthetic, step):
            if not is_scalar_loss(term.loss):
                shape = getattr(term.loss, "shape", term.loss)
                raise PluginError(f"{type(self.method).__name__}: yields losses that are no scalars but {shape!r}; "
                                  f"reduce them, such as by .sum()")  # fmt: skip
            try:
                self.optimisers.step(term.loss, self.settings.skip_above)
            except NonFiniteLossError as error:
                raise NonFiniteLossError(self._explain(error, step, term)) from None
            terms.append(replace(term, loss=term.loss.detach()))  # not the graph, and what it holds
        if self.average is not None:
            self.average.update(self.synthetic)
        self.method.after_step(step)
        return terms

    def _explain(self, error: NonFiniteLossError, step: int, term: LossTerm) -> str:
        numbers = {name: float(part) for name, part in term.logs.items()}
        if self.synthetic.step_size is not None:
            numbers["step size"] = float(self.synthetic.step_size.detach())
        parts = ", ".join(f"{name}={number:g}" for name, number in numbers.items())
        return (
            f"iteration {step}: {error} ({parts}). The synthetic set of the last checkpoint is kept. Lower "
            f"distillation.images.learning_rate, distillation.step_size.learning_rate or method.step_size."
        )

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
        return row

    def _candidates(self) -> dict[str, SyntheticSet]:
        candidates = {"synthetic": self.synthetic.detached()}
        if self.average is not None:
            candidates["average"] = self.average.of(self.synthetic)
        return candidates

    def _select(self, score: Callable[[SyntheticSet], float]) -> None:
        for name, candidate in self._candidates().items():
            accuracy = score(candidate)
            if name not in self._best or accuracy > self._best[name][0]:
                self._best[name] = (accuracy, candidate)

    def _state(self, done: int, mark: Mark) -> State:
        state: State = {
            "done": done,
            "data": self._data.fingerprint,
            "seconds": self.seconds,
            "metrics": {"length": mark.length, "sha256": mark.sha256},
            "optimisers": self.optimisers.state_dict(),
            "method": self.method.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        for name, (accuracy, best) in self._best.items():
            state.setdefault("best", {})[name] = {"accuracy": accuracy, **_tensors(best)}
        return state

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
        self.first, self.seconds = int(state["done"]), float(state["seconds"])
        if not 0 < self.first <= self.settings.iterations or not 0 <= self.seconds < math.inf:
            raise ValueError(f"{self.first} iterations are done, in {self.seconds:g} s")
        self._mark = Mark(int(state["metrics"]["length"]), str(state["metrics"]["sha256"]))
        self.optimisers.load_state_dict(state["optimisers"])
        self.method.load_state_dict(state.get("method", {}))
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for name, stored in state.get("best", {}).items():
            best = self.synthetic.detached()
            for part, tensor in _tensors(best).items():
                take_back(tensor, stored[part])
            self._best[name] = (float(stored["accuracy"]), best)


def _check_ipc(method: Method, ipc: int, synthetic: SyntheticSet) -> None:
    try:
        synthetic.check_ipc(ipc)
    except ValueError as error:
        raise PluginError(f"{type(method).__name__}: the set it makes is not of that many images per class: {error}; "
                          f"return ipc images of every class from setup()") from None  # fmt: skip


def _tensors(synthetic: SyntheticSet) -> dict[str, Tensor]:
    parts = {"images": synthetic.images, "labels": synthetic.labels, "step_size": synthetic.step_size}
    return {name: tensor for name, tensor in parts.items() if tensor is not None}
