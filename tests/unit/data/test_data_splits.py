from __future__ import annotations

import numpy as np
import pytest
import torch

from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.splits import stratified

NAMES = ("a", "b", "c")
LABELS = torch.tensor([0] * 50 + [1] * 13 + [2] * 2)


def test_counts_per_class_are_exact():
    kept, held = stratified(LABELS, NAMES, 0.2, Seeds(0))
    assert torch.bincount(LABELS[held]).tolist() == [10, 3, 1]
    assert torch.bincount(LABELS[kept]).tolist() == [40, 10, 1]
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(65))
    assert torch.equal(kept, kept.sort().values)
    assert torch.equal(held, held.sort().values)


def test_single_image_of_a_class_is_kept():
    kept, held = stratified(torch.tensor([0, 1, 1]), NAMES, 0.9, Seeds(0))
    assert 0 in kept
    assert len(held) == 1


def test_same_seed_same_split_other_seed_other_split():
    first, again, other = (stratified(LABELS, NAMES, 0.2, Seeds(seed))[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_class_is_split_alike_without_the_others():
    _, held = stratified(LABELS, NAMES, 0.2, Seeds(0))
    _, alone = stratified(LABELS[50:63] - 1, ("b",), 0.2, Seeds(0))
    assert torch.equal(held[LABELS[held] == 1] - 50, alone)


def test_global_generators_are_left_alone():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    stratified(LABELS, NAMES, 0.2, Seeds(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_both_sides_keep_at_least_one_image(fraction):
    kept, held = stratified(LABELS, NAMES, fraction, Seeds(0))
    assert min(torch.bincount(LABELS[kept]).tolist()) >= 1
    assert min(torch.bincount(LABELS[held]).tolist()) >= 1
