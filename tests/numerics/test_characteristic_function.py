"""The distance of characteristic functions against complex arithmetic and closed forms, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hoptm_baselines.characteristic_function import CharacteristicFunction

from hoptm_plugin import FeaturePair
from hoptm_plugin.core.seeding import Seeds

FREQUENCIES, DIMENSIONS = 500, 6


def features(*counts, seed=0):
    generator = Seeds(seed).generator("features")
    return [torch.randn(count, DIMENSIONS, generator=generator, dtype=torch.float64) for count in counts]


def pair(real, synthetic):
    return FeaturePair(real, synthetic, 0, 0, Seeds(1).generator("frequencies"))


def drawn(count=FREQUENCIES):
    """Return the frequencies that a matcher draws of :func:`pair`."""
    return torch.randn(count, DIMENSIONS, generator=Seeds(1).generator("frequencies"), dtype=torch.float64)


def matcher(**changes):
    return CharacteristicFunction(**{"frequencies": FREQUENCIES} | changes)


def directions(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def characteristic(rows):
    """Return Psi_k = mean_n exp(i <T_k, F_n>) in complex numbers."""
    return torch.exp(1j * (directions(rows) @ drawn().T)).mean(dim=0)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.2, 0.8), (1.0, 0.0), (0.0, 1.0)])
def test_it_is_the_formula_in_complex_numbers(a, b):
    real, synthetic = features(7, 4)
    synthetic.requires_grad_()
    one, other = characteristic(real), characteristic(synthetic)
    phases = 2 * (one.abs() * other.abs() - (one * other.conj()).real)
    wanted = 300 * (a * (one.abs() - other.abs()) ** 2 + b * phases.clamp_min(1e-12)).sqrt().mean()
    found = matcher(amplitude_weight=a, phase_weight=b).loss(pair(real, synthetic))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
    gradients = [torch.autograd.grad(loss, synthetic)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_at_equal_weights_it_is_the_mean_distance_in_the_plane():
    real, synthetic = features(9, 3)
    wanted = 300 * math.sqrt(0.5) * (characteristic(real) - characteristic(synthetic)).abs().mean()
    assert matcher().loss(pair(real, synthetic)).item() == pytest.approx(wanted.item(), rel=1e-12)
    halved = matcher(scale=150.0).loss(pair(real, synthetic))
    assert halved.item() == pytest.approx(wanted.item() / 2, rel=1e-12)


@pytest.mark.parametrize(("b", "least"), [(0.5, 300 * math.sqrt(0.5e-12)), (0.0, 0.0)])
def test_equal_sets_are_at_the_least_distance_and_pull_nowhere(b, least):
    (real,) = features(5)
    synthetic = real.clone().requires_grad_()
    loss = matcher(phase_weight=b).loss(pair(real, synthetic))
    assert loss.item() == pytest.approx(least, rel=1e-9, abs=1e-300)
    assert least in (0, pytest.approx(2.12e-4, rel=1e-3))
    (gradient,) = torch.autograd.grad(loss, synthetic)
    assert not gradient.any()


def test_single_points_are_as_far_apart_as_the_sine_of_half_their_angles():
    real, synthetic = features(1, 1)
    angles = (directions(real) - directions(synthetic)) @ drawn().T / 2
    wanted = 300 * math.sqrt(0.5) * (2 * angles.sin().abs()).mean()
    assert matcher().loss(pair(real, synthetic)).item() == pytest.approx(wanted.item(), rel=1e-9)
    without_phases = matcher(phase_weight=0.0).loss(pair(real, synthetic.requires_grad_()))
    assert without_phases.item() == pytest.approx(0, abs=1e-12), "both have amplitude 1"
    (gradient,) = torch.autograd.grad(without_phases, synthetic)
    assert torch.isfinite(gradient).all()


def test_the_length_of_features_does_not_matter():
    real, synthetic = features(5, 3)
    longer = real * torch.tensor([[1.0], [2.0], [0.1], [30.0], [4.0]], dtype=torch.float64)
    one, other = (matcher().loss(pair(rows, 7 * synthetic)).item() for rows in (real, longer))
    assert one == pytest.approx(other, rel=1e-12)
    assert one == pytest.approx(matcher().loss(pair(real, synthetic)).item(), rel=1e-12)


def test_angles_have_a_standard_deviation_of_1():
    (rows,) = features(3)
    angles = directions(rows) @ drawn(100_000).T
    torch.testing.assert_close(angles.std(dim=1), torch.ones(3, dtype=torch.float64), rtol=0.01, atol=0)
    torch.testing.assert_close(angles.mean(dim=1), torch.zeros(3, dtype=torch.float64), rtol=0, atol=0.015)


def test_frequencies_are_new_for_every_pair():
    real, synthetic = features(5, 3)
    generator = Seeds(1).generator("frequencies")
    losses = [matcher().loss(FeaturePair(real, synthetic, 0, 0, generator)).item() for _ in range(2)]
    assert losses[0] != losses[1]
    assert losses[0] == matcher().loss(pair(real, synthetic)).item()


def test_without_a_generator_it_is_refused():
    real, synthetic = features(2, 2)
    with pytest.raises(ValueError, match="characteristic_function draws frequencies"):
        matcher().loss(FeaturePair(real, synthetic, 0, 0))


@pytest.mark.parametrize("bad", [{"frequencies": 0}, {"amplitude_weight": -1.0}, {"scale": 0.0},
                                 {"amplitude_weight": 0.0, "phase_weight": 0.0}])  # fmt: skip
def test_senseless_settings_are_refused(bad):
    (name, *_) = bad
    with pytest.raises(ValueError, match=name):
        matcher(**bad)
