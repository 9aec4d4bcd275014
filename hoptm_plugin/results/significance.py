"""Significance of differences between rows: Welch's t-test, and Holm's correction for many tests at once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import ttest_ind

LEVEL, CONFIDENCE = 0.05, 0.95


@dataclass(frozen=True)
class Difference:
    """A difference of two mean accuracies, in fractions.

    Attributes:
        mean: of the values minus that of the reference.
        low: lower end of Welch's 95 % confidence interval; None where it is undefined.
        high: its upper end.
        p: two-sided, of equal means; None where it is undefined.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def welch(values: Sequence[float], reference: Sequence[float]) -> Difference:
    """Compare two samples by Welch's t-test, which does not assume equal variances.

    p and interval are None where the scatter is unknown (fewer than two values on a side) or absent (no variance on
    either side): no number would be honest there.
    """
    mean = math.fsum(values) / len(values) - math.fsum(reference) / len(reference)
    if min(len(values), len(reference)) < 2 or len(set(values)) == 1 == len(set(reference)):
        return Difference(mean)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy warns where one side has no variance; Welch allows it
        result = ttest_ind(values, reference, equal_var=False)
    interval = result.confidence_interval(CONFIDENCE)
    numbers = [float(number) for number in (interval.low, interval.high, result.pvalue)]
    return Difference(mean, *numbers) if all(map(math.isfinite, numbers)) else Difference(mean)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for all defined ones together by Holm's step-down (1979), in the order given.

    With p sorted ascending, the i-th of m becomes max over j <= i of min(1, (m - j + 1) p_j). Undefined ones stay None
    and do not count as tests.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[index] = largest
    return corrected
