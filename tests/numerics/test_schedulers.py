"""Pacing: HoP-TM's self-paced mask and its kappa, DATM's start epochs, and how schedulers compose in the method."""

from __future__ import annotations

import math

import pytest
import torch

from hoptm_plugin.core.asking import alone
from hoptm_plugin.core.compute import Compute
from hoptm_plugin.core.interfaces import Schedule, Scheduler, value_at
from hoptm_plugin.core.observations import TrajectoryPair
from hoptm_plugin.matchers import Endpoint, ShapeWisePotential
from hoptm_plugin.schedulers import Geometric, Linear, SelfPaced, SequentialStartEpochs
from hoptm_plugin.schedulers.weighting import weight_at
from hoptm_plugin.trajectory import HardLabels, RealImages, TrajectoryMatching, UniformSegments, WeightedMatcher

SIZES = (3, 2)
P = sum(SIZES)


def pair_with(errors, distances=(1.0,) * P, step=0, dtype=torch.float64):
    """Return a pair whose squared errors d and squared distances n are the ones given."""
    target = torch.zeros(P, dtype=dtype)
    start = torch.tensor(distances, dtype=dtype).sqrt()
    end = torch.tensor(errors, dtype=dtype).sqrt()
    return TrajectoryPair(torch.stack([start, start / 2, target]), (start, end / 3, end), step, SIZES)


# --- kappa -----------------------------------------------------------------------------------------------------------

KAPPAS = [  # docs/methods.md 2.3: base, growth, value in iterations [9500, 9999], and the |Delta| below which v is 1
    (5e-9, 1.5, 1.11e-5, 7.1e-5, 3.3e-3),
    (5e-8, 1.5, 1.1e-4, 2.2e-4, 1.05e-2),
    (1e-10, 1.3, 1.46e-8, 1e-5, 1.2e-4),
    (1e-10, 1.6, 7.6e-7, 1e-5, 8.7e-4),
]


@pytest.mark.parametrize(("base", "growth", "late", "first_delta", "late_delta"), KAPPAS)
def test_kappa_takes_the_published_values(base, growth, late, first_delta, late_delta):
    kappa = Geometric(start=base, growth=growth)
    assert kappa.at(0) == kappa.at(499) == base
    assert kappa.at(500) == pytest.approx(base * growth, rel=1e-15)
    assert kappa.at(9500) == kappa.at(9999) == pytest.approx(base * growth**19, rel=1e-14)
    assert kappa.at(9999) == pytest.approx(late, rel=0.02)
    assert kappa.at(10000) == pytest.approx(kappa.at(9999) * growth, rel=1e-14)
    assert math.sqrt(kappa.at(0)) == pytest.approx(first_delta, rel=0.02)
    assert math.sqrt(kappa.at(9999)) == pytest.approx(late_delta, rel=0.02)


def test_kappa_equals_equation_7_at_every_step():
    kappa = Geometric(start=2e-7, growth=1.25, every=7)
    value = 2e-7
    for step in range(60):
        if step and step % 7 == 0:
            value *= 1.25
        assert kappa.at(step) == pytest.approx(value, rel=1e-13)


@pytest.mark.parametrize("bad", [{"start": 0.0, "growth": 2.0}, {"start": 1.0, "growth": 0.0},
                                 {"start": 1.0, "growth": 2.0, "every": 0}])  # fmt: skip
def test_senseless_schedules_are_refused(bad):
    with pytest.raises(ValueError, match="above 0"):
        Geometric(**bad)


def test_linear_goes_from_start_to_end_and_stays():
    rising = Linear(start=0.2, end=1.0, over=8)
    assert [rising.at(step) for step in (0, 2, 4, 8, 9, 10**6)] == pytest.approx([0.2, 0.4, 0.6, 1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="at least 1"):
        Linear(0.0, 1.0, 0)


# --- the mask --------------------------------------------------------------------------------------------------------


def masks(scheduler, rows):
    return [scheduler.parameter_weights(pair_with(row, step=step)).tolist() for step, row in enumerate(rows)]


# 0.25 is exactly representable, square root included: not below a kappa of 0.25
ROWS = [(0.1, 0.9, 0.25, 2.0, 0.0), (0.9, 0.1, 0.25, 2.0, 0.9), (0.9, 0.9, 0.25, 0.2, 0.9)]


def test_sticky_never_shrinks():
    assert masks(SelfPaced(kappa=0.25), ROWS) == [[1, 0, 0, 0, 1], [1, 1, 0, 0, 1], [1, 1, 0, 1, 1]]


def test_recomputed_follows_equation_6():
    """v_i = 1 iff l_i < kappa, strictly; an empty mask is possible and is no NaN."""
    rows = [*ROWS, (0.25, 0.6, 7.0, 8.0, 9.0)]
    got = masks(SelfPaced(kappa=0.25, sticky=False), rows)
    assert got == [[1, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]


def test_random_walk_of_masks_against_loops():
    generator = torch.Generator().manual_seed(0)
    kappa = Geometric(start=0.05, growth=1.3, every=3)
    sticky, fresh = SelfPaced(kappa=kappa), SelfPaced(kappa=kappa, sticky=False)
    held = [0.0] * P
    for step in range(30):
        errors = torch.rand(P, generator=generator, dtype=torch.float64).tolist()
        pair = pair_with(errors, step=step)
        d = pair.squared_errors.tolist()
        now = [float(x < 0.05 * 1.3 ** (step // 3)) for x in d]
        held = [max(a, b) for a, b in zip(held, now, strict=True)]
        assert sticky.parameter_weights(pair).tolist() == held
        assert fresh.parameter_weights(pair).tolist() == now
    assert held != now


def test_raw_and_normalised_errors():
    """Normalised: l_i = d_i / n_i, Eq. 2 per parameter; one that cannot move is easy where it is right."""
    errors, distances = (0.2, 0.2, 0.02, 0.0, 0.3), (1.0, 0.1, 0.1, 0.0, 0.0)
    pair = pair_with(errors, distances)
    assert SelfPaced(kappa=0.25).parameter_weights(pair).tolist() == [1, 1, 1, 1, 0]
    assert SelfPaced(kappa=0.25, errors="normalised").parameter_weights(pair).tolist() == [1, 0, 1, 1, 0]


def by_sorting(errors, held, fraction):
    """The easiest parameters join those held, in order, until round(fraction * P) are matched."""
    held = list(held)
    for index in sorted(range(P), key=lambda i: errors[i]):
        if sum(held) < round(fraction * P) and not held[index]:
            held[index] = 1.0
    return held


@pytest.mark.parametrize("sticky", [True, False])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_a_quantile_matches_its_fraction_at_any_scale(sticky, scale):
    """Whatever the errors' size, round(q P) parameters are matched: the easiest, besides those that are held."""
    generator = torch.Generator().manual_seed(1)
    scheduler = SelfPaced(quantile=Linear(0.0, 1.0, 20), sticky=sticky)
    held = [0.0] * P
    for step in range(25):
        errors = (scale * torch.rand(P, generator=generator, dtype=torch.float64)).tolist()
        pair = pair_with(errors, step=step)
        fraction = min(1.0, step / 20)
        before = held if sticky else [0.0] * P
        held = by_sorting(pair.squared_errors.tolist(), before, fraction)
        assert scheduler.parameter_weights(pair).tolist() == held
        assert sum(held) == round(fraction * P)
        let_in = [d for d, new, old in zip(pair.squared_errors.tolist(), held, before, strict=True) if new > old]
        logs = {name: float(value) for name, value in scheduler.logs().items()}
        assert logs["kappa"] == max(let_in, default=0.0), "the error of the last one let in"
        assert logs["mask_fraction"] == pytest.approx(sum(held) / P)


def test_a_quantile_is_a_kappa_seen_from_the_other_side():
    """Without stickiness, kappa just above the q-quantile of the errors gives the mask of q."""
    pair = pair_with((0.5, 0.1, 0.4, 0.2, 0.3))
    for count in range(1, P + 1):
        mask = SelfPaced(quantile=count / P, sticky=False).parameter_weights(pair)
        kappa = pair.squared_errors.sort().values[count - 1].item() * (1 + 1e-9)
        assert torch.equal(mask, SelfPaced(kappa=kappa, sticky=False).parameter_weights(pair))


def test_a_quantile_with_equal_errors_whole_tensors_and_fractions_beyond_the_ends():
    assert masks(SelfPaced(quantile=0.4, sticky=False), [(0.5, 0.5, 0.5, 0.1, 0.9)]) == [[1, 1, 1, 1, 0]]
    assert masks(SelfPaced(quantile=0.2, granularity="tensor"), [(0.1, 0.3, 0.8, 0.7, 0.9)]) == [[1, 1, 1, 0, 0]]
    assert masks(SelfPaced(quantile=7.0), ROWS[:1]) == [[1] * P]
    assert masks(SelfPaced(quantile=-1.0), ROWS[:1]) == [[0] * P]


def test_a_sticky_quantile_survives_a_checkpoint():
    straight, first, second = (SelfPaced(quantile=Linear(0.2, 1.0, 3)) for _ in range(3))
    want = [straight.parameter_weights(pair_with(row, step=step)).tolist() for step, row in enumerate(ROWS)]
    first.parameter_weights(pair_with(ROWS[0], step=0))
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    rest = [second.parameter_weights(pair_with(row, step=step)).tolist() for step, row in enumerate(ROWS)][1:]
    assert rest == want[1:]


@pytest.mark.parametrize("given", [{}, {"kappa": 0.1, "quantile": 0.1}])
def test_either_kappa_or_quantile(given):
    with pytest.raises(ValueError, match="either kappa or quantile"):
        SelfPaced(**given)


@pytest.mark.parametrize("pacing", [{"kappa": 0.5}, {"quantile": 0.5}, {"quantile": 1.0}])
@pytest.mark.parametrize("errors", ["raw", "normalised"])
@pytest.mark.parametrize("granularity", ["scalar", "tensor"])
def test_never_nan_even_if_the_student_diverged(errors, granularity, pacing):
    inf, nan = float("inf"), float("nan")
    scheduler = SelfPaced(**pacing, errors=errors, granularity=granularity)
    for row in ((inf, nan, 0.1, nan, inf), (0.1, nan, 0.1, 0.0, 0.0), (9.0,) * P):
        weights = scheduler.parameter_weights(pair_with(row, (0.0, 0.0, 1.0, 0.0, 1.0)))
        assert set(weights.tolist()) <= {0.0, 1.0}
        assert all(math.isfinite(float(value)) for value in scheduler.logs().values())


def test_granularity_tensor_decides_by_the_mean_of_each_tensor():
    rows = [(0.1, 0.3, 0.8, 0.7, 0.9), (0.0, 0.0, 3.0, 0.4, 0.2)]
    # means: (0.4, 0.8) and (1.0, 0.3)
    assert masks(SelfPaced(kappa=0.5, granularity="tensor", sticky=False), rows) == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
    assert masks(SelfPaced(kappa=0.5, granularity="tensor"), rows) == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_weights_have_the_parameters_precision_and_no_gradient():
    for dtype in (torch.float32, torch.float64):
        weights = SelfPaced(kappa=0.5).parameter_weights(pair_with(ROWS[0], dtype=dtype))
        assert weights.dtype == dtype
        assert not weights.requires_grad


def test_logs_say_kappa_fraction_and_the_term_without_gradient():
    scheduler = SelfPaced(kappa=Geometric(start=0.125, growth=2.0, every=1))
    assert scheduler.logs() == {}
    scheduler.parameter_weights(pair_with(ROWS[0], step=1))
    logs = {name: float(value) for name, value in scheduler.logs().items()}
    assert logs == pytest.approx({"kappa": 0.25, "mask_fraction": 0.4, "regulariser": -0.25 * 2})


def test_state_taken_mid_run_equals_not_stopping():
    straight, first, second = (SelfPaced(kappa=0.25) for _ in range(3))
    want = masks(straight, ROWS)
    assert masks(first, ROWS[:2]) == want[:2]
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    assert masks(second, ROWS[2:]) == want[2:]
    assert masks(SelfPaced(kappa=0.25), ROWS[2:]) != want[2:]  # the state is what made it so
    fresh = SelfPaced(kappa=0.25)
    fresh.load_state_dict(SelfPaced(kappa=0.25).state_dict())  # a checkpoint from before the first decision
    assert masks(fresh, ROWS) == want


# --- from the other end, by depth, by tensor --------------------------------------------------------------------------


def of(pair, **keywords):
    return SelfPaced(**keywords).parameter_weights(pair).tolist()


def endpoint_of(d, n, **keywords):
    """Return the endpoint's loss on parameters of those d and n, in tensors of one and of the others."""
    start, end = torch.tensor(n, dtype=torch.float64).sqrt(), torch.tensor(d, dtype=torch.float64).sqrt()
    zero = torch.zeros_like(start)
    pair = TrajectoryPair(torch.stack([start, zero]), (start, end), 0, (1, len(d) - 1))
    weights = SelfPaced(quantile=1.0, sticky=False, **keywords).parameter_weights(pair)
    return Endpoint().loss(TrajectoryPair(pair.expert, pair.student, 0, pair.tensor_sizes, weights)).item()


def test_pad_by_depth_and_by_loss():
    """What PAD leaves out of the endpoint's ratio, by hand."""
    first = ((1.0, 4.0, 9.0, 16.0), (2.0, 2.0, 4.0, 4.0))
    assert endpoint_of(*first) == pytest.approx(2.5, rel=1e-15)
    assert endpoint_of(*first, lower=0.5, difficulty="depth") == pytest.approx(3.125, rel=1e-15)
    assert endpoint_of((9.0, 1.0, 16.0, 4.0), first[1], lower=0.5) == pytest.approx(25 / 6, rel=1e-15)


@pytest.mark.parametrize("count", [5, 1000, 320_010])
@pytest.mark.parametrize("r", [0.0, 0.25, 0.3, 0.5, 0.75, 1.0])
def test_depth_leaves_out_exactly_the_first_of_the_vector(count, r):
    errors = torch.rand(count, generator=torch.Generator().manual_seed(0))
    pair = TrajectoryPair(torch.zeros(2, count), (torch.zeros(count), errors), 0, (count - 2, 2))
    for diverged in (pair, TrajectoryPair(pair.expert, (errors, errors * math.nan), 0, pair.tensor_sizes)):
        weights = SelfPaced(quantile=1.0, lower=r, difficulty="depth").parameter_weights(diverged)
        assert torch.equal(weights, (torch.arange(count) >= math.floor(r * count)).to(weights))


def by_rank(errors, held, low, high):
    """The floor(low P) easiest that are not held are left out; the next join until P's share of the range is held."""
    joined, left_out = list(held), math.floor(low * P)
    for rank, index in enumerate(sorted((i for i in range(P) if not held[i]), key=lambda i: errors[i])):
        if rank >= left_out and sum(joined) < round(high * P) - left_out:
            joined[index] = 1.0
    return joined


RANGES = [  # lower and quantile
    (0.0, 1.0), (Linear(0.9, 0.0, 20), 1.0), (0.0, Linear(0.1, 1.0, 20)), (0.2, 0.6), (0.4, 0.4), (0.8, 0.2),
    (Linear(0.5, 0.0, 10), Linear(0.5, 1.0, 20)), (1.0, 1.0), (-3.0, 7.0),
]  # fmt: skip


@pytest.mark.parametrize("sticky", [True, False])
@pytest.mark.parametrize(("lower", "quantile"), RANGES)
def test_a_range_matches_its_ranks(lower, quantile, sticky):
    generator = torch.Generator().manual_seed(2)
    scheduler, held = SelfPaced(quantile=quantile, lower=lower, sticky=sticky), [0.0] * P
    for step in range(25):
        pair = pair_with(torch.rand(P, generator=generator, dtype=torch.float64).tolist(), step=step)
        low, high = (min(max(value_at(number, step), 0.0), 1.0) for number in (lower, quantile))
        held = by_rank(pair.squared_errors.tolist(), held if sticky else [0.0] * P, low, high)
        assert scheduler.parameter_weights(pair).tolist() == held
        assert sum(held) >= max(0, round(high * P) - math.floor(low * P))


def test_hard_first_is_easy_first_in_a_mirror():
    """With errors turned round, a lower end that falls matches what a quantile that grows does."""
    generator = torch.Generator().manual_seed(3)

    class Falling(Schedule):
        def at(self, step):
            return (P - step + 0.01) / P

    easy, hard = SelfPaced(quantile=Linear(0.0, 1.0, P)), SelfPaced(quantile=1.0, lower=Falling())
    for step in range(P + 1):
        order = torch.randperm(P, generator=generator).double() + 1
        one = easy.parameter_weights(pair_with(order.tolist(), step=step))
        other = hard.parameter_weights(pair_with((P + 1 - order).tolist(), step=step))
        assert torch.equal(one, other)
        assert one.sum() == step


def test_a_lower_end_with_a_threshold_equal_errors_and_whole_tensors():
    errors = (0.1, 0.2, 0.2, 0.7, 0.9)
    assert of(pair_with(errors), kappa=0.8, lower=0.2) == [0, 1, 1, 1, 0]
    assert of(pair_with(errors), kappa=0.8, lower=0.5) == [0, 1, 1, 1, 0], "equal errors stay together"
    assert of(pair_with(errors), kappa=0.8, lower=0.6) == [0, 0, 0, 1, 0]
    tensors = {"quantile": 1.0, "granularity": "tensor"}
    assert of(pair_with(errors), **tensors, lower=0.4) == [1, 1, 1, 1, 1]
    assert of(pair_with(errors), **tensors, lower=0.6) == [0, 0, 0, 1, 1]
    assert of(pair_with(errors), **tensors, lower=0.4, difficulty="depth") == [1, 1, 1, 1, 1]
    assert of(pair_with(errors), **tensors, lower=0.6, difficulty="depth") == [0, 0, 0, 1, 1]
    assert of(pair_with(errors), quantile=0.6, granularity="tensor", difficulty="depth") == [1, 1, 1, 0, 0]


def test_ranked_by_tensor_is_each_tensor_by_itself():
    generator = torch.Generator().manual_seed(4)
    sizes = (7, 4, 9)
    keywords = {"quantile": Linear(0.3, 1.0, 6), "lower": 0.2}
    whole = SelfPaced(**keywords, ranked="tensor")
    alone = [SelfPaced(**keywords) for _ in sizes]
    for step in range(8):
        errors = torch.rand(sum(sizes), generator=generator, dtype=torch.float64)
        expert = torch.zeros(2, sum(sizes), dtype=torch.float64)
        got = whole.parameter_weights(TrajectoryPair(expert, (expert[0], errors), step, sizes))
        want = [part.parameter_weights(TrajectoryPair(expert[:, : len(e)], (e * 0, e), step, (len(e),)))
                for part, e in zip(alone, errors.split(sizes), strict=True)]  # fmt: skip
        assert torch.equal(got, torch.cat(want))
        logs, each = whole.logs(), [part.logs() for part in alone]
        assert float(logs["kappa"]) == pytest.approx(sum(float(one["kappa"]) for one in each) / 3)
        assert float(logs["regulariser"]) == pytest.approx(sum(float(one["regulariser"]) for one in each))
        assert float(logs["mask_fraction"]) == pytest.approx(got.mean().item())
    assert not torch.equal(got, SelfPaced(quantile=1.0, lower=0.2).parameter_weights(
        TrajectoryPair(expert, (expert[0], errors), 0, sizes)))  # fmt: skip


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"kappa": 0.1, "difficulty": "depth"}, "difficulty=depth"),
        ({"kappa": 0.1, "ranked": "tensor"}, "ranked=tensor needs a quantile"),
        ({"quantile": 0.1, "ranked": "tensor", "granularity": "tensor"}, "granularity=scalar"),
        ({"kappa": 0.1, "softness": 0.0}, "softness"),
        ({"kappa": 0.1, "softness": 1.0}, "softness"),
    ],
)
def test_what_has_no_meaning_is_refused(keywords, said):
    with pytest.raises(ValueError, match=said):
        SelfPaced(**keywords)


# --- soft weights -----------------------------------------------------------------------------------------------------

SOFT = ("linear", "logarithmic", "mixture")


def regulariser(w, weights, kappa, s):
    """Jiang et al. 2014, as functions of their age lambda (and lambda_2), with errors in the units that these need."""
    if weights == "hard":
        return -kappa * w
    if weights == "linear":
        return kappa * (w**2 - 2 * w) / 2
    if weights == "logarithmic":  # 0 < lambda < 1: errors are divided by kappa / s, and lambda = s
        zeta = 1 - s
        return kappa / s * (zeta * w - zeta**w / math.log(zeta))
    one, two = kappa, s * kappa
    zeta = one * two / (one - two)
    return -zeta * math.log(w + zeta / one)


@pytest.mark.parametrize("weights", ["hard", *SOFT])
@pytest.mark.parametrize("s", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kappa", [3e-7, 1.0, 40.0])
def test_weights_minimise_their_regulariser(weights, s, kappa):
    """argmin over w in [0, 1] of w e + f(w; kappa), by trying a fine grid."""
    grid = [k / 4000 for k in range(4001)]
    f = [regulariser(w, weights, kappa, s) for w in grid]
    for u in (0.0, 0.003, 0.05, 0.2, 0.35, 0.45, 0.55, 0.7, 0.85, 0.95, 1.05, 1.7, 30.0):
        best = min(range(len(grid)), key=lambda k: grid[k] * u * kappa + f[k])
        got = weight_at(torch.tensor(u, dtype=torch.float64), weights, s).item()
        assert got == pytest.approx(grid[best], abs=1 / 4000), u


@pytest.mark.parametrize("weights", SOFT)
def test_soft_weights_at_both_ends(weights):
    """u = e / kappa at the upper end, u = kappa_low / e at the lower; their product; 0 outside."""
    errors = (0.04, 0.1, 0.16, 0.3, 0.9)
    e = pair_with(errors).squared_errors

    def w(u):
        return weight_at(u.clamp(max=1), weights, 0.3)

    keywords = {"weights": weights, "softness": 0.3}
    for low, want in [(0.0, w(e / 0.5)), (0.2, w(e / 0.5) * w(e[1] / e)), (0.5, w(e / 0.5) * w(e[2] / e))]:
        got = SelfPaced(kappa=0.5, lower=low, **keywords).parameter_weights(pair_with(errors))
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    got = SelfPaced(quantile=0.8, **keywords).parameter_weights(pair_with(errors))
    torch.testing.assert_close(got, w(e / e[3]), rtol=1e-12, atol=0)
    assert got[3:].tolist() == [0, 0]
    got = SelfPaced(quantile=0.7, lower=0.4, ranked="tensor", **keywords).parameter_weights(pair_with(errors))
    torch.testing.assert_close(got[:3], w(e[:3] / e[1]) * w(e[1] / e[:3]), rtol=1e-12, atol=0)
    got = SelfPaced(quantile=1.0, lower=0.4, **keywords).parameter_weights(pair_with(errors))
    torch.testing.assert_close(got, w(e[2] / e), rtol=1e-12, atol=0)
    assert of(pair_with(errors), quantile=1.0, **keywords) == [1] * P, "no end where nothing is left out"


@pytest.mark.parametrize("weights", SOFT)
@pytest.mark.parametrize("pacing", [{"kappa": Geometric(0.1, 1.5, 1)}, {"quantile": Linear(0.3, 1.0, 6)},
                                    {"quantile": 1.0, "lower": Linear(0.8, 0.0, 6)}])  # fmt: skip
def test_sticky_soft_weights_are_the_largest_so_far_and_survive_a_checkpoint(weights, pacing):
    rows = torch.rand(9, P, generator=torch.Generator().manual_seed(5), dtype=torch.float64).tolist()
    keywords = pacing | {"weights": weights}
    straight, first, second = (SelfPaced(**keywords) for _ in range(3))
    largest, means = torch.zeros(P, dtype=torch.float64), []
    for step, row in enumerate(rows):
        got = straight.parameter_weights(pair_with(row, step=step))
        assert bool((got >= largest).all())
        if "kappa" in pacing:  # which no stickiness changes
            now = SelfPaced(**keywords, sticky=False).parameter_weights(pair_with(row, step=step))
            assert torch.equal(got, torch.maximum(largest, now))
        largest = got
        means.append(float(straight.logs()["mask_fraction"]))
        assert means[-1] == pytest.approx(got.mean().item(), rel=1e-12)
        if step == 4:
            for past in range(5):
                first.parameter_weights(pair_with(rows[past], step=past))
            second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
        if step > 4:
            assert torch.equal(second.parameter_weights(pair_with(row, step=step)), got)
    assert means[0] < means[-1] <= 1
    (state,) = straight.state_dict().values()
    assert state.is_floating_point()
    assert SelfPaced(**keywords, sticky=False).state_dict() == {}


@pytest.mark.parametrize("weights", SOFT)
@pytest.mark.parametrize(("lower", "quantile"), [(0.0, 0.5), (0.25, 0.75), (0.5, 1.0), (0.0, Linear(0.1, 0.9, 30))])
def test_sticky_soft_weights_keep_to_the_range_whatever_the_errors_do(weights, lower, quantile):
    """What has a weight is let in: errors that change from one iteration to the next do not open the range further."""
    generator, count = torch.Generator().manual_seed(3), 1000
    scheduler = SelfPaced(quantile=quantile, lower=lower, weights=weights)
    for step in range(40):
        end = torch.rand(count, generator=generator, dtype=torch.float64).sqrt()
        pair = TrajectoryPair(torch.zeros(2, count, dtype=torch.float64), (torch.ones_like(end), end), step, (count,))
        open_to = value_at(quantile, step) - lower
        support = int((scheduler.parameter_weights(pair) > 0).sum())
        assert open_to * count - 2 <= support <= open_to * count + 1  # the threshold's own weight is 0


EXTREME = [  # of which no lower end and no soft weight may make NaN, nor take a diverged parameter for an easy one
    (math.inf, math.nan, 0.1, math.nan, math.inf), (0.0,) * P, (0.0, 0.0, 0.1, math.inf, 1e300), (math.nan,) * P,
    (1e-320, 0.0, 1e-160, 0.5, 0.5), (0.3,) * P,
]  # fmt: skip


@pytest.mark.parametrize("weights", ["hard", *SOFT])
@pytest.mark.parametrize("sticky", [True, False])
@pytest.mark.parametrize("granularity", ["scalar", "tensor"])
@pytest.mark.parametrize("pacing", [{"kappa": 0.0}, {"kappa": 0.5}, {"quantile": 0.5}, {"quantile": 1.0}])
@pytest.mark.parametrize("lower", [0.0, 0.3, 0.8, 1.0])
def test_extreme_errors_never_make_nan(weights, sticky, granularity, pacing, lower):
    for dtype in (torch.float32, torch.float64):
        scheduler = SelfPaced(**pacing, lower=lower, weights=weights, sticky=sticky, granularity=granularity)
        seen = torch.zeros(P, dtype=torch.bool)
        for row in EXTREME:
            pair = pair_with(row, dtype=dtype)
            got = scheduler.parameter_weights(pair)
            assert got.dtype == dtype
            assert bool(((got >= 0) & (got <= 1)).all())
            diverged = ~pair.squared_errors.isfinite()
            assert not bool((got > 0)[diverged & ~seen].any())
            seen |= got > 0 if sticky else torch.zeros_like(seen)
            assert all(math.isfinite(float(value)) for value in scheduler.logs().values())


@pytest.mark.parametrize("weights", SOFT)
def test_an_error_of_zero_has_the_whole_weight_and_the_hardest_let_in_none(weights):
    got = SelfPaced(quantile=0.4, weights=weights).parameter_weights(pair_with((0.0, 0.0, 0.0, 0.1, 0.2)))
    torch.testing.assert_close(got, torch.tensor([1.0, 1, 1, 0, 0]).double(), rtol=0, atol=1e-12)
    got = SelfPaced(quantile=0.8, weights=weights).parameter_weights(pair_with((0.0, 0.0, 0.0, 0.1, 0.2)))
    torch.testing.assert_close(got, torch.tensor([1.0, 1, 1, 0, 0]).double(), rtol=0, atol=1e-12)


def published(rows, kappa, sticky):
    """The mask, its state and its logs as they were before there was anything but HoP-TM's form."""
    mask, found = None, []
    for step, row in enumerate(rows):
        errors, threshold = pair_with(row, step=step).squared_errors, value_at(kappa, step)
        now = errors < threshold
        mask = now if mask is None or not sticky else mask | now
        count = mask.sum()
        logs = {"kappa": threshold, "mask_fraction": count / P, "regulariser": -threshold * count}
        found.append((mask.to(torch.float64), {"mask": mask} if sticky else {}, logs))
    return found


@pytest.mark.parametrize("sticky", [True, False])
def test_the_published_form_is_the_same_to_the_bit(sticky):
    rows = torch.rand(12, P, generator=torch.Generator().manual_seed(6), dtype=torch.float64).tolist()
    kappa = Geometric(0.01, 1.7, 2)
    scheduler = SelfPaced(kappa=kappa, sticky=sticky)
    for step, (weights, state, logs) in enumerate(published(rows, kappa, sticky)):
        assert torch.equal(scheduler.parameter_weights(pair_with(rows[step], step=step)), weights)
        assert scheduler.state_dict().keys() == state.keys()
        assert all(torch.equal(scheduler.state_dict()[name], value) for name, value in state.items())
        assert all(value.dtype == torch.bool for value in scheduler.state_dict().values())
        got = scheduler.logs()
        assert list(got) == list(logs)
        assert all(torch.equal(torch.as_tensor(got[name]), torch.as_tensor(value)) for name, value in logs.items())


# --- DATM ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "last", "end"), [(10, 20, 1000), (20, 40, 2000), (15, 20, 2000), (5, 5, 10)])
def test_sequential_start_epochs(first, last, end):
    """upper(it) = min(T+, T + int((T+ - T) it / E)), t in [.., upper - 1]; upper(0) = T, upper(E) = T+."""
    scheduler = SequentialStartEpochs(first=first, last=last, expansion_end=end)
    assert scheduler.start_epochs(0) == (0, first - 1)
    assert scheduler.start_epochs(end) == scheduler.start_epochs(10 * end) == (0, last - 1)
    for step in range(0, 2 * end, 37):
        assert scheduler.start_epochs(step)[1] + 1 == min(last, first + int((last - first) * step / end))


@pytest.mark.parametrize("bad", [(5, 4, 10), (0, 4, 10), (1, 4, 0)])
def test_senseless_expansions_are_refused(bad):
    with pytest.raises(ValueError, match="first <= last"):
        SequentialStartEpochs(*bad)


# --- in the method ---------------------------------------------------------------------------------------------------


class Constant(Scheduler):
    """Weights given beforehand, or none; remembers what it saw."""

    def __init__(self, weights=None, bounds=None):
        self.weights, self.bounds, self.seen = weights, bounds, []

    def parameter_weights(self, pair):
        self.seen.append(pair)
        return self.weights

    def start_epochs(self, step):
        return self.bounds


class Halving(Schedule):
    def at(self, step):
        return 0.5**step


def method_with(matchers, schedulers=None, steps=6, **sampler):
    settings = {"max_start_epoch": 3} | sampler
    return TrajectoryMatching(
        matchers, UniformSegments(**settings), HardLabels(), RealImages(), student_steps=steps, expert_epochs=2,
        student_batch=2, step_size=0.05, schedulers=schedulers,
    )  # fmt: skip


def prepared(task, *args, **kwargs):
    method = method_with(*args, **kwargs)
    synthetic = method.setup(task)
    synthetic.images.requires_grad_()
    synthetic.step_size.requires_grad_()
    return method, synthetic


def one_loss(method, synthetic, step=0):
    (term,) = method.losses(synthetic, step)
    grads = torch.autograd.grad(term.loss, (synthetic.images, synthetic.step_size))
    return term, grads


@pytest.mark.parametrize("unroll", ["full", "adjoint"])
def test_all_ones_and_lambda_zero_give_mtts_loss_and_gradient(make_task, unroll):
    """docs/methods.md 2.4: v = 1 (kappa very large) and lambda = 0."""
    task = make_task(dtype=torch.float64, compute=Compute(unroll=unroll))
    hoptm = {"endpoint": WeightedMatcher(Endpoint()), "shape": WeightedMatcher(ShapeWisePotential(), 0.0)}
    method, synthetic = prepared(task, hoptm, {"pace": SelfPaced(kappa=1e9)})
    term, grads = one_loss(method, synthetic)
    pair = alone(method.observe(synthetic, 0))
    mtt = (pair.student[-1] - pair.expert[-1]).norm() ** 2 / (pair.expert[0] - pair.expert[-1]).norm() ** 2
    want = torch.autograd.grad(mtt, (synthetic.images, synthetic.step_size))
    assert term.loss.item() == pytest.approx(mtt.item(), rel=1e-12)
    for got, expected in zip(grads, want, strict=True):
        assert (got - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("unroll", ["full", "adjoint"])
def test_hoptms_whole_loss_and_gradient_written_out(make_task, unroll):
    task = make_task(dtype=torch.float64, compute=Compute(unroll=unroll))
    matchers = {"endpoint": WeightedMatcher(Endpoint()), "shape": WeightedMatcher(ShapeWisePotential(), 0.5)}
    method, synthetic = prepared(task, matchers, {"pace": SelfPaced(kappa=5e-4)})
    term, grads = one_loss(method, synthetic)
    pair = alone(method.observe(synthetic, 0))
    end, target, start = pair.student[-1], pair.expert[-1], pair.expert[0]
    d, n = (end - target) ** 2, (start - target) ** 2
    v = (d.detach() < 5e-4).double()
    assert 0 < v.mean() < 1

    def cosines(a, b, c):
        def at(x, y, z):
            return torch.nn.functional.cosine_similarity(y - x, z - x, dim=0)

        return torch.stack([at(a, b, c), at(b, a, c), at(c, a, b)])

    teacher = cosines(start, pair.expert[1], target)
    student = cosines(start, pair.student[3], end)
    shape = 2 / 27 * torch.nn.functional.smooth_l1_loss(student, teacher, reduction="sum")
    loss = (v * d).sum() / (v * n).sum() + 0.5 * shape
    assert term.loss.item() == pytest.approx(loss.item(), rel=1e-12)
    assert term.logs["shape"].item() == pytest.approx(shape.item(), rel=1e-11)
    assert float(term.logs["mask_fraction"]) == pytest.approx(v.mean().item())
    for got, expected in zip(grads, torch.autograd.grad(loss, (synthetic.images, synthetic.step_size)), strict=True):
        assert (got - expected).abs().max() <= 1e-10 * expected.abs().max()


def test_weights_of_several_schedulers_multiply(make_task):
    task = make_task(dtype=torch.float64)
    count = task.experts(0).parameters.shape[2]
    generator = torch.Generator().manual_seed(8)
    one, two = (torch.rand(count, generator=generator, dtype=torch.float64) for _ in range(2))
    seen = []

    class Spy(Endpoint):
        def loss(self, pair):
            seen.append(pair)
            return super().loss(pair)

    schedulers = {"a": Constant(one), "b": Constant(None), "c": Constant(two)}
    method, synthetic = prepared(task, {"endpoint": WeightedMatcher(Spy())}, schedulers)
    one_loss(method, synthetic)
    torch.testing.assert_close(seen[0].weights, one * two)
    assert not any(point.requires_grad for part in schedulers.values() for point in part.seen[0].student)
    method, synthetic = prepared(task, {"endpoint": WeightedMatcher(Spy())}, {"b": Constant(None)})
    one_loss(method, synthetic)
    assert seen[1].weights is None


def test_a_matchers_weight_may_be_a_schedule(make_task):
    method, synthetic = prepared(
        make_task(dtype=torch.float64), {"endpoint": WeightedMatcher(Endpoint(), Halving())}, None
    )
    for step in range(3):
        (term,) = method.losses(synthetic, step)
        assert term.loss.item() == pytest.approx(term.logs["endpoint"].item() * 0.5**step, rel=1e-14)
    assert value_at(3.0, 7) == 3.0


def test_ranges_of_start_epochs_intersect(make_task):
    task = make_task(epochs=9)
    schedulers = {"a": Constant(bounds=(1, 5)), "b": Constant(bounds=(0, 3)), "c": Constant()}
    method, synthetic = prepared(task, {"endpoint": WeightedMatcher(Endpoint())}, schedulers, max_start_epoch=7)
    trajectories, drawn = task.experts(0), set()
    for step in range(40):
        first = alone(method.observe(synthetic.detached(), step)).expert[0]
        matches = (trajectories.parameters == first).all(dim=2).nonzero()
        drawn.add(int(matches[0, 1]))
    assert drawn == {1, 2, 3}


def test_problems_are_known_before_any_work(make_task):
    """A scheduler that opens epochs the sampler never draws, or none that it draws, is refused beforehand."""
    endpoint = {"endpoint": WeightedMatcher(Endpoint())}
    good = method_with(endpoint, {"s": SequentialStartEpochs(2, 3, 10)}, max_start_epoch=3)
    assert good.problems(make_task()) == []
    never = method_with(endpoint, {"s": SequentialStartEpochs(9, 9, 10)}, max_start_epoch=3)
    assert any("method.schedulers.s" in problem for problem in never.problems(make_task()))
    no_middle = method_with({"shape": WeightedMatcher(ShapeWisePotential())}, steps=1)
    assert any("method.matchers.shape" in problem for problem in no_middle.problems(make_task()))


def test_a_scheduler_that_leaves_no_start_epoch_is_a_problem_beforehand(make_task):
    """Sampler 10..19 and a schedule that starts with 0..4: iteration 0 has nothing to draw."""
    method = method_with({"endpoint": WeightedMatcher(Endpoint())}, {"s": SequentialStartEpochs(5, 20, 10)},
                         max_start_epoch=20, min_start_epoch=10)  # fmt: skip
    problems = method.problems(make_task(epochs=22))
    assert any("start epoch" in problem for problem in problems), problems


def test_the_methods_state_is_that_of_its_parts(make_task):
    task = make_task()

    def build():
        return prepared(task, {"endpoint": WeightedMatcher(Endpoint())}, {"pace": SelfPaced(kappa=1e-4)})

    method, synthetic = build()
    list(method.losses(synthetic, 0))
    state = method.state_dict()
    assert state["schedulers"]["pace"]["mask"].dtype == torch.bool
    other, synthetic = build()
    other.load_state_dict(state)
    assert torch.equal(other.schedulers["pace"].state_dict()["mask"], state["schedulers"]["pace"]["mask"])
    (one,), (two,) = method.losses(synthetic, 1), other.losses(synthetic, 1)
    assert torch.equal(one.loss, two.loss)
