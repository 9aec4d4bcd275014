"""The moving average beside the set, and iterations whose loss is too high to be stepped on."""

from __future__ import annotations

import json
import math

import pytest
import torch

from hoptm_plugin.core.errors import NonFiniteLossError
from hoptm_plugin.core.interfaces import LossTerm, Method
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.distil import Distiller
from hoptm_plugin.engine.settings import Distillation
from hoptm_plugin.runtime.progress import Progress, silent
from hoptm_plugin.trajectory.initial import class_major


class Scripted(Method):
    """Pulls every pixel down by ``slopes[step]``; soft labels up."""

    def __init__(self, losses, soft=False):
        self.values, self.soft = losses, soft

    def setup(self, task):
        images, classes = torch.zeros(3, *task.data.image_shape, dtype=torch.float64), class_major(task)
        labels = torch.zeros(3, 3, dtype=torch.float64) if self.soft else classes
        return SyntheticSet(images, labels, None, task.data.class_names, task.data.normalisation)

    def losses(self, synthetic, step):
        # a loss of a given value whose gradient is 1 everywhere
        total = synthetic.images.sum() + (synthetic.labels.sum() if self.soft else 0)
        yield LossTerm(total - total.detach() + self.values[step])


class KilledError(Exception):
    pass


class KillAt(Progress):
    def __init__(self, after):
        self.left = after

    def __call__(self, title, total, done=0):
        return self

    def advance(self, steps=1, **values):
        self.left -= steps
        if self.left == 0 and steps:
            raise KilledError


def settings(iterations, **changes):
    rule = {"learning_rate": 1.0, "momentum": 0.5}
    values = {"images": rule, "step_size": {"learning_rate": 0}, "labels": {"learning_rate": 1.0, "momentum": 0.0},
              "checkpoint_every": 2, "log_every": 1, "evaluate_every": 1}  # fmt: skip
    return Distillation(iterations=iterations, **values | changes)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_above_the_limit_nothing_steps_and_momentum_is_left_alone(make_task, tmp_path):
    losses = [0.5, 1.0, 1.1, 7.0, 0.2]  # a loss at the limit is stepped on
    result = Distiller(Scripted(losses), make_task(), settings(5, skip_above=1.0), tmp_path, silent).run().synthetic
    buffer = value = 0.0
    for loss in losses:
        if loss <= 1.0:
            buffer = 0.5 * buffer + 1
            value -= buffer
    assert torch.allclose(result.images, torch.full_like(result.images, value), rtol=1e-14, atol=0)
    assert [row["skipped"] for row in rows(tmp_path)] == [0, 0, 1, 1, 0]
    assert [row["loss"] for row in rows(tmp_path)] == losses


def test_without_a_limit_every_loss_is_stepped_on(make_task, tmp_path):
    result = Distiller(Scripted([0.5, 9.0]), make_task(), settings(2), tmp_path, silent).run().synthetic
    assert float(result.images.mean()) == -2.5
    assert "skipped" not in rows(tmp_path)[0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_never_skipped_in_silence(make_task, tmp_path, value):
    with pytest.raises(NonFiniteLossError, match="iteration 1"):
        Distiller(Scripted([0.1, value]), make_task(), settings(2, skip_above=1.0), tmp_path, silent).run()


def expected_average(steps, decay):
    buffer = value = average = 0.0
    for _ in range(steps):
        buffer = 0.5 * buffer + 1
        value -= buffer
        average = decay * average + (1 - decay) * value
    return value, average


def test_the_average_is_kept_beside_the_set(make_task, tmp_path):
    made = Distiller(Scripted([0.0] * 6), make_task(), settings(6, average_decay=0.8), tmp_path, silent).run()
    value, average = expected_average(6, 0.8)
    assert torch.allclose(made.synthetic.images, torch.full_like(made.synthetic.images, value), rtol=1e-14, atol=0)
    assert torch.allclose(made.average.images, torch.full_like(made.synthetic.images, average), rtol=1e-13, atol=0)
    assert Distiller(Scripted([0.0]), make_task(), settings(1), tmp_path / "b", silent).average is None


@pytest.mark.parametrize("labels", [False, True])
def test_labels_are_averaged_on_demand(make_task, tmp_path, labels):
    chosen = settings(3, average_decay=0.5, average_labels=labels)
    made = Distiller(Scripted([0.0] * 3, soft=True), make_task(), chosen, tmp_path, silent).run()
    wanted = 0.5 * (0.5 * (0.5 * 0 - 0.5 * 1) - 0.5 * 2) - 0.5 * 3 if labels else -3.0
    assert float(made.average.labels.mean()) == pytest.approx(wanted, rel=1e-14)


@pytest.mark.parametrize("kill_after", [1, 3, 5])
def test_the_average_survives_a_resume(make_task, tmp_path, kill_after):
    chosen = settings(7, average_decay=0.9)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    straight = Distiller(Scripted([0.0] * 7), make_task(), chosen, tmp_path / "a", silent).run()
    with pytest.raises(KilledError):
        Distiller(Scripted([0.0] * 7), make_task(), chosen, tmp_path / "b", KillAt(kill_after)).run()
    resumed = Distiller(Scripted([0.0] * 7), make_task(), chosen, tmp_path / "b", silent).run()
    assert torch.equal(straight.average.images, resumed.average.images)
    assert torch.equal(straight.synthetic.images, resumed.synthetic.images)


def test_set_and_average_are_selected_each_by_its_own_score(make_task, tmp_path):
    """The set is best at iteration 2, the average at 3; both survive a resume."""
    value_at = [expected_average(n, 0.5) for n in range(1, 5)]
    ranks = {round(value, 9): {2: 1.0}.get(n, 0.0) for n, (value, _) in enumerate(value_at, 1)}
    ranks |= {round(mean, 9): {3: 1.0}.get(n, 0.1) for n, (_, mean) in enumerate(value_at, 1)}

    def score(candidate):
        return ranks[round(float(candidate.images.mean()), 9)]

    chosen = settings(4, average_decay=0.5, selection="validation")
    with pytest.raises(KilledError):
        Distiller(Scripted([0.0] * 4), make_task(), chosen, tmp_path, KillAt(3), score).run()
    made = Distiller(Scripted([0.0] * 4), make_task(), chosen, tmp_path, silent, score).run()
    assert float(made.synthetic.images.mean()) == pytest.approx(value_at[1][0])
    assert float(made.average.images.mean()) == pytest.approx(value_at[2][1])
