"""Trajectory matching: one method, composed five ways (MTT, FTD, DATM, ATT, HoP-TM)."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from hoptm_plugin.core.asking import Ask, Asking
from hoptm_plugin.core.errors import Problems
from hoptm_plugin.core.interfaces import (
    Excerpt,
    Gradient,
    Initialiser,
    LabelPolicy,
    LossTerm,
    Matcher,
    Method,
    Number,
    Schedule,
    Scheduler,
    SegmentSampler,
    State,
    Task,
    TrajectoryView,
    matchers,
    terms,
    value_at,
)
from hoptm_plugin.core.observations import TrajectoryPair
from hoptm_plugin.core.registry import convert, register
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.networks.flat import FlatNetwork
from hoptm_plugin.networks.needs import network_problems
from hoptm_plugin.runtime.compute import keep_freed_memory
from hoptm_plugin.trajectory.initial import class_major
from hoptm_plugin.trajectory.sampler import plan_batches
from hoptm_plugin.trajectory.segments import PrefetchedSegments
from hoptm_plugin.trajectory.stored import StoredImages, StoredLabels
from hoptm_plugin.trajectory.student import StudentStep
from hoptm_plugin.trajectory.unroll import Unroll

LATE = 10**9  # an iteration by which every schedule has come to its end


@dataclass(frozen=True)
class WeightedMatcher:
    """A matcher and its weight in the total loss (lambda for HoP-TM's shape term)."""

    kind: ClassVar[type] = Matcher  # what a mapping that it is built from describes
    matcher: Matcher
    weight: Number = 1.0

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], path: str) -> WeightedMatcher:
        """Build from one mapping: ``name``, ``weight``, and the matcher's own settings."""
        problems = Problems()
        matcher = problems.attempt(
            lambda: matchers.build({key: value for key, value in spec.items() if key != "weight"}, path)
        )
        weight = problems.attempt(lambda: convert(Number, spec.get("weight", 1.0), f"{path}.weight"))
        problems.raise_if_any()
        return cls(matcher, weight)  # type: ignore[arg-type]


@register("trajectory_matching")
class TrajectoryMatching(Method):
    """Makes a student trained on the synthetic set follow the experts: L = sum_m weight_m * L_m(expert, student).

    One iteration: draw an expert and a start epoch t; unroll the student from theta_t for N steps on augmented
    synthetic mini-batches; let the schedulers weigh the parameters; sum the matchers' losses against
    theta_t ... theta_{t+M}.

    Args:
        matchers: what is compared, by a name of your own.
        sampler: draws expert and start epoch.
        labels: label policy.
        initial_images: where distillation starts.
        student_steps: of one unroll, N.
        expert_epochs: that these should reach, M.
        student_batch: synthetic images per student step; None takes the whole set.
        step_size: initial alpha; it is learned.
        schedulers: pace the matching; weights multiply and ranges of start epochs intersect.
        gradient: "exact", or TESLA's approximation: "tesla", or "tesla_halved" as its released code has it; see
            :func:`hoptm_plugin.trajectory.unroll`.
        view: shows the experts otherwise than as they are stored; None: as they are.

    Source: Cazenavette et al. 2022 (arXiv 2203.11932), Algorithm 1; HoP-TM (Dong et al. 2025), Algorithm 1 and
    Eq. 8; docs/methods.md 2.4.
    """

    cites = ("cazenavette2022mtt",)
    no_progress = 1.0  # losses are ratios to the segment's length

    def __init__(
        self,
        matchers: Mapping[str, WeightedMatcher],
        sampler: SegmentSampler,
        labels: LabelPolicy,
        initial_images: Initialiser,
        student_steps: int,
        expert_epochs: int,
        student_batch: int | None,
        step_size: float,
        schedulers: Mapping[str, Scheduler] | None = None,
        gradient: Gradient = "exact",
        view: TrajectoryView | None = None,
    ) -> None:
        if min(student_steps, expert_epochs) < 1 or (student_batch is not None and student_batch < 1):
            raise ValueError("student_steps, expert_epochs and student_batch must be at least 1")
        if step_size <= 0:
            raise ValueError("step_size must be above 0")
        if not matchers:
            raise ValueError("at least one matcher is needed")
        self.matchers, self.schedulers = dict(matchers), dict(schedulers or {})
        self.sampler, self.labels, self.initial_images = sampler, labels, initial_images
        self.student_steps, self.expert_epochs, self.student_batch = student_steps, expert_epochs, student_batch
        self.step_size, self.gradient, self.view = step_size, gradient, view
        self.images_are = initial_images.images_are

    def last_expert_epoch(self) -> int:
        """Return the epoch up to which experts are read."""
        segments = self.sampler.last_start_epoch() + self.expert_epochs
        if self.view is not None:
            segments = self.view.last_expert_epoch(segments)
        return max(segments, self.labels.last_expert_epoch(), self.initial_images.last_expert_epoch())

    def problems(self, task: Task) -> list[str]:
        """Return what does not fit together."""
        found = [
            f"method.matchers.{name}: {problem}"
            for name, term in self.matchers.items()
            for problem in term.matcher.problems(self.expert_epochs, self.student_steps)
        ]
        found += self._view_problems()
        found += [f"method.labels.{problem}" for problem in self.labels.problems(task)]
        found += [f"method.initial_images.{problem}" for problem in self.initial_images.problems(task)]
        start = self.initial_images.path if isinstance(self.initial_images, StoredImages) else None
        if isinstance(self.labels, StoredLabels) and self.labels.path != start:
            found.append(f"method.labels.path: {self.labels.path} holds the labels of other images than the run starts "
                         f"from; set method.initial_images={{name: stored, path: ...}} to the same set")  # fmt: skip
        for name, scheduler in self.schedulers.items():
            bounds = [scheduler.start_epochs(step) for step in (0, LATE)]
            if any(bound is not None and bound[1] > self.sampler.last_start_epoch() for bound in bounds):
                found.append(f"method.schedulers.{name}: opens start epochs the sampler never draws; "
                             f"raise method.sampler.max_start_epoch")  # fmt: skip
        try:
            self.sampler.draw(1, self._bounds(0), 0, task.seeds)
        except ValueError as error:
            found.append(f"method.schedulers: {error}; lower method.sampler.min_start_epoch or widen the schedule")
        network, images = task.network(torch.Generator()), task.train.batch(slice(0, 2))
        unfit = network_problems(network, images, "no_randomness", "no_state", classes=len(task.data.class_names))
        step = StudentStep(FlatNetwork(network), task.compute.compiled, task.compute.precision)
        return [*found, *(unfit or step.problems(images[:1], task.train.labels[:1]))]

    def _view_problems(self) -> list[str]:
        if self.sampler.continuous and not (self.view is not None and self.view.continuous):
            return ["method.sampler: draws start times between epochs, where experts as they are stored have no "
                    "parameters; set method.view to one that has, or method.sampler.continuous=false"]  # fmt: skip
        if self.view is None:
            return []
        problems = self.view.problems(self.sampler.last_start_epoch(), self.expert_epochs)
        return [f"method.view.{problem}" for problem in problems]

    def setup(self, task: Task) -> SyntheticSet:
        """Open the experts (training what is missing) and return the initial synthetic set."""
        self._task = task
        self._network = FlatNetwork(task.network(task.seeds.generator("container")))
        stored = task.experts(self.last_expert_epoch())
        shown = stored if self.view is None else self.view.view(stored, self._network.sizes)
        self._trajectories = PrefetchedSegments(shown)
        compute = task.compute
        self._step = StudentStep(self._network, compute.compiled, compute.precision, compute.captured)
        images = self.initial_images.images(task)
        self.images_are = self.initial_images.images_are  # it may know better by now
        labels = self.labels.initial(images, class_major(task), task)
        step_size = torch.tensor(self.step_size, dtype=images.dtype, device=images.device)
        synthetic = SyntheticSet(images, labels, step_size, task.data.class_names, task.data.normalisation)
        batch = slice(0, self.student_batch)
        example = images.detach()[batch], synthetic.targets.detach()[batch]
        keep_freed_memory(images.device, lambda: self._step.graph_bytes(self._network.flatten(), *example))
        return synthetic

    def losses(self, synthetic: SyntheticSet, step: int) -> Iterator[LossTerm]:
        """Yield the one loss of iteration ``step``."""
        yield from terms(self._losses(synthetic, step))

    def losses_side_by_side(self, synthetic: SyntheticSet, step: int) -> Generator[LossTerm | Ask[Any], Any, None]:
        """Ask for the student's path, and yield the one loss of iteration ``step``."""
        yield from self._losses(synthetic, step)

    def _losses(self, synthetic: SyntheticSet, step: int) -> Generator[LossTerm | Ask[Any], Any, None]:
        pair = yield from self.observe(synthetic, step)
        detached = pair.detached()
        weights: Tensor | None = None  # v of HoP-TM Eq. 8
        for scheduler in self.schedulers.values():
            chosen = scheduler.parameter_weights(detached)
            if chosen is not None:
                weights = chosen if weights is None else weights * chosen
        pair = replace(pair, weights=weights)
        losses = {name: term.matcher.loss(pair) for name, term in self.matchers.items()}
        # HoP-TM Eq. 8: the end point's sum_i v_i l_i plus lambda L_hotm; -kappa sum_i v_i has no gradient, so is logged
        total = torch.stack([value_at(self.matchers[name].weight, step) * loss for name, loss in losses.items()]).sum()
        logs: dict[str, float | Tensor] = {name: loss.detach() for name, loss in losses.items()}
        for scheduler in self.schedulers.values():
            logs.update(scheduler.logs())
        for term in self.matchers.values():
            logs.update(term.matcher.logs())
        yield LossTerm(total, logs, self._watched(detached, weights, total.detach()))

    def _watched(self, pair: TrajectoryPair, weights: Tensor | None, total: Tensor) -> Tensor:
        """Return the loss for a weight of one, or the student's distance where it is of other things, 0-d."""
        fixed = [term.weight for term in self.matchers.values() if not isinstance(term.weight, Schedule)]
        if weights is None and len(fixed) == len(self.matchers):
            return total / (sum(fixed) or 1.0)  # as an average, so that 1 is what it comes to where nothing is learned
        return pair.squared_errors.sum() / pair.squared_distances.sum()

    def observe(self, synthetic: SyntheticSet, step: int) -> Asking[TrajectoryPair]:
        """Draw the segment, the mini-batches and the augmentation of iteration ``step``, and ask for the path."""
        task = self._task
        assert synthetic.step_size is not None
        segment = self._trajectories.segment(*self._segment_of(step))
        # parts with a memory must not be asked twice
        if not any(part.state_dict() for part in (self.sampler, *self.schedulers.values())):
            self._trajectories.announce(*self._segment_of(step + 1))
        generator = task.seeds.generator("batches", step)
        rows, sizes = plan_batches(len(synthetic.images), self.student_batch, self.student_steps, generator)
        indices = rows.to(synthetic.images.device)
        images = synthetic.images.index_select(0, indices)
        generator = task.seeds.generator("augmentation", step)
        draws = [task.augmentation.draw(size, task.data.image_shape, generator) for size in sizes]
        images = task.augmentation.apply_many(images, draws, sizes)
        targets = synthetic.targets.index_select(0, indices)
        # buffers may hold what parameters do not tell
        architecture = None if next(self._network.module.buffers(), None) is not None else task.architecture
        path = yield Unroll(
            self._step, segment[0], images, targets, sizes, synthetic.step_size, task.compute, self.gradient,
            architecture,
        )  # fmt: skip
        return TrajectoryPair(segment, path, step, self._network.sizes)

    def _segment_of(self, step: int) -> tuple[int, float, float]:
        """Return expert, start and target, in epochs, that iteration ``step`` matches."""
        expert, start = self.sampler.draw(len(self._trajectories), self._bounds(step), step, self._task.seeds)
        return expert, start, start + self.expert_epochs

    def image_passes(self, classes: int, ipc: int) -> float:
        """Return N mini-batches three times: forward, again on the way back, and the second derivatives."""
        return 3.0 * self.student_steps * min(self.student_batch or classes * ipc, classes * ipc)

    def excerpt(self, share: float, task: Task) -> Excerpt:
        """Return it with fewer student steps and, where the fewest are too many, smaller mini-batches."""
        if share >= 1:
            return Excerpt(self)
        stored, steps = len(task.data.class_names) * task.ipc, range(1, self.student_steps + 1)
        terms = [term.matcher for term in self.matchers.values()]
        possible = [n for n in steps if not any(each.problems(self.expert_epochs, n) for each in terms)]
        part, whole = copy.copy(self), self._images(stored)
        part.student_steps = max((n for n in possible if n <= share * self.student_steps), default=possible[0])
        batch = min(self.student_batch or stored, stored)
        if part.student_steps > share * self.student_steps:
            wanted = max(part.student_steps, share * whole)
            for size in range(1, batch + 1):  # a first mini-batch is what a whole number of them leaves of the set
                part.student_batch = size
                if part._images(stored) >= wanted:
                    break
        time, images = part._images(stored) / whole, (part.student_batch or stored) / batch
        return Excerpt(part, time, time if task.compute.unroll == "full" else min(1.0, images))

    def _images(self, stored: int) -> int:
        """Return how many images one unroll looks at."""
        return sum(plan_batches(stored, self.student_batch, self.student_steps, torch.Generator())[1])

    def _bounds(self, step: int) -> tuple[int, int] | None:
        ranges = [bounds for part in self.schedulers.values() if (bounds := part.start_epochs(step)) is not None]
        return (max(low for low, _ in ranges), min(high for _, high in ranges)) if ranges else None

    def state_dict(self) -> State:
        """Return the state of every part."""
        return {
            "matchers": {name: term.matcher.state_dict() for name, term in self.matchers.items()},
            "schedulers": {name: scheduler.state_dict() for name, scheduler in self.schedulers.items()},
            "sampler": self.sampler.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Take every part's state back."""
        for name, term in self.matchers.items():
            term.matcher.load_state_dict(state.get("matchers", {}).get(name, {}))
        for name, scheduler in self.schedulers.items():
            scheduler.load_state_dict(state.get("schedulers", {}).get(name, {}))
        self.sampler.load_state_dict(state.get("sampler", {}))
