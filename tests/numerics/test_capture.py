"""Steps that are captured as a whole, in float64 on the CPU, where a traced graph stands for a CUDA graph.

Like one, it does the same operations again on what its inputs hold by then, and runs no Python: what depends on values,
or is not copied in, comes out wrong.
"""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from hoptm_plugin.networks import ConvNet, FlatNetwork, create
from hoptm_plugin.runtime import capture
from hoptm_plugin.runtime.capture import MOST, Captured
from hoptm_plugin.trajectory import student
from hoptm_plugin.trajectory.student import StudentStep
from hoptm_plugin.trajectory.unroll import unroll

SHAPE, CLASSES, SIZES = (2, 4, 4), 3, (1, 3, 2)
POINTS = {"end": (-1,), "several": (2, 3), "early": (1,)}


@pytest.fixture
def traced(monkeypatch):
    """Let operations on the CPU be recorded; return how often that was done."""
    recorded = []

    def record(work, inputs):
        graph, outputs = make_fx(work)(*inputs), work(*inputs)
        recorded.append(graph)

        def replay():
            for mine, found in zip(outputs, graph(*inputs), strict=True):
                mine.copy_(found)

        return replay, outputs

    monkeypatch.setattr(capture, "record", record)
    monkeypatch.setattr(student, "compile_step", lambda function, device, graphs: function)
    return recorded


def step_of(captured, compiled=False):
    network = create(ConvNet(depth=1, width=2), SHAPE, CLASSES, torch.Generator().manual_seed(0)).double()
    return StudentStep(FlatNetwork(network), compiled, captured=captured)


def leaves(seed, students=None, soft=True):
    generator, rows = torch.Generator().manual_seed(seed), sum(SIZES)
    lead = () if students is None else (students,)
    images = torch.randn(*lead, rows, *SHAPE, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(CLASSES, (*lead, rows), generator=generator)
    if soft:
        targets = torch.randn(*lead, rows, CLASSES, generator=generator).double().softmax(-1).requires_grad_()
    alpha = (0.02 + 0.1 * torch.rand(lead, generator=generator, dtype=torch.float64)).requires_grad_()
    noise = torch.randn(*lead, 1, generator=generator, dtype=torch.float64)
    return images, targets, alpha, noise


def gradients(step, points, given, kind="exact"):
    images, targets, alpha, noise = given
    path = unroll(step, step.network.flatten() + 0.1 * noise, images, targets, SIZES, alpha, "auto", kind, 2**30)
    loss = sum((path[at].cos() * (1 + n)).sum() for n, at in enumerate(POINTS[points]))
    wanted = [each for each in (images, targets, alpha) if each.requires_grad]
    return [loss.detach(), *torch.autograd.grad(loss, wanted)]


def assert_same(ours, expected):
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


OTHERS = [pytest.param(*each, marks=pytest.mark.slow) for each in ((False, False), (False, True), (True, False))]


@pytest.mark.parametrize(("compiled", "soft"), [(True, True), *OTHERS])
def test_captured_steps_give_the_same_for_new_images_start_and_step_size(traced, compiled, soft):
    if compiled and torch.__version__ < (2, 14):  # only the tracer, which here stands for CUDA's graphs
        pytest.skip("make_fx of torch 2.11 takes the channels-last input of a group norm for contiguous")
    captured, plain = step_of(True, compiled), step_of(False)
    for seed in range(3):
        given = leaves(seed, soft=soft)
        assert_same(gradients(captured, "several", given), gradients(plain, "several", given))
    assert len(traced) == 2, "a way forward and a way back"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tesla", "tesla_halved"])
def test_of_an_approximate_gradient_too(traced, kind):
    captured, plain = step_of(True), step_of(False)
    for seed in range(2):
        assert_same(gradients(captured, "end", leaves(seed), kind), gradients(plain, "end", leaves(seed), kind))


@pytest.mark.slow
def test_students_side_by_side_too(traced):
    captured, plain = step_of(True, compiled=True), step_of(False)
    for seed in range(2):
        given = leaves(seed, students=3)
        assert_same(gradients(captured, "several", given), gradients(plain, "several", given))


@pytest.mark.slow
def test_what_else_decides_is_another_recording(traced):
    captured, plain = step_of(True), step_of(False)
    for points in POINTS:
        for kind in ("exact", "tesla"):
            assert_same(gradients(captured, points, leaves(1), kind), gradients(plain, points, leaves(1), kind))
    assert len(traced) == 1 + 2, "which points a loss looks at may change every time"


def test_two_paths_at_once_do_not_share_their_memory(traced):
    """Runs that follow one another ask for all paths before they walk back."""
    captured, plain = step_of(True), step_of(False)

    def both(step):
        given = [leaves(seed) for seed in (4, 5)]
        paths = [unroll(step, step.network.flatten(), *each[:2], SIZES, each[2]) for each in given]
        return [torch.autograd.grad(path[-1].cos().sum(), each[:3]) for path, each in zip(paths, given, strict=True)]

    for ours, expected in zip(both(captured), both(plain), strict=True):
        assert_same(ours, expected)


def test_no_more_than_so_many_are_held(traced):
    captured = Captured()

    def times(number):
        return lambda x: (x * number,)

    for number in range(MOST + 3):
        (found,) = captured(number, times(number), torch.ones(2))
        assert found.tolist() == [number] * 2
    assert len(traced) == MOST
