"""Expert training against docs/methods.md 1.6: GSAM's formulas and SGD, in float64, over modules and tensors."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from hoptm_plugin.augment import DSA, NoAugmentation
from hoptm_plugin.core.errors import NonFiniteLossError
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.experts import ExpertTraining, sharpness_aware_gradient, train_experts
from hoptm_plugin.networks import ConvNet, FlatNetwork, create
from hoptm_plugin.networks.stack import TrainingLoss


def train_expert(network, start, split, training, augmentation, seeds, epochs):
    """Train one expert; return its trajectory and its losses."""
    loss = TrainingLoss(network.module)
    (expert,) = train_experts(loss, start[None], split, training, augmentation, [seeds], epochs)
    return expert.trajectory, expert.epoch_losses


def make_network(data, seed=0, width=4, act="relu"):
    builder = ConvNet(depth=2, width=width, act=act)
    module = create(builder, data.image_shape, len(data.class_names), torch.Generator().manual_seed(seed))
    return FlatNetwork(module.to(data.train.images.dtype))


class Recording(NoAugmentation):
    """The identity; keeps every batch it is given."""

    def __init__(self):
        self.batches = []

    def apply(self, images, parameters):
        self.batches.append(images.clone())
        return images


def gsam_by_hand(module, images, labels, rho, alpha, adaptive):
    """The five formulas, tensor by tensor on a live module, with norms as sums of Python floats."""
    parameters = list(module.parameters())

    def gradients():
        return [g.clone() for g in torch.autograd.grad(cross_entropy(module(images), labels), parameters)]

    def norm(tensors):
        return math.sqrt(math.fsum(float(x) ** 2 for t in tensors for x in t.detach().flatten()))

    g1 = gradients()
    if adaptive:
        scale = rho / (norm([p.abs() * g for p, g in zip(parameters, g1, strict=True)]) + 1e-12)
        epsilon = [p.detach() * p.detach() * g * scale for p, g in zip(parameters, g1, strict=True)]
    else:
        epsilon = [g * (rho / (norm(g1) + 1e-12)) for g in g1]
    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, e in zip(parameters, epsilon, strict=True):
            p += e
    g2 = gradients()
    with torch.no_grad():
        for p, w in zip(parameters, kept, strict=True):
            p.copy_(w)
    dot = math.fsum(float(x) for a, b in zip(g1, g2, strict=True) for x in (a * b).flatten())
    n1, n2 = norm(g1), norm(g2)
    c = dot / (n1 * n2 + 1e-12)
    orthogonal = [a - b * (c * n1 / (n2 + 1e-12)) for a, b in zip(g1, g2, strict=True)]
    return torch.cat([(b - alpha * o).flatten() for b, o in zip(g2, orthogonal, strict=True)])


def library_gradient(network, images, labels, rho, alpha, adaptive):
    def gradient(at):
        theta = at.detach().requires_grad_()
        return torch.autograd.grad(cross_entropy(network(theta, images), labels), theta)[0]

    theta = network.flatten()
    return sharpness_aware_gradient(gradient, theta, gradient(theta), rho, alpha, adaptive)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize(("rho", "alpha"), [(0.01, 0.3), (2.0, 0.4), (0.5, 1.0), (0.5, 0.0)])
def test_gsam_step_equals_the_five_formulas(make_data, adaptive, rho, alpha):
    data = make_data(dtype=torch.float64)
    network = make_network(data)
    got = library_gradient(network, data.train.images, data.train.labels, rho, alpha, adaptive)
    want = gsam_by_hand(network.module, data.train.images, data.train.labels, rho, alpha, adaptive)
    assert float((got - want).norm()) <= 1e-12 * float(want.norm())
    plain = library_gradient(network, data.train.images, data.train.labels, 0.0, 0.0, adaptive)
    assert float((got - plain).norm()) > 1e-5 * float(plain.norm())  # and it is not plain SGD


@pytest.mark.parametrize("adaptive", [True, False])
def test_small_rho_gives_the_plain_gradient(make_data, adaptive):
    """g2 -> g1, so the orthogonal part vanishes and alpha does not matter."""
    data = make_data(dtype=torch.float64)
    network = make_network(data, act="sigmoid")  # smooth, so that the distance is linear in rho
    images, labels = data.train.images, data.train.labels
    theta = network.flatten().requires_grad_()
    (plain,) = torch.autograd.grad(cross_entropy(network(theta, images), labels), theta)
    distances = [
        float((library_gradient(network, images, labels, rho, 0.3, adaptive) - plain).norm() / plain.norm())
        for rho in (1e-2, 1e-4, 1e-6)
    ]
    assert distances[0] > 50 * distances[1] > 2500 * distances[2]  # linear in rho
    for alpha in (0.0, 0.3, 5.0):
        got = library_gradient(network, images, labels, 0.0, alpha, adaptive)
        size = float(plain.norm())
        left_by_the_tiny_numbers = 1e-12 / size + 1e-12  # of the two denominators
        assert float((got - plain).norm()) <= alpha * 1.01 * left_by_the_tiny_numbers + 1e-14


def test_a_zero_gradient_gives_zero_and_no_nan():
    zero = torch.zeros(4, dtype=torch.float64)
    for adaptive in (True, False):
        got = sharpness_aware_gradient(lambda at: torch.zeros_like(at), torch.ones_like(zero), zero, 0.1, 0.3, adaptive)
        assert torch.equal(got, zero)


def labels_of(batch, split):
    """Find each image of a batch in the split."""
    same = (batch.flatten(1)[:, None] == split.images.flatten(1)[None]).all(2)
    assert bool((same.sum(1) == 1).all())
    return split.labels[same.int().argmax(1)]


@pytest.mark.parametrize("algorithm", ["sgd", "gsam"])
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.1), (0.8, 0.05)])
def test_training_equals_torch_sgd_on_these_gradients(make_data, algorithm, momentum, weight_decay):
    """Momentum and weight decay act on the GSAM gradient at the restored weights; batches are shuffled, all used."""
    data = make_data(dtype=torch.float64)
    network = make_network(data)
    training = ExpertTraining(algorithm=algorithm, learning_rate=0.05, momentum=momentum, weight_decay=weight_decay,
                              batch=7, rho=0.5, alpha=0.3)  # fmt: skip
    record = Recording()
    start = network.flatten()
    trajectory, losses = train_expert(network, start, data.train, training, record, Seeds(5), epochs=3)
    assert trajectory.shape == (4, network.num_parameters)
    assert torch.equal(trajectory[0], start)
    assert [len(batch) for batch in record.batches] == [7, 7, 4] * 3  # augmented once a batch, both passes share it
    module = make_network(data).module
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05, momentum=momentum, weight_decay=weight_decay)
    seen, at, total = [], 0, 0.0
    for number, batch in enumerate(record.batches):
        labels = labels_of(batch, data.train)
        loss = cross_entropy(module(batch), labels)
        total += loss.item() * len(batch)
        if algorithm == "gsam":
            flat = gsam_by_hand(module, batch, labels, 0.5, 0.3, True)
        else:
            flat = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])
        at = 0
        for parameter in module.parameters():
            parameter.grad = flat[at : at + parameter.numel()].view_as(parameter).clone()
            at += parameter.numel()
        optimiser.step()
        seen.append(labels)
        if number % 3 == 2:
            epoch = number // 3
            want = torch.cat([p.detach().flatten() for p in module.parameters()])
            torch.testing.assert_close(trajectory[epoch + 1], want, rtol=1e-9, atol=1e-12)
            assert losses[epoch] == pytest.approx(total / 18, rel=1e-6)
            pixels = torch.cat(record.batches[number - 2 : number + 1]).flatten(1)
            assert torch.equal(pixels[:, 0].sort().values, data.train.images.flatten(1)[:, 0].sort().values)
            total = 0.0
    assert not torch.equal(record.batches[0], record.batches[3])  # shuffled anew


def test_snapshots_differ_between_epochs_and_do_not_alias(make_data):
    data = make_data()
    network = make_network(data)
    start = network.flatten()
    kept = start.clone()
    training = ExpertTraining(algorithm="gsam", batch=6)
    trajectory, losses = train_expert(network, start, data.train, training, DSA(), Seeds(0), epochs=4)
    assert len({row.numpy().tobytes() for row in trajectory}) == 5
    assert len(losses) == 4
    copy = trajectory.clone()
    start.zero_()
    trajectory[2].zero_()
    rest = [0, 1, 3, 4]
    assert torch.equal(trajectory[rest], copy[rest])
    assert torch.equal(copy[0], kept)
    assert torch.equal(network.flatten(), kept)  # the module is a container, not trained in place


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_longer_training_repeats_a_shorter_one_bit_for_bit(make_data, momentum):
    data = make_data()
    network = make_network(data)
    training = ExpertTraining(algorithm="gsam", batch=6, momentum=momentum)

    def train(epochs, seed=1):
        return train_expert(network, network.flatten(), data.train, training, DSA(), Seeds(seed), epochs)

    short, short_losses = train(2)
    long, long_losses = train(5)
    assert torch.equal(long[:3], short)
    assert long_losses[:2] == short_losses
    assert not torch.equal(train(2, seed=2)[0][1:], short[1:])


def test_training_learns(make_data):
    data = make_data(per_class=12)
    network = make_network(data, width=8)
    training = ExpertTraining(learning_rate=0.1, batch=12)
    _, losses = train_expert(network, network.flatten(), data.train, training, NoAugmentation(), Seeds(0), epochs=8)
    assert losses[-1] < 0.5 * losses[0]


def test_divergence_is_an_error_that_says_what_to_change(make_data):
    data = make_data()
    network = make_network(data)
    with pytest.raises(NonFiniteLossError, match=r"diverged in epoch \d.*experts.training.learning_rate"):
        train_expert(network, network.flatten(), data.train, ExpertTraining(learning_rate=1e30, batch=4),
                     NoAugmentation(), Seeds(0), epochs=3)  # fmt: skip


def test_published_defaults():
    """SGD experts: lr .01, momentum 0, weight decay 0, batch 256; GSAM: rho .01, alpha .3, adaptive (HoP-TM)."""
    training = ExpertTraining()
    assert (training.learning_rate, training.momentum, training.weight_decay, training.batch) == (0.01, 0, 0, 256)
    assert (training.rho, training.alpha, training.adaptive) == (0.01, 0.3, True)
