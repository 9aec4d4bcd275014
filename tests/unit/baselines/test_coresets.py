"""Herding and k-centre: against brute force on small data, their bound, and what the method makes of a task."""

import re
from itertools import combinations

import numpy as np
import pytest
import torch
from hoptm_baselines.coresets import Herding, KCenter
from scipy.spatial.distance import cdist

import hoptm_plugin
from hoptm_plugin.core.interfaces import methods
from hoptm_plugin.testing import example_task

BOTH = pytest.mark.parametrize("coreset", [Herding, KCenter])


def points(seed, count=9, dimensions=3):
    return np.random.default_rng(seed).normal(size=(count, dimensions))


def radius(features, chosen):
    return cdist(features, features[list(chosen)]).min(axis=1).max()


@pytest.mark.parametrize("seed", range(5))
def test_every_herded_image_is_the_best_next_one(seed):
    features = points(seed)
    chosen = Herding("pixels").choose(features, 6)
    mean = features.mean(axis=0)
    for t in range(6):
        errors = {
            row: np.linalg.norm(mean - features[[*chosen[:t], row]].mean(axis=0))
            for row in set(range(9)) - set(chosen[:t])
        }
        assert chosen[t] == min(errors, key=errors.get)


@pytest.mark.parametrize("coreset", [Herding, KCenter])
def test_the_first_image_is_the_nearest_to_the_mean(coreset):
    features = points(7, count=40)
    nearest = cdist(features, features.mean(axis=0, keepdims=True)).argmin()
    assert coreset("pixels").choose(features, 3)[0] == nearest


def test_herding_everything_reaches_the_mean_and_few_come_nearer_than_random_ones():
    features = points(3, count=60)
    mean = features.mean(axis=0)
    error = [np.linalg.norm(features[Herding("pixels").choose(features, n)].mean(axis=0) - mean) for n in (5, 60)]
    rng = np.random.default_rng(0)
    random = [np.linalg.norm(features[rng.permutation(60)[:5]].mean(axis=0) - mean) for _ in range(200)]
    assert error[0] < np.quantile(random, 0.01)
    assert error[1] < 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_every_centre_is_the_farthest_from_those_before(seed):
    features = points(seed)
    chosen = KCenter("pixels").choose(features, 5)
    distances = cdist(features, features)
    for t in range(1, 5):
        left = {row: min(distances[row, other] for other in chosen[:t]) for row in set(range(9)) - set(chosen[:t])}
        assert chosen[t] == max(left, key=left.get)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(10))
def test_the_radius_of_k_centre_is_at_most_twice_the_optimum(seed, count):
    features = points(seed, count=8, dimensions=2)
    best = min(radius(features, subset) for subset in combinations(range(8), count))
    assert radius(features, KCenter("pixels").choose(features, count)) <= 2 * best + 1e-12


@BOTH
def test_repeated_images_are_still_taken_once(coreset):
    features = np.zeros((4, 2))
    assert sorted(coreset("pixels").choose(features, 4)) == [0, 1, 2, 3]


@BOTH
def test_far_from_the_origin_float32_chooses_as_float64(coreset):
    features = (points(1, count=50) + 1000).astype(np.float32)
    assert coreset("pixels").choose(features, 6) == coreset("pixels").choose(features.astype(np.float64), 6)


@BOTH
@pytest.mark.parametrize("space", ["network", "pixels"])
def test_the_set_holds_ipc_different_training_images_of_each_class(coreset, space):
    task = example_task(ipc=3)
    synthetic = coreset(space, 2).setup(task)
    assert synthetic.step_size is None
    assert synthetic.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    rows = []
    for image, label in zip(synthetic.images, synthetic.labels, strict=True):
        (row,) = torch.nonzero((task.train.images == image).flatten(1).all(dim=1)).flatten().tolist()
        assert task.train.labels[row] == label
        rows.append(row)
    assert len(set(rows)) == 9
    assert list(coreset(space, 2).losses(synthetic, 0)) == []


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_space_is_expert_0_at_the_teacher_s_epoch(coreset, dtype):
    task = example_task(ipc=3, dtype=dtype)
    method = coreset(teacher_epoch=4)
    assert method.last_expert_epoch() == 4
    synthetic = method.setup(task)
    network = task.network(torch.Generator())
    theta = task.experts(4).segment(0, 4, 4)[0]
    torch.nn.utils.vector_to_parameters(theta.clone(), network.parameters())
    for label in range(3):
        members = task.train.batch(task.train.of_class(label))
        chosen = method.choose(hoptm_plugin.features(network, members).detach().numpy(), 3)
        assert torch.equal(synthetic.images[3 * label : 3 * label + 3], members[chosen])


def test_classes_larger_than_a_block_are_described_whole(monkeypatch):
    task = example_task(ipc=4)
    whole = Herding(teacher_epoch=3).setup(task)
    monkeypatch.setattr("hoptm_baselines.coresets.BLOCK", 4)
    assert torch.equal(Herding(teacher_epoch=3).setup(task).images, whole.images)


def test_pixels_need_no_expert():
    def refuse(epoch):
        raise AssertionError("experts were opened")

    task = hoptm_plugin.Task(**{**vars(example_task()), "experts": refuse})
    method = methods.build({"name": "k_center_subset", "features": "pixels"})
    assert method.last_expert_epoch() == 0
    assert len(method.setup(task).images) == 3


@BOTH
def test_a_network_that_gives_no_features_is_refused_before_any_work(coreset):
    def without(generator):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(128, 3))

    def batch_norm(generator):
        return torch.nn.Sequential(torch.nn.BatchNorm2d(2), without(generator))

    def dropout(generator):
        return hoptm_plugin.Classifier([torch.nn.Flatten(), torch.nn.Dropout(0.1)], 128, 3)

    for network, said in (
        (without, "give it `features`"),
        (batch_norm, r"running statistics \(0\.running_mean\)"),
        (dropout, r"features\.1 \(Dropout\) draws random numbers"),
    ):
        task = hoptm_plugin.Task(**{**vars(example_task()), "network": network})
        problems = coreset().problems(task)
        assert any(re.search(said, problem) for problem in problems), problems
        assert all("method.features=pixels" in problem for problem in problems)
        assert coreset("pixels").problems(task) == []


def test_an_epoch_without_training_is_refused():
    with pytest.raises(ValueError, match="features=pixels"):
        Herding(teacher_epoch=0)
