"""The distillation loop: losses in, synthetic set out; checkpointed, resumable, logged."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from torch import Tensor

from hoptm_plugin.core.errors import NonFiniteLossError
from hoptm_plugin.core.interfaces import LossTerm, Method, State, Task
from hoptm_plugin.core.loggers import RunLogger
from hoptm_plugin.core.progress import ProgressFactory
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.average import MovingAverage
from hoptm_plugin.engine.checkpoint import read_checkpoint, write_checkpoint
from hoptm_plugin.engine.optimisers import Optimisers
from hoptm_plugin.engine.settings import Distillation
from hoptm_plugin.loggers import GuardedLoggers, JsonLines

CHECKPOINT = "checkpoint.safetensors"


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
        self.synthetic = method.setup(task)
        begun(self.synthetic)
        self.optimisers = Optimisers(self.synthetic, settings)
        self.average: MovingAverage | None = None
        if settings.average_decay is not None:
            self.average = MovingAverage(self.synthetic, settings.average_decay, settings.average_labels)
        self._best: dict[str, tuple[float, SyntheticSet]] = {}
        self.first = 0
        self.seconds = 0.0
        """Seconds spent in the loop, earlier sessions of a resumed run included."""
        if (folder / CHECKPOINT).exists():
            self._restore(read_checkpoint(folder / CHECKPOINT))

    def run(self) -> Distilled:
        """Run the remaining iterations and return what they made.

        Raises:
            NonFiniteLossError: a loss became NaN or infinite; the last checkpoint is kept.
        """
        settings = self.settings
        with closing(JsonLines()) as metrics, self.progress("distilling", settings.iterations, self.first) as bar:
            metrics.begin(self.folder, self.first)
            self.logger.begin(self.folder, self.first)
            began = time.perf_counter() - self.seconds
            for step in range(self.first, settings.iterations):
                terms = self._iterate(step)
                done = step + 1
                self.seconds = time.perf_counter() - began
                if step % settings.log_every == 0 or done == settings.iterations:
                    row = self._row(terms)
                    metrics.scalars(step, row)
                    self.logger.scalars(step, row)
                    bar.advance(0, **{key: row[key] for key in ("loss",) if key in row})
                self.logger.images(step, self._pixels)
                if self.score is not None and (done % settings.evaluate_every == 0 or done == settings.iterations):
                    self._select(self.score)
                if done % settings.checkpoint_every == 0 or done == settings.iterations:
                    write_checkpoint(self.folder / CHECKPOINT, self._state(done))
                bar.advance(1)
        chosen = self._candidates() | {name: best for name, (_, best) in self._best.items()}
        return Distilled(chosen["synthetic"], chosen.get("average"))

    def _iterate(self, step: int) -> list[LossTerm]:
        terms = []
        for term in self.method.losses(self.synthetic, step):
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

    def _pixels(self) -> Tensor:
        return self._data.pixels(self.synthetic.images.detach()).cpu()

    def _row(self, terms: list[LossTerm]) -> dict[str, float]:
        row: dict[str, float] = {}
        losses = [float(term.loss.detach()) for term in terms]
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

    def _state(self, done: int) -> State:
        state: State = {
            "done": done,
            "seconds": self.seconds,
            "optimisers": self.optimisers.state_dict(),
            "method": self.method.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        for name, (accuracy, best) in self._best.items():
            tensors: dict[str, Tensor] = {"images": best.images, "labels": best.labels}
            if best.step_size is not None:
                tensors["step_size"] = best.step_size
            state.setdefault("best", {})[name] = {"accuracy": accuracy, **tensors}
        return state

    def _restore(self, state: State) -> None:
        self.first, self.seconds = int(state["done"]), float(state["seconds"])
        self.optimisers.load_state_dict(state["optimisers"])
        self.method.load_state_dict(state.get("method", {}))
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for name, stored in state.get("best", {}).items():
            best = self.synthetic.detached()
            device = best.images.device
            best.images, best.labels = stored["images"].to(device), stored["labels"].to(device)
            if "step_size" in stored:
                best.step_size = stored["step_size"].to(device)
            self._best[name] = (float(stored["accuracy"]), best)
