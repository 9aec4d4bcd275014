"""Runs side by side: in float64 each equals itself alone, and its bits are no matter of what becomes of the others."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

import hoptm_plugin.builtin  # noqa: F401  registers the library's own parts
from hoptm_plugin.core.asking import Ask, together
from hoptm_plugin.core.compute import Compute
from hoptm_plugin.core.errors import DivergedError, NonFiniteLossError
from hoptm_plugin.core.interfaces import methods
from hoptm_plugin.core.plugins import load_plugins
from hoptm_plugin.engine.checkpoint import read_checkpoint
from hoptm_plugin.engine.distil import CHECKPOINT, Distilled, Distiller
from hoptm_plugin.engine.settings import Distillation
from hoptm_plugin.networks.feature_asks import Features
from hoptm_plugin.runs.composition import compose
from hoptm_plugin.runtime.progress import Progress, silent
from hoptm_plugin.trajectory.unroll import Unroll

ITERATIONS, STEPS = 5, 6
MIXED = {"mtt": 0.05, "hoptm": 0.03, "datm": 0.04, "att": 0.02}  # alpha of each
ALONG_EXPERTS = {
    "tgdd": {"last_epoch": 3, "window": 2},
    "ncfm": {"last_epoch": 3, "matcher": {"name": "characteristic_function", "frequencies": 16}},
}
COMPUTE = Compute("adjoint", stacked=True)


def composed(method, alpha=0.03, **changes):
    """Return a method as its YAML has it, with a small unroll."""
    load_plugins()
    spec = compose(f"method={method}", "dataset=npz").plain()["method"]
    if "real_batch" in spec:
        return methods.build({**spec, "real_batch": 6, **ALONG_EXPERTS.get(method, {}), **changes})
    small = {"student_steps": STEPS, "expert_epochs": 2, "student_batch": 2, "step_size": alpha}
    if method == "mct":
        small["view"] = {"name": "piecewise_linear", "waypoints": [0, 2, 4]}
    if method in ("datm", "pad"):  # their teachers know nothing here
        left_out = {name: each for name, each in spec["schedulers"].items() if name == "parameters"}
        small |= {"initial_images": {"name": "real"}, "labels": {"name": "soft", "start": "one_hot"},
                  "schedulers": left_out}  # fmt: skip
    return methods.build({**spec, **small, "sampler": {"name": "uniform", "max_start_epoch": 3}, **changes})


def chosen(**changes):
    values = {"images": {"learning_rate": 0.5}, "labels": {"learning_rate": 0.1},
              "step_size": {"learning_rate": 1e-4, "constraint": "damped"}, "checkpoint_every": 2,
              "log_every": 1}  # fmt: skip
    return Distillation(iterations=ITERATIONS, **values | changes)


@pytest.fixture
def distiller(make_task, tmp_path):
    """Return a maker of a distillation by its number, in a folder of its own."""

    def make(method, number, where, compute=COMPUTE, progress=silent, settings=None, task=None, **changes):
        folder = tmp_path / where / f"{number}-{method}"
        folder.mkdir(parents=True, exist_ok=True)
        task = task or make_task(ipc=2, dtype=torch.float64, stride=0.01, seed=number)
        parts = composed(method, MIXED.get(method, 0.03), **changes)
        return Distiller(parts, replace(task, compute=compute), settings or chosen(), folder, progress)

    return make


def side_by_side(*distillers):
    """Return what each made, or the error it ended with."""
    found = together({str(at): each.run_side_by_side() for at, each in enumerate(distillers)})
    return list(found.values())


def learned(made):
    """Return images, alpha and labels."""
    synthetic = made.synthetic if isinstance(made, Distilled) else made
    learned = synthetic.images, synthetic.step_size, synthetic.labels
    return [tensor.detach() for tensor in learned if tensor is not None]


def kept(distiller):
    """Return all that a checkpoint holds by its path, masks' thresholds and momentum too, and the last line of logs."""
    state, flat = read_checkpoint(distiller.folder / CHECKPOINT), {}

    def walk(path, value):
        if isinstance(value, dict):
            for key, each in value.items():
                walk((*path, key), each)
        elif path[0] not in ("seconds", "metrics") and not path[0].startswith("onward"):
            flat[path] = value

    walk((), state)
    last = (distiller.folder / "metrics.jsonl").read_text().splitlines()[-1]
    return flat | {("log", key): value for key, value in json.loads(last).items()}


def assert_close(one, other, tolerance=1e-10):
    for a, b in zip(learned(one), learned(other), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def assert_same(one, other):
    assert all(torch.equal(a, b) for a, b in zip(learned(one), learned(other), strict=True))


@pytest.mark.parametrize(
    ("unroll", "gradient"),
    [("auto", "exact"), *(pytest.param(*each, marks=pytest.mark.slow) for each in (
        ("adjoint", "exact"), ("full", "exact"), ("adjoint", "tesla")))],
)  # fmt: skip
def test_a_mixed_group_equals_each_alone(distiller, unroll, gradient):
    compute = Compute(unroll, memory_budget=10**6, stacked=True)
    group = [distiller(method, at, "group", compute, gradient=gradient) for at, method in enumerate(MIXED)]
    for at, (method, made) in enumerate(zip(MIXED, side_by_side(*group), strict=True)):
        alone = distiller(method, at, "alone", compute, gradient=gradient)
        assert_close(made, alone.run())
        ours, theirs = kept(group[at]), kept(alone)
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            if value is None or isinstance(value, str):
                assert ours[key] == value
            else:
                value = torch.as_tensor(value, dtype=torch.float64)
                torch.testing.assert_close(torch.as_tensor(ours[key], dtype=torch.float64), value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("method", "changes"),
    [("dm", {}), ("dm", {"stepping": "per_class"}), ("idm", {}), ("tgdd", {}), ("tgdd", {"stepping": "joint"}),
     ("ncfm", {}), ("ncfm", {"mosaic": 1})],
)  # fmt: skip
def test_feature_matching_side_by_side_equals_each_alone(distiller, monkeypatch, method, changes):
    """Seeds of one method; every class is an ask of its own, and all of them are answered as one."""
    widths, answers = set(), Features.answers

    @classmethod
    def counted(cls, asks):
        widths.add(len(asks))
        return answers(asks)

    monkeypatch.setattr(Features, "answers", counted)
    plain = chosen(step_size={"learning_rate": 0})
    made = side_by_side(*(distiller(method, at, "group", settings=plain, **changes) for at in range(3)))
    assert widths == {3}
    again = side_by_side(*(distiller(method, at, "again", settings=plain, **changes) for at in range(3)))
    for at, one in enumerate(made):
        assert_same(one, again[at])
        assert_close(one, distiller(method, at, "alone", settings=plain, **changes).run())


def test_a_view_and_parameters_left_out_by_depth_go_beside_the_rest_in_one_computation(distiller, monkeypatch):
    widths, answers = set(), Unroll.answers

    @classmethod
    def counted(cls, asks):
        widths.add(sum(ask is not None for ask in asks))
        return answers(asks)

    names = ("mct", "pad", "hoptm")
    monkeypatch.setattr(Unroll, "answers", counted)
    made = side_by_side(*(distiller(method, at, "group") for at, method in enumerate(names)))
    assert widths == {3}
    for at, method in enumerate(names):
        assert_close(made[at], distiller(method, at, "alone").run())


def test_the_same_group_gives_the_same_bits(distiller):
    first, again = (
        side_by_side(*(distiller(method, at, where) for at, method in enumerate(MIXED))) for where in ("one", "two")
    )
    for one, other in zip(first, again, strict=True):
        assert_same(one, other)


class Killed(BaseException):
    """Stands for SIGKILL."""


class KillAt(Progress):
    """Ends the process after so many finished iterations."""

    def __init__(self, after):
        self.left = after

    def __call__(self, title, total, done=0):
        return self

    def advance(self, steps=1, **values):
        self.left -= steps
        if self.left == 0 and steps:
            raise Killed


@pytest.mark.parametrize(
    ("after", "victim"),
    [(3, 0), pytest.param(2, 3, marks=pytest.mark.slow),
     *(pytest.param(*each, marks=pytest.mark.campaign) for each in ((1, 0), (3, 3), (4, 0)))],
)  # fmt: skip
def test_a_group_that_was_killed_goes_on_to_the_same_bits(distiller, after, victim):
    """The process dies while one of them is being served: some have done an iteration more than others."""
    straight = side_by_side(*(distiller(method, at, "straight") for at, method in enumerate(MIXED)))
    group = [distiller(method, at, "killed", progress=KillAt(after) if at == victim else silent)
             for at, method in enumerate(MIXED)]  # fmt: skip

    def die(name, outcome):
        if isinstance(outcome, Killed):
            raise outcome

    with pytest.raises(Killed):
        together({str(at): each.run_side_by_side() for at, each in enumerate(group)}, die)
    resumed = side_by_side(*(distiller(method, at, "killed") for at, method in enumerate(MIXED)))
    for one, other in zip(straight, resumed, strict=True):
        assert_same(one, other)


def test_what_was_begun_alone_goes_on_in_company_and_the_other_way(distiller):
    straight = distiller("hoptm", 1, "straight").run()
    with pytest.raises(Killed):
        distiller("hoptm", 1, "alone first", progress=KillAt(3)).run()
    _, made = side_by_side(distiller("mtt", 0, "alone first"), distiller("hoptm", 1, "alone first"))
    assert_close(made, straight)

    group = [distiller("mtt", 0, "company first"), distiller("hoptm", 1, "company first", progress=KillAt(3))]
    assert isinstance(side_by_side(*group)[1], Killed)
    assert_close(distiller("hoptm", 1, "company first").run(), straight)


@pytest.mark.parametrize("leaves", [0, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 2))])
def test_one_that_diverges_leaves_without_touching_the_others_bits(distiller, make_task, leaves):
    """The first, one in the middle, the last: those that stay keep the bits of a group in which nobody left."""
    names = ["hoptm", "mtt", "att"]
    whole = side_by_side(*(distiller(method, at, "whole") for at, method in enumerate(names)))
    broken = chosen(step_size={"learning_rate": 1e30, "constraint": "none"})
    group = [distiller(method, at, "broken", settings=broken if at == leaves else None)
             for at, method in enumerate(names)]  # fmt: skip
    found = side_by_side(*group)
    assert isinstance(found[leaves], DivergedError)
    for at in {0, 1, 2} - {leaves}:
        assert_same(found[at], whole[at])


def test_nan_stays_where_it_is(distiller, make_task):
    """An expert of one run has a NaN in it: the loss of that run alone is none."""
    names = ["hoptm", "mtt", "att"]
    whole = side_by_side(*(distiller(method, at, "whole") for at, method in enumerate(names)))
    task = make_task(ipc=2, dtype=torch.float64, stride=0.01, seed=1)

    def with_nan(epochs):
        experts = task.experts(epochs)
        experts.parameters[:, :, 3] = torch.nan
        return experts

    group = [distiller(method, at, "broken", task=replace(task, experts=with_nan) if at == 1 else None)
             for at, method in enumerate(names)]  # fmt: skip
    found = side_by_side(*group)
    assert isinstance(found[1], NonFiniteLossError)
    assert_same(found[0], whole[0])
    assert_same(found[2], whole[2])


def test_runs_of_other_networks_or_mini_batches_go_on_beside_them(distiller, make_task):
    """What does not agree is computed for itself."""
    wide = make_task(ipc=2, dtype=torch.float64, stride=0.01, seed=1, width=6)
    makers = [
        lambda where: distiller("hoptm", 0, where),
        lambda where: distiller("mtt", 1, where, task=wide),
        lambda where: distiller("mtt", 2, where, student_batch=3),
        lambda where: distiller("att", 3, where),
    ]
    for made, make in zip(side_by_side(*(make("group") for make in makers)), makers, strict=True):
        assert_close(made, make("alone").run())


def test_runs_that_select_meet_again_after_scoring(distiller, monkeypatch):
    """The scores of one are asked for while the others wait, so that all unrolls stay one computation."""
    widths, answers = [], Unroll.answers

    def score(synthetic):
        return float(synthetic.images.detach().square().mean())

    @classmethod
    def counted(cls, asks):
        widths.append(sum(ask is not None for ask in asks))
        return answers(asks)

    group = [distiller(method, at, "group", settings=chosen(evaluate_every=1, selection="validation"))
             for at, method in enumerate(["hoptm", "mtt", "att"])]  # fmt: skip
    for at, each in enumerate(group[:2]):
        each.score = (score, partial(asked, score))[at]
    monkeypatch.setattr(Unroll, "answers", counted)
    side_by_side(*group)
    assert widths == [3] * ITERATIONS


@dataclass(frozen=True)
class Scored(Ask[float]):
    """Asks for a number that is there."""

    accuracy: float

    def alike(self):
        return None

    @classmethod
    def answers(cls, asks):
        return [ask.accuracy for ask in asks]


def asked(score, synthetic):
    return (yield Scored(score(synthetic)))
