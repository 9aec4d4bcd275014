"""Tests over seeds and Holm's correction against numbers worked out here, without scipy.stats.ttest_ind."""

import itertools
import math
import random
import warnings
from statistics import fmean, variance

import pytest
from scipy.special import stdtr, stdtrit

from hoptm_plugin.engine.significance import Difference, holm, of_seeds, paired, welch


def by_hand(a, b):
    """Welch 1947: t = d / s with s^2 = va/na + vb/nb, and Satterthwaite's degrees of freedom."""
    va, vb = variance(a) / len(a), variance(b) / len(b)
    d, s = fmean(a) - fmean(b), math.sqrt(va + vb)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    half = stdtrit(freedom, 0.975) * s
    return Difference(d, d - half, d + half, 2 * stdtr(freedom, -abs(d) / s))


@pytest.mark.parametrize(
    ("a", "b"),
    [((0.5, 0.6, 0.7), (0.6, 0.7, 0.9)), ((0.1, 0.2), (0.9, 0.8, 0.85, 0.7)), ((0.5, 0.5), (0.4, 0.45)),
     ((0.5, 0.6), (0.5, 0.6))],
)  # fmt: skip
def test_welch_by_hand(a, b):
    found, expected = welch(a, b), by_hand(a, b)
    for name in ("mean", "low", "high", "p"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-12)


def test_welch_of_a_textbook_example():
    """Sums: means 3 and 6, variances 2.5 and 10, so t = -3 / sqrt(2.5) with 12.5^2 / (6.25 + 100) * 4 = 5.882 df."""
    found = welch((1, 2, 3, 4, 5), (2, 4, 6, 8, 10))
    assert found.mean == -3
    assert found.p == pytest.approx(2 * stdtr(12.5**2 / (6.25 + 100) * 4, -3 / math.sqrt(2.5)), rel=1e-12)
    assert found.p == pytest.approx(0.1075, abs=5e-5)


@pytest.mark.parametrize(("a", "b"), [((0.5,), (0.4, 0.6)), ((0.4, 0.6), (0.5,)), ((0.5,), (0.5,)),
                                      ((0.5, 0.5), (0.4, 0.4)), ((0.5, 0.5), (0.5, 0.5, 0.5))])  # fmt: skip
def test_without_scatter_there_is_a_difference_but_no_p(a, b):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert welch(a, b) == Difference(pytest.approx(fmean(a) - fmean(b)))


def test_paired_by_hand():
    """Differences 0.02, 0.04, 0.06: t = 0.04 / (0.02 / sqrt(3)) with two degrees of freedom."""
    found = paired({0: 0.52, 1: 0.44, 2: 0.66}, {2: 0.6, 1: 0.4, 0: 0.5})
    standard_error = 0.02 / math.sqrt(3)
    assert found.pairs == 3
    assert found.mean == pytest.approx(0.04, abs=1e-15)
    assert found.p == pytest.approx(2 * stdtr(2, -0.04 / standard_error), rel=1e-9)
    half = stdtrit(2, 0.975) * standard_error
    assert (found.low, found.high) == (pytest.approx(0.04 - half), pytest.approx(0.04 + half))


def test_pairs_see_through_what_both_share_and_welch_does_not():
    """Every seed shifts both by as much: pairs know the difference well, unpaired means do not."""
    shift = {0: 0.0, 1: 0.2, 2: 0.4, 3: 0.1}
    one = {seed: 0.31 + by + 0.001 * seed for seed, by in shift.items()}
    other = {seed: 0.30 + by for seed, by in shift.items()}
    assert paired(one, other).p < 0.01
    assert welch(list(one.values()), list(other.values())).p > 0.9
    assert paired(other, one).mean == -paired(one, other).mean


def test_pairs_that_say_nothing():
    assert paired({0: 0.5}, {0: 0.25}) == Difference(0.25, pairs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # the second pair differs from the first by rounding alone
        assert paired({0: 0.6, 1: 0.2}, {0: 0.5, 1: 0.1}) == Difference(pytest.approx(0.1), pairs=2)


def test_seeds_are_paired_where_both_sides_have_the_same_ones():
    one, other = {0: 0.5, 1: 0.65, 2: 0.7}, {2: 0.6, 0: 0.45, 1: 0.5}
    assert of_seeds(one, other) == paired(one, other)
    assert of_seeds(one, other, "welch") == welch([*one.values()], [*other.values()])
    fewer = {0: 0.45, 1: 0.5}
    assert of_seeds(one, fewer) == welch([*one.values()], [*fewer.values()])
    assert of_seeds({0: 0.5}, {0: 0.25}) == Difference(0.25, pairs=1)
    assert of_seeds({0: 0.5}, other).p is None


def test_holm_by_hand():
    """Sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04, made monotonous: .04 .06 .06 .06."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_undefined_tests_do_not_count():
    assert holm([None, 0.01, None, 0.02]) == [None, 0.02, None, 0.02]
    assert holm([None]) == [None]


def test_holm_keeps_the_order_of_p_values_and_never_lowers_one():
    numbers = random.Random(0)
    for _ in range(50):
        p = [numbers.random() ** 3 for _ in range(numbers.randint(1, 8))]
        corrected = holm(p)
        assert all(before <= after <= 1 for before, after in zip(p, corrected, strict=True))
        for i, j in itertools.permutations(range(len(p)), 2):
            assert corrected[i] <= corrected[j] or p[i] > p[j]
        assert holm(p[::-1]) == corrected[::-1]
