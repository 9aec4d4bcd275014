"""Membership inference over shadow distillations: who was a member of which, told from signals alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma
from scipy.stats import binomtest, rankdata
from scipy.stats import t as student

from hoptm_plugin.privacy.nearest import Floats

Members = NDArray[np.bool_]
Redraw = Callable[[np.random.Generator], Members]

FEWEST_PAIRS = 4
LEAST_NEGATIVES = 10  # false positives that are allowed at the least, for a rate to be told
CONFIDENCE = 0.95
REDRAWS = 999
ROC_POINTS = 25
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Rate:
    """The true positive rate where at most so many false positives are allowed.

    Attributes:
        fpr: false positive rate that is allowed.
        tpr: share of members that are told, in all shadows together.
        ci95: 95 % interval, from leaving out one pair of shadows after the other.
        naive: the interval of Clopper and Pearson, which takes images for independent; it covers too seldom.
        p: share of designs that give as much, of those that might have been.
    """

    fpr: float
    tpr: float
    ci95: tuple[float, float]
    naive: tuple[float, float]
    p: float


@dataclass(frozen=True)
class Membership:
    """How well one signal tells members from others.

    Attributes:
        auc: the mean over shadows of the area under the ROC curve; 0.5 is guessing.
        auc_ci95: 95 % interval, over pairs of shadows.
        p: share of designs that give as much, of those that might have been.
        rates: at 1 % and 0.1 % false positives, where there are negatives enough.
        scores: z of every image in every shadow, (2 pairs, N); large where the attack takes it for a member.
    """

    auc: float
    auc_ci95: tuple[float, float]
    p: float
    rates: tuple[Rate, ...]
    scores: Floats


def membership(
    signals: Floats, members: Members, redraw: Redraw, generator: np.random.Generator, redraws: int = REDRAWS
) -> Membership:
    """Attack every shadow with what the others tell, and say how well that went.

    Args:
        signals: phi of every image in every shadow, (M, N).
        members: who was a member of which, (M, N); shadows 2k and 2k+1 are complements.
        redraw: draws another design of the same kind, for the p-values.
        generator: it draws from.
        redraws: how many.

    Raises:
        ValueError: fewer than four pairs, shadows that are no complements, or signals that are not finite.

    Source: Carlini et al. 2022 (arXiv 2112.03570), offline; docs/audit.md 1, also for what differs.
    """
    pairs = len(signals) // 2
    if signals.shape != members.shape or len(signals) != 2 * pairs or pairs < FEWEST_PAIRS:
        raise ValueError(f"needs at least {FEWEST_PAIRS} pairs of shadows, got {signals.shape} and {members.shape}")
    if not np.array_equal(members[1::2], ~members[0::2]):
        raise ValueError("shadows 2k and 2k + 1 must be given complementary halves")
    if not np.isfinite(signals).all():
        raise ValueError("a signal is not finite")
    scores = lira(signals, members)
    aucs = aucs_of(scores, members).reshape(pairs, 2).mean(axis=1)
    negatives = int((~members).sum())
    fprs = [fpr for fpr in (0.01, 0.001) if fpr * negatives >= LEAST_NEGATIVES]
    rates = np.array([tpr_at(scores, members, fpr) for fpr in fprs])
    as_much_auc, as_much_rate = 1, np.ones(len(fprs))
    for _ in range(redraws):
        other = redraw(generator)
        found = lira(signals, other)
        as_much_auc += aucs_of(found, other).mean() >= aucs.mean()
        as_much_rate += np.array([tpr_at(found, other, fpr) for fpr in fprs]) >= rates
    half = _t(pairs) * aucs.std(ddof=1) / math.sqrt(pairs)
    positives = int(members.sum())
    told = []
    for at, fpr in enumerate(fprs):
        hits = round(float(rates[at]) * positives)
        naive = binomtest(hits, positives).proportion_ci(CONFIDENCE, method="exact")
        interval = _jackknife(signals, members, fpr, float(rates[at]))
        p = float(as_much_rate[at] / (redraws + 1))
        told.append(Rate(fpr, float(rates[at]), interval, (float(naive.low), float(naive.high)), p))
    mean = float(aucs.mean())
    return Membership(mean, _clipped(mean - half, mean + half), as_much_auc / (redraws + 1), tuple(told), scores)


def lira(signals: Floats, members: Members) -> Floats:
    """Return z = (phi - mu) / sqrt(v) of every image in every shadow, (M, N).

    mu and s^2 are mean and variance of phi over the shadows that were not given the image, the attacked one's pair left
    out, since its other half would tell membership; phi is centred on each shadow's median. Variances of an image are
    moderated: v = (d_0 s_0^2 + d s^2) / (d_0 + d), with d_0 and s_0 from the moments of log s^2 over images.

    Source: docs/audit.md 1.
    """
    centred = signals - np.median(signals, axis=1, keepdims=True)
    outs = np.where(members[0::2], centred[1::2], centred[0::2])  # each image's one OUT shadow of every pair
    pairs = len(outs)
    offset = outs.mean(axis=0)  # sums of squares lose nothing around it
    deviations = outs - offset
    first, second = deviations.sum(axis=0), np.square(deviations).sum(axis=0)
    left = pairs - 1
    mean = (first - deviations) / left
    variance = np.maximum(second - np.square(deviations) - left * np.square(mean), 0.0) / (left - 1)
    spread = np.sqrt(np.stack([moderated(each, left - 1) for each in variance])).repeat(2, axis=0)
    difference = centred - (offset + mean).repeat(2, axis=0)
    return np.divide(difference, spread, out=np.zeros_like(difference), where=spread > 0)


def lira_of(signal: Floats, signals: Floats, members: Members) -> Floats:
    """Return z of every image in one more distillation, (N,): as :func:`lira`, by all shadows.

    Args:
        signal: phi of every image there, (N,).
        signals: phi in the shadows, (M, N).
        members: who was a member of which shadow, (M, N).
    """
    centred = signals - np.median(signals, axis=1, keepdims=True)
    outs = np.where(members[0::2], centred[1::2], centred[0::2])
    spread = np.sqrt(moderated(outs.var(axis=0, ddof=1), len(outs) - 1))
    difference = signal - np.median(signal) - outs.mean(axis=0)
    return np.divide(difference, spread, out=np.zeros_like(difference), where=spread > 0)


def moderated(variance: Floats, degrees: float) -> Floats:
    """Return variances drawn towards their common one, as far as they scatter no more than chance would have them.

    trigamma(d_0 / 2) = Var(log s^2) - trigamma(d / 2);
    log s_0^2 = mean(log s^2) - psi(d / 2) + log(d / 2) + psi(d_0 / 2) - log(d_0 / 2)

    Args:
        variance: s^2 of each image, (N,).
        degrees: of freedom, d.

    Source: Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3(1) 3; docs/audit.md 1.
    """
    logs = np.log(np.maximum(variance, TINY))
    scatter = float(logs.var(ddof=1) if len(logs) > 1 else 0.0) - float(polygamma(1, degrees / 2))
    common = float(logs.mean()) - float(digamma(degrees / 2)) + math.log(degrees / 2)
    if scatter <= 0:  # d_0 is infinite: one variance for all
        return np.full_like(variance, math.exp(common))
    half = _trigamma_inverse(scatter)
    common += float(digamma(half)) - math.log(half)
    prior = 2 * half
    return np.asarray((prior * math.exp(common) + degrees * variance) / (prior + degrees))


def _trigamma_inverse(value: float) -> float:
    """Return x with trigamma(x) = value, by Newton's method on 1 / trigamma, which is nearly straight."""
    x = 0.5 + 1 / value
    for _ in range(100):
        found = float(polygamma(1, x))
        step = found * (1 - found / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-12 * x:
            break
    return x


def aucs_of(scores: Floats, members: Members) -> Floats:
    """Return the area under the ROC curve of each shadow, equal scores counted half, (M,)."""
    found = rankdata(scores, axis=1)
    inside, outside = members.sum(axis=1), (~members).sum(axis=1)
    return np.asarray(((found * members).sum(axis=1) - inside * (inside + 1) / 2) / (inside * outside))


def tpr_at(scores: Floats, members: Members, fpr: float) -> float:
    """Return the share of members whose score is above all but floor(fpr * negatives) of the others', pooled."""
    return float((scores[members] > threshold_at(scores, members, fpr)).mean())


def threshold_at(scores: Floats, members: Members, fpr: float) -> float:
    """Return what a score must be above, for at most floor(fpr * negatives) false positives, pooled."""
    others = scores[~members]
    last = len(others) - 1 - math.floor(fpr * len(others) + 1e-9)
    return float(np.partition(others, last)[last])


def roc(scores: Floats, members: Members) -> list[tuple[float, float]]:
    """Return (false positive rate, true positive rate) pairs, pooled, at rates evenly spaced on a logarithmic scale.

    They begin where ten false positives are allowed.
    """
    negatives = int((~members).sum())
    lowest = LEAST_NEGATIVES / negatives
    rates = [float(rate) for rate in np.geomspace(min(lowest, 0.5), 1, ROC_POINTS)]
    return [(rate, tpr_at(scores, members, rate)) for rate in rates[:-1]] + [(1.0, 1.0)]


def _jackknife(signals: Floats, members: Members, fpr: float, rate: float) -> tuple[float, float]:
    """Return the interval of a rate, the whole attack made again without each of the pairs."""
    pairs = len(signals) // 2
    found = []
    for pair in range(pairs):
        kept = np.delete(np.arange(len(signals)), [2 * pair, 2 * pair + 1])
        found.append(tpr_at(lira(signals[kept], members[kept]), members[kept], fpr))
    half = _t(pairs) * math.sqrt((pairs - 1) * float(np.var(found)))
    return _clipped(rate - half, rate + half)


def _t(pairs: int) -> float:
    return float(student.ppf((1 + CONFIDENCE) / 2, pairs - 1))


def _clipped(low: float, high: float) -> tuple[float, float]:
    return max(0.0, low), min(1.0, high)
