"""ATT's choice of the student step, against plain loops; in float64."""

from __future__ import annotations

import pytest
import torch

from hoptm_plugin.core.observations import TrajectoryPair
from hoptm_plugin.matchers import Automatic, Endpoint

P = 6


def pair_of(points, target, start=None, weights=None):
    start = torch.zeros(P, dtype=torch.float64) if start is None else start
    student = [start, *(torch.as_tensor(point, dtype=torch.float64).clone().requires_grad_() for point in points)]
    expert = torch.stack([start, torch.as_tensor(target, dtype=torch.float64)])
    return TrajectoryPair(expert, student, 0, (P,), weights)


def flat(value):
    return [float(value)] * P


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("choice", ["l1", "l2"])
def test_choice_and_loss_equal_plain_loops(seed, choice):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(9, P, generator=generator, dtype=torch.float64)
    target = torch.randn(P, generator=generator, dtype=torch.float64)
    pair = pair_of(points, target)
    power = 1 if choice == "l1" else 2
    sums = [sum(abs(x - y) ** power for x, y in zip(point, target.tolist(), strict=True)) for point in points.tolist()]
    nearest = min(range(9), key=lambda k: (sums[k], -k))
    squares = sum((x - y) ** 2 for x, y in zip(points[nearest].tolist(), target.tolist(), strict=True))
    matcher = Automatic(choice=choice)
    assert matcher.loss(pair).item() == pytest.approx(squares / sum(y * y for y in target.tolist()), rel=1e-12)
    assert matcher.logs() == {"matched_step": nearest + 1}


def test_l1_and_l2_can_choose_differently():
    near_in_l1, near_in_l2 = [2.5, 0, 0, 0, 0, 0], [0.6] * 6
    pair = pair_of([near_in_l1, near_in_l2], flat(0), start=torch.ones(P, dtype=torch.float64))
    assert [Automatic(choice).nearest_step(pair) for choice in ("l1", "l2")] == [1, 2]


def test_ties_go_to_the_later_step():
    assert Automatic().nearest_step(pair_of([flat(1), flat(3), flat(1), flat(2)], flat(2), flat_start())) == 4
    assert Automatic().nearest_step(pair_of([flat(1), flat(3), flat(1)], flat(2), flat_start())) == 3


def flat_start():
    return torch.full((P,), 9.0, dtype=torch.float64)


def test_the_start_is_never_chosen_and_no_distance_is_too_large():
    start = torch.zeros(P, dtype=torch.float64)
    pair = pair_of([flat(3e4), flat(2e4)], flat(-1e-3), start)
    assert Automatic().nearest_step(pair) == 2
    assert torch.isfinite(Automatic().loss(pair))


def test_only_the_matched_step_has_gradient_and_the_choice_has_none():
    pair = pair_of([flat(5), flat(1), flat(7)], flat(2), flat_start())
    gradients = torch.autograd.grad(Automatic().loss(pair), list(pair.student[1:]), allow_unused=True)
    assert [gradient is None for gradient in gradients] == [True, False, True]
    assert torch.allclose(gradients[1], torch.full((P,), 2 * (1 - 2) / (P * 49.0), dtype=torch.float64), rtol=1e-12)


@pytest.mark.parametrize("weights", [None, torch.tensor([1, 0, 1, 0, 0, 1], dtype=torch.float64)])
def test_equals_endpoint_when_the_last_step_is_nearest(weights):
    pair = pair_of([flat(5), flat(3), flat(2.2)], flat(2), flat_start(), weights)
    one, other = Automatic().loss(pair), Endpoint().loss(pair)
    assert torch.equal(one, other)
    leaves = list(pair.student[1:])
    gradients = [torch.autograd.grad(loss, leaves, allow_unused=True)[2] for loss in (one, other)]
    assert torch.equal(*gradients)
