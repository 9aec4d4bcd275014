"""The unroll against a hand-written SGD loop, and its two strategies against each other, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hoptm_plugin.augment import DSA
from hoptm_plugin.networks import ConvNet, FlatNetwork, create
from hoptm_plugin.trajectory.sampler import plan_batches
from hoptm_plugin.trajectory.student import StudentStep
from hoptm_plugin.trajectory.unroll import unroll

SHAPE, CLASSES, WIDTH, DEPTH, STEPS = (2, 8, 8), 3, 4, 2, 20
GROUPS = {"color", "crop", "cutout", "flip", "scale", "rotate"}


def make_network(act="relu", seed=0, shape=SHAPE, width=WIDTH, depth=DEPTH):
    builder = ConvNet(depth=depth, width=width, act=act)
    return FlatNetwork(create(builder, shape, CLASSES, torch.Generator().manual_seed(seed)).double())


def forward_by_hand(theta, x):
    """ConvNet of docs/methods.md 1.5 written out over a flat vector in ``parameters()`` order."""
    at = 0

    def take(*shape):
        nonlocal at
        part = theta[at : at + torch.Size(shape).numel()].view(shape)
        at += part.numel()
        return part

    channels = x.shape[1]
    for _ in range(DEPTH):
        x = F.conv2d(x, take(WIDTH, channels, 3, 3), take(WIDTH), padding=1)
        x = F.avg_pool2d(F.relu(F.group_norm(x, WIDTH, take(WIDTH), take(WIDTH), eps=1e-5)), 2)
        channels = WIDTH
    x = F.linear(x.flatten(1), take(CLASSES, x[0].numel()), take(CLASSES))
    assert at == len(theta)
    return x


@pytest.fixture
def problem():
    """Synthetic images, soft label logits and alpha as leaves; DSA draws for a plan with remainder chunks."""
    generator = torch.Generator().manual_seed(3)
    indices, sizes = plan_batches(7, 3, STEPS, generator)
    assert sizes[:4] == (1, 3, 3, 1)
    dsa = DSA()
    draws = [dsa.draw(size, SHAPE, generator) for size in sizes]
    assert {draw.group for draw in draws} == GROUPS  # all operations take part
    images = torch.randn(7, *SHAPE, generator=generator, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(7, CLASSES, generator=generator, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)
    probes = torch.randn(STEPS + 1, make_network().num_parameters, generator=generator, dtype=torch.float64)
    return {"plan": (indices, sizes), "dsa": dsa, "draws": draws, "leaves": (images, logits, alpha), "probes": probes}


def path_of(problem, strategy):
    images, logits, alpha = problem["leaves"]
    indices, sizes = problem["plan"]
    augmented = problem["dsa"].apply_many(images[indices], problem["draws"], sizes)
    network = make_network()
    targets = logits.softmax(1)[indices]
    return unroll(StudentStep(network), network.flatten(), augmented, targets, sizes, alpha, strategy)


def path_by_hand(problem):
    images, logits, alpha = problem["leaves"]
    theta = make_network().flatten().requires_grad_()
    path, at = [theta], 0
    indices, sizes = problem["plan"]
    for size, draw in zip(sizes, problem["draws"], strict=True):
        index = indices[at : at + size]
        at += size
        outputs = forward_by_hand(path[-1], problem["dsa"].apply(images[index], draw))
        loss = -(logits[index].softmax(1) * outputs.log_softmax(1)).sum(1).mean()
        (gradient,) = torch.autograd.grad(loss, path[-1], create_graph=True)
        path.append(path[-1] - alpha * gradient)
    return path


LOSSES = {
    "end": lambda path, probes: (path[-1] - probes[-1]).square().sum() / (path[0].detach() - probes[-1]).square().sum(),
    "middle and end": lambda path, probes: path[STEPS // 2] @ probes[0] + (path[-1] * probes[1]).cos().sum(),
    "all points": lambda path, probes: sum((p * q).sin().sum() for p, q in zip(path[1:], probes[1:], strict=True)),
    "an earlier point only": lambda path, probes: path[7] @ probes[7] + path[7].square().sum(),
    "the first step only": lambda path, probes: path[1] @ probes[1],
}


def relative(a, b):
    assert b.abs().max() > 0
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("which", LOSSES)
def test_adjoint_full_and_the_hand_written_loop_give_the_same_gradients(problem, which):
    values, grads = {}, {}
    paths = {"full": path_of(problem, "full"), "adjoint": path_of(problem, "adjoint"), "hand": path_by_hand(problem)}
    for name, path in paths.items():
        loss = LOSSES[which](path, problem["probes"])
        values[name], grads[name] = loss.item(), torch.autograd.grad(loss, problem["leaves"])
    assert values["full"] == pytest.approx(values["hand"], rel=1e-12)
    assert values["adjoint"] == pytest.approx(values["hand"], rel=1e-12)
    for name in ("full", "adjoint"):
        for what, got, want in zip(("images", "labels", "alpha"), grads[name], grads["hand"], strict=True):
            assert relative(got, want) < 1e-10, (name, what)


@pytest.mark.parametrize("strategy", ["full", "adjoint", "auto"])
def test_path_equals_torch_sgd_on_the_module_with_hard_labels(strategy):
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(11, *SHAPE, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (11,), generator=generator)
    sizes, alpha = (2, 4, 1, 4), 0.05
    network = make_network()
    start = network.flatten()
    path = unroll(
        StudentStep(network), start, images, labels, sizes, torch.tensor(alpha, dtype=torch.float64), strategy
    )
    module = make_network().module
    optimiser = torch.optim.SGD(module.parameters(), lr=alpha)
    want = [torch.cat([p.detach().flatten() for p in module.parameters()])]
    for x, y in zip(images.split(sizes), labels.split(sizes), strict=True):
        optimiser.zero_grad()
        nn.CrossEntropyLoss()(module(x), y).backward()
        optimiser.step()
        want.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert len(path) == 5
    for got, expected in zip(path, want, strict=True):
        torch.testing.assert_close(got.detach(), expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(path[0], start)
    assert not start.requires_grad  # the caller's tensor is left alone


@pytest.mark.parametrize("strategy", ["full", "adjoint"])
@pytest.mark.parametrize("steps", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_gradcheck(strategy, steps):
    generator = torch.Generator().manual_seed(1)
    shape, sizes = (1, 4, 4), (1, 2, 2)[:steps]
    network = make_network("sigmoid", shape=shape, width=2, depth=1)
    images = torch.randn(sum(sizes), *shape, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(sum(sizes), CLASSES, generator=generator, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def function(images, targets, alpha):
        return unroll(StudentStep(network), network.flatten(), images, targets, sizes, alpha, strategy)[1:]

    assert torch.autograd.gradcheck(function, (images, targets, alpha))


def test_only_what_is_asked_for_gets_a_gradient():
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(4, *SHAPE, generator=generator, dtype=torch.float64)
    labels, alpha = torch.tensor([0, 1, 2, 0]), torch.tensor(0.1, dtype=torch.float64)
    step = StudentStep(make_network())
    start = step.network.flatten()
    wanted = {}
    for strategy in ("full", "adjoint"):
        x, a = images.clone().requires_grad_(), alpha.clone().requires_grad_()
        only_images = unroll(step, start, x, labels, (2, 2), alpha, strategy)[-1].square().sum()
        only_alpha = unroll(step, start, images, labels, (2, 2), a, strategy)[-1].square().sum()
        only_images.backward()
        only_alpha.backward()
        wanted[strategy] = (x.grad, a.grad)
        assert alpha.grad is None
        assert images.grad is None
    for got, want in zip(wanted["adjoint"], wanted["full"], strict=True):
        assert relative(got, want) < 1e-10


def test_steps_after_the_last_point_used_get_exactly_zero_gradient():
    """With one image per step, only images of steps up to the point in the loss matter."""
    network = make_network()
    for strategy in ("full", "adjoint"):
        images = torch.randn(5, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        images.requires_grad_()
        alpha = torch.tensor(0.1, dtype=torch.float64)
        path = unroll(StudentStep(network), network.flatten(), images, torch.arange(5) % 3, (1,) * 5, alpha, strategy)
        path[3].square().sum().backward()
        per_image = images.grad.abs().amax(dim=(1, 2, 3))
        assert (per_image[:3] > 0).all()
        assert (per_image[3:] == 0).all()


def test_two_losses_on_one_path_and_equal_bits_when_repeated(problem):
    grads = []
    for _ in range(2):
        path = path_of(problem, "adjoint")
        first = torch.autograd.grad(LOSSES["end"](path, problem["probes"]), problem["leaves"], retain_graph=True)
        second = torch.autograd.grad(LOSSES["an earlier point only"](path, problem["probes"]), problem["leaves"])
        grads.append((*first, *second))
    for one, two in zip(*grads, strict=True):
        assert torch.equal(one, two)
