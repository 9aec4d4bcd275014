"""TESLA's gradient against its published formula, and its distance from the exact one; in float64."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cross_entropy

from hoptm_plugin.networks import ConvNet, FlatNetwork, create
from hoptm_plugin.trajectory.student import StudentStep
from hoptm_plugin.trajectory.unroll import unroll

SHAPE, CLASSES, BATCH = (2, 8, 8), 3, 3


def make_problem(steps, alpha, seed=0):
    generator = torch.Generator().manual_seed(seed)
    network = FlatNetwork(create(ConvNet(depth=2, width=4), SHAPE, CLASSES, generator).double())
    images = torch.randn(steps * BATCH, *SHAPE, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(CLASSES, (steps * BATCH,), generator=generator)
    step_size = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    start = network.flatten()
    target = start + 0.05 * torch.randn(len(start), generator=generator, dtype=torch.float64)
    return network, start, target, images, targets, step_size


def gradients(problem, kind):
    network, start, target, images, targets, step_size = problem
    sizes = [BATCH] * (len(images) // BATCH)
    path = unroll(StudentStep(network), start, images, targets, sizes, step_size, gradient=kind)
    loss = (path[-1] - target).square().sum() / (start - target).square().sum()
    return torch.autograd.grad(loss, (images, step_size))


def published(problem):
    """dL/dS_i = 2 <alpha (target - start) + alpha^2 G, dg_i/dS_i> / D; L(alpha) with G constant (docs/methods.md 4)."""
    network, start, target, images, targets, step_size = problem
    alpha, theta, G = step_size.detach(), start, torch.zeros_like(start)
    visited = []
    for x, y in zip(images.detach().split(BATCH), targets.split(BATCH), strict=True):
        at = theta.clone().requires_grad_()
        (g,) = torch.autograd.grad(cross_entropy(network(at, x), y), at)
        visited.append(theta)
        G, theta = G + g, theta - alpha * g
    D = (start - target).square().sum()
    weight = 2 * (alpha * (target - start) + alpha**2 * G) / D
    image_gradients = []
    for theta, x, y in zip(visited, images.detach().split(BATCH), targets.split(BATCH), strict=True):
        at, x = theta.clone().requires_grad_(), x.clone().requires_grad_()
        (g,) = torch.autograd.grad(cross_entropy(network(at, x), y), at, create_graph=True)
        image_gradients += torch.autograd.grad(g @ weight, x)
    rate = step_size.detach().clone().requires_grad_()
    (rate_gradient,) = torch.autograd.grad((start - rate * G - target).square().sum() / D, rate)
    return torch.cat(image_gradients), rate_gradient


def test_equals_the_published_formula():
    problem = make_problem(steps=7, alpha=0.05)
    for got, want in zip(gradients(problem, "tesla"), published(problem), strict=True):
        assert torch.allclose(got, want, rtol=1e-10, atol=1e-14 * float(want.abs().max()))


def test_halved_is_half_for_images_and_whole_for_alpha():
    problem = make_problem(steps=4, alpha=0.05)
    (images, rate), (half, same) = gradients(problem, "tesla"), gradients(problem, "tesla_halved")
    assert torch.allclose(half, images / 2, rtol=1e-14, atol=0)
    assert torch.equal(rate, same)


def test_equals_the_exact_gradient_for_one_step():
    problem = make_problem(steps=1, alpha=0.3)
    for got, want in zip(gradients(problem, "tesla"), gradients(problem, "exact"), strict=True):
        assert torch.allclose(got, want, rtol=1e-12, atol=1e-15)


def cosine(steps, alpha):
    problem = make_problem(steps, alpha)
    (exact, _), (tesla, _) = gradients(problem, "exact"), gradients(problem, "tesla")
    return float(torch.cosine_similarity(exact.flatten(), tesla.flatten(), dim=0))


@pytest.mark.parametrize("along", ["alpha", "steps"])
def test_departs_from_the_exact_gradient_as_steps_times_alpha_grow(along, capsys):
    points = [(20, a) for a in (0.001, 0.01, 0.1, 0.3)] if along == "alpha" else [(n, 0.1) for n in (1, 5, 20, 60)]
    cosines = [cosine(*point) for point in points]
    with capsys.disabled():
        for (steps, alpha), value in zip(points, cosines, strict=True):
            print(f"\nTESLA, N={steps} alpha={alpha:g} (N alpha={steps * alpha:g}): cosine {value:.6f}", end="")  # noqa: T201
    assert cosines[0] > 0.999
    assert all(later < earlier for earlier, later in pairwise(cosines)), cosines
    assert cosines[-1] < 0.99
