"""DP means: sensitivity and noise are what the guarantee needs, and what voids it is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hoptm_baselines import private_means
from hoptm_baselines.private_means import PrivateMeans, clipped_sums

from hoptm_plugin.core.dataset import Normalisation
from hoptm_plugin.testing import example_task
from hoptm_plugin.trajectory.initial import Noise, RealImages

CLASSES, LENGTH = 3, 2.0


def drawn(generator, count, width=20, scale=3.0):
    """Return non-negative features of very different lengths."""
    lengths = scale * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return lengths * torch.rand(count, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("grouped", [False, True])
def test_replacing_a_unit_moves_the_sums_by_no_more_than_the_sensitivity(grouped):
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for _ in range(200):
        seen, labels = drawn(generator, 30), torch.randint(CLASSES, (30,), generator=generator)
        groups = torch.randint(8, (30,), generator=generator) if grouped else None
        mine = groups == groups[0] if grouped else torch.arange(30) == 0
        before = clipped_sums(seen, labels, groups, CLASSES, LENGTH)
        other, count = seen.clone(), int(mine.sum())
        other[mine] = drawn(generator, count, scale=100.0) * (torch.rand(count, 20, generator=generator) < 0.1)
        after = clipped_sums(other, labels, groups, CLASSES, LENGTH)
        largest = max(largest, float((after - before).norm()))
    assert largest <= math.sqrt(2) * LENGTH + 1e-9
    assert largest > LENGTH, "the bound would be loose"


def test_the_sensitivity_is_reached():
    one, other = torch.zeros(1, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    one[0, 0], other[0, 1] = 50.0, 7.0
    sums = [clipped_sums(each, torch.zeros(1, dtype=torch.int64), None, 1, LENGTH) for each in (one, other)]
    assert float((sums[0] - sums[1]).norm()) == pytest.approx(math.sqrt(2) * LENGTH)


def test_short_features_are_summed_as_they_are():
    seen, labels = torch.tensor([[0.1, 0.2], [0.3, 0.0], [0.0, 0.5]], dtype=torch.float64), torch.tensor([0, 1, 0])
    assert clipped_sums(seen, labels, None, 2, LENGTH).tolist() == [[0.1, 0.7], [0.3, 0.0]]


def test_a_group_of_many_images_counts_as_one():
    seen, labels = torch.ones(100, 4, dtype=torch.float64), torch.arange(100) % 2
    sums = clipped_sums(seen, labels, torch.zeros(100, dtype=torch.int64), 2, LENGTH)
    assert float(sums.norm()) == pytest.approx(LENGTH)


def task(**changes):
    """Return a task whose normalisation is not made of the data."""
    found = example_task(ipc=2)
    size = len(found.data.normalisation.mean)
    normalisation = Normalisation((0.0,) * size, (1.0,) * size, "none")
    return replace(found, data=replace(found.data, normalisation=normalisation, **changes))


def test_the_noise_is_of_the_right_size():
    method, means = PrivateMeans(Noise(), epsilon=1.0), []
    found = task()
    for _ in range(300):
        method.setup(found)
        means.append(method.state_dict()["means"].double())
    counts = torch.bincount(found.train.labels)
    expected = method.sigma * math.sqrt(2) * method.length / counts.double()
    spread = torch.stack(means).std(dim=0)
    assert method.sigma == pytest.approx(3.7306, abs=1e-4)
    for label, sigma in enumerate(expected):
        assert float(spread[label].square().mean().sqrt()) == pytest.approx(float(sigma), rel=0.03)
        values = torch.stack(means)[:, label].std(dim=0)
        assert float(values.min()) > 0.7 * sigma, "one feature would be released with less"


def test_the_public_seed_does_not_tell_the_noise():
    """A seed stands in every card: who knows it could take the noise away."""
    one, other = (PrivateMeans(Noise()) for _ in range(2))
    sets = [each.setup(task()) for each in (one, other)]
    assert torch.equal(sets[0].images, sets[1].images)
    assert one.length == other.length
    assert not torch.equal(one.state_dict()["means"], other.state_dict()["means"])


def test_one_that_goes_on_keeps_its_release():
    one, resumed = PrivateMeans(Noise()), PrivateMeans(Noise())
    synthetic = one.setup(task())
    resumed.setup(task())
    resumed.load_state_dict(one.state_dict())
    losses = [next(iter(each.losses(synthetic, 0))).loss for each in (one, resumed)]
    assert torch.equal(*losses)


def test_without_noise_the_means_are_matched(monkeypatch):
    """What is matched are the means of clipped features."""
    monkeypatch.setattr(private_means, "gaussian_sigma", lambda epsilon, delta: 0.0)
    method, found = PrivateMeans(Noise()), task()
    synthetic = method.setup(found)
    real = replace(synthetic, images=found.train.batch(slice(None)), labels=found.train.labels)
    (term,) = method.losses(real, 0)
    assert float(term.loss) < 1e-8
    (term,) = method.losses(synthetic, 0)
    assert float(term.loss) > 1e-3


def test_patients_are_the_units_where_they_are_known(monkeypatch):
    monkeypatch.setattr(private_means, "gaussian_sigma", lambda epsilon, delta: 0.0)
    means = []
    for groups in (None, torch.zeros(len(task().train), dtype=torch.int64)):
        method = PrivateMeans(Noise())
        found = task(groups=groups)
        method.setup(found)
        counts = torch.bincount(found.train.labels).double()
        means.append((method.state_dict()["means"].double() * counts[:, None]).norm())
    assert float(means[1]) <= method.length * (1 + 1e-5)
    assert means[0] > means[1]


def test_what_voids_the_guarantee_is_refused():
    fine = task()
    assert PrivateMeans(Noise()).problems(fine) == []
    measured = replace(fine.data.normalisation, kind="measured")
    cases = (
        (PrivateMeans(RealImages()), fine, "method.initial_images: real images void the guarantee"),
        (
            PrivateMeans(Noise()),
            replace(fine, data=replace(fine.data, normalisation=measured)),
            "measured constants are",
        ),
        (PrivateMeans(Noise()), replace(fine, chosen_by=("tuning",)), "tuning: chooses by looking at the data"),
    )
    for method, given, said in cases:
        (line,) = method.problems(given)
        assert said in line
    for bad in ({"epsilon": 0.0}, {"delta": 1.0}, {"networks": 0}):
        with pytest.raises(ValueError, match=r"epsilon above 0|at least 1"):
            PrivateMeans(Noise(), **bad)


@pytest.mark.parametrize(("epsilon", "odds", "auc"), [(1.0, "2.7-fold", "0.58"), (10.0, "22,026.5-fold", "0.92")])
def test_what_is_guaranteed_is_said_in_words(epsilon, odds, auc):
    said = PrivateMeans(Noise(), epsilon=epsilon).guarantee
    assert odds in said
    assert f"epsilon {epsilon:g}), except with probability 1e-05" in said
    assert said.endswith(f"an AUC of up to {auc}.")


def test_a_guarantee_that_is_none_says_so():
    said = PrivateMeans(Noise(), epsilon=800.0).guarantee
    assert "almost without limit" in said
    assert "AUC of up to 1.00" in said
