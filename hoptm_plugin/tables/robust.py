"""DD-Ranking's label-robust and augmentation-robust scores (LRS, ARS): their formulas."""

from __future__ import annotations

import math


def label_robust_score(
    synthetic: float, synthetic_hard: float, random: float, full_hard: float, *, weight: float = 0.5
) -> float:
    """Return the label-robust score: what a set is worth, and how little of it is owed to soft labels alone.

    alpha = w IOR - (1 - w) HLR, with IOR = synthetic - random (improvement over random) and HLR = full_hard -
    synthetic_hard (hard-label recovery); LRS = (e^alpha - e^-1) / (e - e^-1), from 0 (worst) to 1 (best). A set no
    better than random images and as good as all of them, alpha = 0, has 0.269. DD-Ranking, arXiv 2505.13300, whose
    released code puts percentage points into the exponential: its numbers are others.

    Args:
        synthetic: accuracy of the set with its own labels.
        synthetic_hard: its accuracy with hard labels.
        random: accuracy of a random subset of the same size.
        full_hard: accuracy of all training images with hard labels.
        weight: w.

    Raises:
        ValueError: a number outside [0, 1]; accuracies are fractions, not percentages.
    """
    _check(synthetic=synthetic, synthetic_hard=synthetic_hard, random=random, full_hard=full_hard, weight=weight)
    return _normalised(weight * (synthetic - random) - (1 - weight) * (full_hard - synthetic_hard))


def augmentation_robust_score(
    synthetic: float, random: float, synthetic_plain: float, random_plain: float, *, weight: float = 0.5
) -> float:
    """Return the augmentation-robust score: what a set is worth over random images, with and without augmentation.

    beta = g (synthetic - random) + (1 - g) (synthetic_plain - random_plain); ARS = (e^beta - e^-1) / (e - e^-1), from 0
    (worst) to 1 (best). A set no better than random images, beta = 0, has 0.269. DD-Ranking, arXiv 2505.13300.

    Args:
        synthetic: accuracy of the set, networks trained with augmentation.
        random: that of a random subset of the same size.
        synthetic_plain: accuracy of the set without augmentation.
        random_plain: that of a random subset.
        weight: g.

    Raises:
        ValueError: a number outside [0, 1]; accuracies are fractions, not percentages.
    """
    _check(
        synthetic=synthetic, random=random, synthetic_plain=synthetic_plain, random_plain=random_plain, weight=weight
    )
    return _normalised(weight * (synthetic - random) + (1 - weight) * (synthetic_plain - random_plain))


def _check(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 <= number <= 1:
            raise ValueError(f"{name} must be a fraction in [0, 1], got {number}")


def _normalised(exponent: float) -> float:
    return (math.exp(exponent) - math.exp(-1)) / (math.exp(1) - math.exp(-1))
