"""Planted leaks of graded strength: what an audit must find, and that it finds nothing where there is none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from audit import power

from hoptm_plugin.cards.audit import MISSED


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


def test_what_a_card_says_of_missed_leaks_is_what_the_table_has():
    """Of sets of ten images, by every tier."""
    page = (Path(power.__file__).parent / "README.md").read_text(encoding="utf-8")
    found = {}
    for line in re.findall(r"^\| (.+) \| 1 \| (.+) %", page, re.MULTILINE):
        found[line[0]] = [int(each) for each in re.findall(r"(\d+) %", f"{line[1]} %")]
    assert min(found["training images themselves"] + found["blended with fresh ones, 50 %"]) >= 90, "nearly all"
    assert max(found["blended, 20 %"]) == 30, "three in ten at most"
    assert max(found["blended, 5 %"]) == 10, "one in ten at most"
    for words in ("ten images of digits", "three in ten at most", "one in ten at most"):
        assert words in MISSED
