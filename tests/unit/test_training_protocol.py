"""The evaluation protocol of docs/methods.md 1.10 against a hand-written loop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from hoptm_plugin.augment import NoAugmentation
from hoptm_plugin.core.errors import HopTMError
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.evaluation import Evaluator, real_subset
from hoptm_plugin.engine.settings import Protocol
from hoptm_plugin.engine.training import epochs_before_decay, predict, train_networks
from hoptm_plugin.networks import ConvNet, create
from hoptm_plugin.networks.stack import TrainingLoss
from hoptm_plugin.runtime.progress import Progress, silent


def train_network(network, images, targets, protocol, learning_rate, augmentation, seeds):
    train_networks(
        [network], TrainingLoss(network), [(images, targets)], protocol, learning_rate, augmentation, [seeds]
    )


class Recording(NoAugmentation):
    """The identity; keeps every batch it is given."""

    def __init__(self):
        self.batches = []

    def apply(self, images, parameters):
        self.batches.append(images.clone())
        return images


def linear(seed=0, features=4, classes=3):
    module = nn.Sequential(nn.Flatten(), nn.Linear(features, classes)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def some_images(count=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 2, 2, generator=generator, dtype=torch.float64)


def train_by_hand(batches, targets_of, rate, epochs, per_epoch, momentum=0.9, decay=5e-4, drop=0.1):
    """Softmax regression with gradients, momentum and weight decay in closed form."""
    module = linear()
    w, b = (p.detach().clone() for p in module.parameters())
    vw, vb = torch.zeros_like(w), torch.zeros_like(b)
    last_full = (epochs - 1) // 2 + 1  # epoch index E//2+1 with E = epochs - 1
    for number, batch in enumerate(batches):
        epoch = number // per_epoch
        lr = rate if epoch <= last_full else rate * drop
        if epoch == last_full + 1 and number % per_epoch == 0:
            vw, vb = torch.zeros_like(w), torch.zeros_like(b)  # the optimiser is rebuilt
        x, y = batch.flatten(1), targets_of(batch)
        residual = ((x @ w.T + b).softmax(1) - y) / len(x)
        vw = momentum * vw + residual.T @ x + decay * w
        vb = momentum * vb + residual.sum(0) + decay * b
        w, b = w - lr * vw, b - lr * vb
    return w, b


@pytest.mark.parametrize(
    ("epochs", "full"), [(1001, 502), (1000, 501), (301, 152), (3, 3), (4, 3), (5, 4), (1, 1), (2, 2)]
)
def test_how_many_epochs_run_at_the_full_rate(epochs, full):
    by_counting = sum(index <= (epochs - 1) // 2 + 1 for index in range(epochs))
    assert epochs_before_decay(epochs) == by_counting == full


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("epochs", "batch"), [(1001, 5), (11, 2), (12, 3), (2, 256)])
def test_training_equals_the_hand_written_loop(epochs, batch, soft):
    """502 + 499 epochs, lr / 10 and momentum reset between them; the last short batch is kept."""
    images = some_images()
    generator = torch.Generator().manual_seed(9)
    labels = torch.tensor([0, 1, 2, 1, 0])
    targets = torch.rand(5, 3, generator=generator, dtype=torch.float64).softmax(1) if soft else labels
    dense = targets if soft else torch.eye(3, dtype=torch.float64)[labels]
    module, record = linear(), Recording()
    train_network(module, images, targets, Protocol(epochs=epochs, batch=batch), 0.02, record, Seeds(4))
    sizes = [batch] * (5 // batch) + [5 % batch] * (5 % batch > 0) if batch < 5 else [5]
    assert [len(x) for x in record.batches] == sizes * epochs

    def targets_of(x):
        return dense[(x.flatten(1)[:, None] == images.flatten(1)[None]).all(2).int().argmax(1)]

    w, b = train_by_hand(record.batches, targets_of, 0.02, epochs, len(sizes))
    torch.testing.assert_close(module[1].weight.detach(), w, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(module[1].bias.detach(), b, rtol=1e-9, atol=1e-12)
    for at in range(0, len(record.batches), len(sizes)):  # every epoch sees every image once
        epoch = torch.cat(record.batches[at : at + len(sizes)])
        assert torch.equal(epoch.flatten(1)[:, 0].sort().values, images.flatten(1)[:, 0].sort().values)


@pytest.mark.parametrize("images", [2, 13])
def test_an_epoch_of_a_given_number_of_images_takes_as_many_passes(images):
    record = Recording()
    protocol = Protocol(epochs=3, batch=4, epoch_images=images)
    train_network(linear(), some_images(), torch.tensor([0, 1, 2, 1, 0]), protocol, 0.02, record, Seeds(4))
    assert sum(map(len, record.batches)) == 3 * images
    first = torch.cat(record.batches).flatten(1)[:images, 0].tolist()
    assert max(map(first.count, first)) == -(-images // 5)


def test_a_protocol_that_says_nothing_of_it_is_that_of_older_cards():
    assert "epoch_images" not in Protocol().model_dump()
    assert Protocol(epoch_images=7).model_dump()["epoch_images"] == 7


def test_the_hand_written_loop_would_notice_a_missing_reset():
    """Guards the test above: without the reset the result differs by far more than its tolerance."""
    images, labels = some_images(), torch.tensor([0, 1, 2, 1, 0])
    module = linear()
    optimiser = torch.optim.SGD(module.parameters(), 0.02, momentum=0.9, weight_decay=5e-4)
    for epoch in range(11):
        optimiser.param_groups[0]["lr"] = 0.02 if epoch <= 6 else 0.002
        optimiser.zero_grad()
        cross_entropy(module(images), labels).backward()
        optimiser.step()
    reset = linear()
    train_network(reset, images, labels, Protocol(epochs=11), 0.02, NoAugmentation(), Seeds(0))
    assert float((reset[1].weight - module[1].weight).abs().max().detach()) > 1e-4


def test_batches_are_shuffled_by_the_seed_alone():
    runs = []
    for seed in (0, 0, 1):
        record = Recording()
        train_network(linear(), some_images(), torch.tensor([0, 1, 2, 1, 0]), Protocol(epochs=4, batch=2), 0.1, record,
                      Seeds(seed))  # fmt: skip
        runs.append(torch.cat(record.batches))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[0][:5], runs[0][5:10])


@pytest.mark.parametrize("rate", [0.0, -1e-3, float("nan")])
def test_a_step_size_that_cannot_train_is_refused(rate):
    with pytest.raises(HopTMError, match=r"step size to train with is .* above 0.*constraint"):
        train_network(linear(), some_images(), torch.zeros(5, dtype=torch.int64), Protocol(), rate, NoAugmentation(),
                      Seeds(0))  # fmt: skip


def make_evaluator(data, protocol, seed=0, record=None):
    builders = {"narrow": ConvNet(depth=2, width=4), "wide": ConvNet(depth=2, width=8)}
    networks = {
        name: lambda generator, builder=builder: create(builder, data.image_shape, len(data.class_names), generator)
        for name, builder in builders.items()
    }
    return Evaluator(protocol, networks, record or NoAugmentation(), Seeds(seed), silent)


def subset(data, ipc=2, step_size=None):
    chosen = real_subset(data, ipc, Seeds(0))
    return SyntheticSet(chosen.images, chosen.labels, step_size, data.class_names, data.normalisation)


def test_several_networks_of_several_architectures(make_data):
    data = make_data()
    protocol = Protocol(repeats=3, epochs=6, learning_rate=0.05)
    results = make_evaluator(data, protocol).evaluate(lambda repeat: subset(data), data.test, "a set")
    assert {name: len(rows) for name, rows in results.items()} == {"narrow": 3, "wide": 3}
    assert results == make_evaluator(data, protocol).evaluate(lambda repeat: subset(data), data.test, "a set")
    accuracies = [row["accuracy"] for row in results["narrow"]]
    assert all(0 <= value <= 1 for value in accuracies)
    record = Recording()
    make_evaluator(data, protocol, record=record).evaluate(lambda repeat: subset(data), data.test, "a set")
    assert len(record.batches) == 2 * 3 * 6  # augmentation while training, never while testing


def test_the_learned_step_size_is_the_learning_rate_of_every_architecture(make_data):
    data = make_data()
    learned = make_evaluator(data, Protocol(repeats=1, epochs=5, learning_rate=0.5)).evaluate(
        lambda repeat: subset(data, step_size=torch.tensor(0.02)), data.test, "a set"
    )
    given = make_evaluator(data, Protocol(repeats=1, epochs=5, learning_rate=float(torch.tensor(0.02)))).evaluate(
        lambda repeat: subset(data), data.test, "a set"
    )
    other = make_evaluator(data, Protocol(repeats=1, epochs=5, learning_rate=0.5)).evaluate(
        lambda repeat: subset(data), data.test, "a set"
    )
    assert learned == given != other


def test_the_jth_network_starts_alike_for_every_set_and_unlike_the_others(make_data):
    data = make_data()
    starts = []

    def network(generator):
        module = create(ConvNet(depth=2, width=4), data.image_shape, 3, generator)
        starts.append(next(module.parameters()).detach().clone())
        return module

    evaluator = Evaluator(Protocol(repeats=2, epochs=1), {"n": network}, NoAugmentation(), Seeds(0), silent)
    for ipc in (1, 2):
        evaluator.evaluate(lambda repeat, ipc=ipc: subset(data, ipc), data.test, "a set")
    _, *starts = starts  # the first is only asked for its shapes
    assert torch.equal(starts[0], starts[2])
    assert torch.equal(starts[1], starts[3])
    assert not torch.equal(starts[0], starts[1])


@pytest.mark.parametrize("warm", [False, True])
def test_evaluation_reports_every_epoch_of_every_network(make_data, warm):
    class Report(Progress):
        done = 0

        def __call__(self, title, total, done=0):
            self.title, self.total = title, total
            return self

        def advance(self, steps=1, **values):
            self.done += steps
            self.values = values

    data, report = make_data(), Report()
    evaluator = replace(make_evaluator(data, Protocol(repeats=3, epochs=4)), progress=report)
    evaluator.evaluate(lambda repeat: subset(data), data.test, "a set", subset(data) if warm else None)
    networks = len(evaluator.networks)
    assert (report.title, report.total) == ("evaluating a set, epochs", networks * 3 * 4 * (2 if warm else 1))
    assert report.done == report.total
    assert 0 <= report.values["accuracy"] <= 1


def test_predictions_are_of_the_untouched_images_in_order(make_data):
    data = make_data(per_class=5)
    network = create(ConvNet(depth=2, width=4), data.image_shape, 3, torch.Generator().manual_seed(0))
    got = predict(network, data.test, batch=4).softmax(dim=1)  # 15 images: the last batch is short
    torch.testing.assert_close(got, network(data.test.images).detach().softmax(1))
    assert not got.requires_grad


def test_a_real_subset_is_class_major_from_train(make_data):
    data = make_data(per_class=9)
    chosen = real_subset(data, 4, Seeds(2))
    assert chosen.labels.tolist() == [k for k in range(3) for _ in range(4)]
    same = (chosen.images.flatten(1)[:, None] == data.train.images.flatten(1)[None]).all(2)
    index = same.int().argmax(1)
    assert bool((same.sum(1) == 1).all())
    assert len(set(index.tolist())) == 12
    assert torch.equal(data.train.labels[index], chosen.labels)
    assert chosen.step_size is None
    assert torch.equal(chosen.images, real_subset(data, 4, Seeds(2)).images)
    assert not torch.equal(chosen.images, real_subset(data, 4, Seeds(3)).images)


def test_published_defaults():
    protocol = Protocol()
    assert (protocol.epochs, protocol.momentum, protocol.weight_decay, protocol.decay) == (1001, 0.9, 5e-4, 0.1)
    assert (protocol.repeats, protocol.learning_rate) == (5, 0.01)
