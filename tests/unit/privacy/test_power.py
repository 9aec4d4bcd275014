"""Planted leaks of graded strength: what an audit must find, and that it finds nothing where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from audit import power


def world(ipc, seed=0):
    made = power.World(np.random.default_rng([seed, ipc]), ipc)
    members = np.zeros(len(made.labels), dtype=bool)
    members[made.draws.permutation(len(members))[: int(0.8 * len(members))]] = True
    return made, members


@pytest.mark.parametrize("ipc", [1, 10])
@pytest.mark.parametrize("name", ["training images themselves", "blended with fresh ones, 50 %"])
def test_the_quick_tier_finds_images_that_are_still_half_theirs(name, ipc):
    made, members = world(ipc)
    assert power.is_found(made.quick(made.made(name, members), members))


def test_of_fresh_images_nothing_is_found_more_often_than_by_chance():
    found = []
    for seed in range(20):
        made, members = world(10, seed)
        found.append(power.is_found(made.quick(made.made("none: fresh images", members), members)))
    assert sum(found) <= 4, "at a level of 5 % more than 4 of 20 have a probability of 0.003"


def test_a_leak_in_soft_labels_alone_has_no_origin_to_point_to():
    made, members = world(10)
    leaky = made.made(power.SOFT, members)
    assert leaky.origins is None
    assert np.isfinite(leaky.targets).all()
    assert not np.array_equal(leaky.targets, np.round(leaky.targets))


@pytest.mark.slow
def test_shadows_find_copies_and_clear_fresh_images():
    made, _ = world(10)
    tests, aucs = made.standard("training images themselves", 8)
    assert power.is_found(tests)
    assert aucs["nearest"] == pytest.approx(0.5 + 100 / 808 / 2, abs=0.02)
    tests, aucs = made.standard("none: fresh images", 8)
    assert not power.is_found(tests)
    assert aucs["nearest"] == pytest.approx(0.5, abs=0.02)
