"""What runs on the CPU runs on a GPU, to the same numbers; skipped where there is none."""

from dataclasses import replace

import pytest
import torch

from hoptm_plugin.augment import DSA
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.engine.settings import Protocol
from hoptm_plugin.engine.training import train_networks
from hoptm_plugin.experts import ExpertTraining, train_experts
from hoptm_plugin.networks import ConvNet, FlatNetwork, create
from hoptm_plugin.networks.stack import TrainingLoss
from hoptm_plugin.testing.examples import example_data
from hoptm_plugin.trajectory import StudentStep, unroll

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def gradients(device, strategy, compiled=False, captured=False):
    """Return loss and gradients of images and step size of a small unroll with DSA, in float64."""
    seeds, sizes = Seeds(0), [4] * 6
    module = create(
        ConvNet(depth=2, width=8), (3, 16, 16), 5, seeds.generator("network"), torch.device(device)
    ).double()
    network = FlatNetwork(module)
    images = torch.randn(24, 3, 16, 16, generator=seeds.generator("images"), dtype=torch.float64)
    images = images.to(device).requires_grad_()
    labels = torch.randint(0, 5, (24,), generator=seeds.generator("labels")).to(device)
    step_size = torch.tensor(0.05, dtype=torch.float64, device=device, requires_grad=True)
    dsa, generator = DSA(), seeds.generator("augmentation")
    draws = [dsa.draw(size, (3, 16, 16), generator) for size in sizes]
    augmented = dsa.apply_many(images, draws, sizes)
    step = StudentStep(network, compiled, captured=captured)
    path = unroll(step, network.flatten(), augmented, labels, sizes, step_size, strategy)
    loss = (path[-1] - path[0]).square().sum() + path[3].square().sum()
    return [loss.detach().cpu(), *(part.cpu() for part in torch.autograd.grad(loss, [images, step_size]))]


@pytest.mark.parametrize(("strategy", "compiled"), [("full", False), ("adjoint", False), ("adjoint", True)])
def test_cuda_gives_the_cpu_s_gradients(strategy, compiled):
    """The compiled step is a CUDA graph, whose results the next step overwrites."""
    for ours, expected in zip(gradients("cuda", strategy, compiled), gradients("cpu", "full"), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("captured", [False, True])
def test_same_bits_again_from_cuda_graphs(captured):
    one, other = (gradients("cuda", "adjoint", True, captured) for _ in range(2))
    assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("compiled", [False, True])
def test_steps_captured_as_one_cuda_graph_give_the_cpu_s_gradients(compiled):
    ours = gradients("cuda", "adjoint", compiled, captured=True)
    for one, expected in zip(ours, gradients("cpu", "full"), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_captured_path_is_that_of_what_it_is_given(compiled):
    """The second call replays what the first one recorded, on other images, start and step size."""
    generator = torch.Generator().manual_seed(0)
    module = create(ConvNet(depth=2, width=8), (3, 16, 16), 5, generator, torch.device("cuda")).double()
    captured, plain = (StudentStep(FlatNetwork(module), compiled, captured=each) for each in (True, False))
    sizes, start = (4, 4, 4), captured.network.flatten()
    for number in range(3):
        images = torch.randn(12, 3, 16, 16, generator=generator, dtype=torch.float64).cuda().requires_grad_()
        labels = torch.randint(5, (12,), generator=generator).cuda()
        alpha = torch.tensor(0.02 * (1 + number), dtype=torch.float64, device="cuda", requires_grad=True)
        found = []
        for step in (captured, plain):
            path = unroll(step, start * (1 + 0.1 * number), images, labels, sizes, alpha, "adjoint")
            loss = path[-1].cos().sum() + path[1].square().sum()
            found.append([loss.detach(), *torch.autograd.grad(loss, [images, alpha])])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def expert_paths(device, compiled, side_by_side):
    """Return trajectories of three GSAM experts, in float64."""
    seeds = [Seeds(number) for number in range(3)]
    data = example_data(dtype=torch.float64)
    split = replace(data.train, images=data.train.images.to(device), labels=data.train.labels.to(device))
    modules = [create(ConvNet(depth=2, width=8), data.image_shape, 3, part.generator("start")) for part in seeds]
    loss = TrainingLoss(modules[0].double().to(device), compiled)
    starts = torch.stack([loss.network.flatten(module).double() for module in modules]).to(device)
    training, paths = ExpertTraining(algorithm="gsam", batch=7, momentum=0.5, learning_rate=0.05), []
    for at in range(0, 3, side_by_side):
        group = slice(at, at + side_by_side)
        paths += train_experts(loss, starts[group], split, training, DSA(), seeds[group], 2)
    return torch.stack([each.trajectory for each in paths])


@pytest.mark.parametrize(("compiled", "side_by_side"), [(False, 3), (True, 1), (True, 3)])
def test_cuda_trains_the_cpu_s_experts(compiled, side_by_side):
    """GSAM holds two gradients at once, which CUDA graphs must not overwrite."""
    ours, expected = expert_paths("cuda", compiled, side_by_side), expert_paths("cpu", False, 1)
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize(("compiled", "side_by_side"), [(False, 2), (True, 1), (True, 2)])
def test_cuda_trains_the_cpu_s_networks(norm, compiled, side_by_side):
    """With momentum, short last batches and, for networks trained one at a time, running statistics."""
    if norm == "batch" and side_by_side > 1:
        pytest.skip("networks with running statistics are trained one at a time")
    data, protocol = example_data(dtype=torch.float64), Protocol(epochs=4, batch=7)
    trained = {}
    for device, together in (("cuda", side_by_side), ("cpu", 1)):
        modules = [
            create(ConvNet(2, 4, norm), data.image_shape, 3, Seeds(number).generator("start")).double().to(device)
            for number in range(2)
        ]
        loss = TrainingLoss(modules[0], compiled and device == "cuda")
        sets = [(data.train.images.to(device), data.train.labels.to(device))] * 2
        for at in range(0, 2, together):
            group = slice(at, at + together)
            seeds = [Seeds(number) for number in range(2)][group]
            train_networks(modules[group], loss, sets[group], protocol, 0.05, DSA(), seeds)
        trained[device] = [tensor.cpu() for module in modules for tensor in module.state_dict().values()]
    for ours, expected in zip(trained["cuda"], trained["cpu"], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_cuda_trains_in_bf16(side_by_side):
    data = example_data()
    modules = [create(ConvNet(2, 8), data.image_shape, 3, Seeds(0).generator("start"), "cuda") for _ in range(2)]
    loss, before = TrainingLoss(modules[0], True, "bf16"), modules[0].state_dict()["features.0.weight"].clone()
    sets = [(data.train.images.cuda(), data.train.labels.cuda())] * side_by_side
    train_networks(modules[:side_by_side], loss, sets, Protocol(epochs=3), 0.05, DSA(), [Seeds(0)] * side_by_side)
    after = modules[0].state_dict()["features.0.weight"]
    assert after.dtype == torch.float32
    assert bool(torch.isfinite(after).all())
    assert not torch.equal(before, after)
