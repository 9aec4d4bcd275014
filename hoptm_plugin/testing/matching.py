"""Contracts of what is compared and when: matchers, schedulers, schedules, segment samplers, views."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from hoptm_plugin.core.interfaces import (
    ContinuousTrajectories,
    FeatureMatcher,
    GradientMatcher,
    Matcher,
    Schedule,
    Scheduler,
    SegmentSampler,
    Trajectories,
    TrajectoryView,
    feature_matchers,
    gradient_matchers,
    matchers,
    samplers,
    schedulers,
    schedules,
    views,
)
from hoptm_plugin.core.observations import FeaturePair, GradientPair, TrajectoryPair, is_scalar_loss
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.testing.contract import Contract, Spec, same
from hoptm_plugin.testing.examples import SIZES, example_experts, example_features, example_gradients, example_pair


class MatcherContract(Contract):
    """What every trajectory matcher must satisfy."""

    registry = matchers

    def use(self, part: Matcher, step: int) -> Tensor:
        """Return the loss of an example pair."""
        return part.loss(example_pair(step)).detach()

    def test_loss_is_a_finite_scalar_with_gradient(self, spec: Spec) -> None:
        """The loss is 0-d, finite, and differentiable with respect to the student's path."""
        pair = example_pair()
        loss = self.build(spec).loss(pair)
        assert is_scalar_loss(loss)
        assert torch.isfinite(loss)
        gradients = torch.autograd.grad(loss, list(pair.student[1:]), allow_unused=True)
        found = [gradient for gradient in gradients if gradient is not None]
        assert found, "the loss does not depend on the student's path"
        assert all(torch.isfinite(gradient).all() for gradient in found)

    def test_pair_is_not_mutated(self, spec: Spec) -> None:
        """A matcher only reads."""
        pair, untouched = example_pair(), example_pair()
        self.build(spec).loss(pair)
        assert torch.equal(pair.expert, untouched.expert)
        assert all(torch.equal(a, b) for a, b in zip(pair.student, untouched.student, strict=True))

    def test_weights_of_zero_are_harmless(self, spec: Spec) -> None:
        """An empty mask gives no NaN, neither in the loss nor in its gradient."""
        pair = example_pair()
        empty = TrajectoryPair(pair.expert, pair.student, 0, SIZES, torch.zeros(sum(SIZES), dtype=torch.float64))
        loss = self.build(spec).loss(empty)
        assert torch.isfinite(loss)
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, list(pair.student[1:]), allow_unused=True)
            assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)


class FeatureMatcherContract(Contract):
    """What every matcher of features must satisfy."""

    registry = feature_matchers

    def use(self, part: FeatureMatcher, step: int) -> Tensor:
        """Return the loss of example features."""
        return part.loss(example_features(step)).detach()

    def test_loss_is_a_finite_scalar_with_gradient(self, spec: Spec) -> None:
        """The loss is 0-d, finite, and differentiable in the synthetic features, of one image as of several."""
        for synthetic in (1, 3):
            self._gradient(spec, example_features(synthetic=synthetic))

    def test_equal_features_are_harmless(self, spec: Spec) -> None:
        """Where synthetic features equal the real ones, loss and gradient are finite: no root or division of 0."""
        real = example_features().real
        self._gradient(spec, FeaturePair(real, real.clone().requires_grad_(), 0, 0, example_features().generator))

    def test_pair_is_not_mutated(self, spec: Spec) -> None:
        """A matcher only reads."""
        pair, untouched = example_features(), example_features()
        self.build(spec).loss(pair)
        assert torch.equal(pair.real, untouched.real)
        assert torch.equal(pair.synthetic, untouched.synthetic)

    def _gradient(self, spec: Spec, pair: FeaturePair) -> None:
        loss = self.build(spec).loss(pair)
        assert is_scalar_loss(loss)
        assert torch.isfinite(loss)
        (gradient,) = torch.autograd.grad(loss, pair.synthetic)
        assert torch.isfinite(gradient).all()


class GradientMatcherContract(Contract):
    """What every matcher of gradients must satisfy."""

    registry = gradient_matchers

    def use(self, part: GradientMatcher, step: int) -> Tensor:
        """Return the loss of example gradients."""
        return part.loss(example_gradients(step)).detach()

    def test_loss_is_a_finite_scalar_with_gradient(self, spec: Spec) -> None:
        """The loss is 0-d, finite, and differentiable in the synthetic images' gradients."""
        self._gradient(spec, example_gradients())

    def test_equal_and_zero_gradients_are_harmless(self, spec: Spec) -> None:
        """Where gradients equal each other, or are all 0, nothing is divided by 0: loss and gradient are finite."""
        for factor in (0, 1):
            real = [factor * part for part in example_gradients().real]
            self._gradient(spec, GradientPair(real, [part.clone().requires_grad_() for part in real], 0, 0))

    def test_pair_is_not_mutated(self, spec: Spec) -> None:
        """A matcher only reads."""
        pair, untouched = example_gradients(), example_gradients()
        self.build(spec).loss(pair)
        for given, before in ((pair.real, untouched.real), (pair.synthetic, untouched.synthetic)):
            assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))

    def _gradient(self, spec: Spec, pair: GradientPair) -> None:
        loss = self.build(spec).loss(pair)
        assert is_scalar_loss(loss)
        assert torch.isfinite(loss)
        found = torch.autograd.grad(loss, list(pair.synthetic), allow_unused=True)
        parts = [part for part in found if part is not None]
        assert parts, "the loss does not depend on the synthetic images' gradients"
        assert all(torch.isfinite(part).all() for part in parts)


class SchedulerContract(Contract):
    """What every scheduler must satisfy."""

    registry = schedulers

    def use(self, part: Scheduler, step: int) -> Any:
        """Return the bounds and the weights at a step."""
        return part.start_epochs(step), part.parameter_weights(example_pair(step, requires_grad=False))

    def test_decisions_are_in_range(self, spec: Spec) -> None:
        """Weights lie in [0, 1], one per parameter; start epochs are an ordered pair from 0 on."""
        scheduler = self.build(spec)
        for step in range(4):
            pair = example_pair(step, requires_grad=False)
            weights = scheduler.parameter_weights(pair)
            if weights is not None:
                assert weights.shape == pair.expert[0].shape
                assert bool(((weights >= 0) & (weights <= 1)).all())
            bounds = scheduler.start_epochs(step)
            assert bounds is None or 0 <= bounds[0] <= bounds[1]


class ScheduleContract(Contract):
    """What every schedule must satisfy: it is a pure function of the step."""

    registry = schedules

    def use(self, part: Schedule, step: int) -> float:
        """Return the number at a step."""
        return part.at(step)

    def test_is_a_pure_function_of_the_step(self, spec: Spec) -> None:
        """Asking in another order gives the same numbers."""
        schedule = self.build(spec)
        forwards = [schedule.at(step) for step in range(5)]
        assert [schedule.at(step) for step in reversed(range(5))] == forwards[::-1]


class SamplerContract(Contract):
    """What every segment sampler must satisfy."""

    registry = samplers

    def use(self, part: SegmentSampler, step: int) -> tuple[int, float]:
        """Return what is drawn at a step."""
        return part.draw(7, None, step, Seeds(0))

    def test_draws_stay_in_range(self, spec: Spec) -> None:
        """Experts exist; starts lie up to the announced last one, between epochs only if the sampler is continuous."""
        sampler = self.build(spec)
        for step in range(50):
            expert, start = sampler.draw(7, None, step, Seeds(0))
            assert 0 <= expert < 7
            assert 0 <= start <= sampler.last_start_epoch()
            assert sampler.continuous or isinstance(start, int)


class TrajectoryViewContract(Contract):
    """What every view of stored experts must satisfy.

    Attributes:
        segments: the epoch at which the segments end that it is tried on.
    """

    registry = views
    segments: ClassVar[int] = 4

    def shown(self, view: TrajectoryView) -> Trajectories:
        """Return what a view shows of experts that reach as far as it announces, and no further."""
        return view.view(example_experts(view.last_expert_epoch(self.segments)), SIZES)

    def use(self, part: TrajectoryView, step: int) -> Tensor:
        """Return a segment."""
        return self.shown(part).segment(step % 2, 0, self.segments)

    def test_segments_are_paths_of_parameters(self, spec: Spec) -> None:
        """There are as many experts as before; segments are finite, (last-first+1, P), in the experts' precision."""
        shown = self.shown(self.build(spec))
        assert len(shown) == len(example_experts(1))
        for first in range(self.segments):
            segment = shown.segment(1, first, self.segments)
            assert segment.shape == (self.segments - first + 1, sum(SIZES))
            assert segment.dtype == torch.float64
            assert torch.isfinite(segment).all()

    def test_says_whether_it_is_known_between_epochs(self, spec: Spec) -> None:
        """What a continuous view shows has ``at``, which at whole times is ``segment``."""
        view = self.build(spec)
        shown = self.shown(view)
        assert isinstance(shown, ContinuousTrajectories) == view.continuous
        if isinstance(shown, ContinuousTrajectories):
            assert torch.equal(shown.at(0, [1, 2.0, 3]), shown.segment(0, 1, 3))
            between = shown.at(0, [0.25, self.segments + 100])
            assert between.shape == (2, sum(SIZES))
            assert torch.isfinite(between).all()

    def test_experts_alone_decide(self, spec: Spec) -> None:
        """Segments are the same whenever they are asked for, of one view as of another."""
        view = self.build(spec)
        shown, again = self.shown(view), self.shown(view)
        forwards = [shown.segment(expert, 0, self.segments) for expert in (0, 1)]
        backwards = [again.segment(expert, 0, self.segments) for expert in (1, 0)]
        assert same(forwards, backwards[::-1])
        assert same(forwards, [shown.segment(expert, 0, self.segments) for expert in (0, 1)])

    def test_stored_experts_are_not_mutated(self, spec: Spec) -> None:
        """A view only reads."""
        view = self.build(spec)
        experts = example_experts(view.last_expert_epoch(self.segments))
        before = experts.parameters.clone()
        view.view(experts, SIZES).segment(0, 0, self.segments).zero_()
        assert torch.equal(experts.parameters, before)
