"""The endpoint and shape-wise matchers against formulas written from docs/methods.md 2 and the paper, in float64."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields

import pytest
import torch

from hoptm_plugin.core.observations import TrajectoryPair
from hoptm_plugin.matchers import Endpoint, ShapeWisePotential
from hoptm_plugin.matchers.shape_wise import inner_products, triangle_cosines

SIZES = (5, 1, 6)
P = sum(SIZES)


def make_pair(M=2, N=4, weights=None, seed=0, spread=1.0, step=0):
    generator = torch.Generator().manual_seed(seed)

    def walk(count, start):
        steps = torch.randn(count, P, generator=generator, dtype=torch.float64)
        return torch.cat([start[None], start + spread * steps.cumsum(0)])

    start = torch.randn(P, generator=generator, dtype=torch.float64)
    student = tuple(point.clone().requires_grad_() for point in walk(N, start))
    return TrajectoryPair(walk(M, start), student, step, SIZES, weights)


def mask(*on):
    v = torch.zeros(P, dtype=torch.float64)
    v[list(on)] = 1
    return v


def reference_endpoint(pair, reduction, eps):
    """Plain loops over scalar parameters, math floats."""
    start, target = pair.expert[0].tolist(), pair.expert[-1].tolist()
    end = pair.student[-1].tolist()
    v = [1.0] * P if pair.weights is None else pair.weights.tolist()
    d = [(a - b) ** 2 for a, b in zip(end, target, strict=True)]
    n = [(a - b) ** 2 for a, b in zip(start, target, strict=True)]
    if reduction == "sum_of_ratios":
        return sum(w * x / (y + eps) for w, x, y in zip(v, d, n, strict=True))
    below = math.fsum(n) if reduction == "unmasked_denominator" else math.fsum(w * y for w, y in zip(v, n, strict=True))
    return math.fsum(w * x for w, x in zip(v, d, strict=True)) / below


@pytest.mark.parametrize("reduction", ["masked_ratio", "sum_of_ratios", "unmasked_denominator"])
@pytest.mark.parametrize("weights", [None, mask(*range(P)), mask(1, 4, 9), torch.linspace(0, 1, P).double()])
def test_endpoint_equals_its_formula(reduction, weights):
    pair = make_pair(weights=weights)
    loss = Endpoint(reduction=reduction, eps=1e-9).loss(pair)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(reference_endpoint(pair, reduction, 1e-9), rel=1e-12)


def test_endpoint_gradient_equals_its_formula():
    """d/d end_i of sum v d / sum v n = 2 v_i (end_i - target_i) / sum v n; nothing flows to other points."""
    pair = make_pair(weights=mask(0, 3, 7))
    Endpoint().loss(pair).backward()
    n = (pair.expert[0] - pair.expert[-1]).square()
    want = 2 * pair.weights * (pair.student[-1].detach() - pair.expert[-1]) / (pair.weights * n).sum()
    torch.testing.assert_close(pair.student[-1].grad, want, rtol=1e-12, atol=0)
    assert all(point.grad is None for point in pair.student[:-1])


@pytest.mark.parametrize("weights", [None, torch.ones(P, dtype=torch.float64), torch.ones(P)])
@pytest.mark.parametrize("reduction", ["masked_ratio", "unmasked_denominator"])
def test_all_ones_is_mtt(weights, reduction):
    """MTT: ||student_N - theta_{t+M}||^2 / ||theta_t - theta_{t+M}||^2, in value and gradient (paper Eq. 2)."""
    pair = make_pair(weights=weights)
    loss = Endpoint(reduction=reduction).loss(pair)
    end = pair.student[-1].detach().clone().requires_grad_()
    mtt = (end - pair.expert[-1]).norm() ** 2 / (pair.expert[0] - pair.expert[-1]).norm() ** 2
    assert loss.item() == pytest.approx(mtt.item(), rel=1e-12)
    (want,) = torch.autograd.grad(mtt, end)
    (got,) = torch.autograd.grad(loss, pair.student[-1])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("reduction", ["masked_ratio", "sum_of_ratios", "unmasked_denominator"])
def test_an_empty_mask_gives_zero_and_zero_gradient(reduction):
    pair = make_pair(weights=mask())
    loss = Endpoint(reduction=reduction).loss(pair)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(pair.student[-1].grad, torch.zeros(P, dtype=torch.float64))


@pytest.mark.parametrize("reduction", ["masked_ratio", "sum_of_ratios", "unmasked_denominator"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mask_of_immobile_parameters_only_never_gives_nan(reduction, dtype):
    """Convolution biases before a norm layer: n_i = 0, d_i = 0, the usual first members of HoP-TM's mask."""
    pair = make_pair(weights=mask(5).to(dtype))
    expert = pair.expert.to(dtype)
    expert[:, 5] = expert[0, 5]
    end = pair.student[-1].detach().to(dtype)
    end[5] = expert[0, 5]
    end.requires_grad_()
    pair = TrajectoryPair(expert, (*pair.student[:-1], end), 0, SIZES, pair.weights)
    loss = Endpoint(reduction=reduction).loss(pair)
    loss.backward()
    assert loss.item() == 0
    assert bool(torch.isfinite(end.grad).all())
    assert float(end.grad[5]) == 0


@pytest.mark.parametrize("reduction", ["masked_ratio", "sum_of_ratios", "unmasked_denominator"])
def test_an_expert_that_never_moved_is_harmless(reduction):
    pair = make_pair()
    expert = pair.expert[:1].expand(3, -1)
    pair = TrajectoryPair(expert, pair.student, 0, SIZES, None)
    loss = Endpoint(reduction=reduction).loss(pair)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(pair.student[-1].grad).all())


def all_27(points):
    """Inner products of unit vectors (p_b - p_a) and (p_c - p_a) for every a, b, c; zero vectors stay zero."""
    result = torch.zeros(27, dtype=torch.float64)
    for at, (a, b, c) in enumerate(itertools.product(range(3), repeat=3)):
        total = torch.zeros((), dtype=torch.float64)
        units = []
        for other in (b, c):
            edge = points[other] - points[a]
            length = edge.square().sum().sqrt()
            units.append(edge / length if float(length.detach()) > 1e-12 else edge * 0)
        total = (units[0] * units[1]).sum()
        result[at] = total
    return result


def smooth_l1(x, beta):
    return torch.where(x.abs() < beta, 0.5 * x.square() / beta, x.abs() - 0.5 * beta)


def triangle(points):
    """Start, middle (index floor(n/2) of n steps), end."""
    return [points[0], points[math.floor((len(points) - 1) / 2)], points[-1]]


@pytest.mark.parametrize("beta", [1.0, 0.05])
@pytest.mark.parametrize(("M", "N"), [(2, 4), (3, 5), (3, 4), (2, 80), (4, 2)])
def test_all_vertices_equals_the_mean_of_the_27(M, N, beta):
    pair = make_pair(M, N, seed=M + N)
    loss = ShapeWisePotential(beta=beta).loss(pair)
    teacher, student = all_27(triangle(pair.expert)), all_27(triangle(pair.student))
    assert int((teacher == 0).sum()) == 15
    assert int((teacher - 1).abs().lt(1e-12).sum()) == 6
    want = smooth_l1(student - teacher, beta).mean()
    assert loss.item() == pytest.approx(want.item(), rel=1e-12)
    inputs = [pair.student[N // 2], pair.student[-1]]
    for got, expected in zip(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(want, inputs), strict=True
    ):  # the same gradient as the construction
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-16)


def test_two_twenty_sevenths_of_the_sum_over_three_vertices():
    pair = make_pair(seed=4)

    def angle(i, j, k):  # cosine of the angle at j between i and k, by the law of cosines
        a, b, c = (i - j).norm(), (k - j).norm(), (i - k).norm()
        return float((a**2 + b**2 - c**2) / (2 * a * b))

    total = 0.0
    for turn in ((1, 0, 2), (0, 1, 2), (0, 2, 1)):
        t, s = ([triangle(path)[x] for x in turn] for path in (pair.expert, [p.detach() for p in pair.student]))
        total += float(smooth_l1(torch.tensor(angle(*s) - angle(*t), dtype=torch.float64), 1.0))
    assert ShapeWisePotential().loss(pair).item() == pytest.approx(2 / 27 * total, rel=1e-11)


def test_cosines_are_at_start_middle_and_end_in_this_order():
    """A right angle at the middle with legs 3 and 4."""
    start, middle, end = (torch.tensor(p, dtype=torch.float64) for p in ([3.0, 0.0], [0.0, 0.0], [0.0, 4.0]))
    torch.testing.assert_close(triangle_cosines(start, middle, end), torch.tensor([0.6, 0.0, 0.8]).double())


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_middle_equals_equation_4(beta):
    pair = make_pair(3, 5, seed=9)

    def psi(i, j, k):
        e_ij, e_kj = (i - j) / (i - j).norm(), (k - j) / (k - j).norm()
        return e_ij @ e_kj

    difference = psi(*triangle(pair.student)) - psi(*triangle(pair.expert))
    loss = ShapeWisePotential(vertices="middle", beta=beta).loss(pair)
    assert loss.item() == pytest.approx(smooth_l1(difference, beta).item(), rel=1e-12)


def test_middle_is_13_and_a_half_times_the_same_term_of_all():
    """docs/methods.md 2.2, beside the terms of the other two vertices."""
    pair = make_pair(seed=2)
    middle = ShapeWisePotential(vertices="middle").loss(pair).item()
    t, s = triangle_cosines(*triangle(pair.expert)), triangle_cosines(*triangle([p.detach() for p in pair.student]))
    others = sum(float(smooth_l1(s[k] - t[k], 1.0)) for k in (0, 2))
    assert ShapeWisePotential().loss(pair).item() == pytest.approx((middle + others) / 13.5, rel=1e-12)


@pytest.mark.parametrize("vertices", ["all", "middle"])
@pytest.mark.parametrize(("M", "N", "teacher_middle", "student_middle"), [(2, 80, 1, 40), (3, 5, 1, 2), (5, 3, 2, 1)])
def test_which_points_are_used(vertices, M, N, teacher_middle, student_middle):
    """floor(M/2) and floor(N/2); no other point matters (docs/methods.md 2.2)."""
    matcher = ShapeWisePotential(vertices=vertices)
    pair = make_pair(M, N)
    loss = matcher.loss(pair)
    loss.backward()
    used = {i for i, point in enumerate(pair.student) if point.grad is not None and bool(point.grad.any())}
    assert used - {0} == {student_middle, N}
    for row in range(M + 1):
        expert = pair.expert.clone()
        expert[row] += torch.linspace(-1, 2, P).double()
        moved = matcher.loss(TrajectoryPair(expert, pair.student, 0, SIZES))
        assert (moved.item() != loss.item()) == (row in (0, teacher_middle, M)), row


@pytest.mark.parametrize("vertices", ["all", "middle"])
@pytest.mark.parametrize("M", [2, 3])
def test_zero_and_zero_gradient_where_the_student_equals_the_expert(vertices, M):
    pair = make_pair(M, M)
    student = tuple(row.clone().requires_grad_() for row in pair.expert)
    loss = ShapeWisePotential(vertices=vertices).loss(TrajectoryPair(pair.expert, student, 0, SIZES))
    loss.backward()
    assert loss.item() == 0
    for index in (M // 2, M):
        assert float(student[index].grad.abs().max()) == 0


@pytest.mark.parametrize("same", [("start", "middle"), ("middle", "end"), ("start", "end"), ("start", "middle", "end")])
@pytest.mark.parametrize("whose", ["student", "expert", "both"])
def test_edges_of_length_zero_are_finite(same, whose):
    index = {"start": 0, "middle": 1, "end": 2}
    pair = make_pair(2, 2)
    expert, student = pair.expert.clone(), torch.stack(pair.student).detach()
    for name in same[1:]:
        if whose != "student":
            expert[index[name]] = expert[index[same[0]]]
        if whose != "expert":
            student[index[name]] = student[index[same[0]]]
    for vertices in ("all", "middle"):
        points = tuple(row.clone().requires_grad_() for row in student)
        loss = ShapeWisePotential(vertices=vertices).loss(TrajectoryPair(expert, points, 0, SIZES))
        loss.backward()
        assert bool(torch.isfinite(loss))
        assert all(bool(torch.isfinite(point.grad).all()) for point in points[1:])
        if vertices == "all":
            # of the 27, an edge of length zero also turns two of the 6 ones into zeros: a constant where one path alone
            # has such an edge, which the matcher leaves out
            edges = 0 if whose == "both" else {2: 1, 3: 3}[len(same)]
            want = smooth_l1(all_27(list(points)) - all_27(list(expert)), 1.0).mean() - edges * 2 * 0.5 / 27
            assert loss.item() == pytest.approx(want.item(), rel=1e-12, abs=1e-15)


# --- any number of points, and distances ------------------------------------------------------------------------------


def chosen(path, K):
    return [path[math.floor(k * (len(path) - 1) / (K - 1))] for k in range(K)]


def cosine(a, b, c):
    """At a, between b and c."""
    return (b - a) @ (c - a) / ((b - a).norm() * (c - a).norm())


def reference_angles(expert, student, vertices, beta):
    """Loops over all ordered triples of points, those with equal points included, or over the inner points."""
    K, total = len(expert), torch.zeros((), dtype=torch.float64)
    if vertices == "middle":
        for k in range(1, K - 1):
            at = (k, k - 1, k + 1)
            total = total + smooth_l1(cosine(*(student[i] for i in at)) - cosine(*(expert[i] for i in at)), beta)
        return total / (K - 2)
    for a, b, c in itertools.product(range(K), repeat=3):
        if a in (b, c):
            continue  # 0 on both sides
        if b != c:  # else 1 on both sides
            difference = cosine(student[a], student[b], student[c]) - cosine(expert[a], expert[b], expert[c])
            total = total + smooth_l1(difference, beta)
    return total / K**3


def reference_distances(expert, student, beta):
    K, total = len(expert), torch.zeros((), dtype=torch.float64)

    def relative(points, k, other):
        length = sum((points[j + 1] - points[j]).norm() for j in range(K - 1))
        return (points[k] - points[other]).norm() / length

    for k, other in itertools.product(range(K), repeat=2):
        if k != other:
            total = total + smooth_l1(relative(student, k, other) - relative(expert, k, other), beta)
    return total / K**2


@pytest.mark.parametrize("beta", [1.0, 0.05])
@pytest.mark.parametrize("vertices", ["all", "middle"])
@pytest.mark.parametrize("distances", [0.0, 0.7])
@pytest.mark.parametrize(("K", "M", "N"), [(3, 3, 5), (4, 3, 5), (4, 7, 20), (5, 6, 4), (6, 5, 80), (9, 8, 8)])
def test_more_points_equal_loops_over_ordered_triples(K, M, N, beta, vertices, distances):
    pair = make_pair(M, N, seed=K)
    loss = ShapeWisePotential(vertices, beta, points=K, distances=distances).loss(pair)
    expert, student = chosen(pair.expert, K), chosen(pair.student, K)
    want = reference_angles(expert, student, vertices, beta) + distances * reference_distances(expert, student, beta)
    assert (loss.shape, loss.dtype) == ((), torch.float64)
    assert loss.item() == pytest.approx(want.item(), rel=1e-11)
    inputs = student[1:]
    for got, right in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(want, inputs), strict=True):
        torch.testing.assert_close(got, right, rtol=1e-9, atol=1e-14)


def test_two_thirds_of_three_points_is_two_twenty_sevenths():
    """At K = 3 the mean over ordered triples has the factor 2 / K^3 of the three vertices."""
    pair = make_pair(seed=5)
    expert, student = (triangle(path) for path in (pair.expert, pair.student))
    difference = triangle_cosines(*student) - triangle_cosines(*expert)
    want = 2 / 3**3 * smooth_l1(difference, 1.0).sum()
    assert reference_angles(expert, student, "all", 1.0).item() == pytest.approx(want.item(), rel=1e-12)


def published_shape(pair, vertices, beta):
    """The loss as it was before there were more than three points."""

    def cosines(start, middle, end):
        edges = (middle - start, end - middle, end - start)
        first, second, third = (torch.nn.functional.normalize(edge, dim=0) for edge in edges)
        return torch.stack([first @ third, -(first @ second), second @ third])

    segment, path = pair.expert, pair.student
    expert = cosines(segment[0], segment[(len(segment) - 1) // 2], segment[-1])
    student = cosines(path[0], path[(len(path) - 1) // 2], path[-1])
    if vertices == "middle":
        return torch.nn.functional.smooth_l1_loss(student[1], expert[1], beta=beta)
    return torch.nn.functional.smooth_l1_loss(student, expert, beta=beta, reduction="sum") * (2 / 27)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("vertices", ["all", "middle"])
@pytest.mark.parametrize(("M", "N"), [(2, 80), (3, 5), (5, 2)])
def test_three_points_are_the_published_form_to_the_bit(M, N, vertices, dtype):
    pair = make_pair(M, N, seed=M)
    student = tuple(point.detach().to(dtype).requires_grad_() for point in pair.student)
    pair = TrajectoryPair(pair.expert.to(dtype), student, 0, SIZES)
    loss, want = ShapeWisePotential(vertices, 0.3).loss(pair), published_shape(pair, vertices, 0.3)
    assert torch.equal(loss, want)
    inputs = (student[N // 2], student[-1])
    for got, right in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(want, inputs), strict=True):
        assert torch.equal(got, right)


MORE = [{"points": 4}, {"points": 5, "vertices": "middle"}, {"points": 4, "distances": 0.5}, {"distances": 2.0}]


@pytest.mark.parametrize("keywords", MORE)
def test_shape_knows_no_place_direction_or_size(keywords):
    """Either path may be moved, turned and made larger by itself."""
    pair = make_pair(6, 9, seed=7)
    generator = torch.Generator().manual_seed(1)
    turn, _ = torch.linalg.qr(torch.randn(P, P, generator=generator, dtype=torch.float64))
    moved = tuple(30.0 * (turn @ point) + 2.0 for point in pair.student)
    matcher = ShapeWisePotential(**keywords)
    want = matcher.loss(pair).item()
    assert want > 0
    assert matcher.loss(TrajectoryPair(pair.expert, moved, 0, SIZES)).item() == pytest.approx(want, rel=1e-10)
    expert = 1e-6 * (pair.expert @ turn.T) - 1e-5
    assert matcher.loss(TrajectoryPair(expert, pair.student, 0, SIZES)).item() == pytest.approx(want, rel=1e-7)
    alike = tuple(0.1 * (turn @ point) - 1.0 for point in pair.expert)
    assert matcher.loss(TrajectoryPair(pair.expert, alike, 0, SIZES)).item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("keywords", MORE)
def test_gradients_of_more_points(keywords):
    pair = make_pair(4, 6, seed=8)
    matcher = ShapeWisePotential(beta=0.5, **keywords)

    def loss(*points):
        return matcher.loss(TrajectoryPair(pair.expert, (pair.student[0].detach(), *points), 0, SIZES))

    assert torch.autograd.gradcheck(loss, pair.student[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("whose", ["student", "expert", "both"])
@pytest.mark.parametrize("keywords", MORE)
@pytest.mark.parametrize("same", [(0, 1), (2, 3), (0, 5), (1, 4), (0, 2, 4), tuple(range(6))])
def test_points_that_coincide_are_finite(keywords, whose, same, dtype):
    """A path of length 0 included; where points of a path are one, the edge between them has no direction."""
    pair = make_pair(5, 5)
    expert, student = pair.expert.to(dtype).clone(), torch.stack(pair.student).detach().to(dtype)
    for index in same[1:]:
        if whose != "student":
            expert[index] = expert[same[0]]
        if whose != "expert":
            student[index] = student[same[0]]
    points = tuple(row.clone().requires_grad_() for row in student)
    loss = ShapeWisePotential(**keywords).loss(TrajectoryPair(expert, points, 0, SIZES))
    loss.backward()
    assert loss.dtype == dtype
    assert bool(torch.isfinite(loss))
    for point in points:
        assert point.grad is None or bool(torch.isfinite(point.grad).all())


@pytest.mark.parametrize("keywords", MORE)
def test_a_diverged_student_is_not_hidden(keywords):
    pair = make_pair(5, 5)
    for bad in (math.nan, math.inf):
        student = (*pair.student[:-1], pair.student[-1] * bad)
        assert not bool(ShapeWisePotential(**keywords).loss(TrajectoryPair(pair.expert, student, 0, SIZES)).isfinite())


def test_inner_products_of_points_that_come_back():
    """Of a path that returns to where it was, in float32: the edge between the two has no direction of its own."""
    points = list(torch.randn(4, 1000, generator=torch.Generator().manual_seed(2)))
    points.append(points[1].clone())
    inner = inner_products(points)
    stacked = torch.stack(points).double()
    edges = stacked[None] - stacked[:, None]
    want = torch.einsum("abp,acp->abc", edges, edges)
    torch.testing.assert_close(inner, want, rtol=1e-5, atol=1e-3)
    assert inner[1, 4].abs().max() == 0
    assert inner[4, :, 1].abs().max() == 0


@pytest.mark.parametrize(("M", "N", "refused"), [(2, 80, True), (3, 2, True), (3, 3, False), (4, 80, False)])
def test_segments_with_too_few_points_are_refused_beforehand(M, N, refused):
    problems = ShapeWisePotential(points=4).problems(M, N)
    assert len(problems) == refused
    if refused:
        assert problems == [
            "4 points need 3 epochs and 3 steps between start and end; "
            "set method.expert_epochs and method.student_steps to 3 or more, or points to fewer"
        ]


@pytest.mark.parametrize("bad", [{"points": 2}, {"distances": -0.1}])
def test_senseless_points_and_distances_are_refused(bad):
    with pytest.raises(ValueError, match="points must be at least 3 and distances at least 0"):
        ShapeWisePotential(**bad)


def test_shape_is_not_masked():
    """docs/methods.md 2.4: L_hotm ignores v."""
    values = [ShapeWisePotential().loss(make_pair(weights=w)).item() for w in (None, mask(), mask(2, 3))]
    assert values[0] == values[1] == values[2]


def test_matchers_leave_the_pair_as_it_was():
    pair = make_pair(weights=mask(1, 2))
    before = [pair.expert.clone(), *(p.detach().clone() for p in pair.student), pair.weights.clone()]
    for matcher in (Endpoint(), Endpoint("sum_of_ratios"), ShapeWisePotential(), ShapeWisePotential("middle")):
        matcher.loss(pair)
    after = [pair.expert, *(p.detach() for p in pair.student), pair.weights]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert {f.name for f in fields(pair)} == {"expert", "student", "step", "tensor_sizes", "weights"}


@pytest.mark.parametrize(("M", "N", "refused"), [(1, 80, True), (2, 1, True), (2, 2, False), (3, 80, False)])
def test_segments_without_a_middle_are_refused_beforehand(M, N, refused):
    problems = ShapeWisePotential().problems(M, N)
    assert bool(problems) == refused
    if refused:
        assert "method.expert_epochs" in problems[0]
    assert Endpoint().problems(M, N) == []


@pytest.mark.parametrize("make", [lambda: Endpoint(eps=0), lambda: ShapeWisePotential(beta=0)])
def test_senseless_settings_are_refused(make):
    with pytest.raises(ValueError, match="must be above 0"):
        make()
