"""PAD's loss, as its YAML composes it: which parameters it leaves out, and that with a ratio of 0 it is DATM."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_identities import SMALL, losses_and_gradients, worst_difference

import hoptm_plugin.builtin  # noqa: F401  registers the library's own parts
from hoptm_plugin.augment import DSA
from hoptm_plugin.core.interfaces import methods
from hoptm_plugin.core.observations import TrajectoryPair
from hoptm_plugin.core.plugins import load_plugins
from hoptm_plugin.networks import ConvNet
from hoptm_plugin.networks.flat import FlatNetwork
from hoptm_plugin.runs.composition import compose
from hoptm_plugin.runs.running import run
from hoptm_plugin.runtime.progress import silent
from hoptm_plugin.storage.sets import read_set

SEGMENTS = {"sampler": {"name": "uniform", "max_start_epoch": 3}, "initial_images": {"name": "real"},
            "labels": {"name": "soft", "start": "one_hot"}}  # fmt: skip
OPENS = "sequential={name:sequential_start_epochs,first:1,last:3,expansion_end:2}"


def composed(name, *overrides, **changes):
    load_plugins()
    return methods.build({**compose(f"method={name}", "dataset=npz", *overrides).plain()["method"], **changes})


def pad(*overrides):
    return composed("pad", *(f"method.schedulers.parameters.{each}" for each in overrides))


def pair_of(errors, distances, sizes, step=0):
    """Return a pair with the target at 0, so that these are its d and n."""
    start, end = (torch.tensor(each, dtype=torch.float64).sqrt() for each in (distances, errors))
    return TrajectoryPair(torch.stack([start, torch.zeros_like(start)]), [start, end], step, sizes)


def loss(method, pair):
    weights = method.schedulers["parameters"].parameter_weights(pair)
    return float(method.matchers["endpoint"].matcher.loss(replace(pair, weights=weights)))


def test_by_depth_the_first_parameters_are_left_out():
    pair = pair_of((1, 4, 9, 16), (2, 2, 4, 4), (2, 2))
    assert loss(pad("lower=0"), pair) == pytest.approx(30 / 12, abs=1e-14) == 2.5
    assert loss(pad("lower=0.5"), pair) == pytest.approx(25 / 8, abs=1e-14) == 3.125
    assert loss(pad("lower=0.49"), pair) == pytest.approx(29 / 10, abs=1e-14), "floor(rP) of them"


def test_by_loss_those_are_left_out_that_the_student_has_nearly_reached():
    method = pad("lower=0.5", "difficulty=errors")
    assert loss(method, pair_of((9, 1, 16, 4), (2, 2, 4, 4), (2, 2))) == pytest.approx(25 / 6, abs=1e-14)
    assert loss(method, pair_of((1, 9, 4, 16), (2, 2, 4, 4), (2, 2), 1)) == pytest.approx(25 / 6, abs=1e-14), "anew"


def test_half_of_a_convnet_cuts_its_third_convolution():
    network = FlatNetwork(ConvNet(depth=3, width=128).build((3, 32, 32), 10))
    ones = torch.ones(network.num_parameters, dtype=torch.float64)
    pair = TrajectoryPair(torch.stack([ones, 0 * ones]), [ones, 2 * ones], 0, network.sizes)
    weights = pad("lower=0.5").schedulers["parameters"].parameter_weights(pair)
    first = int((weights == 0).sum())
    assert first == 160_005
    assert not weights[:first].any()
    assert weights[first:].all()
    tensors = list(zip(network.sizes, weights.split(network.sizes), strict=True))
    cut = [(size, int((part == 0).sum())) for size, part in tensors if part.any() and not part.all()]
    assert cut == [(147_456, 8_325)]


@pytest.mark.parametrize("difficulty", ["depth", "errors"])
def test_a_ratio_of_0_is_datm_to_the_last_bit(make_task, difficulty):
    task = make_task(ipc=2, dtype=torch.float64, augmentation=DSA(), stride=0.01)
    opened = f"method.schedulers.{OPENS}"
    datm = losses_and_gradients(composed("datm", opened, **SMALL, **SEGMENTS), task)
    found = {}
    for ratio in (0, 0.25):
        chosen = (
            f"method.schedulers.parameters.lower={ratio}",
            f"method.schedulers.parameters.difficulty={difficulty}",
        )
        found[ratio] = losses_and_gradients(composed("pad", opened, *chosen, **SMALL, **SEGMENTS), task)
    assert worst_difference(found[0], datm) == 0
    assert worst_difference(found[0.25], datm) > 1e-3


@pytest.mark.slow
def test_without_a_curriculum_and_with_a_ratio_of_0_a_run_is_datm_s_to_the_last_bit(tmp_path):
    small = ("dataset=digits", "network.width=4", "experts.count=1", "experts.training.batch=256",
             f"experts.root={tmp_path / 'experts'}", "distillation.iterations=4", "protocol.epochs=1",
             "protocol.repeats=1", "protocol.random_subset=false", "runtime.device=cpu",
             "method.initial_images.name=real", "~method.initial_images.teacher_epoch")  # fmt: skip
    found = {}
    for name, method in {
        "datm": ("method=datm",),
        "neutral": ("method=pad", "experts.training.curriculum=null", "method.schedulers.parameters.lower=0"),
        "pad": ("method=pad",),
    }.items():
        run(compose(*small, *method), tmp_path / name, silent)
        found[name] = read_set(tmp_path / name / "synthetic.safetensors")
    for part in ("images", "labels", "step_size"):
        assert torch.equal(getattr(found["neutral"], part), getattr(found["datm"], part)), part
        assert not torch.equal(getattr(found["pad"], part), getattr(found["datm"], part)), part
