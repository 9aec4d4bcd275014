"""Mini-batch plans and segments (docs/methods.md 1.7)."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.trajectory import UniformSegments
from hoptm_plugin.trajectory.sampler import plan_batches

# data set, images, batch, steps, chunk sizes of one pass: as the released configurations imply (docs/methods.md 1.7)
PLANS = [
    (9, 10, 80, [9]),
    (45, 10, 80, [5, 10, 10, 10, 10]),
    (90, 10, 80, [10] * 9),
    (900, 100, 80, [100] * 9),
    (4, 10, 80, [4]),
    (20, 10, 80, [10, 10]),
    (200, 20, 20, [20] * 10),
    (7, 3, 8, [1, 3, 3]),
    (45, None, 3, [45]),
]


@pytest.mark.parametrize(("images", "batch", "steps", "one_pass"), PLANS)
def test_chunks(images, batch, steps, one_pass):
    indices, sizes = plan_batches(images, batch, steps, torch.Generator().manual_seed(0))
    want = (one_pass * steps)[:steps]
    assert list(sizes) == want
    assert indices.dtype == torch.int64
    assert len(indices) == sum(want)
    passes = indices.split(images)
    for whole in passes[:-1]:
        assert sorted(whole.tolist()) == list(range(images))
    assert len(set(passes[-1].tolist())) == len(passes[-1])  # an unfinished pass repeats nothing either
    if len(passes) > 1:
        assert not torch.equal(passes[0], passes[1])  # a new permutation


def test_chunks_are_consecutive_pieces_of_a_permutation_taken_from_its_end():
    indices, sizes = plan_batches(45, 10, 5, torch.Generator().manual_seed(4))
    order = torch.randperm(45, generator=torch.Generator().manual_seed(4)).tolist()
    got = [chunk.tolist() for chunk in indices.split(list(sizes))]
    assert got == [order[40:45], order[30:40], order[20:30], order[10:20], order[0:10]]


def test_permutations_are_uniform():
    generator = torch.Generator().manual_seed(1)
    first = Counter(int(plan_batches(5, 2, 1, generator)[0][0]) for _ in range(2000))
    assert set(first) == set(range(5))
    assert all(320 < count < 480 for count in first.values()), first


def draws(sampler, experts=4, count=400, bounds=None, seed=0):
    return [sampler.draw(experts, bounds, step, Seeds(seed)) for step in range(count)]


def test_start_epochs_are_half_open_by_default_and_inclusive_when_asked():
    half_open = UniformSegments(max_start_epoch=4, min_start_epoch=1)
    inclusive = UniformSegments(max_start_epoch=4, min_start_epoch=1, inclusive=True)
    assert {t for _, t in draws(half_open)} == {1, 2, 3}
    assert half_open.last_start_epoch() == 3
    assert {t for _, t in draws(inclusive)} == {1, 2, 3, 4}
    assert inclusive.last_start_epoch() == 4
    counts = Counter(t for _, t in draws(inclusive, count=2000))
    assert all(420 < count < 580 for count in counts.values()), counts


def test_published_ranges():
    """PathMNIST IPC 1000: T- = 40, T+ = 60, M = 2 read snapshot 61 at most (docs/methods.md 1.7)."""
    sampler = UniformSegments(max_start_epoch=60, min_start_epoch=40)
    assert {t for _, t in draws(sampler, count=1000)} == set(range(40, 60))
    assert sampler.last_start_epoch() + 2 == 61


@pytest.mark.parametrize("experts", [1, 2, 5, 7])
def test_rounds_visit_every_expert_once_per_round(experts):
    order = [expert for expert, _ in draws(UniformSegments(max_start_epoch=3), experts, count=8 * experts)]
    rounds = [order[at : at + experts] for at in range(0, len(order), experts)]
    assert all(sorted(one) == list(range(experts)) for one in rounds)
    if experts >= 5:
        assert len({tuple(one) for one in rounds}) > 4  # shuffled anew


def test_random_experts_are_uniform_and_not_rounds():
    order = [expert for expert, _ in draws(UniformSegments(max_start_epoch=3, experts="random"), count=2000)]
    assert all(420 < count < 580 for count in Counter(order).values())
    assert any(len(set(order[at : at + 4])) < 4 for at in range(0, 40, 4))


@pytest.mark.parametrize("experts", ["rounds", "random"])
def test_a_step_alone_decides(experts):
    sampler = UniformSegments(max_start_epoch=50, experts=experts)
    forward = [sampler.draw(10, None, step, Seeds(3)) for step in range(60)]
    fresh = UniformSegments(max_start_epoch=50, experts=experts)
    backward = [fresh.draw(10, None, step, Seeds(3)) for step in reversed(range(60))][::-1]
    assert forward == backward
    assert forward != [fresh.draw(10, None, step, Seeds(4)) for step in range(60)]


def test_expert_and_start_epoch_are_independent():
    pairs = Counter(draws(UniformSegments(max_start_epoch=2, experts="random"), experts=2, count=2000))
    assert all(420 < count < 580 for count in pairs.values()), pairs


def test_a_schedulers_bounds_narrow_and_never_widen():
    sampler = UniformSegments(max_start_epoch=6, min_start_epoch=2)
    assert {t for _, t in draws(sampler, bounds=(0, 3))} == {2, 3}
    assert {t for _, t in draws(sampler, bounds=(4, 99))} == {4, 5}
    with pytest.raises(ValueError, match="leave no start epoch"):
        sampler.draw(1, (0, 1), 0, Seeds(0))


@pytest.mark.parametrize("bad", [{"max_start_epoch": 0}, {"max_start_epoch": 3, "min_start_epoch": 3},
                                 {"max_start_epoch": 3, "min_start_epoch": -1}])  # fmt: skip
def test_empty_ranges_are_refused(bad):
    with pytest.raises(ValueError, match="no start epoch"):
        UniformSegments(**bad)
    assert UniformSegments(max_start_epoch=3, min_start_epoch=3, inclusive=True).last_start_epoch() == 3


def test_times_are_uniform_between_the_bounds_and_between_epochs():
    sampler = UniformSegments(max_start_epoch=4, min_start_epoch=1, continuous=True)
    times = [time for _, time in draws(sampler, count=2000)]
    assert all(1 <= time < 4 for time in times)
    assert not any(time.is_integer() for time in times)
    assert all(560 < count < 780 for count in Counter(map(int, times)).values())
    assert sampler.last_start_epoch() == 4
    assert all(2 <= time < 3 for _, time in draws(sampler, bounds=(2, 2))), (
        "bounds name the last epoch that is begun in"
    )
    assert max(time for _, time in draws(sampler, bounds=(1, 2), count=200)) > 2.9
    assert all(3 <= time < 4 for _, time in draws(sampler, bounds=(3, 99)))
    assert [expert for expert, _ in draws(sampler)] == [expert for expert, _ in draws(UniformSegments(4))]


@pytest.mark.parametrize(
    ("bad", "said"),
    [({"min_start_epoch": 3, "max_start_epoch": 3}, "no start epoch"), ({"max_start_epoch": 3, "inclusive": True},
                                                                        "inclusive says nothing")],
)  # fmt: skip
def test_times_without_a_range_are_refused(bad, said):
    with pytest.raises(ValueError, match=said):
        UniformSegments(**bad, continuous=True)
