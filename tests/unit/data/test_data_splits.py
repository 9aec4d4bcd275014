from __future__ import annotations

import numpy as np
import pytest
import torch

from hoptm_plugin.core.errors import DataError
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


def grouped(fraction, seed=0, images=4, patients=30):
    """Split patients of three classes, two classes in turn being those of most of them."""
    labels = torch.arange(patients).repeat_interleave(images) % 3
    groups = torch.arange(patients).repeat_interleave(images)
    return labels, groups, *stratified(labels, NAMES, fraction, Seeds(seed), groups)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.34, 0.5])
def test_groups_stay_whole_and_classes_near_their_share(fraction):
    labels, groups, kept, held = grouped(fraction)
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(len(labels)))
    assert not set(groups[kept].tolist()) & set(groups[held].tolist())
    shares = torch.bincount(labels[held], minlength=3) / torch.bincount(labels)
    assert bool(((shares - fraction).abs() <= 0.1 + 1e-6).all()), shares
    assert torch.equal(held, grouped(fraction)[3])
    assert any(not torch.equal(held, grouped(fraction, seed)[3]) for seed in (1, 2))


def test_groups_of_mixed_classes_and_unequal_sizes():
    draw = np.random.default_rng(0)
    groups = torch.from_numpy(np.repeat(np.arange(60), draw.integers(1, 12, 60)))
    labels = torch.from_numpy(draw.integers(0, 3, len(groups)))
    kept, held = stratified(labels, NAMES, 0.2, Seeds(0), groups)
    assert not set(groups[kept].tolist()) & set(groups[held].tolist())
    assert 0.1 < len(held) / len(labels) < 0.3
    assert set(labels[held].tolist()) == {0, 1, 2}


def test_one_group_cannot_be_divided():
    with pytest.raises(DataError, match="all training images belong to one group"):
        stratified(torch.tensor([0, 1, 0, 1]), NAMES, 0.5, Seeds(0), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(DataError, match=r"class '.' has too few groups"):
        stratified(torch.tensor([0, 1, 0, 1]), NAMES, 0.5, Seeds(0), torch.tensor([0, 1, 0, 1]))


@pytest.mark.parametrize("sizes", [(160, 40), (20, 160, 20), (150, 30, 20), (100, *[10] * 10)])
@pytest.mark.parametrize("seed", range(4))
def test_unequal_groups_are_not_turned_inside_out(sizes, seed):
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = torch.arange(len(groups)) % 2
    kept, held = stratified(labels, ("a", "b"), 0.2, Seeds(seed), groups)
    assert not set(groups[kept].tolist()) & set(groups[held].tolist())
    assert 0.05 < len(held) / len(groups) <= 0.4


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.3, 0.4, 0.6, 0.8])
def test_the_share_of_many_groups_is_near(fraction):
    labels = torch.arange(400) % 2
    _, held = stratified(labels, ("a", "b"), fraction, Seeds(0), torch.arange(400) // 4)
    assert len(held) / 400 == pytest.approx(fraction, abs=0.03)
