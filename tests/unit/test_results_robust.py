"""Label-robust and augmentation-robust scores against hand-computed values."""

from __future__ import annotations

import itertools
import math

import pytest

from hoptm_plugin.tables.robust import augmentation_robust_score, label_robust_score

SCORES = (label_robust_score, augmentation_robust_score)


# e = 2.7182818, 1/e = 0.3678794, e - 1/e = 2.3504024
@pytest.mark.parametrize(
    ("accuracies", "by_hand"),
    [
        # a = (.7 - .4) / 2 - (.9 - .6) / 2 = 0; (1 - .3678794) / 2.3504024
        ((0.7, 0.6, 0.4, 0.9), 0.2689414),
        # a = (.8 - .5) / 2 - (.9 - .7) / 2 = .05; (1.0512711 - .3678794) / 2.3504024
        ((0.8, 0.7, 0.5, 0.9), 0.2907552),
        # a = (.4 - .3) / 2 - (.8 - .4) / 2 = -.15; (.8607080 - .3678794) / 2.3504024
        ((0.4, 0.4, 0.3, 0.8), 0.2096784),
    ],
)
def test_label_robust_score_by_hand(accuracies, by_hand):
    assert label_robust_score(*accuracies) == pytest.approx(by_hand, abs=1e-7)


def test_augmentation_robust_score_by_hand():
    # b = (.8 - .5) / 2 + (.6 - .5) / 2 = .2; (1.2214028 - .3678794) / 2.3504024
    assert augmentation_robust_score(0.8, 0.5, 0.6, 0.5) == pytest.approx(0.3631393, abs=1e-7)
    # b = (.5 - .5) / 2 + (.2 - .5) / 2 = -.15
    assert augmentation_robust_score(0.5, 0.5, 0.2, 0.5) == pytest.approx(0.2096784, abs=1e-7)


def test_weights_by_hand():
    # a = .75 (.8 - .5) - .25 (.9 - .7) = .175; (1.1912462 - .3678794) / 2.3504024
    assert label_robust_score(0.8, 0.7, 0.5, 0.9, weight=0.75) == pytest.approx(0.3503089, abs=1e-7)
    # b = 0 (.8 - .5) + 1 (.6 - .4) = .2
    assert augmentation_robust_score(0.8, 0.5, 0.6, 0.4, weight=0) == pytest.approx(0.3631393, abs=1e-7)


def test_the_best_possible_is_one_and_the_worst_nought():
    assert label_robust_score(1, 1, 0, 0) == augmentation_robust_score(1, 0, 1, 0) == 1
    assert label_robust_score(0, 0, 1, 1) == augmentation_robust_score(0, 1, 0, 1) == 0


@pytest.mark.parametrize(
    ("score", "directions"),
    [(label_robust_score, (1, 1, -1, -1)), (augmentation_robust_score, (1, -1, 1, -1))],
)
def test_scores_are_strictly_monotone_in_every_accuracy_and_stay_in_their_range(score, directions):
    steps = [0, 0.2, 0.45, 0.7, 1]
    for point in itertools.product(steps, repeat=4):
        value = score(*point)
        assert 0 <= value <= 1
        for at, direction in enumerate(directions):
            for higher in (step for step in steps if step > point[at]):
                moved = score(*point[:at], higher, *point[at + 1 :])
                assert direction * (moved - value) > 0, (point, at, higher)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("bad", [-0.01, 1.01, 52.3, math.nan])
def test_percentages_and_nan_are_refused(score, bad):
    for at in range(4):
        numbers = [0.5] * 4
        numbers[at] = bad
        with pytest.raises(ValueError, match=r"must be a fraction in \[0, 1\], got"):
            score(*numbers)
    with pytest.raises(ValueError, match="weight must be a fraction"):
        score(0.5, 0.5, 0.5, 0.5, weight=bad)
