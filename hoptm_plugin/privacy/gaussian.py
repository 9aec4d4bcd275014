"""The Gaussian mechanism: how much noise an epsilon asks for, and what it still permits."""

from __future__ import annotations

import math


def gaussian_sigma(epsilon: float, delta: float) -> float:
    """Return the noise multiplier sigma of the analytic Gaussian mechanism: noise N(0, sigma^2 Delta^2) is enough.

    Phi(1 / (2 sigma) - epsilon sigma) - e^epsilon Phi(-1 / (2 sigma) - epsilon sigma) = delta

    Args:
        epsilon: above 0.
        delta: in (0, 1).

    Raises:
        ValueError: outside these.

    Source: Balle & Wang 2018 (arXiv 1805.06530), Theorem 8; docs/audit.md 5.
    """
    from scipy.optimize import brentq  # here, since its import takes long
    from scipy.special import log_ndtr, ndtr

    if not 0 < epsilon < math.inf or not 0 < delta < 1:
        raise ValueError(f"needs epsilon above 0 and delta between 0 and 1, got {epsilon} and {delta}")

    def above(log_sigma: float) -> float:
        sigma = math.exp(log_sigma)
        left = float(ndtr(1 / (2 * sigma) - epsilon * sigma))
        right = math.exp(epsilon + float(log_ndtr(-1 / (2 * sigma) - epsilon * sigma)))
        return left - right - delta

    return math.exp(brentq(above, math.log(1e-6), math.log(1e6), xtol=1e-13))


def gaussian_auc(sigma: float) -> float:
    """Return the area under the ROC curve that the best attack on one release reaches, Phi(1 / (sigma sqrt 2))."""
    from scipy.special import ndtr

    return float(ndtr(1 / (sigma * math.sqrt(2))))
