"""What a plan counts, with timings made up; and what a moment of work says of the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hoptm_plugin.core.interfaces import Excerpt, Method
from hoptm_plugin.engine.checkpoint import write_checkpoint
from hoptm_plugin.engine.distil import CHECKPOINT
from hoptm_plugin.runs import assembly, planning, timing
from hoptm_plugin.runs.assembly import workbench
from hoptm_plugin.runs.composition import compose
from hoptm_plugin.runs.planning import COMPILING, ExpertStage, Plan, Stage, about, planned, plans, shown_bytes
from hoptm_plugin.runs.timing import Timing, Tried, timed
from hoptm_plugin.runtime.progress import silent

CPU = torch.device("cpu")
SMALL = ("dataset=digits", "network.width=2", "network.depth=1", "runtime.device=cpu", "runtime.compile=false")


class Work:
    """Work that takes a clock's seconds: some at the start, some for each share, more the first time of a size."""

    def __init__(self, monkeypatch, begin, whole, least=0.01, each=0.0, fresh=1.0):
        self.now, self.begin, self.whole, self.least, self.each, self.fresh = 0.0, begin, whole, least, each, fresh
        self.largest, self.shares = 0.0, []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def __call__(self, share):
        share = max(self.least, share)
        seconds = self.each + share * self.whole * (self.fresh if share > self.largest else 1)
        self.largest, self.shares = max(share, self.largest), [*self.shares, share]
        self.now += self.begin + seconds
        return Tried(share, seconds, begin=self.begin)


@pytest.mark.parametrize("whole", [0.003, 0.2, 3.0, 60.0, 4000.0])
@pytest.mark.parametrize("fresh", [1.0, 2.0])
def test_a_moment_tells_the_whole(whole, fresh, monkeypatch):
    work = Work(monkeypatch, 0.001, whole, least=min(1.0, 0.004 / whole), fresh=fresh)
    assert timed(work, 1000, CPU).seconds == pytest.approx(whole, rel=0.01)
    assert work.now < (0.6 if whole < 10 else 6.0), "of hours a few seconds are tried"


def test_what_each_try_costs_anyway_is_small_beside_a_larger_share(monkeypatch):
    work = Work(monkeypatch, 0.01, 1.0, least=0.005, each=0.01)
    assert timed(work, 1000, CPU).seconds == pytest.approx(1.0, rel=0.15), "the least share alone would say 3 s"


def test_little_work_is_tried_for_little(monkeypatch):
    work = Work(monkeypatch, 0.0, 1.0)
    timed(work, 1, CPU)
    assert work.now < 0.1


def test_what_takes_seconds_and_cannot_be_made_smaller_is_tried_once(monkeypatch):
    work = Work(monkeypatch, 0.0, 7.0, least=1.0)
    assert (timed(work, 50, CPU).seconds, work.shares) == (7.0, [1.0])


def test_a_moment_in_which_the_machine_did_something_else_does_not_count(monkeypatch):
    work = Work(monkeypatch, 0.0, 10.0)

    def hesitant(share):
        done, work.now = work(share), work.now + (3.0 if len(work.shares) == 1 else 0.0)
        return replace(done, seconds=done.seconds + 3.0) if len(work.shares) == 1 else done

    assert timed(hesitant, 1000, CPU).seconds == pytest.approx(10.0, rel=0.01)


def test_a_beginning_that_grows_with_the_data_is_told_for_all_of_them(monkeypatch):
    work = Work(monkeypatch, 0.0, 1e-6)

    def looks(share):
        share = max(0.01, share)
        work.now += 0.05 + 20 * share
        return Tried(share, 1e-9, begin=0.05 + 20 * share, seen=share)

    assert timed(looks, 1, CPU).begin == pytest.approx(20.05, rel=0.3)


def test_memory_is_told_for_what_the_whole_holds(monkeypatch):
    peaks = iter([900, 1000, 1100])  # at first also what a process loads once
    monkeypatch.setattr(timing, "peak_memory_bytes", lambda device: next(peaks, 1100))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: 0.0)
    assert timed(lambda share: Tried(1.0, 1.0, held=0.25), 0, CPU).memory_bytes == 1400


@pytest.mark.parametrize("epoch", [40, 3000])
def test_an_epoch_of_a_number_of_images_is_tried_as_such(epoch, monkeypatch):
    """Of fewer images than there are, and of more, which are then seen several times."""
    tried = []
    monkeypatch.setattr(timing, "train_experts", lambda loss, starts, split, training, *rest, **more:
                        tried.append((len(split), training.epoch_images)))  # fmt: skip
    monkeypatch.setattr(timing, "train_networks", lambda networks, loss, sets, protocol, *rest:
                        tried.append((len(sets[0][0]), protocol.epochs)))  # fmt: skip
    settings = compose(*SMALL, "method=full", f"experts.training.epoch_images={epoch}",
                       f"protocol.epoch_images={epoch}", "protocol.epochs=7")  # fmt: skip
    with workbench(settings, silent) as bench:
        images = len(bench.task.train)
        timing.expert_epoch(bench, 10**6)
        assert tried[-1] == (min(epoch, images), epoch)
        tried.clear()
        (network,) = bench.evaluator().networks
        timing.training(bench, bench.evaluator(), network, images, 10**6)
        shown, epochs = tried[-1]
        assert shown * epochs == pytest.approx(7 * epoch, abs=shown), "image passes"


@pytest.fixture
def counted(monkeypatch):
    """Plans whose seconds are image passes: what is trained and tested is counted, what a method does is not."""
    monkeypatch.setattr(timing, "training", lambda bench, evaluator, name, images, times:
                        Timing(evaluator.protocol.epochs * images, 0, 0))  # fmt: skip
    monkeypatch.setattr(timing, "testing", lambda *what: Timing(0.0, 0, 0))
    monkeypatch.setattr(timing, "iteration", lambda bench, iterations: Timing(1.0, 7.0, 0))
    monkeypatch.setattr(timing, "expert_epoch", lambda bench, epochs: Timing(2.0, 0, 0))

    def make(*overrides, folder=None, judged=False):
        settings = compose(*SMALL, "experts.root=nowhere", "protocol.random_subset=false", *overrides)
        with workbench(settings, silent) as bench:
            return planned(bench, folder, judged)

    return make


def test_what_networks_are_trained_on_is_counted(counted):
    def evaluation(*overrides):
        return counted("ipc=2", "protocol.repeats=5", "protocol.epochs=7", *overrides).evaluation.seconds

    plain = evaluation("method=mtt")
    assert plain == 5 * 7 * 20
    assert evaluation("method=mtt", "protocol.random_subset=true") == 2 * plain
    assert evaluation("method=mtt", "networks=[convnet,alexnet]") == 2 * plain
    assert evaluation("method=ftd") == 2 * plain, "the moving average as well"
    assert evaluation("method=ftd", "protocol.warm_start_average=true") == 3 * plain
    assert evaluation("method=idm") == 4 * plain, "mosaics are taken apart"
    assert evaluation("method=idm", "protocol.random_subset=true") == 5 * plain
    assert evaluation("method=full") == 5 * 7 * 1293
    assert evaluation("method=mtt", "runtime.compile=true") == pytest.approx(0.8 * plain + COMPILING)


def test_iterations_and_the_selection_of_a_checkpoint_are_counted(counted):
    chosen = ("method=mtt", "ipc=2", "protocol.epochs=3", "distillation.iterations=10")
    assert counted(*chosen).distillation.seconds == 7 + 10
    selected = counted(*chosen, "distillation.evaluate_every=4", "distillation.selection=validation")
    assert selected.distillation.seconds == 7 + 10 + 3 * 3 * 20
    assert counted(*chosen, judged=True).distillation == Stage()
    assert counted("method=full").distillation == Stage()
    assert (counted("method=random").experts, counted(*chosen, judged=True).experts) == (ExpertStage(), ExpertStage())


def test_experts_are_counted_from_what_is_stored():
    stage = ExpertStage(Path("store"), 10, (10, 4, 0), epoch_seconds=2.0, begin_seconds=5.0, row_bytes=100)
    assert (stage.amount, stage.done, stage.seconds, stage.disk_bytes) == (3, 1, 5 + 2 * (6 + 10), 2 * 11 * 100)
    all_there = ExpertStage(Path("store"), 10, (10, 10), epoch_seconds=2.0, begin_seconds=5.0, row_bytes=100)
    assert (all_there.seconds, all_there.disk_bytes) == (0, 0)


def plan_of(folder="a", epochs=10, count=2, seconds=50.0):
    experts = ExpertStage(Path(folder), epochs, (0,) * count, 1.0)
    return Plan(experts, Stage(5, 0, seconds), Stage(5, 0, 20.0), "CPU")


def test_experts_that_several_runs_read_count_once():
    shared = plans([("1", plan_of), ("2", plan_of), ("3", lambda: plan_of("b")), ("4", lambda: plan_of(epochs=20)),
                    ("5", plan_of), ("6", lambda: plan_of(epochs=20, count=3))])  # fmt: skip
    assert [each.experts.seconds for each in shared] == [20, 0, 20, 40, 0, 20], "one stored too short is trained anew"
    assert [each.seconds for each in shared][:2] == [90, 70]


def test_runs_that_differ_in_the_seed_are_timed_once():
    made = []

    def make():
        made.append(1)
        return plan_of()

    runs = [compose(*SMALL, f"seed={seed}", f"ipc={ipc}") for seed in (0, 1) for ipc in (1, 2)]
    assert len(plans([(planning.alike(each), make) for each in runs])) == 4
    assert len(made) == 2


def test_a_plan_is_said_in_one_line():
    said = str(plan_of())
    assert said.startswith("plan: 2 experts about 20 s, 5 iterations about 50 s, evaluation about 20 s; memory ")
    assert "in all about 2 min, done about " in said
    unknown = str(plan_of(seconds=None))
    assert "5 iterations that cannot be told beforehand" in unknown
    assert "done about" not in unknown
    assert plan_of(seconds=None).seconds is None
    days = plan_of(seconds=12.2 * 86400)
    assert "5 iterations about 12 days" in str(days)
    stored = Plan(ExpertStage(Path("a"), 3, (3, 3, 0)), Stage(5, 2, 9.0), Stage(5, 0, 1.0), "CPU")
    assert "1 expert about 1 s (2 stored), 3 iterations about 9 s" in str(stored)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (5399, "90 min"), (5401, "2 h"), (35 * 3600, "35 h"),
     (36 * 3600, "2 days")],
)  # fmt: skip
def test_durations(seconds, said):
    assert about(seconds) == f"about {said}"


def test_amounts():
    assert [shown_bytes(each) for each in (0, 5, 3 * 2**20, 940 * 2**20, 3 * 2**29)] == [
        "-", "1 MiB", "3 MiB", "940 MiB", "1.5 GiB"]  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=hoptm", "ipc=3", "method.student_steps=40", "method.student_batch=8"],
        ["method=mtt", "ipc=2", "method.student_batch=null"],
        ["method=att", "ipc=1", "method.student_steps=20"],
        ["method=dm", "ipc=1"],
        ["method=idm", "ipc=2"],
        ["method=tgdd", "ipc=2", "method.real_batch=2000"],
        ["method=dc", "ipc=1"],
        ["method=dsa", "ipc=2", "method.outer_steps=10", "method.inner_epochs=50"],
        ["method=dsa", "ipc=2", "method.outer_steps=3", "method.inner_epochs=1"],
    ],
)
def test_an_excerpt_is_the_share_that_it_says(overrides):
    settings = compose(*SMALL, *overrides)
    with workbench(settings, silent) as bench:
        method, task = bench.parts.method, bench.task
        steps = getattr(method, "student_steps", None)
        for share in (0, 0.004, 0.02, 0.1, 0.35, 0.8):
            part = method.excerpt(share, task)
            assert 0 < part.time <= 1
            assert 0 < part.memory <= 1
            assert part.method is not method
            assert getattr(part.method, "real_batch", 0) <= len(task.train) // 10, "a class has no more"
            if hasattr(method, "student_steps"):
                assert part.time <= max(share * 1.2, 3 / method.student_steps)
                assert not [problem for term in part.method.matchers.values() for problem in
                            term.matcher.problems(method.expert_epochs, part.method.student_steps)]  # fmt: skip
            if share >= 0.1:
                assert part.time >= share / 2
        assert method.excerpt(1, task) == Excerpt(method)
        assert getattr(method, "student_steps", None) == steps, "an excerpt is another method"


def test_a_third_party_s_iteration_is_tried_whole():
    class Mine(Method):
        def setup(self, task):
            raise NotImplementedError

        def losses(self, synthetic, step):
            raise NotImplementedError

    mine = Mine()
    assert mine.excerpt(0.1, None) == Excerpt(mine)


@pytest.mark.parametrize("method", ["hoptm", "datm", "idm", "tgdd", "dsa", "herding", "random", "full"])
def test_every_kind_of_method_is_timed_without_experts_and_without_a_trace(method, tmp_path):
    settings = compose(*SMALL, f"method={method}", f"experts.root={tmp_path / 'none'}", "protocol.epochs=3",
                       "distillation.iterations=5", "protocol.repeats=1")  # fmt: skip
    before = torch.get_rng_state()
    with workbench(settings, silent) as bench:
        found = planned(bench)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.seconds is not None
    assert found.evaluation.seconds > 0
    assert (found.distillation.seconds > 0) == (method != "full")
    assert (found.experts.seconds > 0) == (method in ("hoptm", "datm", "tgdd", "herding"))
    assert found.memory_bytes > 2**20
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_goes_on_is_planned_from_its_checkpoint(counted, tmp_path):
    write_checkpoint(tmp_path / CHECKPOINT, {"done": 4})
    loop = counted("method=mtt", "distillation.iterations=10", folder=tmp_path).distillation
    assert (loop.amount, loop.done, loop.seconds) == (10, 4, 7 + 6)
    (tmp_path / CHECKPOINT).write_bytes(b"damaged")
    assert counted("method=mtt", "distillation.iterations=10", folder=tmp_path).distillation.done == 0


def test_plans_that_share_their_data_read_it_once(monkeypatch):
    reads, load = [], assembly.load
    monkeypatch.setattr(assembly, "load", lambda *args: reads.append(1) or load(*args))
    read = {}
    for ipc in (1, 2):
        planning.plan(compose(*SMALL, "method=random", f"ipc={ipc}"), silent, read)
    assert len(reads) == 1
