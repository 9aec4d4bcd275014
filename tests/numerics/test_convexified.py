"""MCT's straight pieces: published rates and waypoints, and where it must be MTT; in float64 (docs/methods.md 20)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from hoptm_baselines import PiecewiseLinear

import hoptm_plugin.builtin  # noqa: F401  registers the library's own parts
from hoptm_plugin.augment import DSA
from hoptm_plugin.core.asking import alone
from hoptm_plugin.core.interfaces import methods
from hoptm_plugin.testing import MemoryExperts, example_experts
from hoptm_plugin.testing.examples import SIZES

SMALL = {
    "name": "trajectory_matching", "student_steps": 4, "expert_epochs": 2, "student_batch": 4, "step_size": 0.05,
    "matchers": {"endpoint": {"name": "endpoint"}, "shape": {"name": "shape_wise_potential"}},
    "labels": {"name": "hard"}, "initial_images": {"name": "real"},
}  # fmt: skip
STARTS = {"name": "uniform", "max_start_epoch": 4}
TIMES = [0, 0.3, 1, 1.5, 2, 2.9, 3, 3.25, 4, 5, 6]


def experts(path):
    """Return one expert that goes through the points of ``path``."""
    points = torch.tensor(path, dtype=torch.float64)
    return MemoryExperts(points[None], len(points) - 1)


def walk():
    """Return two experts that walk at random for six epochs; the first tensor rests in the second half."""
    stored = example_experts(6)
    stored.parameters[:, 3:, : SIZES[0]] = stored.parameters[:, 2:3, : SIZES[0]]
    return stored


def shown(stored, sizes=SIZES, **settings):
    return PiecewiseLinear(**settings).view(stored, sizes)


def written_out(path, sizes, waypoints, smooth, time):
    """Return the view at a time, tensor by tensor, as docs/methods.md 20 writes it."""
    last, found = waypoints[-1], []
    time = min(time, last)
    a, b = next((a, b) for a, b in reversed([*pairwise(waypoints)]) if a <= time)
    for part in path.split(sizes, dim=1):

        def point(k, part=part):
            if not smooth or k == 0:
                return part[k]
            return (part[k - 1] + part[k if k == last else k + 1]) / 2

        gone = [float((part[j] - part[j - 1]).square().sum().sqrt()) for j in range(a + 1, b + 1)]
        full = int(time - a)
        so_far = sum(gone[:full]) + (time - a - full) * (gone[full] if full < len(gone) else 0)
        beta = so_far / sum(gone) if sum(gone) else 0.0
        found.append((1 - beta) * point(a) + beta * point(b))
    return torch.cat(found)


def test_the_rates_of_a_bent_path():
    pieces = shown(experts([[0, 0], [3, 0], [3, 4]]), (2,), waypoints=(0, 2), smooth=False)
    assert [float(pieces.rates(0, time)) for time in (0, 1, 2)] == [0, 3 / 7, 1]
    assert torch.allclose(pieces.at(0, [1]), torch.tensor([[9 / 7, 12 / 7]], dtype=torch.float64), rtol=1e-15)


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("waypoints", [(0, 6), (0, 3, 6), (0, 2, 3, 6), (0, 1, 2, 5)])
def test_is_what_the_formulas_say(waypoints, smooth):
    stored = walk()
    pieces = shown(stored, waypoints=waypoints, smooth=smooth)
    for expert in range(2):
        want = torch.stack([written_out(stored.parameters[expert], SIZES, waypoints, smooth, time) for time in TIMES])
        assert torch.allclose(pieces.at(expert, TIMES), want, rtol=1e-12, atol=1e-14)


def straight(epochs=6):
    """Return an expert that goes straight on at constant speed."""
    start, step = torch.randn(2, sum(SIZES), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return start, step, MemoryExperts(torch.stack([start + epoch * step for epoch in range(epochs + 1)])[None], epochs)


def test_a_straight_path_of_constant_speed_is_reproduced():
    start, step, stored = straight()
    want = torch.stack([start + time * step for time in TIMES])
    own = shown(stored, waypoints=(0, 2, 4, 6), smooth=False).at(0, TIMES)
    assert torch.allclose(own, want, rtol=1e-12, atol=1e-14)
    smooth = shown(stored, waypoints=(0, 2, 4, 6)).at(0, TIMES)
    outside = [index for index, time in enumerate(TIMES) if time <= 4]
    assert torch.allclose(smooth[outside], want[outside], rtol=1e-12, atol=1e-14)
    # in the last piece two epochs are gone in one and a half
    late = torch.tensor([[min(time, 4 + 0.75 * (time - 4))] for time in TIMES], dtype=torch.float64)
    assert torch.allclose(smooth, start + late * step, rtol=1e-12, atol=1e-14)


def test_the_end_of_a_smooth_view_is_half_an_epoch_before():
    stored = walk()
    pieces = shown(stored, waypoints=(0, 3, 6))
    want = stored.parameters[1, 5:7].mean(dim=0)
    assert torch.equal(pieces.at(1, [6, 6.5, 100]), want.expand(3, -1))


def test_rates_rise_from_0_to_1_within_each_piece():
    pieces = shown(example_experts(6), waypoints=(0, 2, 6))
    for a, b in ((0, 2), (2, 6)):
        times = [a + (b - a) * number / 40 for number in range(41)]
        rates = torch.stack([pieces.rates(1, min(time, b - 1e-12 if b < 6 else b)) for time in times])
        assert (rates.diff(dim=0) >= 0).all()
        assert torch.equal(rates[0], torch.zeros(3, dtype=torch.float64))
        assert torch.allclose(rates[-1], torch.ones(3, dtype=torch.float64), rtol=1e-10)


def test_tensors_that_do_not_move_stay():
    stored = walk()
    pieces = shown(stored, waypoints=(0, 3, 6), smooth=False)
    still = pieces.at(0, [3, 3.5, 4.75, 6])[:, : SIZES[0]]
    assert torch.equal(still, stored.parameters[0, 3, : SIZES[0]].expand(4, -1))
    assert torch.equal(pieces.rates(0, 5)[:1], torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("smooth", [True, False])
def test_moves_within_a_piece_are_parallel_tensor_by_tensor(smooth):
    pieces = shown(walk(), waypoints=(0, 2, 6), smooth=smooth)
    for a, b in ((0, 2), (2, 6)):
        ways = (pieces.at(1, [b]) - pieces.at(1, [a]))[0].split(SIZES)
        moves = pieces.at(1, [a, a + 0.4, a + 1.1, a + 1.9]).diff(dim=0).split(SIZES, dim=1)
        for way, move in zip(ways, moves, strict=True):
            if way.norm() > 0 and move.norm() > 0:
                cosines = torch.cosine_similarity(move, way.expand_as(move), dim=1)
                assert torch.allclose(cosines, torch.ones_like(cosines), atol=1e-12)


def test_tensors_are_told_apart():
    """One vector as three tensors goes at three speeds, as one tensor at one."""
    together, apart = (shown(walk(), sizes, waypoints=(0, 6), smooth=False) for sizes in ((12,), SIZES))
    assert len(set(apart.rates(1, 2.5).tolist())) == 3
    assert not torch.allclose(together.at(1, [2.5]), apart.at(1, [2.5]))


class Counting:
    """Experts that keep what was read of them, and how much at once."""

    def __init__(self, stored):
        self.stored, self.reads = stored, []

    def __len__(self):
        return len(self.stored)

    def segment(self, expert, first, last):
        self.reads.append((expert, first, last))
        return self.stored.segment(expert, first, last)


def test_an_expert_is_read_epoch_by_epoch_once_and_then_its_waypoints():
    counting = Counting(walk())
    pieces = shown(counting, waypoints=(0, 3, 6))
    pieces.at(1, [1.5, 2.5])
    assert counting.reads == [(1, epoch, epoch) for epoch in (0, 2, 4, *range(7))]
    counting.reads.clear()
    pieces.at(1, [2.5, 3.5])
    assert counting.reads == [(1, epoch, epoch) for epoch in (0, 2, 4, 5, 6)]


@pytest.mark.parametrize("bad", [(0,), (1, 5), (0, 5, 5), (0, 6, 3)])
def test_waypoints_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="ascending from 0"):
        PiecewiseLinear(waypoints=bad)


def composed(**changes):
    return methods.build({**SMALL, "sampler": STARTS, **changes})


def view(**settings):
    return {"view": {"name": "piecewise_linear", **settings}}


CONTINUOUS = {"sampler": {**STARTS, "continuous": True}}


@pytest.fixture
def task(make_task):
    return make_task(ipc=2, dtype=torch.float64, augmentation=DSA(), stride=0.01, epochs=6)


def straightened(task):
    """Return the task with experts that go straight on at constant speed."""
    stored = task.experts(6).parameters
    steps = torch.arange(7, dtype=torch.float64)[None, :, None]
    return replace(task, experts=partial(MemoryExperts, stored[:, :1] + steps * (stored[:, 1:2] - stored[:, :1])))


def learned(method, task, steps=range(3)):
    """Return loss and gradients of images and alpha of some iterations, without stepping."""
    synthetic = method.setup(task)
    leaves = [synthetic.images.requires_grad_(), synthetic.step_size.requires_grad_()]
    found = []
    for step in steps:
        (term,) = method.losses(synthetic, step)
        found.append((term.loss.detach(), *torch.autograd.grad(term.loss, leaves)))
    return found


def worst_difference(one, other):
    return max(float((a - b).abs().max() / b.abs().max()) for x, y in zip(one, other, strict=True)
               for a, b in zip(x, y, strict=True))  # fmt: skip


def test_on_a_straight_path_from_whole_epochs_it_is_mtt(task):
    plain, own = composed(), composed(**view(waypoints=[0, 2, 6], smooth=False))
    assert worst_difference(learned(own, straightened(task)), learned(plain, straightened(task))) < 1e-9
    assert worst_difference(learned(own, task), learned(plain, task)) > 1e-3, "nor on any other"


def test_every_epoch_a_waypoint_is_mtt_on_any_path(task):
    own = composed(**view(waypoints=[0, 1, 2, 3, 4, 5, 6], smooth=False))
    assert worst_difference(learned(own, task), learned(composed(), task)) < 1e-12


def test_segments_start_between_epochs_and_go_on_in_whole_ones(task):
    method = composed(**CONTINUOUS, **view(waypoints=[0, 2, 6]))
    synthetic = method.setup(task)
    pieces = PiecewiseLinear((0, 2, 6)).view(task.experts(6), method._network.sizes)
    starts = []
    for step in range(4):
        expert, start = method.sampler.draw(2, None, step, task.seeds)
        pair = alone(method.observe(synthetic, step))
        assert torch.equal(pair.expert, pieces.at(expert, [start, start + 1, start + 2]))
        assert torch.equal(pair.student[0], pair.expert[0])
        starts.append(start)
    assert not any(start.is_integer() for start in starts)


def test_targets_beyond_the_last_waypoint_are_the_last_one(task):
    method = composed(expert_epochs=9, **CONTINUOUS, **view(waypoints=[0, 2, 5]))
    pair = alone(method.observe(method.setup(task), 0))
    assert method.last_expert_epoch() == 5
    assert len(pair.expert) == 10
    ends = [row.mean(dim=0) for row in task.experts(5).parameters[:, 4:6]]
    assert any(torch.equal(pair.expert[-1], end) for end in ends)


def test_iterations_do_not_depend_on_those_before(task):
    """As a run that goes on begins in the middle, where nothing was announced and no rate is known."""
    settings = {**CONTINUOUS, **view(waypoints=[0, 2, 6])}
    whole = learned(composed(**settings), task, range(6))
    resumed = learned(composed(**settings), task, range(3, 6))
    for one, other in zip(whole[3:], resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def problems(task, **changes):
    return composed(**changes).problems(task)


def test_what_does_not_fit_is_said_before_any_work(task):
    assert problems(task, **CONTINUOUS, **view(waypoints=[0, 2, 5])) == []
    (between,) = problems(task, **CONTINUOUS)
    assert between.startswith("method.sampler: draws start times between epochs")
    (ending,) = problems(task, **CONTINUOUS, **view(waypoints=[0, 2, 4]))
    assert ending.startswith("method.view.waypoints: end at epoch 4, and segments start up to epoch 4")
    assert problems(task, **view(waypoints=[0, 2, 4])) == [], "the last whole epoch of 0 to 4, without 4"


def test_a_start_between_epochs_of_experts_as_they_are_is_never_rounded(task):
    method = composed(**CONTINUOUS)
    synthetic = method.setup(task)
    with pytest.raises(ValueError, match="no parameters at time"):
        alone(method.observe(synthetic, 0))
