"""DM and IDM against loops written out from docs/methods.md 8 and docs/methods.md 9, in float64."""

from __future__ import annotations

import numpy
import pytest
import torch
from hoptm_baselines.distribution_matching import DistributionMatching
from hoptm_baselines.improved_distribution_matching import ImprovedDistributionMatching
from torch.nn.functional import cross_entropy

from hoptm_plugin.augment import DSA, NoAugmentation
from hoptm_plugin.core.observations import FeaturePair
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.optimisers import Optimisers
from hoptm_plugin.engine.settings import Distillation
from hoptm_plugin.matchers import MeanFeatures
from hoptm_plugin.trajectory import RealImages

CLASSES, EVERYTHING = 3, 1000


class Recorder(DSA):
    """DSA that remembers what was applied to how many images."""

    def __init__(self):
        super().__init__()
        self.applied = []

    def apply(self, images, parameters):
        self.applied.append((len(images), parameters))
        return super().apply(images, parameters)


def plain(make_task, **changes):
    """Return a task without augmentation, whose float64 sums can be redone by hand."""
    return make_task(**{"ipc": 2, "dtype": torch.float64, "augmentation": NoAugmentation()} | changes)


def optimisers(synthetic, momentum=0.5, rate=0.2):
    rule = {"learning_rate": rate, "momentum": momentum}
    return Optimisers(synthetic, Distillation(images=rule, step_size={"learning_rate": 0}, labels=rule))


def mean_distance(network, real, synthetic):
    return (network.features(real).mean(0) - network.features(synthetic).mean(0)).square().sum()


# --- the matcher -----------------------------------------------------------------------------------------------------


def test_mean_features_by_hand():
    real = torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 2.0]], dtype=torch.float64)
    synthetic = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    pair = FeaturePair(real, synthetic, 0, 0)  # means (2, 3, 1) and (1, 1, 1)
    assert MeanFeatures().loss(pair).item() == 5
    assert MeanFeatures("mean").loss(pair).item() == pytest.approx(5 / 3)
    (gradient,) = torch.autograd.grad(MeanFeatures().loss(pair), synthetic)
    assert gradient.tolist() == [[-2.0, -4.0, 0.0]]


# --- DM --------------------------------------------------------------------------------------------------------------


def dm(**changes):
    return DistributionMatching(MeanFeatures(), RealImages(), **{"real_batch": EVERYTHING} | changes)


def test_dm_loss_and_gradient_are_the_sum_over_classes(make_task):
    task = plain(make_task)
    method = dm()
    synthetic = method.setup(task)
    images = synthetic.images.requires_grad_()
    for step in range(2):
        (term,) = method.losses(synthetic, step)
        network = task.network(task.seeds.generator("network", step))
        expected = sum(
            mean_distance(network, task.train.images[task.train.labels == k], images[2 * k : 2 * k + 2])
            for k in range(CLASSES)
        )
        assert term.loss.item() == pytest.approx(expected.item(), rel=1e-12)
        got, want = (torch.autograd.grad(loss, images)[0] for loss in (term.loss, expected))
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)
    assert synthetic.step_size is None
    assert not synthetic.soft


def test_dm_draws_a_fresh_network_and_fresh_real_images_every_iteration(make_task):
    task = plain(make_task)
    method = dm(real_batch=2)
    synthetic = method.setup(task)
    losses = [next(method.losses(synthetic, step)).loss.item() for step in (0, 1, 0)]
    assert losses[0] != losses[1]
    assert losses[0] == losses[2]


@pytest.mark.parametrize("make", [dm, lambda **kw: idm(**kw)], ids=["dm", "idm"])
def test_augmentation_is_siamese_within_a_class_and_fresh_for_the_next(make_task, make):
    recorder = Recorder()
    method = make(real_batch=5)
    synthetic = method.setup(plain(make_task, augmentation=recorder))
    for step in range(2):
        for _ in method.losses(synthetic, step):
            pass
    calls = recorder.applied
    pairs = list(zip(calls[::2], calls[1::2], strict=True))
    assert len(pairs) == 2 * CLASSES
    for (real, first), (own, second) in pairs:
        assert (real, own) == (5, len(synthetic) // CLASSES)
        assert first is second
        assert len(first.values) == 1, "one row of numbers for the whole batch"
    drawn = [(first.group, first.values.flatten().tolist()) for (_, first), _ in pairs]
    assert len({str(draw) for draw in drawn}) > CLASSES, "two flips may coincide, but not most draws"


def test_dm_per_class_steps_add_up_to_the_joint_loss(make_task):
    task = plain(make_task)
    (joint,) = (method := dm()).losses(method.setup(task), 0)
    separate = list((method := dm(stepping="per_class")).losses(method.setup(task), 0))
    assert len(separate) == CLASSES
    assert sum(term.loss.item() for term in separate) == pytest.approx(joint.loss.item(), rel=1e-13)


def test_dm_with_batchnorm_sees_all_classes_in_one_batch(make_task, make_data):
    """The statistics are those of all classes together, for real and for synthetic images."""
    from hoptm_plugin.networks import ConvNet, create

    data = make_data(dtype=torch.float64)
    task = plain(make_task, data=data)
    builder = ConvNet(depth=2, width=4, norm="batch")
    shape = data.image_shape
    object.__setattr__(task, "network", lambda generator: create(builder, shape, CLASSES, generator).double())
    method = dm()
    synthetic = method.setup(task)
    (term,) = method.losses(synthetic, 0)
    network = task.network(task.seeds.generator("network", 0)).train()
    with torch.no_grad():
        order = torch.cat([task.train.of_class(k) for k in range(CLASSES)])
        real, own = network.features(task.train.images[order]), network.features(synthetic.images)
    expected = sum(
        (r.mean(0) - s.mean(0)).square().sum() for r, s in zip(real.chunk(CLASSES), own.chunk(CLASSES), strict=True)
    )
    assert term.loss.item() == pytest.approx(expected.item(), rel=1e-10)


# --- IDM -------------------------------------------------------------------------------------------------------------


def idm(**changes):
    settings = {"real_batch": EVERYTHING, "queue_size": 4, "queue_start": 3, "new_network_every": 2,
                "training_steps": 2, "training_batch": 5}  # fmt: skip
    return ImprovedDistributionMatching(MeanFeatures(), **settings | changes)


@pytest.mark.parametrize(
    ("scale", "seen", "correct", "weight"),
    [("percent", 8, 6, 37.5), ("fraction", 8, 6, 0.375), ("constant", 8, 6, 0.5), ("percent", 0, 0, 0.0)],
)
def test_idm_loss_is_distance_plus_accuracy_times_cross_entropy(make_task, scale, seen, correct, weight):
    task = plain(make_task)
    method = idm(ce_scale=scale, queue_start=1, new_network_every=10**6, ce_weight=0.5)
    synthetic = method.setup(task)
    next(method.losses(synthetic, 0))  # the queue gets its fresh network of iteration 0
    for network in method._queue:
        network.seen, network.correct = seen, correct
    terms = list(method.losses(synthetic, 1))
    assert len(terms) == CLASSES
    whole = synthetic.expanded()
    for label, term in enumerate(terms):
        shown = whole.images[whole.labels == label]
        real = task.train.images[task.train.labels == label]
        candidates = [
            mean_distance(network.module, real, shown)
            + weight * cross_entropy(network.module(shown), torch.full((8,), label))
            for network in method._queue
        ]
        assert min(abs(term.loss.item() / value.item() - 1) for value in candidates) < 1e-12
        assert term.logs["ce_weight"] == pytest.approx(weight)


def test_idm_classes_step_one_after_the_other_and_momentum_carries_them_on(make_task):
    """Class c of K moves by lr g (1 + .5 + ... + .5^(K-1-c)) within its iteration, nearly 2 lr g for early ones."""
    task = plain(make_task)
    method = idm()
    synthetic = method.setup(task)
    before = synthetic.images.detach().clone()
    stepped = optimisers(synthetic)
    gradients = []
    for label, term in enumerate(method.losses(synthetic, 0)):
        rows = slice(2 * label, 2 * label + 2)
        assert torch.equal(synthetic.images.detach()[rows], before[rows]), "a class waits for its own gradient"
        (gradient,) = torch.autograd.grad(term.loss, synthetic.images, retain_graph=True)
        assert float(gradient[rows].abs().max()) > 0
        assert float(gradient.abs().sum()) == float(gradient[rows].abs().sum()), "no gradient for other classes"
        gradients.append(gradient[rows])
        stepped.step(term.loss)
    moved = synthetic.images.detach() - before
    for label, gradient in enumerate(gradients):
        factor = sum(0.5**k for k in range(CLASSES - label))
        rows = slice(2 * label, 2 * label + 2)
        torch.testing.assert_close(moved[rows], -0.2 * factor * gradient, rtol=1e-10, atol=1e-14)


def test_idm_queue_grows_on_the_beat_and_the_oldest_leaves(make_task):
    method = idm()
    synthetic = method.setup(plain(make_task))
    assert len(method._queue) == 3
    lengths, before = [], list(method._queue)
    for step in range(5):
        list(method.losses(synthetic, step))
        lengths.append(len(method._queue))
        if step == 0:
            assert method._queue[:3] == before
        if step == 2:
            assert method._queue[:2] == before[1:], "the oldest of four leaves"
    assert lengths == [4, 4, 4, 4, 4]


def test_idm_trains_its_networks_as_plain_sgd_does_and_counts_what_is_right(make_task):
    task = plain(make_task)
    method = idm(queue_start=1, new_network_every=10**6, networks_trained=1, training_steps=3)
    synthetic = method.setup(task)
    list(method.losses(synthetic, 0))
    method._queue = method._queue[:1]
    network = task.network(task.seeds.generator("queue", "start", 0))
    sgd = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    correct = 0
    for iteration in range(2):  # the momentum must outlast an iteration
        method.after_step(iteration)
        seeds = task.seeds.child("queue training", iteration).child(0)
        for step in range(3):
            chosen = numpy.random.default_rng(seeds.number(step)).choice(len(task.train), 5, replace=False)
            indices = torch.from_numpy(chosen)
            assert len(set(chosen.tolist())) == 5
            logits = network(task.train.images[indices])
            correct += int((logits.argmax(1) == task.train.labels[indices]).sum())
            sgd.zero_grad()
            cross_entropy(logits, task.train.labels[indices]).backward()
            sgd.step()
    for got, want in zip(method._queue[0].module.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(got.detach(), want.detach(), rtol=1e-12, atol=1e-14)
    assert (method._queue[0].seen, method._queue[0].correct) == (30, correct)
    assert method._queue[0].accuracy == correct / 30


def test_idm_meters_are_reset_on_demand_only(make_task):
    for every, wanted in ((None, [True, True, True, True]), (2, [True, False, True, False])):
        method = idm(reset_meters_every=every, networks_trained=4)
        synthetic = method.setup(plain(make_task))
        seen = []
        for step in range(4):
            list(method.losses(synthetic, step))
            method.after_step(step)
            seen.append(any(network.seen for network in method._queue))
        assert seen == wanted


def test_idm_starts_from_shrunk_real_images_of_the_class_or_from_whole_ones(make_task):
    task = plain(make_task)
    synthetic = idm().setup(task)
    for index, image in enumerate(synthetic.images):
        real = task.train.images[task.train.labels == index // 2]
        small = (real[..., ::2, ::2] + real[..., 1::2, ::2] + real[..., ::2, 1::2] + real[..., 1::2, 1::2]) / 4
        for tile in (image[:, :4, :4], image[:, 4:, :4], image[:, :4, 4:], image[:, 4:, 4:]):
            assert float((small - tile).abs().flatten(1).amax(1).min()) < 1e-14
    whole = idm(initial="plain").setup(task)
    assert whole.mosaic == 2
    for index, image in enumerate(whole.images):
        assert any(torch.equal(image, other) for other in task.train.images[task.train.labels == index // 2])
    assert idm(mosaic=1, initial="plain").setup(task).mosaic == 1


def test_idm_refuses_mosaics_that_do_not_fit_the_images(make_task, make_data):
    task = plain(make_task, data=make_data(size=9, dtype=torch.float64))
    (problem,) = idm().problems(task)
    assert "method.mosaic: images of 9x9 pixels cannot be cut into 2x2 tiles" in problem
    assert idm(mosaic=1).problems(task) == []


@pytest.mark.parametrize("make", [dm, lambda: idm(ce_weight=0.0)], ids=["dm", "idm"])
def test_matching_lowers_the_distance(make_task, make):
    task = plain(make_task, augmentation=DSA())
    method = make()
    synthetic = method.setup(task)
    probe = task.network(torch.Generator().manual_seed(99))

    def distance(candidate: SyntheticSet):
        whole = candidate.expanded()
        with torch.no_grad():
            return sum(float(mean_distance(probe, task.train.images[task.train.labels == k],
                                           whole.images[whole.labels == k])) for k in range(CLASSES))  # fmt: skip

    before, stepped = distance(synthetic), optimisers(synthetic)
    for step in range(30):
        for term in method.losses(synthetic, step):
            stepped.step(term.loss)
        method.after_step(step)
    assert distance(synthetic.detached()) < 0.8 * before
