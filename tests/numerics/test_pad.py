"""PAD's experts: which images are open in which epoch, their scores, and that training sees these and no others."""

from __future__ import annotations

import math

import pytest
import torch

from hoptm_plugin.augment import DSA, NoAugmentation
from hoptm_plugin.core.dataset import Normalisation, Split
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.experts import Curriculum, ExpertTraining, el2n, train_experts
from hoptm_plugin.experts.difficulty import in_order, mean_el2n
from hoptm_plugin.networks import ConvNet, FlatNetwork, create
from hoptm_plugin.networks.stack import TrainingLoss

PUBLISHED, OPEN = Curriculum(), Curriculum(start=1.0, all_at=0, drop_after=(), drop=())
SHORT = Curriculum(start=0.5, all_at=2, drop_after=(3, 4), drop=(0.1, 0.3))


@pytest.mark.parametrize(
    ("epoch", "count"),
    [(0, 3750), (10, 4375), (20, 5000), (40, 5000), (41, 4500), (60, 4500), (61, 4000), (99, 4000)],
)
def test_counts_of_five_thousand(epoch, count):
    places = range(5000)[PUBLISHED.window(epoch, 5000)]
    assert len(places) == count
    assert places[0] == 0 if epoch <= 40 else places[-1] == 4999, "first the easiest, in the end without them"


def test_cifar_100_has_a_curriculum_and_images_to_the_end():
    later = Curriculum(all_at=40)
    assert [len(range(500)[later.window(epoch, 500)]) for epoch in (0, 20, 40, 41, 61)] == [375, 438, 500, 450, 400]


@pytest.mark.parametrize("size", range(1, 12))
def test_no_class_is_ever_without_an_image(size):
    hard = Curriculum(start=0.01, all_at=20, drop_after=(40, 60), drop=(0.5, 0.99))
    for curriculum in (PUBLISHED, hard):
        counts = [len(range(size)[curriculum.window(epoch, size)]) for epoch in range(100)]
        assert min(counts) >= 1
        assert counts[20] == counts[40] == size


def test_the_share_of_all_images_is_the_mean_of_the_epochs():
    counts = [len(range(5000)[PUBLISHED.window(epoch, 5000)]) for epoch in range(100)]
    assert PUBLISHED.share(100) == pytest.approx(sum(counts) / 500000, abs=1e-4)
    assert OPEN.share(7) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"drop": [0.1]}, "one fraction for each"),
        ({"drop_after": [60, 40]}, "must ascend"),
        ({"drop_after": [10, 60]}, "must not lie before all_at"),
        ({"start": 0}, "above 0 and at most 1"),
        ({"drop": [0.1, 1.0]}, "from 0 to below 1"),
    ],
)
def test_what_is_no_curriculum_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Curriculum(**settings)


def test_el2n_is_the_length_of_the_error():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    found = el2n(probabilities, torch.tensor([0, 1, 2]))
    assert found.tolist() == pytest.approx([math.sqrt(0.14), 0, math.sqrt(2)], abs=1e-15)


def test_scores_are_means_over_networks_and_not_scores_of_means(make_data, monkeypatch):
    """By hand: exponentials and sums of Python floats of each network's logits."""
    monkeypatch.setattr("hoptm_plugin.experts.difficulty.AT_ONCE", 5)
    data = make_data(dtype=torch.float64)
    modules = [create(ConvNet(depth=2, width=4), data.image_shape, 3, torch.Generator().manual_seed(k)).double()
               for k in range(3)]  # fmt: skip
    network = FlatNetwork(modules[0])
    found = mean_el2n(network, torch.stack([network.flatten(module) for module in modules]), data.train)
    for row, label in enumerate(data.train.labels.tolist()):
        lengths = []
        for module in modules:
            odds = [math.exp(value) for value in module(data.train.images[row : row + 1])[0].tolist()]
            errors = [odd / math.fsum(odds) - (k == label) for k, odd in enumerate(odds)]
            lengths.append(math.sqrt(math.fsum(error**2 for error in errors)))
        assert float(found[row]) == pytest.approx(math.fsum(lengths) / 3, abs=1e-12)


def test_each_class_is_in_order_and_equal_images_stay_as_they_came():
    labels, scores = torch.tensor([1, 0, 1, 0, 1, 3]), torch.tensor([0.5, 0.9, 0.2, 0.1, 0.5, 0.0])
    assert [rows.tolist() for rows in in_order(scores, labels)] == [[3, 1], [2, 0, 4], [5]]


class Recording(NoAugmentation):
    """The identity; keeps the first pixel of every image."""

    def __init__(self):
        self.seen = []

    def apply(self, images, parameters):
        self.seen += images[:, 0, 0, 0].tolist()
        return images

    def apply_many(self, images, parameters, counts):
        return self.apply(images, None)


def numbered(per_class=10, classes=2):
    """Return images whose first pixel is their own number, and class by class an order of them."""
    labels = torch.arange(classes).repeat(per_class)
    images = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[:, 0, 0, 0] = torch.arange(len(labels)).float()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    return Split(images, labels, Normalisation((0.0,), (1.0,), "none")), [order[labels[order] == k] for k in (0, 1)]


def trained(split, training, ranked, epochs=6, experts=1, augmentation=None, begun=()):
    loss = TrainingLoss(create(ConvNet(depth=2, width=4), split.images.shape[1:], 3, torch.Generator()))
    starts = torch.stack([torch.randn(loss.network.num_parameters, generator=Seeds(k).generator("start"))
                          for k in range(experts)])  # fmt: skip
    seeds = [Seeds(k) for k in range(experts)]
    return train_experts(loss, starts, split, training, augmentation or DSA(), seeds, epochs, begun=begun,
                         ranked=ranked)  # fmt: skip


@pytest.mark.parametrize("experts", [1, 2])
@pytest.mark.parametrize("images", [None, 7, 45])
def test_an_epoch_sees_its_open_images_and_no_others(experts, images):
    """Of 10 a class: 5, 7 or 8 (0.75), all twice, without the easiest, without the three easiest."""
    split, ranked = numbered()
    windows = [(0, 5), (0, 8), (0, 10), (0, 10), (1, 10), (3, 10)]
    recording = Recording()
    training = ExpertTraining(batch=4, epoch_images=images, curriculum=SHORT, learning_rate=1e-9)
    trained(split, training, ranked, experts=experts, augmentation=recording)
    for first, last in windows:
        wanted = {float(row) for rows in ranked for row in rows[first:last]}
        count = experts * (images or len(wanted))
        seen, recording.seen = recording.seen[:count], recording.seen[count:]
        assert set(seen) <= wanted
        if images != 7:  # of fewer images than are open
            assert set(seen) == wanted
        if images is None:
            assert sorted(seen) == sorted([*wanted] * experts), "each once"
    assert recording.seen == []


def test_all_open_is_training_without_a_curriculum_bit_by_bit():
    split, ranked = numbered()
    (plain,) = trained(split, ExpertTraining(batch=4, learning_rate=0.05), ())
    (same,) = trained(split, ExpertTraining(batch=4, learning_rate=0.05, curriculum=OPEN), ranked)
    (other,) = trained(split, ExpertTraining(batch=4, learning_rate=0.05, curriculum=SHORT), ranked)
    assert torch.equal(plain.trajectory, same.trajectory)
    assert not torch.equal(plain.trajectory[1], other.trajectory[1])


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_training_that_goes_on_has_the_bits_of_one_that_was_not_interrupted(at):
    split, ranked = numbered()
    training = ExpertTraining(algorithm="gsam", batch=4, momentum=0.5, learning_rate=0.05, curriculum=SHORT)
    straight = trained(split, training, ranked, experts=2)
    begun = trained(split, training, ranked, epochs=at, experts=2)
    for one, other in zip(straight, trained(split, training, ranked, experts=2, begun=begun), strict=True):
        assert torch.equal(one.trajectory, other.trajectory)
        assert one.epoch_losses == other.epoch_losses


def test_a_curriculum_without_an_order_is_refused():
    split, ranked = numbered()
    for given in ((), ranked[:1]):
        with pytest.raises(ValueError, match="needs the order of all images"):
            trained(split, ExpertTraining(batch=4, curriculum=SHORT), given)
