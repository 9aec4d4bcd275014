"""Each trajectory method against MTT: where its parts are switched off it must be MTT, and only there; in float64.

The methods are composed from the YAML that the command line reads, with small numbers.
"""

from __future__ import annotations

import pytest
import torch

import hoptm_plugin.builtin  # noqa: F401  registers the library's own parts
from hoptm_plugin.augment import DSA
from hoptm_plugin.core.asking import alone
from hoptm_plugin.core.interfaces import methods
from hoptm_plugin.core.plugins import load_plugins
from hoptm_plugin.engine.average import MovingAverage
from hoptm_plugin.engine.optimisers import Optimisers
from hoptm_plugin.engine.settings import Distillation
from hoptm_plugin.runs.composition import compose

ITERATIONS = 3
SMALL = {"student_steps": 6, "expert_epochs": 2, "student_batch": 4, "step_size": 0.05}
HARD = {"name": "hard"}
ONE_HOT = {"name": "soft", "start": "one_hot", "confidence": 1 - 1e-15}


def composed(method, **changes):
    """Return a method as its YAML has it, with a small unroll and ``changes`` to its settings."""
    load_plugins()
    spec = compose(f"method={method}", "dataset=npz").plain()["method"]
    return methods.build({**spec, **SMALL, "sampler": {"name": "uniform", "max_start_epoch": 3}, **changes})


def without(part, name, method):
    return {part: {**compose(f"method={method}", "dataset=npz").plain()["method"][part], name: None}}


@pytest.fixture
def task(make_task):
    """Experts that a student can come near: a random walk with short steps."""
    return make_task(ipc=2, dtype=torch.float64, augmentation=DSA(), stride=0.01)


def losses_and_gradients(method, task):
    """Return (loss, gradients of images and alpha) of the first iterations, without stepping."""
    synthetic = method.setup(task)
    leaves = [synthetic.images.requires_grad_(), synthetic.step_size.requires_grad_()]
    found = []
    for step in range(ITERATIONS):
        (term,) = method.losses(synthetic, step)
        found.append((term.loss.detach(), *torch.autograd.grad(term.loss, leaves)))
    return found


def worst_difference(one, other):
    return max(float((a - b).abs().max() / b.abs().max()) for x, y in zip(one, other, strict=True)
               for a, b in zip(x, y, strict=True))  # fmt: skip


def mtt(task, **changes):
    return losses_and_gradients(composed("mtt", **changes), task)


def test_hoptm_with_an_open_mask_and_no_shape_weight_is_mtt(task):
    opened = without("schedulers", "pace", "hoptm")
    parts = compose("method=hoptm", "dataset=npz").plain()["method"]["matchers"]
    no_weight = {"matchers": {**parts, "shape": {**parts["shape"], "weight": 0.0}}}
    assert worst_difference(losses_and_gradients(composed("hoptm", **opened, **no_weight), task), mtt(task)) < 1e-12
    left_out = without("matchers", "shape", "hoptm")
    assert worst_difference(losses_and_gradients(composed("hoptm", **opened, **left_out), task), mtt(task)) == 0
    kappa = {"schedulers": {"pace": {"name": "self_paced", "kappa": 1e9}}}
    assert worst_difference(losses_and_gradients(composed("hoptm", **kappa, **left_out), task), mtt(task)) < 1e-12


@pytest.mark.parametrize(("part", "name"), [("schedulers", "pace"), ("matchers", "shape")])
def test_hoptm_with_either_part_is_not_mtt(task, part, name):
    assert (
        worst_difference(losses_and_gradients(composed("hoptm", **without(part, name, "hoptm")), task), mtt(task))
        > 1e-3
    )


def test_att_is_mtt_where_the_last_step_is_the_nearest(task):
    # a rate so small that the student never overshoots: every step brings it nearer, or takes it further
    method = composed("att", step_size=1e-6)
    found = losses_and_gradients(method, task)
    reference = mtt(task, step_size=1e-6)
    matched = []
    for step in range(ITERATIONS):
        pair = alone(method.observe(method.setup(task), step))
        matched.append(method.matchers["endpoint"].matcher.nearest_step(pair))
    for step, nearest in enumerate(matched):
        same = worst_difference(found[step : step + 1], reference[step : step + 1]) < 1e-12
        assert same == (nearest == SMALL["student_steps"]), (step, nearest)
    assert SMALL["student_steps"] in matched, "no iteration put the identity to the test"


def test_datm_with_hard_labels_no_schedule_and_no_skip_is_mtt(task):
    plain = {"labels": HARD, "initial_images": {"name": "real"}, **without("schedulers", "sequential", "datm")}
    assert worst_difference(losses_and_gradients(composed("datm", **plain), task), mtt(task)) == 0
    certain = plain | {"labels": ONE_HOT}
    assert worst_difference(losses_and_gradients(composed("datm", **certain), task), mtt(task)) < 1e-12
    assert compose("method=datm", "dataset=npz").plain()["distillation"]["skip_above"] == 1.0
    assert compose("method=mtt", "dataset=npz").plain()["distillation"]["skip_above"] is None


def test_ftd_differs_from_mtt_by_experts_and_average_only():
    settings = {name: compose(f"method={name}", "dataset=cifar10", "ipc=10").plain() for name in ("ftd", "mtt")}
    for values in settings.values():
        for key in ("method_id", "method_title", "method_cites", "recipe"):
            del values[key]
        values["distillation"].pop("average_decay")
        values["experts"].pop("training")
        values["experts"].pop("count")
    assert settings["ftd"] == settings["mtt"]
    ftd, mtt_ = (compose(f"method={name}", "dataset=cifar10", "ipc=10") for name in ("ftd", "mtt"))
    assert (ftd.experts.training.algorithm, mtt_.experts.training.algorithm) == ("gsam", "sgd")
    assert (ftd.distillation.average_decay, mtt_.distillation.average_decay) == (0.9995, None)


def test_the_average_feeds_nothing_back_and_follows_its_formula(task):
    """E <- beta E + (1 - beta) S, from E = S at the start."""
    rule = {"learning_rate": 1.0, "momentum": 0.5}
    settings = Distillation(images=rule, step_size={"learning_rate": 0.0}, labels=rule, average_decay=0.75)
    method = composed("ftd")
    synthetic = method.setup(task)
    optimisers = Optimisers(synthetic, settings)
    average, expected = MovingAverage(synthetic, 0.75, labels=False), synthetic.images.detach().clone()
    for step in range(4):
        (term,) = method.losses(synthetic, step)
        optimisers.step(term.loss)
        average.update(synthetic)
        expected = 0.75 * expected + 0.25 * synthetic.images.detach()
    mean = average.of(synthetic)
    assert torch.allclose(mean.images, expected, rtol=1e-12, atol=0)
    assert not torch.allclose(mean.images, synthetic.images.detach())
    assert torch.equal(mean.step_size, synthetic.step_size.detach())
    assert not mean.images.requires_grad
