"""Membership inference: its formulas against slow ones, its level without a leak, and its power with planted ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import digamma, polygamma
from sklearn.metrics import roc_auc_score

from hoptm_plugin.privacy.design import halves
from hoptm_plugin.privacy.membership import aucs_of, lira, membership, moderated, tpr_at
from hoptm_plugin.privacy.signals import loss_signal, nearest_signal


def generator(seed=0):
    return np.random.default_rng(seed)


LABELS = np.repeat(np.arange(4), [25, 26, 30, 19])


class TestHalves:
    def test_every_image_is_in_exactly_half_and_pairs_are_complements(self):
        members = halves(LABELS, 8, generator())
        assert (members.sum(axis=0) == 8).all()
        assert np.array_equal(members[1::2], ~members[0::2])
        for label in range(4):
            inside = members[:, label == LABELS].sum(axis=1)
            assert set(inside) <= {(label == LABELS).sum() // 2, -(-(label == LABELS).sum() // 2)}

    def test_each_is_a_fair_coin(self):
        members = halves(LABELS, 4000, generator())[0::2]
        assert np.abs(members.mean(axis=0) - 0.5).max() < 5 * 0.5 / math.sqrt(4000)

    def test_patients_are_not_divided_and_sides_stay_about_even(self):
        draws = generator(1)
        groups = draws.integers(0, 60, size=300)
        labels = (groups % 3).astype(np.int64)
        members = halves(labels, 20, generator(), groups)
        for group in np.unique(groups):
            rows = members[:, groups == group]
            assert (rows == rows[:, :1]).all()
        assert (members.sum(axis=0) == 20).all()
        assert np.abs(members.sum(axis=1) - 150).max() < 15

    def test_the_same_seed_gives_the_same(self):
        assert np.array_equal(halves(LABELS, 3, generator(5)), halves(LABELS, 3, generator(5)))


class TestSignals:
    def test_the_loss_is_the_log_odds_of_the_class(self):
        draws = generator()
        logits, labels = draws.normal(size=(3, 20, 5)), draws.integers(0, 5, size=20)
        odds = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
        own = odds[:, np.arange(20), labels]
        np.testing.assert_allclose(loss_signal(logits, labels), np.log(own / (1 - own)).mean(axis=0), rtol=1e-10)

    def test_certainty_does_not_overflow(self):
        found = loss_signal(np.array([[[800.0, -800.0], [-800.0, 800.0]]], dtype=np.float32), np.array([0, 0]))
        assert found.tolist() == [1600.0, -1600.0]

    def test_the_nearest_is_of_its_own_class_and_of_a_copy_finite(self):
        images, synthetic = np.array([[0.0, 0], [1, 0], [5, 5]]), np.array([[0.0, 0], [1, 1]])
        found = nearest_signal(images, np.array([0, 1, 2]), synthetic, np.array([0, 1]))
        np.testing.assert_allclose(found, [-math.log(1e-3), -math.log(1.001), -math.log(1.001)])


def slow_lira(signals, members):
    """Return z one image of one shadow at a time."""
    signals = signals - np.median(signals, axis=1, keepdims=True)
    scores = np.zeros_like(signals)
    for shadow in range(len(signals)):
        others = [each for each in range(len(signals)) if each // 2 != shadow // 2]
        outs = [[signals[k, i] for k in others if not members[k, i]] for i in range(signals.shape[1])]
        mu, s2 = np.array([np.mean(each) for each in outs]), np.array([np.var(each, ddof=1) for each in outs])
        scores[shadow] = (signals[shadow] - mu) / np.sqrt(moderated(s2, len(outs[0]) - 1))
    return scores


def test_lira_is_what_it_says():
    members = halves(LABELS, 5, generator())
    signals = generator(1).normal(size=members.shape) * np.exp(generator(2).normal(size=100)) + 1e4
    np.testing.assert_allclose(lira(signals, members), slow_lira(signals, members), rtol=1e-6)


def test_moderation_finds_the_scatter_of_variances_back():
    """Variances of a scaled inverse chi-squared distribution, d_0 = 6, s_0^2 = 2: limma's estimates are consistent."""
    draws, d0, s0, d = generator(), 6.0, 2.0, 5.0
    true = d0 * s0 / draws.chisquare(d0, size=200_000)
    found = true * draws.chisquare(d, size=true.size) / d
    drawn = moderated(found, d)
    slope = np.polyfit(found, drawn, 1)[0]
    assert slope == pytest.approx(d / (d0 + d), rel=0.02)
    assert drawn.min() == pytest.approx(d0 * s0 / (d0 + d), rel=0.02)
    assert np.abs(np.log(drawn / true)).mean() < np.abs(np.log(found / true)).mean()


def test_one_variance_for_all_where_they_scatter_no_more_than_chance():
    draws, d = generator(), 4.0
    drawn = moderated(3.0 * draws.chisquare(d, size=50) / d * 0 + 3.0, d)
    assert np.ptp(drawn) == 0
    logs = math.log(3.0) - float(digamma(d / 2)) + math.log(d / 2)
    assert drawn[0] == pytest.approx(math.exp(logs))
    assert float(polygamma(1, d / 2)) > 0


def test_the_auc_is_scikit_learn_s_with_ties():
    members = halves(LABELS, 4, generator())
    scores = generator(3).integers(0, 6, size=members.shape).astype(float)
    expected = [roc_auc_score(inside, row) for inside, row in zip(members, scores, strict=True)]
    np.testing.assert_allclose(aucs_of(scores, members), expected, rtol=1e-12)


@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.5])
def test_no_more_false_positives_than_allowed(fpr):
    members = halves(LABELS, 4, generator())
    scores = generator(4).normal(size=members.shape).round(1)  # with ties
    told = tpr_at(scores, members, fpr)
    others = np.sort(scores[~members])[::-1]
    allowed = int(fpr * len(others))
    above = [t for t in np.unique(scores) if (others > t).sum() <= allowed]
    assert told == max((scores[members] > t).mean() for t in above)


def attack(signals, members, redraws=99, seed=0):
    """Attack; the designs that might have been are drawn from another stream than that which was."""
    pairs, draws = len(members) // 2, generator(10_000 + seed)
    return membership(signals, members, lambda again: halves(LABELS, pairs, again), draws, redraws)


class TestWithoutALeak:
    """Signals that do not depend on who was a member."""

    def test_a_constant_signal_tells_nothing(self):
        members = halves(LABELS, 4, generator())
        found = attack(np.ones(members.shape), members)
        assert (found.auc, found.p) == (0.5, 1.0)
        assert [rate.tpr for rate in found.rates] == []

    def test_auc_is_one_half_with_images_of_their_own_difficulty(self):
        """Leaving out the shadow alone, and not its pair, would give 0.43 to 0.48 here."""
        aucs = []
        for seed in range(30):
            members = halves(LABELS, 4, generator(seed))
            hard = 5 * generator(seed + 100).normal(size=100)
            aucs.append(aucs_of(lira(hard + generator(seed + 200).normal(size=members.shape), members), members).mean())
        assert np.mean(aucs) == pytest.approx(0.5, abs=4 / math.sqrt(3 * 100 * 8 * 30))

    @pytest.mark.slow
    def test_p_values_are_uniform_and_intervals_cover(self):
        """Of images that are hard by themselves, with noise that is theirs as well."""
        values, rates, covered, repeats = [], [], np.zeros(2), 100
        many = np.tile(LABELS, 2)
        for seed in range(repeats):
            members = halves(many, 6, generator(seed))
            hard, noise = generator(seed + 1000).normal(size=200), generator(seed + 2000).normal(size=members.shape)
            found = membership(hard + noise * np.exp(hard / 2), members, lambda draws: halves(many, 6, draws),
                               generator(seed + 3000), 19)  # fmt: skip
            (rate,) = found.rates
            values.append(found.p)
            rates.append(rate.p)
            covered += [found.auc_ci95[0] <= 0.5 <= found.auc_ci95[1], rate.ci95[0] <= 0.01 <= rate.ci95[1]]
        error = 4 * math.sqrt(0.25 * 0.75 / repeats)
        assert np.mean(np.array(values) <= 0.25) == pytest.approx(0.25, abs=error)
        assert np.mean(np.array(rates) <= 0.25) < 0.25 + error  # few values are possible, so not uniform
        assert (covered / repeats > 0.95 - 4 * math.sqrt(0.95 * 0.05 / repeats)).all()


class TestPlantedLeaks:
    def test_copies_give_the_auc_that_they_must(self):
        """f of the members are copies: AUC 1/2 + f/2, TPR at alpha f + (1 - f) alpha (docs/audit.md 6)."""
        draws, labels, share = generator(), np.zeros(1200, dtype=np.int64), 0.1
        members = halves(labels, 8, draws)
        signals = draws.normal(size=members.shape)
        copied = members & (draws.random(members.shape) < share)
        signals[copied] += 100
        found = membership(signals, members, lambda again: halves(labels, 8, again), draws, 19)
        assert found.auc == pytest.approx(0.5 + share / 2, abs=0.01)
        assert [rate.fpr for rate in found.rates] == [0.01]
        assert found.rates[0].tpr == pytest.approx(share + (1 - share) * 0.01, abs=0.01)
        assert found.auc_ci95[0] < 0.5 + share / 2 < found.auc_ci95[1]
        assert found.rates[0].ci95[0] < share + (1 - share) * 0.01 < found.rates[0].ci95[1]
        assert (found.p, found.rates[0].p) == (0.05, 0.05)

    def test_more_shadows_see_a_small_shift_that_few_do_not(self):
        power = {}
        for pairs in (4, 16):
            found = []
            for seed in range(12):
                members = halves(LABELS, pairs, generator(seed))
                hard, noise = (generator(seed + at).normal(size=size) for at, size in ((50, 100), (80, members.shape)))
                signals = 3 * hard + noise + 0.2 * members
                found.append(attack(signals, members, 19, seed).p <= 0.05)
            power[pairs] = np.mean(found)
        assert power[16] > power[4]
        assert power[16] > 0.8

    def test_what_cannot_be_attacked_is_refused(self):
        members = halves(LABELS, 4, generator())
        with pytest.raises(ValueError, match="complementary"):
            attack(np.ones(members.shape), np.roll(members, 1, axis=0))
        with pytest.raises(ValueError, match="at least 4 pairs"):
            attack(np.ones((6, 100)), members[:6])
        broken = np.ones(members.shape)
        broken[3, 5] = np.nan  # a network that diverged: every comparison with it is False, so p would be the smallest
        with pytest.raises(ValueError, match="not finite"):
            attack(broken, members)
