"""Contract tests that any plug-in inherits: subclass, name your parts, and pytest runs the checks.

    from hoptm_plugin.testing import MatcherContract

    class TestMine(MatcherContract):
        specs = [{"name": "mine"}, {"name": "mine", "sharpness": 2.0}]

Every check runs for every entry of ``specs``: a mapping as it stands in YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.interfaces import (
    Matcher,
    Part,
    Schedule,
    Scheduler,
    SegmentSampler,
    matchers,
    samplers,
    schedulers,
    schedules,
)
from hoptm_plugin.core.observations import TrajectoryPair, is_scalar_loss
from hoptm_plugin.core.registry import Registry
from hoptm_plugin.core.seeding import Seeds

EXPERT_EPOCHS, STUDENT_STEPS, SIZES = 3, 5, (6, 4, 2)


def example_pair(step: int = 0, requires_grad: bool = True) -> TrajectoryPair:
    """Return a small float64 pair: M = 3, N = 5, P = 12 in three tensors."""
    generator = Seeds(step).generator("example pair")
    parameters = sum(SIZES)
    expert = torch.randn(EXPERT_EPOCHS + 1, parameters, generator=generator, dtype=torch.float64).cumsum(dim=0)
    moves = torch.randn(STUDENT_STEPS, parameters, generator=generator, dtype=torch.float64)
    student = [expert[0].clone(), *(expert[0] + move for move in moves.cumsum(dim=0))]
    for point in student[1:]:
        point.requires_grad_(requires_grad)
    return TrajectoryPair(expert, student, step, SIZES)


class _Contract:
    """Runs each check over ``specs``; subclasses name the registry."""

    registry: ClassVar[Registry[Any]]
    specs: ClassVar[list[Mapping[str, Any]]] = []

    def build(self) -> list[Any]:
        """Return one fresh part per entry of ``specs``."""
        assert self.specs, f"{type(self).__name__}.specs is empty: name at least one part"
        return [self.registry.build(deepcopy(dict(spec))) for spec in self.specs]

    def test_is_explained(self) -> None:
        """The first line of the docstring says what the part does; ``hoptm-bench list`` shows it."""
        described = dict(self.registry.describe())
        for spec in self.specs:
            assert len(described[spec["name"]]) >= 10, f"{spec['name']} needs a docstring"

    def test_refuses_unknown_settings(self) -> None:
        """A misspelt setting is an error, never ignored."""
        for spec in self.specs:
            with pytest.raises(ConfigurationError, match="no_such_setting"):
                self.registry.build({**spec, "no_such_setting": 1})

    def test_global_randomness_untouched(self) -> None:
        """Parts draw from the generators they are handed, never from the global one."""
        before = torch.get_rng_state()
        for part in self.build():
            self.use(part, 0)
        assert torch.equal(before, torch.get_rng_state())

    def test_state_round_trip(self) -> None:
        """A part that takes back its state goes on as if it had never stopped."""
        for going_on, resumed in zip(self.build(), self.build(), strict=True):
            for step in range(3):
                self.use(going_on, step)
            resumed.load_state_dict(deepcopy(going_on.state_dict()))
            for step in range(3, 6):
                first, second = self.use(going_on, step), self.use(resumed, step)
                assert first == second if not isinstance(first, Tensor) else torch.equal(first, second)

    def use(self, part: Part, step: int) -> Any:
        """Return something comparable that the part gives at iteration ``step``."""
        raise NotImplementedError  # abstract


class MatcherContract(_Contract):
    """What every trajectory matcher must satisfy."""

    registry = matchers

    def use(self, part: Part, step: int) -> Tensor:
        """Return the loss of an example pair."""
        assert isinstance(part, Matcher)
        return part.loss(example_pair(step)).detach()

    def test_loss_is_a_finite_scalar_with_gradient(self) -> None:
        """The loss is 0-d, finite, and differentiable with respect to the student's path."""
        for matcher in self.build():
            pair = example_pair()
            loss = matcher.loss(pair)
            assert is_scalar_loss(loss)
            assert torch.isfinite(loss)
            gradients = torch.autograd.grad(loss, list(pair.student[1:]), allow_unused=True)
            found = [gradient for gradient in gradients if gradient is not None]
            assert found
            assert all(torch.isfinite(gradient).all() for gradient in found)

    def test_pair_is_not_mutated(self) -> None:
        """A matcher only reads."""
        for matcher in self.build():
            pair, untouched = example_pair(), example_pair()
            matcher.loss(pair)
            assert torch.equal(pair.expert, untouched.expert)
            assert all(torch.equal(a, b) for a, b in zip(pair.student, untouched.student, strict=True))

    def test_weights_of_zero_are_harmless(self) -> None:
        """An empty mask gives no NaN, neither in the loss nor in its gradient."""
        for matcher in self.build():
            pair = example_pair()
            empty = TrajectoryPair(pair.expert, pair.student, 0, SIZES, torch.zeros(sum(SIZES), dtype=torch.float64))
            loss = matcher.loss(empty)
            assert torch.isfinite(loss)
            if loss.requires_grad:
                gradients = torch.autograd.grad(loss, list(pair.student[1:]), allow_unused=True)
                assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)


class SchedulerContract(_Contract):
    """What every scheduler must satisfy."""

    registry = schedulers

    def use(self, part: Part, step: int) -> Any:
        """Return the bounds and the weights at a step."""
        assert isinstance(part, Scheduler)
        weights = part.parameter_weights(example_pair(step, requires_grad=False))
        return part.start_epochs(step), None if weights is None else weights.tolist()

    def test_decisions_are_in_range(self) -> None:
        """Weights lie in [0, 1], one per parameter; start epochs are an ordered pair from 0 on."""
        for scheduler in self.build():
            for step in range(4):
                pair = example_pair(step, requires_grad=False)
                weights = scheduler.parameter_weights(pair)
                if weights is not None:
                    assert weights.shape == pair.expert[0].shape
                    assert bool(((weights >= 0) & (weights <= 1)).all())
                bounds = scheduler.start_epochs(step)
                assert bounds is None or 0 <= bounds[0] <= bounds[1]


class ScheduleContract(_Contract):
    """What every schedule must satisfy: it is a pure function of the step."""

    registry = schedules

    def use(self, part: Part, step: int) -> float:
        """Return the number at a step."""
        assert isinstance(part, Schedule)
        return part.at(step)

    def test_is_a_pure_function_of_the_step(self) -> None:
        """Asking in another order gives the same numbers."""
        for schedule in self.build():
            forwards = [schedule.at(step) for step in range(5)]
            assert [schedule.at(step) for step in reversed(range(5))] == forwards[::-1]


class SamplerContract(_Contract):
    """What every segment sampler must satisfy."""

    registry = samplers

    def use(self, part: Part, step: int) -> tuple[int, int]:
        """Return what is drawn at a step."""
        assert isinstance(part, SegmentSampler)
        return part.draw(7, None, step, Seeds(0))

    def test_draws_stay_in_range(self) -> None:
        """Experts exist, and no start epoch lies beyond the announced last one."""
        for sampler in self.build():
            for step in range(50):
                expert, start = sampler.draw(7, None, step, Seeds(0))
                assert 0 <= expert < 7
                assert 0 <= start <= sampler.last_start_epoch()
