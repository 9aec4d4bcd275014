"""Significance of differences between rows: t-tests over distillation seeds, and Holm's correction for many at once.

Networks that are trained on one set share it: their scatter is not that of repeated distillations, and a test over them
finds differences between methods that are alike (``benchmarks/null.py`` says how often). The unit is the seed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from scipy.stats import ttest_1samp, ttest_ind

Test: TypeAlias = Literal["welch", "paired"]
"""Of the means of distillation seeds: in pairs where both sides have the same seeds, or by Welch's test throughout."""
LEVEL, CONFIDENCE = 0.05, 0.95
_CORRECTED = "p-values are corrected by Holm's method over all tests of a table, and held against 5 %"
RULES: Final[dict[Test, str]] = {
    "paired": "Tests compare the means of distillation seeds: t-tests of pairs where both rows have the same seeds, "
    f"Welch's t-tests elsewhere; {_CORRECTED}.",
    "welch": f"Tests compare the means of distillation seeds: Welch's t-tests; {_CORRECTED}.",
}
"""What is tested and how it is corrected, wherever results of tests are shown."""
ROUNDING = 1e-9  # differences of accuracies that agree to this are equal


@dataclass(frozen=True)
class Difference:
    """A difference of two mean accuracies, in fractions.

    Attributes:
        mean: of the values minus that of the reference.
        low: lower end of its 95 % confidence interval; None where it is undefined.
        high: its upper end.
        p: two-sided, of equal means; None where it is undefined.
        pairs: how many pairs it was found from; None where the samples were not paired.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    pairs: int | None = None


def of_seeds(values: Mapping[int, float], reference: Mapping[int, float], tests: Test = "paired") -> Difference:
    """Compare two methods by the means of their distillation seeds, as :data:`RULES` says."""
    if tests == "paired" and values.keys() == reference.keys():
        return paired(values, reference)
    return welch([*values.values()], [*reference.values()])


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
    low, high, p = numbers
    return Difference(mean, low, high, p) if all(map(math.isfinite, numbers)) else Difference(mean)


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference:
    """Compare means by distillation seed in pairs of the same seed, by Student's t-test of their differences.

    What a seed fixes for both sides (initial images, order of experts, initialisations of evaluated networks) cancels,
    and the scatter is that of repeated distillations. p and interval are None for a single pair or where all
    differences are equal. Both sides have the same seeds.
    """
    differences = [values[seed] - reference[seed] for seed in sorted(values)]
    mean = math.fsum(differences) / len(differences)
    if max(differences) - min(differences) <= ROUNDING:
        return Difference(mean, pairs=len(differences))
    result = ttest_1samp(differences, 0.0)
    interval = result.confidence_interval(CONFIDENCE)
    return Difference(mean, float(interval.low), float(interval.high), float(result.pvalue), len(differences))


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
