"""The one-run bound and the Gaussian mechanism: published and independent figures, and their level."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from hoptm_plugin.privacy.gaussian import gaussian_auc, gaussian_sigma
from hoptm_plugin.privacy.one_run import ceiling, epsilon_below, paired


@pytest.mark.parametrize(
    ("bits", "guesses", "correct", "delta", "expected"),
    [(1000, 100, 75, 1e-4, 0.673), (100_000, 1510, 1439, 1e-5, 2.676)],
)
def test_published_bounds(bits, guesses, correct, delta, expected):
    """Steinke et al. 2023; the second is 2.675 there."""
    assert epsilon_below(bits, guesses, correct, delta) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("bits", "expected"), [(100, 3.4930), (500, 5.1144), (1000, 5.8091)])
def test_all_right_is_the_ceiling(bits, expected):
    power = 0.05 ** (1 / bits)
    assert ceiling(bits) == pytest.approx(math.log(power / (1 - power)), rel=1e-9)
    assert ceiling(bits) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("bits", "expected"), [(100, 3.490), (500, 5.101), (1000, 5.782)])
def test_the_ceiling_with_a_delta(bits, expected):
    assert ceiling(bits, 1e-5) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("bits", "least"), [(100, 59), (500, 269), (1000, 527)])
def test_the_least_number_of_right_guesses_that_proves_anything(bits, least):
    assert epsilon_below(bits, bits, least) > 0
    assert epsilon_below(bits, bits, least - 1) == 0


def test_the_bound_is_where_the_probability_is_the_level():
    epsilon = epsilon_below(500, 300, 240)
    assert binom.sf(239, 300, 1 / (1 + math.exp(-epsilon))) == pytest.approx(0.05, rel=1e-6)


def test_numbers_that_cannot_be_are_refused():
    for bits, guesses, correct in ((10, 11, 5), (10, 5, 6), (10, 5, -1)):
        with pytest.raises(ValueError, match="correct <= guesses <= bits"):
            epsilon_below(bits, guesses, correct)


class TestPaired:
    def test_guessing_by_chance_is_seldom_taken_for_a_leak(self):
        draws, wrong, repeats = np.random.default_rng(0), 0, 400
        for _ in range(repeats):
            found = paired(draws.normal(size=200), draws.random(200) < 0.5)
            wrong += found.epsilon > 0
        assert wrong / repeats < 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)

    @pytest.mark.parametrize("epsilon", [0.5, 2.0])
    def test_randomised_response_is_not_overestimated(self, epsilon):
        """Each coin is told right with probability e^eps / (1 + e^eps)."""
        draws, above, repeats = np.random.default_rng(1), 0, 300
        for _ in range(repeats):
            coins = draws.random(300) < 0.5
            right = draws.random(300) < 1 / (1 + math.exp(-epsilon))
            found = paired(np.where(coins == right, 1.0, -1.0) * (1 + 0.1 * draws.random(300)), coins)
            above += found.epsilon > epsilon
        assert above / repeats < 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)

    def test_few_that_are_told_for_certain_are_found(self):
        """Ten copied members among five hundred pairs: the largest differences are guessed first."""
        draws = np.random.default_rng(2)
        coins, differences = draws.random(500) < 0.5, draws.normal(size=500)
        differences[:10] = np.where(coins[:10], 50.0, -50.0)
        found = paired(differences, coins)
        assert found.guesses == (10, 25, 125, 500)
        assert found.correct[0] == 10
        assert found.epsilon == found.bounds[0] == pytest.approx(epsilon_below(500, 10, 10, 0.0, 0.0125))
        assert found.ceiling > found.epsilon > 0.5

    def test_equal_scores_are_no_guess_that_is_right(self):
        found = paired(np.zeros(40), np.ones(40, dtype=bool))
        assert (found.correct[-1], found.epsilon) == (0, 0)

    def test_no_pairs_are_refused(self):
        with pytest.raises(ValueError, match="no pairs"):
            paired(np.zeros(0), np.zeros(0, dtype=bool))


@pytest.mark.parametrize(("epsilon", "expected"), [(1, 3.7306), (4, 1.0812), (10, 0.4999)])
def test_sigma_is_that_of_dp_accounting(epsilon, expected):
    sigma = gaussian_sigma(epsilon, 1e-5)
    assert sigma == pytest.approx(expected, abs=1e-4)
    left = norm.cdf(1 / (2 * sigma) - epsilon * sigma)
    assert left - math.exp(epsilon) * norm.cdf(-1 / (2 * sigma) - epsilon * sigma) == pytest.approx(1e-5, rel=1e-6)


def test_the_classical_formula_is_too_small_at_ten():
    assert math.sqrt(2 * math.log(1.25e5)) / 10 < gaussian_sigma(10, 1e-5)


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 1e-5), (-1, 1e-5), (1, 0), (1, 1), (math.inf, 0.1)])
def test_an_epsilon_or_delta_that_cannot_be_is_refused(epsilon, delta):
    with pytest.raises(ValueError, match="epsilon above 0"):
        gaussian_sigma(epsilon, delta)


@pytest.mark.parametrize(("epsilon", "auc"), [(10, 0.92), (1, 0.58)])
def test_what_the_mechanism_permits(epsilon, auc):
    assert gaussian_auc(gaussian_sigma(epsilon, 1e-5)) == pytest.approx(auc, abs=0.005)
