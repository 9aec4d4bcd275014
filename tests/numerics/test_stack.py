"""Networks side by side against one at a time and against plain modules, in float64; compiled and bfloat16 training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from hoptm_plugin.augment import DSA
from hoptm_plugin.augment.side_by_side import augment_side_by_side
from hoptm_plugin.core.compute import Compute
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.evaluation import Evaluator
from hoptm_plugin.engine.settings import Protocol
from hoptm_plugin.engine.training import train_networks
from hoptm_plugin.experts import ExpertTraining, train_experts
from hoptm_plugin.networks import ConvNet, create
from hoptm_plugin.networks.stack import TrainingLoss
from hoptm_plugin.runtime.progress import silent

SHAPE, CLASSES = (2, 8, 8), 3
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
COMPILED = pytest.param(True, marks=pytest.mark.slow)  # each function takes seconds to compile


def make_networks(count, norm="instance", dtype=torch.float64, width=4, depth=1):
    builder = ConvNet(depth=depth, width=width, norm=norm)
    generator = torch.Generator().manual_seed(0)
    return [create(builder, SHAPE, CLASSES, generator).to(dtype) for _ in range(count)]


def make_sets(count, size=7, soft=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    sets = []
    for _ in range(count):
        labels = torch.randint(CLASSES, (size,), generator=generator)
        logits = torch.randn(size, CLASSES, generator=generator, dtype=dtype)
        images = torch.randn(size, *SHAPE, generator=generator, dtype=torch.float64).to(dtype)
        sets.append((images, logits.softmax(1) if soft else labels))
    return sets


def vector(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("soft", [False, True])
def test_losses_and_gradients_of_a_stack_are_those_of_each_network(soft):
    networks, sets = make_networks(3), make_sets(3, soft=soft)
    stacked = [torch.stack(part) for part in zip(*sets, strict=True)]
    losses, gradients = TrainingLoss(networks[0])(torch.stack([vector(network) for network in networks]), *stacked)
    for network, (images, targets), loss, gradient in zip(networks, sets, losses, gradients, strict=True):
        expected = cross_entropy(network(images), targets)
        torch.testing.assert_close(loss, expected.detach(), **CLOSE)
        parts = torch.autograd.grad(expected, list(network.parameters()))
        torch.testing.assert_close(gradient, torch.cat([part.flatten() for part in parts]), **CLOSE)


@pytest.mark.parametrize(
    ("compiled", "together"),
    [(False, 3), pytest.param(True, 1, marks=pytest.mark.slow), pytest.param(True, 3, marks=pytest.mark.slow)],
)
def test_training_side_by_side_or_compiled_gives_the_networks_of_one_at_a_time(compiled, together):
    """With DSA, short last batches and the drop of the learning rate."""
    protocol = Protocol(epochs=5, batch=4)
    seeds, sets = [Seeds(number) for number in range(3)], make_sets(3)
    alone, ours = make_networks(3), make_networks(3)
    for network, part, own in zip(alone, sets, seeds, strict=True):
        train_networks([network], TrainingLoss(network), [part], protocol, 0.05, DSA(), [own])
    loss = TrainingLoss(ours[0], compiled)
    for at in range(0, 3, together):
        group = slice(at, at + together)
        train_networks(ours[group], loss, sets[group], protocol, 0.05, DSA(), seeds[group])
    starts = make_networks(3)
    for one, two, start in zip(ours, alone, starts, strict=True):
        torch.testing.assert_close(vector(one), vector(two), **CLOSE)
        assert not torch.allclose(vector(one), vector(start))


@pytest.mark.parametrize("algorithm", ["sgd", "gsam"])
def test_experts_side_by_side_are_those_of_one_at_a_time(make_data, algorithm):
    data = make_data(dtype=torch.float64)
    builder, seeds = ConvNet(depth=2, width=4), [Seeds(number) for number in range(3)]
    modules = [create(builder, data.image_shape, 3, part.generator("start")).double() for part in seeds]
    training = ExpertTraining(algorithm=algorithm, batch=7, momentum=0.5, weight_decay=0.01, learning_rate=0.05)
    loss = TrainingLoss(modules[0])
    starts = torch.stack([vector(module) for module in modules])
    together = train_experts(loss, starts, data.train, training, DSA(), seeds, 3)
    assert [each.trajectory.shape for each in together] == [(4, starts.shape[1])] * 3
    for at, own in enumerate(seeds):
        (alone,) = train_experts(loss, starts[at : at + 1], data.train, training, DSA(), [own], 3)
        torch.testing.assert_close(together[at].trajectory, alone.trajectory, **CLOSE)
        torch.testing.assert_close(together[at].velocity, alone.velocity, **CLOSE)
        assert together[at].epoch_losses == pytest.approx(alone.epoch_losses, rel=1e-6)


@pytest.mark.parametrize("compiled", [False, COMPILED])
def test_running_statistics_are_kept_as_the_module_keeps_them(compiled):
    (network,), (images, labels) = make_networks(1, norm="batch"), make_sets(1)[0]
    expected = copy.deepcopy(network).train()
    optimiser = torch.optim.SGD(expected.parameters(), 0.05)
    loss, theta, buffers = TrainingLoss(network, compiled), vector(network)[None], dict(network.named_buffers())
    for _ in range(3):
        optimiser.zero_grad()
        cross_entropy(expected(images), labels).backward()
        optimiser.step()
        theta = theta - 0.05 * loss(theta, images[None], labels[None], buffers)[1]
    torch.testing.assert_close(theta[0], vector(expected), **CLOSE)
    for (name, ours), theirs in zip(network.named_buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name, **CLOSE)
    assert float(network.features[1].running_mean.abs().max()) > 0


def test_several_networks_with_running_statistics_are_refused():
    networks, sets = make_networks(2, norm="batch"), make_sets(2)
    loss = TrainingLoss(networks[0])
    assert not loss.stackable(*sets[0])
    assert loss.together(Compute(parallel_networks=2), *sets[0]) == 1
    with pytest.raises(RuntimeError, match=r"(?i)batch norm.*running_mean"):
        loss(torch.stack([vector(network) for network in networks]), *map(torch.stack, zip(*sets, strict=True)))


def test_a_forward_pass_that_looks_at_values_is_trained_one_at_a_time():
    class Looking(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(128, CLASSES)

        def forward(self, images):
            return self.linear(images.flatten(1)) if images.mean() > 100 else self.linear(images.flatten(1)) * 2

    loss, batch = TrainingLoss(Looking().double()), make_sets(1)[0]
    assert loss.together(Compute(parallel_networks=2), *batch) == 1
    (network,) = make_networks(1)
    assert TrainingLoss(network).together(Compute(parallel_networks=2), *batch) == 2


def test_augmentation_side_by_side_draws_for_each_network_from_its_own_generator():
    batches, dsa = torch.stack([images for images, _ in make_sets(3)]), DSA()
    together = augment_side_by_side(dsa, batches, [Seeds(number).generator("a") for number in range(3)])
    alone = [dsa(batch, Seeds(number).generator("a")) for number, batch in enumerate(batches)]
    torch.testing.assert_close(together, torch.stack(alone), **CLOSE)


@pytest.mark.parametrize("compiled", [False, COMPILED])
def test_bf16_training_keeps_float32_parameters_and_learns_about_the_same(compiled):
    (network,), sets = make_networks(1, dtype=torch.float32, width=16), make_sets(1, 9, dtype=torch.float32)
    exact = copy.deepcopy(network)
    protocol = Protocol(epochs=30, batch=9)
    for part, loss in ((network, TrainingLoss(network, compiled, "bf16")), (exact, TrainingLoss(exact))):
        train_networks([part], loss, sets, protocol, 0.05, DSA(), [Seeds(0)])
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    moved = vector(exact) - vector(make_networks(1, dtype=torch.float32, width=16)[0])
    difference = float((vector(network) - vector(exact)).norm() / moved.norm())
    assert 0 < difference < 0.2


@pytest.mark.parametrize("compiled", [False, COMPILED])
def test_training_repeats_its_bits(compiled):
    runs = []
    for _ in range(2):
        (network,) = make_networks(1, dtype=torch.float32)
        loss = TrainingLoss(network, compiled)
        train_networks([network], loss, make_sets(1, dtype=torch.float32), Protocol(epochs=4, batch=4), 0.1, DSA(),
                       [Seeds(0)])  # fmt: skip
        runs.append(vector(network))
    assert torch.equal(*runs)


def test_an_evaluation_side_by_side_gives_the_metrics_of_one_at_a_time(make_data):
    data = make_data(dtype=torch.float64, per_class=6)
    indices = torch.cat([data.train.of_class(label)[:2] for label in range(3)])

    def evaluate(parallel, norm="instance"):
        def network(generator):
            return create(ConvNet(depth=2, width=4, norm=norm), data.image_shape, 3, generator).double()

        def subset(repeat):
            rows = indices.roll(repeat)
            return SyntheticSet(data.train.images[rows], data.train.labels[rows], None, data.class_names,
                                data.normalisation)  # fmt: skip

        protocol = Protocol(repeats=3, epochs=4, learning_rate=0.05)
        evaluator = Evaluator(protocol, {"n": network}, DSA(), Seeds(0), silent, Compute(parallel_networks=parallel))
        return evaluator.evaluate(subset, data.test, "a set")["n"]

    for norm in ("instance", "batch"):  # the latter cannot be stacked and is trained one at a time
        for ours, alone in zip(evaluate(2, norm), evaluate(1, norm), strict=True):
            ours, alone = dict(ours), dict(alone)
            for name, expected in alone.pop("calibration").items():  # of probabilities, which differ by rounding
                assert ours["calibration"][name] == pytest.approx(expected, abs=1e-12)
            del ours["calibration"]
            assert ours == alone


@pytest.mark.parametrize(
    ("device", "budget", "setting", "expected"),
    [("cpu", 2**40, None, 1), ("cuda", 100, None, 10), ("cuda", 2**40, None, 16), ("cuda", 1, None, 1),
     ("cpu", 0, 3, 3), ("cuda", 0, 3, 3)],
)  # fmt: skip
def test_how_many_networks_go_side_by_side(device, budget, setting, expected):
    compute = Compute(memory_budget=budget, parallel_networks=setting)
    assert compute.side_by_side(torch.device(device), lambda: 10) == expected


def test_bytes_per_network_grow_with_the_batch_and_leave_the_network_alone():
    (network,), (images, labels) = make_networks(1, norm="batch"), make_sets(1)[0]
    loss = TrainingLoss(network)
    before = copy.deepcopy(list(loss.network.module.buffers()))
    few, many = loss.bytes_per_network(images[:2], labels[:2]), loss.bytes_per_network(images, labels)
    assert 0 < few < many
    for one, two in zip(before, loss.network.module.buffers(), strict=True):
        assert torch.equal(one, two)
