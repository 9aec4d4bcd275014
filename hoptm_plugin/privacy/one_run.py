"""A lower bound on epsilon from one run: guesses of fair coins, and how many of them can be right by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import bdtrc

from hoptm_plugin.privacy.nearest import Floats

LEVEL = 0.05
LARGEST = 50.0  # epsilon that is looked for


@dataclass(frozen=True)
class OneRun:
    """What one run gives away of pairs of images, one of which was a member.

    Attributes:
        pairs: m, of which guesses are made.
        guesses: r, of each that was decided on beforehand.
        correct: v, of each.
        bounds: the lower bound on epsilon of each, at a level that is shared out among them.
        epsilon: the largest; 0: nothing was proved.
        ceiling: what it would be with all guesses right.
        delta: of (epsilon, delta).
    """

    pairs: int
    guesses: tuple[int, ...]
    correct: tuple[int, ...]
    bounds: tuple[float, ...]
    epsilon: float
    ceiling: float
    delta: float


def epsilon_below(bits: int, guesses: int, correct: int, delta: float = 0.0, level: float = LEVEL) -> float:
    """Return the largest epsilon that so many correct guesses refute, for any mechanism with that delta.

    p = P[Bin(r, q) >= v] + 2 m delta max_{1 <= i <= v} P[v > Bin(r, q) >= v - i] / i, q = 1 / (1 + e^-epsilon);
    the largest epsilon with p below the level.

    Args:
        bits: m, fair and independent.
        guesses: r of them that were guessed, the others left out.
        correct: v of the guesses.
        delta: of the definition.
        level: the bound is wrong with at most this probability.

    Source: Steinke, Nasr & Jagielski 2023 (arXiv 2305.08846), Theorem 5.2; docs/audit.md 2.
    """
    if not 0 <= correct <= guesses <= bits:
        raise ValueError(f"needs correct <= guesses <= bits, got {correct}, {guesses}, {bits}")

    def p(epsilon: float) -> float:
        q = 1 / (1 + math.exp(-epsilon))
        tail = float(bdtrc(correct - 1, guesses, q))
        if not delta or not correct:
            return tail
        back = np.arange(1, correct + 1)
        between = bdtrc(correct - back - 1, guesses, q) - tail
        return tail + 2 * bits * delta * float((between / back).max())

    if p(0.0) >= level:
        return 0.0
    return float(brentq(lambda epsilon: p(epsilon) - level, 0.0, LARGEST, xtol=1e-12))


def ceiling(bits: int, delta: float = 0.0, level: float = LEVEL) -> float:
    """Return the bound that all guesses right would give; without delta it is logit(level^(1 / m))."""
    return epsilon_below(bits, bits, bits, delta, level)


def paired(differences: Floats, members_first: NDArray[np.bool_], delta: float = 0.0, level: float = LEVEL) -> OneRun:
    """Return the bound from pairs of a member and another image, of which chance decided who was which.

    Who has the larger score is guessed to be the member, where the difference is one of the r largest; r is 10, and
    1/20, 1/4 and all of the pairs, and the level is shared out among these.

    Args:
        differences: score of the first minus that of the second of each pair, (m,).
        members_first: whether the first was the member, (m,).
        delta: as in :func:`epsilon_below`.
        level: as there, of all guesses together.

    Raises:
        ValueError: no pairs.

    Source: docs/audit.md 2.
    """
    bits = len(differences)
    if not bits:
        raise ValueError("there are no pairs of a member and another image of its class")
    guesses = tuple(sorted({max(1, min(bits, r)) for r in (10, bits // 20, bits // 4, bits)}))
    order = np.argsort(-np.abs(differences), kind="stable")
    right = ((differences > 0) == members_first) & (differences != 0)
    correct = tuple(int(right[order[:r]].sum()) for r in guesses)
    level /= len(guesses)
    bounds = tuple(epsilon_below(bits, r, v, delta, level) for r, v in zip(guesses, correct, strict=True))
    return OneRun(bits, guesses, correct, bounds, max(bounds), ceiling(bits, delta, level), delta)
