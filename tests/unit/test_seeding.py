"""Random numbers come from the seed alone; the global generators are left as they were found."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import rich.style  # noqa: F401  draws once from the global generator when it is first imported
import torch

from hoptm_plugin.augment import DSA
from hoptm_plugin.core.dataset import Split
from hoptm_plugin.core.interfaces import Task
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.engine.distil import Distiller
from hoptm_plugin.engine.evaluation import Evaluator, real_subset
from hoptm_plugin.engine.settings import Distillation, Protocol
from hoptm_plugin.experts import ExpertRecipe, ExpertStore, ExpertTraining, build_experts
from hoptm_plugin.matchers import Endpoint, ShapeWisePotential
from hoptm_plugin.networks import ConvNet, FlatNetwork, create
from hoptm_plugin.runtime.progress import silent
from hoptm_plugin.schedulers import Geometric, SelfPaced
from hoptm_plugin.storage.sets import write_set
from hoptm_plugin.trajectory import RealImages, SoftLabels, TrajectoryMatching, UniformSegments, WeightedMatcher

AUGMENTATION = {"name": "dsa"}


def whole_run(data, folder, seed):
    """Experts, distillation and evaluation, as the command line composes them."""

    def network(generator):
        return create(ConvNet(depth=2, width=4), data.image_shape, 3, generator)

    recipe = ExpertRecipe(data=data.fingerprint, network={"name": "convnet"}, augmentation=AUGMENTATION,
                          training=ExpertTraining(algorithm="gsam", batch=6), seed=seed)  # fmt: skip

    def experts(epochs):
        store = ExpertStore(folder / "experts", recipe, FlatNetwork(network(torch.Generator())).num_parameters)
        return build_experts(store, network, data.train, DSA(), 2, epochs, silent)

    seeds = Seeds(seed)
    task = Task(data, 2, network, DSA(), experts, seeds.child("distillation"))
    method = TrajectoryMatching(
        {"endpoint": WeightedMatcher(Endpoint()), "shape": WeightedMatcher(ShapeWisePotential(), 0.5)},
        UniformSegments(max_start_epoch=2), SoftLabels(teacher_epoch=2), RealImages(), student_steps=6, expert_epochs=2,
        student_batch=4, step_size=0.02, schedulers={"pace": SelfPaced(Geometric(1e-8, 3.0, 1))},
    )  # fmt: skip
    assert method.problems(task) == []
    settings = Distillation(iterations=4, images={"learning_rate": 1.0}, step_size={"learning_rate": 1e-4},
                            labels={"learning_rate": 0.1}, checkpoint_every=2)  # fmt: skip
    synthetic = Distiller(method, task, settings, folder, silent).run().synthetic
    evaluator = Evaluator(Protocol(repeats=2, epochs=4), {"convnet": network}, DSA(), seeds.child("evaluation"), silent)
    results = evaluator.evaluate(lambda repeat: synthetic, data.test, "the result")
    evaluator.evaluate(lambda repeat: real_subset(data, 2, seeds.child("random", repeat)), data.test, "random")
    path = folder / "synthetic.safetensors"
    write_set(synthetic, path)
    return path.read_bytes(), results


def global_states():
    numbers = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), (numbers[0], numbers[1].tolist(), *numbers[2:])


def test_global_generators_are_untouched_and_without_influence(make_data, tmp_path):
    data = make_data()
    results = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        before = global_states()
        results.append(whole_run(data, folder, 0))
        assert global_states() == before
        with torch.random.fork_rng(devices=[]):  # another global state must not change the second run
            torch.rand(3)
            if name == "a":
                (tmp_path / "c").mkdir()
                results.append(whole_run(data, tmp_path / "c", 0))
    assert results[0] == results[1] == results[2]
    (tmp_path / "d").mkdir()
    other = whole_run(data, tmp_path / "d", 1)
    assert other[0] != results[0][0]


def test_the_training_split_is_left_as_it_was(make_data, tmp_path):
    data = make_data()
    before = [part.images.clone() for part in (data.train, data.validation, data.test)]
    whole_run(data, tmp_path, 0)
    after = [part.images for part in (data.train, data.validation, data.test)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_methods_see_the_training_split_only(make_data, tmp_path):
    data = make_data()
    poisoned = make_data()
    for split in (poisoned.validation, poisoned.test):
        split.images.fill_(float("nan"))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert whole_run(data, tmp_path / "a", 0)[0] == whole_run(poisoned, tmp_path / "b", 0)[0]
    assert isinstance(poisoned.test, Split)


def test_streams_are_named_by_their_whole_path():
    seeds = Seeds(0)
    paths = [(), ("a",), ("b",), ("a", 1), ("a", 2), ("a", 1, 1), (1,), ("distil", 17)]
    numbers = [seeds.number(*path) for path in paths] + [Seeds(1).number(*path) for path in paths]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 2**63 for number in numbers)
    one, two = (torch.rand(4, generator=seeds.generator("a", 1)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, torch.rand(4, generator=seeds.generator("a", 2)))


def test_the_numbers_are_those_of_every_machine_and_version():
    """Fixed: a change here would silently change every stored result."""
    assert Seeds(0).number("a", 1) == int.from_bytes(hashlib.sha256(b"0/a/1").digest()[:8], "big") >> 1
    assert Seeds(0).child("a").seed == Seeds(0).number("a")


@pytest.mark.parametrize("call", [lambda g: torch.rand(2, generator=g), lambda g: torch.randperm(5, generator=g)])
def test_drawing_from_a_stream_leaves_the_global_generator(call):
    before = torch.get_rng_state()
    call(Seeds(3).generator("x"))
    assert torch.equal(before, torch.get_rng_state())


def test_building_networks_leaves_the_global_generator():
    before = global_states()
    create(ConvNet(), (3, 32, 32), 9, torch.Generator().manual_seed(0))
    assert global_states() == before
