"""The distillation loop: resuming, selecting, logging, and stopping at a loss that is not finite."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from hoptm_plugin.core.compute import Compute
from hoptm_plugin.core.errors import FileFormatError, NonFiniteLossError
from hoptm_plugin.core.interfaces import LossTerm, Method
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.checkpoint import read_checkpoint, write_checkpoint
from hoptm_plugin.engine.distil import Distiller
from hoptm_plugin.engine.settings import Distillation
from hoptm_plugin.matchers import Endpoint, ShapeWisePotential
from hoptm_plugin.runtime.progress import Progress, silent
from hoptm_plugin.schedulers import Geometric, SelfPaced
from hoptm_plugin.storage.tensors import read_tensors, write_tensors
from hoptm_plugin.trajectory import (
    HardLabels,
    RealImages,
    SoftLabels,
    TrajectoryMatching,
    UniformSegments,
    WeightedMatcher,
)

CHECKPOINT = "checkpoint.safetensors"


def settings(iterations=12, **changes):
    values = {"images": {"learning_rate": 1.0}, "step_size": {"learning_rate": 1e-4}, "labels": {"learning_rate": 0.1},
              "checkpoint_every": 5, "log_every": 1, "evaluate_every": 2}  # fmt: skip
    return Distillation(iterations=iterations, **values | changes)


def hoptm(soft=False):
    return TrajectoryMatching(
        {"endpoint": WeightedMatcher(Endpoint()), "shape": WeightedMatcher(ShapeWisePotential(), 0.5)},
        UniformSegments(max_start_epoch=3), SoftLabels(start="one_hot") if soft else HardLabels(), RealImages(),
        student_steps=6, expert_epochs=2, student_batch=2, step_size=0.05,
        schedulers={"pace": SelfPaced(Geometric(1e-7, 1.5, 1))},
    )  # fmt: skip


class Killed(BaseException):
    """Stands for SIGKILL."""


class KillAt(Progress):
    """Ends the process after so many finished iterations of this session."""

    def __init__(self, after):
        self.left = after

    def __call__(self, title, total, done=0):
        return self

    def advance(self, steps=1, **values):
        self.left -= steps
        if self.left == 0 and steps:
            raise Killed


def same(a, b):
    return all(
        (one is None and two is None) or torch.equal(one, two)
        for one, two in ((a.images, b.images), (a.labels, b.labels), (a.step_size, b.step_size))
    )


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def folder(tmp_path):
    def make(name):
        (tmp_path / name).mkdir(exist_ok=True)
        return tmp_path / name

    return make


# --- resuming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraint", "soft"),
    [("none", False), ("damped", False), ("clamped", True), ("log", False),
     *(pytest.param(*each, marks=pytest.mark.slow) for each in (("none", True), ("clamped", False), ("log", True)))],
)  # fmt: skip
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(make_task, folder, soft, constraint):
    rate = 1e-4 if constraint == "none" else 1e-3  # at which an alpha that is free would not stay positive
    chosen = settings(step_size={"learning_rate": rate, "constraint": constraint})
    straight = Distiller(hoptm(soft), make_task(), chosen, folder("a"), silent).run().synthetic
    for kill_after in (3, 8, 5, 2):  # before the first checkpoint, between two, right at one, in a resumed session
        with pytest.raises(Killed):
            Distiller(hoptm(soft), make_task(), chosen, folder("b"), KillAt(kill_after)).run()
    last = Distiller(hoptm(soft), make_task(), chosen, folder("b"), silent)
    assert last.first > 0
    resumed = last.run().synthetic
    assert same(straight, resumed)
    assert rows(folder("a")) == rows(folder("b"))
    one, two = read_checkpoint(folder("a") / CHECKPOINT), read_checkpoint(folder("b") / CHECKPOINT)
    assert torch.equal(one["optimisers"]["momentum_images"], two["optimisers"]["momentum_images"])
    mask = one["method"]["schedulers"]["pace"]["mask"]
    assert torch.equal(mask, two["method"]["schedulers"]["pace"]["mask"])
    assert 0 < mask.float().mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["momentum", "mask"])
def test_momentum_and_mask_are_what_makes_it_so(make_task, folder, lost):
    """Guards the test above: without either, the bits differ."""
    straight = Distiller(hoptm(), make_task(), settings(), folder("a"), silent).run().synthetic
    with pytest.raises(Killed):
        Distiller(hoptm(), make_task(), settings(), folder("b"), KillAt(8)).run()
    path = folder("b") / CHECKPOINT
    state = read_checkpoint(path)
    if lost == "mask":
        del state["method"]["schedulers"]["pace"]["mask"]
    else:
        del state["optimisers"]["momentum_images"]
    write_checkpoint(path, state)
    assert not same(straight, Distiller(hoptm(), make_task(), settings(), folder("b"), silent).run().synthetic)


def test_a_finished_run_is_not_continued(make_task, folder):
    first = Distiller(hoptm(), make_task(), settings(7), folder("a"), silent).run().synthetic
    lines = (folder("a") / "metrics.jsonl").read_bytes()
    again = Distiller(hoptm(), make_task(), settings(7), folder("a"), KillAt(1))
    assert same(first, again.run().synthetic)
    assert (folder("a") / "metrics.jsonl").read_bytes() == lines


def test_more_iterations_continue_a_finished_run(make_task, folder):
    straight = Distiller(hoptm(), make_task(), settings(9), folder("a"), silent).run().synthetic
    Distiller(hoptm(), make_task(), settings(4), folder("b"), silent).run()
    assert same(straight, Distiller(hoptm(), make_task(), settings(9), folder("b"), silent).run().synthetic)
    assert rows(folder("a")) == rows(folder("b"))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(make_task, make_data, folder):
    data = make_data()
    runs = [
        Distiller(hoptm(), make_task(seed=seed, data=data), settings(4), folder(name), silent).run().synthetic
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_strategies_agree_over_a_whole_float64_run(make_task, folder):
    computes = [Compute("full"), Compute("adjoint"), Compute("auto", memory_budget=0), Compute("auto")]
    runs = [
        Distiller(hoptm(True), make_task(dtype=torch.float64, compute=compute), settings(4), folder(str(at)), silent)
        .run()
        .synthetic
        for at, compute in enumerate(computes)
    ]
    for name in ("images", "labels", "step_size"):
        full, adjoint, nothing_kept, kept = (getattr(run, name) for run in runs)
        torch.testing.assert_close(full, adjoint, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(full, kept, rtol=1e-8, atol=1e-10)
        assert torch.equal(adjoint, nothing_kept)


def test_the_result_moved_and_carries_no_gradient(make_task, folder):
    task = make_task()
    initial = hoptm().setup(task)
    result = Distiller(hoptm(), task, settings(), folder("a"), silent).run().synthetic
    assert float((result.images - initial.images).abs().max()) > 1e-3
    assert result.step_size.item() != initial.step_size.item()
    assert torch.equal(result.labels, initial.labels)
    assert not result.images.requires_grad
    assert not result.step_size.requires_grad


# --- the log ---------------------------------------------------------------------------------------------------------


def test_one_line_per_logged_iteration(make_task, folder):
    Distiller(hoptm(), make_task(), settings(12, log_every=5), folder("a"), silent).run()
    assert [row["step"] for row in rows(folder("a"))] == [0, 5, 10, 11]
    for row in rows(folder("a")):
        assert {"loss", "endpoint", "shape", "kappa", "mask_fraction", "step_size"} <= set(row)
        assert row["loss"] == pytest.approx(row["endpoint"] + 0.5 * row["shape"], rel=1e-5)
        assert row["kappa"] == pytest.approx(1e-7 * 1.5 ** row["step"])
    fractions = [row["mask_fraction"] for row in rows(folder("a"))]
    assert fractions == sorted(fractions)  # sticky


def test_lines_after_the_checkpoint_are_cut_on_resume(make_task, folder):
    with pytest.raises(Killed):
        Distiller(hoptm(), make_task(), settings(), folder("a"), KillAt(8)).run()
    assert [row["step"] for row in rows(folder("a"))] == list(range(8))
    path = folder("a") / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 8, "lo')  # the kill came while a line was written
    Distiller(hoptm(), make_task(), settings(), folder("a"), silent).run()
    assert [row["step"] for row in rows(folder("a"))] == list(range(12))


# --- selection -------------------------------------------------------------------------------------------------------


class Scores:
    """Scores by the order of the calls; keeps what was scored."""

    def __init__(self, *values):
        self.values, self.seen = list(values), []

    def __call__(self, synthetic):
        self.seen.append(synthetic)
        return self.values.pop(0)


def test_what_a_set_begins_with_is_paid_once_and_experts_elsewhere(make_task, folder, monkeypatch):
    clock, task = [0.0], make_task()
    monkeypatch.setattr("hoptm_plugin.engine.distil.own_seconds", lambda: clock[0])

    class Slow(TrajectoryMatching):
        def setup(self, task):
            clock[0] += 5
            return super().setup(task)

    def experts(epochs):
        clock[0] += 100
        return task.experts(epochs)

    def begun(after=None):
        method = hoptm()
        method.__class__ = Slow
        shown = silent if after is None else KillAt(after)
        return Distiller(method, replace(task, experts=experts), settings(), folder("a"), shown)

    first = begun(7)
    assert (first.preparing, first.seconds) == (5, 5)
    with pytest.raises(Killed):
        first.run()
    second = begun()
    second.run()
    assert (second.preparing, second.seconds) == (5, 5)


def test_the_best_is_kept_and_of_equals_the_first(make_task, folder):
    score = Scores(0.1, 0.7, 0.3, 0.7, 0.2, 0.6)
    result = Distiller(hoptm(), make_task(), settings(), folder("a"), silent, score).run().synthetic
    assert len(score.seen) == 6  # after iterations 2, 4, 6, 8, 10, 12
    assert same(result, score.seen[1])
    assert not same(result, score.seen[2])


def test_the_best_survives_a_resume(make_task, folder):
    first = Scores(0.1, 0.9, 0.3, 0.2)
    with pytest.raises(Killed):
        Distiller(hoptm(), make_task(), settings(), folder("a"), KillAt(9), first).run()
    second = Scores(0.3, 0.2, 0.8, 0.5)  # again after 6, 8, then 10, 12
    result = Distiller(hoptm(), make_task(), settings(), folder("a"), silent, second).run().synthetic
    assert second.values == []
    assert same(result, first.seen[1])
    assert same(first.seen[2], second.seen[0])
    better = Scores(0.95)
    (folder("b") / CHECKPOINT).write_bytes((folder("a") / CHECKPOINT).read_bytes())
    assert same(
        Distiller(hoptm(), make_task(), settings(13), folder("b"), silent, better).run().synthetic, better.seen[0]
    )


def test_the_last_iteration_is_scored_even_off_the_beat(make_task, folder):
    score = Scores(0.1, 0.2, 0.3)
    result = Distiller(hoptm(), make_task(), settings(5), folder("a"), silent, score).run().synthetic
    assert same(result, score.seen[2])


# --- losses that are not finite --------------------------------------------------------------------------------------


class Scripted(Method):
    """Gives losses of images and step size written for a test."""

    def __init__(self, loss):
        self.loss, self.after = loss, []

    def setup(self, task):
        images, names = task.train.images[:3].clone(), task.data.class_names
        return SyntheticSet(images, torch.tensor([0, 1, 2]), torch.tensor(0.1), names, task.data.normalisation)

    def losses(self, synthetic, step):
        for number, loss in enumerate(self.loss(synthetic, step)):
            yield LossTerm(loss, {f"part {number}": loss.detach()})

    def after_step(self, step):
        self.after.append(step)


def plain(synthetic):
    return synthetic.images.square().mean() + synthetic.step_size.square()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_stops_with_the_cause_and_leaves_the_images(make_task, folder, value):
    distiller = None

    def loss(synthetic, step):
        if step == 7:
            seen.append(synthetic.images.detach().clone())
        yield plain(synthetic) * (value if step == 7 else 1.0)

    seen = []
    distiller = Distiller(Scripted(loss), make_task(), settings(), folder("a"), silent)
    with pytest.raises(NonFiniteLossError, match=r"iteration 7: the loss is (nan|-?inf) .*part 0.*learning_rate"):
        distiller.run()
    assert torch.equal(distiller.synthetic.images.detach(), seen[0])
    assert read_checkpoint(folder("a") / CHECKPOINT)["done"] == 5
    assert bool(torch.isfinite(read_checkpoint(folder("a") / CHECKPOINT)["optimisers"]["value_images"]).all())
    assert distiller.method.after == list(range(7))


def test_a_gradient_that_is_not_finite_does_not_reach_images_or_result(make_task, folder):
    """The loss is 0, its gradient 0 * inf; at the last iteration no later loss would notice."""

    def loss(synthetic, step):
        yield (synthetic.images * 0).sum().sqrt() if step == 11 else plain(synthetic)

    distiller = Distiller(Scripted(loss), make_task(), settings(), folder("a"), silent)
    with pytest.raises(NonFiniteLossError, match="iteration 11"):
        distiller.run()
    assert bool(torch.isfinite(distiller.synthetic.images).all())
    assert read_checkpoint(folder("a") / CHECKPOINT)["done"] == 10


# --- terms -----------------------------------------------------------------------------------------------------------


def test_one_optimiser_step_per_term_and_none_for_none(make_task, folder):
    """Each term is computed on the set that the one before has left; no term skips, momentum included."""
    values = []

    def loss(synthetic, step):
        for _ in range((2, 0, 1)[step % 3]):
            values.append(synthetic.images.detach().clone())
            yield synthetic.images.sum() * 0.01

    distiller = Distiller(Scripted(loss), make_task(), settings(3), folder("a"), silent)
    start = distiller.synthetic.images.detach().clone()
    result = distiller.run().synthetic
    buffer, expected, wants = 0.0, start.clone(), []
    for _ in range(3):
        wants.append(expected.clone())
        buffer = 0.5 * buffer + 0.01
        expected -= buffer
    for got, want in zip([*values, result.images], [*wants, expected], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    assert [("loss" in row) for row in rows(folder("a"))] == [True, False, True]
    assert rows(folder("a"))[0]["loss"] == pytest.approx(sum(float(v.sum()) * 0.01 for v in values[:2]), rel=1e-4)


# --- the checkpoint file ---------------------------------------------------------------------------------------------


def test_nested_state_round_trip(tmp_path):
    state = {"done": 3, "name": "x", "none": None, "flag": True, "rate": 1e-300, "list": [1, 2],
             "a": {"b": {"mask": torch.tensor([True, False]), "n": 2}, "t": torch.tensor(1.5, dtype=torch.float64)},
             "empty": {}}  # fmt: skip
    write_checkpoint(tmp_path / "c", state)
    got = read_checkpoint(tmp_path / "c")
    assert torch.equal(got["a"]["b"]["mask"], state["a"]["b"]["mask"])
    assert got["a"]["t"].dtype == torch.float64
    assert got["a"]["t"].shape == ()
    assert got["a"]["b"]["n"] == 2
    assert {key: got[key] for key in ("done", "name", "none", "flag", "rate", "list")} == {
        "done": 3, "name": "x", "none": None, "flag": True, "rate": 1e-300, "list": [1, 2]
    }  # fmt: skip


def test_tensors_with_gradients_views_and_shared_memory_can_be_stored(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    state = {"leaf": base.clone().requires_grad_(), "view": base.T, "row": base[1], "one": {"x": base}, "two": base}
    write_checkpoint(tmp_path / "c", state)
    got = read_checkpoint(tmp_path / "c")
    assert torch.equal(got["view"], base.T)
    assert torch.equal(got["row"], base[1])
    assert torch.equal(got["one"]["x"], base)
    assert torch.equal(got["two"], base)
    assert torch.equal(got["leaf"], base)


def test_a_key_with_the_separator_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must not contain '/'"):
        write_checkpoint(tmp_path / "c", {"a": {"b/c": 1}})
    assert list(tmp_path.iterdir()) == []


def truncated(path):
    path.write_bytes(path.read_bytes()[:-3])


def pickled(path):
    torch.save({"done": 1}, path)


def foreign(path):
    save_file({"x": torch.zeros(1)}, path)


def other_kind(path):
    write_tensors(path, {"x": torch.zeros(1)}, {"kind": "expert", "version": 1})


def later_version(path):
    tensors, metadata = read_tensors(path, "checkpoint")
    write_tensors(path, tensors, metadata | {"version": 3})


def without_values(path):
    write_tensors(path, {"x": torch.zeros(1)}, {"kind": "distillation checkpoint", "version": 2})


def values_are_a_list(path):
    write_tensors(path, {"x": torch.zeros(1)}, {"kind": "distillation checkpoint", "version": 2, "values": [1]})


def metadata_is_a_list(path):
    write_tensors(path, {"x": torch.zeros(1)}, [1])


DAMAGES = [
    truncated,
    pickled,
    foreign,
    other_kind,
    later_version,
    without_values,
    values_are_a_list,
    metadata_is_a_list,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_files_that_are_no_checkpoint_are_refused(make_task, folder, damage):
    Distiller(hoptm(), make_task(), settings(5), folder("a"), silent).run()
    path = folder("a") / CHECKPOINT
    damage(path)
    with pytest.raises(FileFormatError, match=r"checkpoint\.safetensors") as caught:
        Distiller(hoptm(), make_task(), settings(), folder("a"), silent)
    assert "\n" not in str(caught.value)
