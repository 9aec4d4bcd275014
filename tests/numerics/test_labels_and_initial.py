"""Label policies and initialisers (docs/methods.md 1.9 and docs/methods.md 7)."""

from __future__ import annotations

import pytest
import torch

from hoptm_plugin.augment import NoAugmentation
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.experts import ExpertTraining, train_experts
from hoptm_plugin.networks import FlatNetwork
from hoptm_plugin.networks.stack import TrainingLoss
from hoptm_plugin.trajectory import CorrectlyPredicted, HardLabels, Noise, RealImages, SoftLabels
from hoptm_plugin.trajectory.initial import class_major


def train_expert(network, start, split, training, augmentation, seeds, epochs):
    """Train one expert; return its trajectory and its losses."""
    loss = TrainingLoss(network.module)
    (expert,) = train_experts(loss, start[None], split, training, augmentation, [seeds], epochs)
    return expert.trajectory, expert.epoch_losses


def found_in(images, split):
    """Return, per image, its index in the split."""
    same = (images.flatten(1)[:, None] == split.images.flatten(1)[None]).all(2)
    assert bool((same.sum(1) == 1).all())
    return same.int().argmax(1)


@pytest.mark.parametrize("ipc", [1, 3, 6])
def test_real_images_are_class_major_from_train_without_replacement(make_task, ipc):
    task = make_task(ipc=ipc)
    images = RealImages().images(task)
    index = found_in(images, task.data.train)
    assert len(set(index.tolist())) == 3 * ipc
    assert task.data.train.labels[index].tolist() == [k for k in range(3) for _ in range(ipc)]
    assert class_major(task).tolist() == [k for k in range(3) for _ in range(ipc)]


def test_real_images_follow_the_seed(make_task, make_data):
    data = make_data(per_class=20)
    picks = [found_in(RealImages().images(make_task(ipc=2, seed=s, data=data)), data.train).tolist() for s in (0, 0, 1)]
    assert picks[0] == picks[1] != picks[2]
    assert len({i // 3 for i in picks[0]}) > 3  # not the same rank in every class


def test_real_images_are_a_copy(make_task):
    task = make_task(ipc=2)
    before = task.data.train.images.clone()
    RealImages().images(task).zero_()
    assert torch.equal(task.data.train.images, before)


def test_noise_is_standard_normal_and_follows_the_seed(make_task):
    one, same, other = (Noise().images(make_task(ipc=40, seed=s)) for s in (0, 0, 1))
    assert one.shape == (120, 2, 8, 8)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert float(one.mean()) == pytest.approx(0, abs=0.04)
    assert float(one.std()) == pytest.approx(1, abs=0.04)


def logits_of(task, expert, epoch, images):
    network = FlatNetwork(task.network(torch.Generator().manual_seed(0)))
    return network(task.experts(epoch).segment(expert, epoch, epoch)[0], images).detach()


@pytest.fixture
def half_trained(make_task):
    """A task whose three experts have begun to learn, and which training images each predicts correctly."""

    def make(ipc):
        task = make_task(ipc=ipc, experts=3)
        experts = task.experts(0)
        for k in range(3):
            network = FlatNetwork(task.network(torch.Generator().manual_seed(k)))
            path, _ = train_expert(network, network.flatten(), task.train, ExpertTraining(learning_rate=0.05, batch=9),
                                   NoAugmentation(), Seeds(k), epochs=5)  # fmt: skip
            experts.parameters[k] = path
        images = task.train.images
        return task, [logits_of(task, k, 3, images).argmax(1) == task.train.labels for k in range(3)]

    return make


@pytest.mark.parametrize("ipc", [1, 3])
def test_correct_takes_only_images_that_an_expert_predicts_right(half_trained, ipc):
    """Per class: the first expert's images as far as they reach, then the next expert's, without duplicates."""
    task, right = half_trained(ipc)
    labels = task.train.labels
    images = CorrectlyPredicted(teacher_epoch=3).images(task)
    index = found_in(images, task.train)
    assert labels[index].tolist() == [k for k in range(3) for _ in range(ipc)]
    assert len(set(index.tolist())) == 3 * ipc
    needed_another = False
    for label in range(3):
        chosen, members = index[labels[index] == label], labels == label
        done = torch.zeros_like(members)
        for one in right:
            missing = ipc - int((done & members).sum())
            fresh = one & members & ~done
            taken = fresh[chosen].sum()
            assert int(taken) == min(missing, int(fresh.sum()))
            done[chosen[fresh[chosen]]] = True
            needed_another |= missing < ipc and int(taken) > 0
    assert needed_another == (ipc == 3)  # the fixture covers both
    assert CorrectlyPredicted(teacher_epoch=3).last_expert_epoch() == 3


def test_correct_without_duplicates_and_short_classes_refused(make_task):
    task = make_task(ipc=6, experts=3)
    with pytest.raises(ConfigurationError, match=r"fewer than ipc=6 .*class \d \(\d\).*initial_images.name=real"):
        CorrectlyPredicted(teacher_epoch=3).images(task)
    train = task.data.train
    counts = []
    for label in range(3):
        right = torch.stack([logits_of(task, k, 3, train.images).argmax(1) == train.labels for k in range(3)]).any(0)
        counts.append(int(right[train.labels == label].sum()))
    with pytest.raises(ConfigurationError) as caught:
        CorrectlyPredicted(teacher_epoch=3).images(task)
    for label, count in enumerate(counts):
        if count < 6:
            assert f"class {label} ({count})" in str(caught.value)


def test_hard_labels_are_a_copy_of_the_classes(make_task):
    classes = torch.tensor([0, 1, 2])
    labels = HardLabels().initial(torch.zeros(3, 2, 8, 8), classes, make_task())
    assert torch.equal(labels, classes)
    assert labels.dtype == torch.int64
    labels.zero_()
    assert classes.tolist() == [0, 1, 2]
    assert HardLabels().last_expert_epoch() == 0


def test_soft_labels_average_the_experts_that_are_right(make_task):
    """docs/methods.md 7; where none is right, the mean over all instead of the released code's 0/0."""
    task = make_task(ipc=6, experts=3, dtype=torch.float64)
    images, classes = RealImages().images(task), class_major(task)
    got = SoftLabels(teacher_epoch=2).initial(images, classes, task)
    stacked = torch.stack([logits_of(task, k, 2, images) for k in range(3)])
    cases = set()
    for i, label in enumerate(classes.tolist()):
        right = [k for k in range(3) if int(stacked[k, i].argmax()) == label]
        cases.add(len(right))
        want = stacked[right or [0, 1, 2], i].mean(0)
        torch.testing.assert_close(got[i], want, rtol=1e-12, atol=1e-14)
    assert 0 in cases  # the fixture covers both branches
    assert len(cases) > 1
    assert SoftLabels(teacher_epoch=2).last_expert_epoch() == 2


@pytest.mark.parametrize("confidence", [0.5, 0.99])
def test_one_hot_logits_give_back_the_confidence(make_task, confidence):
    policy = SoftLabels(start="one_hot", confidence=confidence)
    classes = torch.tensor([2, 0, 1])
    logits = policy.initial(torch.zeros(3, 2, 8, 8), classes, make_task())
    probabilities = logits.softmax(1)
    rest = (1 - confidence) / 2
    for row, label in enumerate(classes.tolist()):
        want = torch.full((3,), rest)
        want[label] = confidence
        torch.testing.assert_close(probabilities[row], want)
    assert policy.last_expert_epoch() == 0


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0])
def test_senseless_confidences_are_refused(confidence):
    with pytest.raises(ValueError, match="between 0 and 1"):
        SoftLabels(confidence=confidence)
