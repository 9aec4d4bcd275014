"""DC and DSA against what docs/methods.md 15 and 16 say, written out once more, in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hoptm_baselines.gradient_matchers import Cosine, RowwiseCosine, Squared
from hoptm_baselines.gradient_matching import GradientMatching
from torch import nn
from torch.nn.functional import cross_entropy

from hoptm_plugin.augment import DSA, NoAugmentation
from hoptm_plugin.core.observations import GradientPair
from hoptm_plugin.networks import ConvNet
from hoptm_plugin.trajectory import RealImages

CLASSES, EVERYTHING, RATE = 3, 1000, 0.05


def pair(real, synthetic):
    return GradientPair([part.double() for part in real], [part.double() for part in synthetic], 0, 0)


def normal_gradient(seed=0):
    """Return unit-normal numbers in the shapes of the usual network for ten classes of 32x32: 3 x 128 + 10 rows."""
    generator = torch.Generator().manual_seed(seed)
    network = ConvNet(depth=3, width=128).build((3, 32, 32), 10)
    return [torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in network.parameters()]


# --- the matchers ----------------------------------------------------------------------------------------------------


def test_a_row_counts_one_where_there_is_no_gradient_and_two_against_it():
    real = normal_gradient()
    assert RowwiseCosine().loss(pair(real, [0 * part for part in real])).item() == 394
    assert RowwiseCosine().loss(pair(real, [-part for part in real])).item() == pytest.approx(788, abs=1e-4)


def test_rows_by_hand():
    synthetic, real = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, -1.0]])
    expected = 3 - 1 / math.sqrt(2)
    assert expected == pytest.approx(2.29289, abs=1e-5)
    assert RowwiseCosine(1e-15).loss(pair([real], [synthetic])).item() == pytest.approx(expected, rel=1e-12)
    assert RowwiseCosine().loss(pair([real], [synthetic])).item() == pytest.approx(expected, abs=1e-5)


def test_a_kernel_has_a_row_for_each_filter():
    kernels = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cosines = [float(a.flatten() @ b.flatten() / (a.norm() * b.norm())) for a, b in zip(*kernels, strict=True)]
    assert RowwiseCosine(1e-15).loss(pair([kernels[0]], [kernels[1]])).item() == pytest.approx(4 - sum(cosines))


def test_tensors_of_one_dimension_do_not_matter():
    real, synthetic = normal_gradient(0), normal_gradient(1)
    changed = [part if part.dim() > 1 else 5 * part + 1 for part in synthetic]
    assert RowwiseCosine().loss(pair(real, changed)) == RowwiseCosine().loss(pair(real, synthetic))
    assert Squared().loss(pair(real, changed)) != Squared().loss(pair(real, synthetic))


def test_the_length_of_a_large_gradient_hardly_matters_and_that_of_a_small_one_does():
    real, synthetic = normal_gradient(0), normal_gradient(1)
    once, longer = (RowwiseCosine().loss(pair(real, [factor * part for part in synthetic])) for factor in (1, 7))
    assert float(once - longer) == pytest.approx(0, abs=1e-5)
    assert RowwiseCosine().loss(pair(real, real)).item() == pytest.approx(5e-6, rel=0.2)
    small = [1e-5 * part for part in real]
    assert RowwiseCosine().loss(pair(small, small)).item() == pytest.approx(365, abs=1)
    assert RowwiseCosine(1e-16).loss(pair(small, small)).item() == pytest.approx(5e-6, rel=0.2), "of the same rows"


def test_whole_gradients_by_hand():
    real, synthetic = (
        [torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])],
        [torch.tensor([[3.0, 1.0]]), torch.tensor([2.0])],
    )
    assert Squared().loss(pair(real, synthetic)).item() == 1 + 4
    expected = 1 - (9 + 8) / (5 * math.sqrt(14))
    assert Cosine(1e-15).loss(pair(real, synthetic)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("make", [RowwiseCosine, Cosine])
def test_a_distance_needs_its_eps(make):
    with pytest.raises(ValueError, match="eps must be above 0"):
        make(0.0)


# --- the method ------------------------------------------------------------------------------------------------------


class Recorder(DSA):
    """DSA that remembers what was applied to how many images."""

    def __init__(self):
        super().__init__()
        self.applied = []

    def apply(self, images, parameters):
        self.applied.append((len(images), parameters))
        return super().apply(images, parameters)


class Networks:
    """Makes the task's networks, and keeps each and a copy of its first parameters."""

    def __init__(self, task):
        self.make, self.made, self.starts = task.network, [], []

    def __call__(self, generator):
        self.made.append(self.make(generator))
        self.starts.append([part.detach().clone() for part in self.made[-1].parameters()])
        return self.made[-1]


def matching(**changes):
    settings = {"real_batch": EVERYTHING, "outer_steps": 3, "inner_epochs": 2, "inner_learning_rate": RATE}
    return GradientMatching(RowwiseCosine(), RealImages(), **settings | changes)


def begun(make_task, method, **changes):
    """Return the task, its networks as they are made, and the set that a method starts from."""
    task = make_task(**{"ipc": 2, "dtype": torch.float64, "augmentation": NoAugmentation()} | changes)
    networks = Networks(task)
    synthetic = method.setup(replace(task, network=networks))
    synthetic.images.requires_grad_()
    return task, networks, synthetic


def distance(network, real, images, label):
    """Return D_c by its definition, row by row."""
    real_loss, own_loss = (cross_entropy(network(batch), torch.full((len(batch),), label)) for batch in (real, images))
    theirs = torch.autograd.grad(real_loss, list(network.parameters()))
    ours = torch.autograd.grad(own_loss, list(network.parameters()), create_graph=True)
    total = torch.zeros((), dtype=torch.float64)
    for a, b in zip(ours, theirs, strict=True):
        for row, other in zip(a, b, strict=True) if a.dim() > 1 else ():
            total = total + 1 - (row * other).sum() / (row.square().sum().sqrt() * other.square().sum().sqrt() + 1e-6)
    return total


@pytest.mark.parametrize("augmented", [False, True])
def test_loss_and_gradient_are_those_of_all_classes_at_once(make_task, augmented):
    """After each step of another outer step, under the network as it is trained by then."""
    recorder = Recorder()
    method = matching(augmented=augmented)
    task, networks, synthetic = begun(make_task, method, augmentation=recorder)
    images = synthetic.images
    for term in method.losses(synthetic, 4):
        draws = [parameters for _, parameters in recorder.applied[-2 * CLASSES :: 2]]
        expected = torch.zeros((), dtype=torch.float64)
        for label in range(CLASSES):
            batches = task.train.images[task.train.labels == label], images[2 * label : 2 * label + 2]
            if augmented:
                batches = tuple(DSA().apply(batch, draws[label]) for batch in batches)
            expected = expected + distance(networks.made[-1], *batches, label)
        assert term.loss.item() == pytest.approx(expected.item(), rel=1e-12)
        assert term.watched.item() == term.loss.item()
        (want,) = torch.autograd.grad(expected, images)
        (got,) = torch.autograd.grad(term.loss, images)
        assert float(want.abs().max()) > 1e-3
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
        with torch.no_grad():
            images -= 0.1 * got
    assert bool(recorder.applied) == augmented
    assert synthetic.step_size is None
    assert not synthetic.soft


def test_a_loss_holds_no_network_s_graph(make_task):
    method = matching(outer_steps=1)
    *_, synthetic = begun(make_task, method)
    (term,) = method.losses(synthetic, 0)
    nodes, found = [term.loss.grad_fn], []
    while nodes:
        node = nodes.pop()
        found.append(node)
        nodes += [following for following, _ in node.next_functions if following is not None]
    assert len(found) < 10


@pytest.mark.parametrize(("outer", "inner"), [(1, 50), (2, 3), (4, 2)])
def test_the_network_is_trained_between_the_steps_on_the_images_as_they_are_then(make_task, outer, inner):
    method = matching(outer_steps=outer, inner_epochs=inner, inner_batch=EVERYTHING)
    _, networks, synthetic = begun(make_task, method)
    sets = []
    for _ in method.losses(synthetic, 0):
        with torch.no_grad():
            synthetic.images += 0.1
        sets.append(synthetic.images.detach().clone())
    assert len(sets) == outer
    theta = [part.clone().requires_grad_() for part in networks.starts[-1]]
    names = [name for name, _ in networks.made[-1].named_parameters()]
    for images in sets[:-1]:
        for _ in range(inner):
            logits = torch.func.functional_call(networks.made[-1], dict(zip(names, theta, strict=True)), (images,))
            gradients = torch.autograd.grad(cross_entropy(logits, synthetic.labels), theta)
            theta = [
                (part - RATE * each).detach().requires_grad_() for part, each in zip(theta, gradients, strict=True)
            ]
    for got, want in zip(networks.made[-1].parameters(), theta, strict=True):
        torch.testing.assert_close(got.detach(), want.detach(), rtol=1e-10, atol=1e-13)
    moved = any(
        not torch.equal(*both) for both in zip(networks.made[-1].parameters(), networks.starts[-1], strict=True)
    )
    assert moved == (outer > 1), "one image per class never trains a network"


def test_draws_are_siamese_in_the_matching_and_not_in_the_training(make_task):
    recorder = Recorder()
    method = matching(real_batch=5, outer_steps=2, inner_epochs=3, inner_batch=4)
    *_, synthetic = begun(make_task, method, augmentation=recorder)
    for _ in method.losses(synthetic, 0):
        pass
    matched, calls = 2 * CLASSES, recorder.applied
    trained, later = calls[matched : matched + 6], calls[matched + 6 :]
    assert [size for size, _ in trained] == [4, 2] * 3, "a short last batch is kept"
    assert all(len(parameters.values) == size for size, parameters in trained)
    for part in (calls[:matched], later):
        assert len(part) == matched
        for (real, first), (own, second) in zip(part[::2], part[1::2], strict=True):
            assert (real, own) == (5, 2)
            assert first is second
            assert len(first.values) == 1, "one row of numbers for the whole batch"
    drawn = {str((first.group, first.values.tolist())) for _, first in (*calls[:matched:2], *later[::2])}
    assert len(drawn) > CLASSES, "two flips may coincide, but not most draws"


def test_an_epoch_sees_every_image_once_in_a_new_order(make_task):
    class Listener(NoAugmentation):
        def __init__(self):
            self.seen = []

        def apply(self, images, parameters):
            self.seen.append(images[:, 0, 0, 0].tolist())
            return images

    method = matching(real_batch=1, outer_steps=2, inner_epochs=2, inner_batch=6)
    listener = Listener()
    *_, synthetic = begun(make_task, method, augmentation=listener)
    for _ in method.losses(synthetic, 0):
        pass
    first, second = [batch for batch in listener.seen if len(batch) == 6]
    assert first != second
    assert sorted(first) == sorted(second) == sorted(synthetic.images[:, 0, 0, 0].tolist())


def test_an_iteration_is_decided_by_its_number_and_the_set(make_task):
    """So that a resumed run has nothing to remember."""

    def losses(method, synthetic, step):
        return [term.loss.item() for term in method.losses(synthetic, step)]

    changes = {"augmentation": DSA(), "dtype": torch.float32}
    going_on, resumed = matching(real_batch=2), matching(real_batch=2)
    *_, synthetic = begun(make_task, going_on, **changes)
    *_, again = begun(make_task, resumed, **changes)
    zeroth, first, second = (losses(going_on, synthetic, step) for step in range(3))
    assert losses(resumed, again, 2) == second
    assert len({zeroth[0], first[0], second[0]}) == 3, "networks and real images are fresh"
    assert going_on.state_dict() == {}


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient.clone()


def test_networks_that_cannot_be_matched_are_refused(make_task):
    method = matching()
    task = make_task()
    assert method.problems(task) == []
    (statistics,) = method.problems(make_task(network=ConvNet(depth=1, width=4, norm="batch")))
    assert "keeps running statistics" in statistics

    class Undifferentiable(nn.Sequential):
        def forward(self, images):
            return Once.apply(super().forward(images))

    def undifferentiable(generator):
        return Undifferentiable(nn.Flatten(), nn.Linear(math.prod(task.data.image_shape), CLASSES))

    (once,) = method.problems(replace(task, network=undifferentiable))
    assert "network Undifferentiable: a training step cannot be differentiated twice" in once


@pytest.mark.parametrize("name", ["real_batch", "outer_steps", "inner_epochs", "inner_batch", "inner_learning_rate"])
def test_settings_below_what_they_can_be_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        matching(**{name: 0})


@pytest.mark.parametrize(
    ("outer", "inner", "epochs"),
    [(1, 1, 0), (10, 50, 450), (20, 25, 475), (30, 20, 580), (40, 15, 585), (50, 10, 490)],
)
def test_the_published_rows_train_the_network_for_so_many_epochs(outer, inner, epochs):
    with_training, without = (
        matching(outer_steps=outer, inner_epochs=count, real_batch=1).image_passes(1, 1) for count in (inner, 2 * inner)
    )
    assert without - with_training == epochs
