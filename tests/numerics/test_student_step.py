"""One student step: compiled against eager, its two forms of second derivatives, and what lower precision does."""

from __future__ import annotations

import weakref

import pytest
import torch

from hoptm_plugin.networks import ConvNet, FlatNetwork, create
from hoptm_plugin.trajectory import StudentStep, unroll

SHAPE, CLASSES = (3, 8, 8), 4  # one block where compiling would take long otherwise


def make_step(compiled, dtype=torch.float64, precision="float32", width=6, depth=1):
    network = create(ConvNet(depth=depth, width=width), SHAPE, CLASSES, torch.Generator().manual_seed(0))
    return StudentStep(FlatNetwork(network.to(dtype)), compiled, precision)


def make_batch(step, size, dtype=torch.float64, soft=False, seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, *SHAPE, generator=generator, dtype=torch.float64).to(dtype)
    hard = torch.randint(CLASSES, (size,), generator=generator)
    logits = torch.randn(size, CLASSES, generator=generator, dtype=torch.float64).to(dtype)
    theta = step.network.flatten()
    direction = torch.randn(theta.shape, generator=generator, dtype=torch.float64).to(dtype)
    return theta, images, logits.softmax(1) if soft else hard, direction


SLOW = pytest.mark.slow  # each function takes seconds to compile


def cosine(a, b):
    return float(torch.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


@pytest.fixture(scope="module")
def compiled():
    return make_step(True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "soft", "wanted"), [(5, True, (0, 1, 2)), (5, False, (0, 1)), (2, False, (1,)), (2, False, ())]
)
def test_compiled_equals_eager_in_float64(compiled, size, soft, wanted):
    eager = make_step(False)
    theta, images, targets, direction = make_batch(eager, size, soft=soft)
    torch.testing.assert_close(
        compiled.gradient(theta, images, targets), eager.gradient(theta, images, targets), rtol=1e-10, atol=1e-13
    )
    along, products = compiled.products(theta, images, targets, direction, wanted)
    expected_along, expected = eager.products(theta, images, targets, direction, wanted)
    torch.testing.assert_close(along, expected_along, rtol=1e-10, atol=1e-13)
    assert len(products) == len(wanted)
    for ours, theirs in zip(products, expected, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_hessian_vector_product_equals_the_hessian_times_the_vector():
    """Against a Hessian written out column by column, of a network small enough for it."""
    network = create(ConvNet(depth=1, width=2), (1, 4, 4), 2, torch.Generator().manual_seed(0)).double()
    step = StudentStep(FlatNetwork(network))
    generator = torch.Generator().manual_seed(2)
    images, targets = torch.randn(3, 1, 4, 4, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 1])
    theta = step.network.flatten()
    direction = torch.randn(theta.shape, generator=generator, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda at: step.loss(at, images, targets), theta)
    along, (product,) = step.products(theta, images, targets, direction, (0,))
    torch.testing.assert_close(product, hessian @ direction, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(along, step.gradient(theta, images, targets) @ direction)


@pytest.mark.campaign
def test_float32_gradients_of_the_compiled_step_have_float64_s_direction():
    """Every quantity of a step, at the published width and along a path: cosine of at least 0.99999."""
    exact, single = make_step(False, width=128, depth=2), make_step(True, torch.float32, width=128, depth=2)
    theta = exact.network.flatten()
    for index in range(5):
        _, images, targets, direction = make_batch(exact, 10, seed=index)
        wanted = exact.gradient(theta, images, targets)
        rounded = (theta.float(), images.float(), targets)
        assert cosine(single.gradient(*rounded), wanted) >= 0.99999
        along, products = single.products(*rounded, direction.float(), (0, 1))
        expected_along, expected = exact.products(theta, images, targets, direction, (0, 1))
        assert float(along) == pytest.approx(float(expected_along), rel=1e-3)
        for ours, theirs in zip(products, expected, strict=True):
            assert cosine(ours, theirs) >= 0.99999
        theta = theta - 0.05 * wanted


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.campaign)])
def test_bf16_keeps_dtypes_and_roughly_the_direction(compiled):
    exact, low = make_step(False, width=32), make_step(compiled, torch.float32, "bf16", width=32)
    theta, images, targets, direction = make_batch(exact, 8)
    gradient = low.gradient(theta.float(), images.float(), targets)
    _, products = low.products(theta.float(), images.float(), targets, direction.float(), (0, 1))
    assert {part.dtype for part in (gradient, *products)} == {torch.float32}
    found = [cosine(gradient, exact.gradient(theta, images, targets))]
    found += map(cosine, products, exact.products(theta, images, targets, direction, (0, 1))[1])
    assert all(0.9 < value < 0.999999 for value in found)  # it is lower precision, and no other function


def path_gradients(step, strategy, memory_budget=0, dtype=torch.float64, sizes=(5, 2, 5, 5)):
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(sum(sizes), *SHAPE, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(CLASSES, (sum(sizes),), generator=generator)
    alpha = torch.tensor(0.05, dtype=dtype, requires_grad=True)
    path = unroll(step, step.network.flatten(), images, targets, sizes, alpha, strategy, memory_budget=memory_budget)
    loss = path[-1].square().sum() + path[1].sin().sum()
    return [loss, *torch.autograd.grad(loss, (images, alpha))]


@pytest.mark.slow
def test_unroll_with_compiled_steps_equals_the_full_graph(compiled):
    for ours, expected in zip(path_gradients(compiled, "auto"), path_gradients(make_step(False), "full"), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.campaign
def test_compiled_steps_give_the_same_bits_again_also_when_compiled_anew():
    first, again = (
        path_gradients(make_step(True, torch.float32), "auto", dtype=torch.float32, sizes=(3, 3)) for _ in range(2)
    )
    other_shapes_first = make_step(True, torch.float32)
    path_gradients(other_shapes_first, "auto", dtype=torch.float32, sizes=(4, 4))
    third = path_gradients(other_shapes_first, "auto", dtype=torch.float32, sizes=(3, 3))
    for one, two, three in zip(first, again, third, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


@pytest.mark.parametrize("kept", [0, 1, 2, 9])
def test_a_memory_budget_keeps_as_many_graphs_as_it_holds(kept, monkeypatch):
    step, other = make_step(False), make_step(False)  # what one step needs is found by the unroll itself
    theta, images, targets, _ = make_batch(other, 5)
    budget = kept * other.graph_bytes(theta, images, targets)
    rebuilt, products = [], step.products
    monkeypatch.setattr(step, "products", lambda *arguments: rebuilt.append(1) or products(*arguments))
    ours = path_gradients(step, "auto", budget)
    assert len(rebuilt) == 4 - min(kept, 4)
    for one, two in zip(ours, path_gradients(make_step(False), "adjoint"), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-14)


def test_kept_graphs_are_freed_once_walked_and_a_second_backward_pass_builds_them_again():
    """Held until the next iteration's are built, they would take twice the budget."""
    step, graphs, graph = make_step(False), [], StudentStep.graph

    def recorded(*arguments):
        built = graph(step, *arguments)
        graphs.append(weakref.ref(built))
        return built

    step.graph = recorded
    images = torch.randn(6, *SHAPE, dtype=torch.float64, requires_grad=True)
    path = unroll(step, step.network.flatten(), images, torch.zeros(6, dtype=torch.int64), (3, 3),
                  torch.tensor(0.1, dtype=torch.float64), memory_budget=10**9)  # fmt: skip
    assert len([reference for reference in graphs if reference() is not None]) == 2
    loss = path[-1].square().sum()
    (first,) = torch.autograd.grad(loss, images, retain_graph=True)
    assert all(reference() is None for reference in graphs)
    (second,) = torch.autograd.grad(loss, images)
    torch.testing.assert_close(first, second, rtol=1e-11, atol=1e-14)


@pytest.mark.campaign
@pytest.mark.parametrize(
    "builder", [ConvNet(1, 4, norm="layer", act="leaky_relu", pool="max"), ConvNet(1, 4, "group", "sigmoid", "none")]
)
def test_other_layers_compile_to_the_same_products(builder):
    network = FlatNetwork(create(builder, SHAPE, CLASSES, torch.Generator().manual_seed(0)).double())
    eager, compiled = StudentStep(network), StudentStep(network, compiled=True)
    batch = make_batch(eager, 3)
    for ours, theirs in zip(compiled.products(*batch, (0, 1))[1], eager.products(*batch, (0, 1))[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_graph_bytes_grow_with_the_batch_and_stay_near_what_activations_need():
    step = make_step(False, torch.float32, width=16, depth=2)
    theta, images, targets, _ = make_batch(step, 8, torch.float32)
    few, many = step.graph_bytes(theta, images[:4], targets[:4]), step.graph_bytes(theta, images, targets)
    activations = 4 * 16 * (8 * 8 + 4 * 4) * 4  # float32 maps of both convolutions, four images
    assert 3 * activations < many - few < 30 * activations
