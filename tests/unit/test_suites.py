"""The suites of benchmarks/: every run of every table composes, and estimates count what they say they count."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import estimate
import pytest
import suite
import torch
import yaml
from small_suite import SIZE, SMALL, small
from suite_file import SUITES, Suite, load_suite
from suite_plan import Plan, expert_stores
from suite_search import supposed

from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.runs import timing
from hoptm_plugin.runs.composition import as_override, expand
from hoptm_plugin.runs.timing import Timing

RUNS = {"table1_pathmnist": (46, 19), "table2_covid19cxr": (37, 19), "table3_cross_architecture": (9, 9),
        "table4_ablation": (20, 8), "table5_lambda": (25, 10)}  # fmt: skip
# small already, and nothing was published for them
OWN = {"digits": (30,), "pacing": (9,), "study_bloodcells": (151,), "study_covid19cxr": (61,), "study_cifar10": (49,)}


def marked(names, *more):
    """Return parameters that are a campaign: composing the runs of the suites takes minutes."""
    return [pytest.param(name, *more, marks=pytest.mark.campaign) for name in names]


TABLES, STUDY, NAMES = marked(RUNS), marked(name for name in OWN if name.startswith("study_")), marked(RUNS | OWN)


def plan(name, variant, *extra):
    return Plan(load_suite(SUITES[name]).varied(variant), extra, Path("out"))


@pytest.fixture(scope="module")
def plans():
    """Any variant of any suite, whose runs are composed once."""
    return cache(lambda name, variant="full": plan(name, variant) if name in RUNS else supposed(plan(name, variant)))


@pytest.fixture
def estimated(monkeypatch):
    """Return the plans of the small suite's runs, where an image passed through a network takes a second."""
    monkeypatch.setattr(timing, "training", lambda bench, evaluator, name, images, times:
                        Timing(evaluator.protocol.epochs * images, 0, 0))  # fmt: skip
    monkeypatch.setattr(timing, "testing", lambda *what: Timing(0.0, 0, 0))
    monkeypatch.setattr(timing, "iteration", lambda bench, iterations: Timing(1.0, 0, 0))
    monkeypatch.setattr(timing, "expert_epoch", lambda bench, epochs: Timing(len(bench.task.train), 0, 0))
    extra = ("runtime.compile=false", "runtime.device=cpu", "experts.root=nowhere")
    return lambda *more: estimate.estimate(small(*more, *extra).jobs, SIZE, more)


def test_every_suite_is_known():
    assert {*RUNS, *OWN} == {*SUITES}


@pytest.mark.parametrize("name", NAMES)
def test_every_run_composes_and_validates(name, plans):
    for variant, count in zip(("full", "cpu"), (RUNS | OWN)[name], strict=False):
        jobs = plans(name, variant).jobs
        assert len({job.folder for job in jobs}) == len(jobs) == count
        rows = Counter((s.method_title, s.ipc, s.seed, bool(job.evaluates)) for job in jobs for s in [job.settings])
        assert max(rows.values()) == 1, "two runs would be one row's cell"


@pytest.mark.parametrize(("name", "variant"), marked(RUNS | OWN, "full") + marked(RUNS, "cpu"))
def test_a_suite_s_runs_are_judged_alike(name, variant, plans):
    suite, jobs = plans(name, variant).suite, plans(name, variant).jobs
    for table in ("main", *suite.tables):
        of_table = [job for job in jobs
                    if table in suite.sweeps[job.sweep].tables and not job.parts.method.whole_split]  # fmt: skip
        for what in ("dataset", "augment", "network", "networks", "protocol"):
            assert len({str(getattr(job.settings, what)) for job in of_table}) == 1, (table, what)
        assert {job.settings.distillation.selection for job in of_table} == {"last"}
        assert {job.settings.protocol.split for job in of_table} == {"test"}


@pytest.mark.parametrize("name", TABLES)
def test_published_values_belong_to_full_suites_only(name, plans):
    for job in plans(name).jobs:
        ipc = None if job.parts.method.whole_split else job.settings.ipc
        published = job.settings.reported and job.settings.reported.of(ipc)
        assert bool(published) == (job.settings.method_id not in ("random", "herding")), job.name
    assert all(job.settings.reported is None for job in plans(name, "cpu").jobs)


def published(plans, name, sweep, ipc):
    (job,) = (job for job in plans(name).jobs if job.sweep == sweep and job.settings.ipc == ipc)
    return job.settings.reported.of(ipc)


@pytest.mark.campaign
def test_tables_agree_where_they_repeat_each_other(plans):
    for ipc in (1, 5, 10, 100, 1000):
        ours = {row: published(plans, "table4_ablation", row, ipc) for row in range(4)}
        assert "Table 4" in ours[0]["source"]
        accuracies = {row: (values["accuracy"], values["std"]) for row, values in ours.items()}
        table1 = [job.settings for job in plans("table1_pathmnist").jobs if job.settings.ipc == ipc]
        by_method = {one.method_id: one.reported.of(ipc) for one in table1 if one.method_id in ("mtt", "hoptm")}
        for row, method in ((0, "mtt"), (3, "hoptm")):
            assert accuracies[row] == (by_method[method]["accuracy"], by_method[method]["std"])
        for row, sweep in ((0, 0), (1, 2)):  # neither is lambda 0, HO alone is lambda 0.5
            other = published(plans, "table5_lambda", sweep, ipc)
            assert accuracies[row] == (other["accuracy"], other["std"])


@pytest.mark.campaign
def test_ablations_switch_off_what_they_say(plans):
    for job in plans("table4_ablation").jobs:
        method = job.parts.method
        assert ("shape" in method.matchers, "pace" in method.schedulers) == (job.sweep in (1, 3), job.sweep in (2, 3))


@pytest.mark.campaign
def test_the_weights_of_the_shape_term_are_those_that_rows_are_called_by(plans):
    weights = {}
    for job in plans("table5_lambda").jobs:
        assert not job.parts.method.schedulers
        weights[job.settings.method_title] = job.parts.method.matchers["shape"].weight
    assert weights == {"lambda 0": 0, "lambda 0.1": 0.1, "lambda 0.5": 0.5, "lambda 1": 1, "lambda 10": 10}


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=mtt,hoptm", "ipc=1,5", "seed=range(0,3)"],
        ["networks=[convnet,alexnet]", "method_title='a, b'", "ipc=choice(1,2)"],
        ["ipc=1,5", "method.x={a:1,b:'c,d'},null", "ipc=7"],
        ["t='lambda ${ipc}'", "a=1.0e-3,2"],
    ],
)
def test_expansion_is_hydra_s(overrides):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    jobs = expand(overrides)
    parsed = {item.get_key_element(): item for item in OverridesParser.create().parse_overrides(overrides)}
    sizes = [len(list(item.sweep_string_iterator())) if item.is_sweep_override() else 1 for item in parsed.values()]
    total = 1
    for size in sizes:
        total *= size
    assert len(jobs) == len(set(map(tuple, jobs))) == total
    assert all([one.partition("=")[0] for one in job] == list(parsed) for job in jobs)
    for job in jobs:
        OverridesParser.create().parse_overrides(job)


def test_commands_and_runs_agree():
    own = small("ipc=7", "runtime.device=cpu")
    (command,) = own.commands()
    assert command == ["run", "-m", "protocol.random_subset=false", "method=mtt,hoptm", "ipc=1,2", "ipc=7",
                       "runtime.device=cpu", "hydra.sweep.dir=out/0", "resume=auto"]  # fmt: skip
    assert [(job.settings.method_id, job.settings.ipc) for job in own.jobs] == [("mtt", 7), ("hoptm", 7)]
    odd = Plan(own.suite, [], Path("a, b=c")).commands()[0][-2]
    assert odd == "hydra.sweep.dir='a, b=c/0'"


def test_texts_survive_hydra_s_as_override():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    value = {"source": 'Dong\'s (a, b) "c" {d} [e] x=1', "ipc": {1: {"accuracy": 0.4703, "std": 0.0261}}}
    (override,) = expand([f"reported={as_override(value)}"])[0]
    assert OverridesParser.create().parse_override(override).value() == {
        "source": value["source"], "ipc": {1: {"accuracy": 0.4703, "std": 0.0261}}}  # fmt: skip


def test_a_variant_s_settings_beat_inherited_sweeps_and_its_own_sweeps_beat_them():
    variants = {"cpu": {"note": "less", "settings": ["ipc=3"]}}
    assert {job.settings.ipc for job in Plan(Suite(**SMALL, variants=variants).varied("cpu"), [], Path()).jobs} == {3}
    variants["cpu"]["sweeps"] = [{"title": "own", "overrides": ["ipc=4"]}]
    assert {job.settings.ipc for job in Plan(Suite(**SMALL, variants=variants).varied("cpu"), [], Path()).jobs} == {4}
    with pytest.raises(ConfigurationError, match=r"--variant gpu: the suite has full"):
        Suite(**SMALL).varied("gpu")


@pytest.mark.slow
def test_experts_are_counted_once_per_recipe(estimated):
    jobs = small().jobs
    stores = expert_stores(jobs)
    assert [len(store.jobs) for store in stores] == [2, 2], "MTT's SGD and HoP-TM's GSAM"
    count, epochs = jobs[0].settings.experts.count, jobs[0].expert_epochs
    assert len(expert_stores(small("experts.seed=0,1", "ipc=1").jobs)) == 4
    assert expert_stores(small("method=random", "ipc=1").jobs) == []
    found = [each.experts for each in estimated()]
    assert [each.seconds for each in found] == [count * epochs * 100, 0, count * epochs * 100, 0]
    parameters = sum(one.numel() for one in jobs[0].parts.network.build((1, 32, 32), 10).parameters())
    assert [each.disk_bytes for each in found] == [count * (epochs + 1) * parameters * 4, 0] * 2


def test_experts_that_runs_read_unequally_far_are_trained_beforehand():
    assert small().experts() == []
    (command,) = small("method=mtt", "ipc=1", "method.sampler.max_start_epoch=2,6").experts()
    assert command[0] == "experts"
    assert "method.sampler.max_start_epoch=6" in command
    assert command[-2:] == ["experts.epochs=7", "experts.count=5"]


@pytest.mark.campaign
def test_every_run_is_planned_on_images_of_the_suite_s_size(estimated):
    ipc = [job.settings.ipc for job in small().jobs]
    found = estimated("distillation.iterations=20")
    assert [each.distillation.seconds for each in found] == [20] * 4
    assert [each.evaluation.seconds for each in found] == [5 * 301 * 10 * images for images in ipc]


def test_another_data_set_is_read_for_its_size(estimated):
    (found,) = estimated("dataset=digits", "method=full", "ipc=1", "protocol.epochs=1", "protocol.repeats=1")
    assert (found.distillation.seconds, found.evaluation.seconds) == (0, 1293)


def test_what_stands_in_for_data_is_as_many_images_and_no_more_memory():
    settings = small().jobs[0].settings
    data = estimate.stand_in(settings, SIZE.model_copy(update={"train": 10**9}), torch.device("meta"))
    assert (len(data.train), len(data.test), data.image_shape) == (10**9, 2 * 10**8, (1, 32, 32))
    assert estimate.stand_in(settings, SIZE, torch.device("cpu")).train.images.untyped_storage().nbytes() == 4096


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suite, "SUITES", {"mine": tmp_path / "mine.yaml"})

    def call(text, *arguments):
        (tmp_path / "mine.yaml").write_text(text if isinstance(text, str) else yaml.safe_dump(text))
        code = suite.main(["mine", *arguments])
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: [1", "expected"), ("- 1", "suite"), ("", "suite"), (SMALL | {"sweps": []}, "sweps"),
        (SMALL | {"sweeps": []}, "sweeps"), (SMALL | {"data": {"train": 0}}, "data.train"),
    ],
)  # fmt: skip
def test_malformed_suites_are_one_error(text, named, run):
    code, _, err = run(text, "--list")
    assert code == 2
    assert err.startswith("error: ")
    assert "mine.yaml" in err
    assert named in err


@pytest.mark.parametrize(
    ("setting", "named"), [("ipc=", "ipc"), ("ipcs=1", "ipcs"), ("method=no_such", "no_such"), ("ipc=1=(", "ipc=1=("),
                           ("method.student_steps=0", "student_steps"), ("ipc=interval(0,1)", "no values to try")]
)  # fmt: skip
def test_wrong_settings_are_one_error(setting, named, run):
    code, _, err = run(SMALL, "--list", setting)
    assert code == 2
    assert err.splitlines()[1].startswith("error: ")
    assert named in err


def test_an_unknown_suite_or_variant_is_one_error(run, capsys):
    with pytest.raises(SystemExit) as exit_:
        suite.main(["no_such"])
    assert exit_.value.code == 2
    assert "no_such" in capsys.readouterr().err
    code, _, err = run(SMALL, "--variant", "no_such")
    assert (code, err) == (2, "error: --variant no_such: the suite has full\n")


def test_missing_data_are_told_once_before_any_run(run, tmp_path):
    settings = {"settings": ["dataset=npz", f"dataset.root={tmp_path}/none.npz"]}
    code, _, err = run(SMALL | settings, "--out", str(tmp_path / "out"))
    assert code == 2
    assert err.count("none.npz") == 1
    assert not (tmp_path / "out").exists()


def test_a_sweep_that_hydra_would_refuse_is_refused_before_anything_runs():
    """Hydra composes a sweep first without what is swept over: here with hoptm, which has no teacher_epoch."""
    sweeps = [{"title": "two", "overrides": ["method=herding,kcenter", "method.teacher_epoch=5"]}]
    with pytest.raises(
        ConfigurationError, match=r"two, before the sweep: .*\n.*method\.teacher_epoch: unknown setting"
    ):
        small(sweeps=sweeps).jobs  # noqa: B018


@pytest.mark.parametrize(
    ("extra", "kept"),
    [
        ((), True),
        (("seed=1", "dataset.root=FOLDER", "runtime.threads=1"), True),
        (("distillation.iterations=10",), False),
        (("dataset=npz", "dataset.root=FILE"), False),
        (("method=mtt",), False),
        (("network.width=32",), False),
    ],
)
def test_what_was_published_is_not_shown_beside_another_setting(extra, kept):
    commands = plan("table4_ablation", "full", *extra).commands()
    assert all(any(word.startswith("reported=") for word in command) == kept for command in commands)


@pytest.mark.parametrize("name", STUDY)
def test_budgets_of_the_study_are_equal(name, plans):
    """As many image passes for every distillation as its note says, and as many candidates for every method."""
    suite, jobs = plans(name).suite, plans(name).jobs
    budget = int(re.search(r"about ([\d,]+)\s+image passes", suite.note)[1].replace(",", ""))
    distilled = [job for job in jobs
                 if job.settings.method_id not in ("random", "full") and not job.evaluates]  # fmt: skip
    passes = {
        job.name: job.settings.distillation.iterations
        * job.parts.method.image_passes(suite.data.classes, job.settings.ipc)
        for job in distilled
    }
    assert len({job.settings.method_id for job in distilled}) == 7
    assert all(0.99 * budget < count < 1.015 * budget for count in passes.values()), passes
    assert {len(expand(sweep.search)) for sweep in suite.sweeps if sweep.search} == {4}
    searched = Counter(job.settings.method_id for job in jobs
                       if suite.sweeps[job.sweep].search and job.settings.seed == 0)  # fmt: skip
    ablation = {"hoptm": 8} if "ablation" in suite.tables else {}
    assert searched == {job.settings.method_id: 2 for job in distilled} | ablation, "every method at every IPC"
    seeds = Counter((job.settings.method_title, job.settings.ipc) for job in distilled)
    assert min(seeds.values()) >= 3


@pytest.mark.campaign
def test_the_study_s_ablation_differs_in_nothing_else(plans):
    """Its four rows are one setting but for what they switch off; each has a search of its own."""
    plan = plans("study_bloodcells")
    for ipc in (1, 10):
        rows = {}
        for job in plan.jobs:
            if "ablation" in plan.suite.sweeps[job.sweep].tables and job.settings.ipc == ipc and not job.settings.seed:
                method = job.parts.method
                rows[bool("shape" in method.matchers), bool(method.schedulers)] = job.settings
                assert plan.suite.sweeps[job.sweep].search
        assert len(rows) == 4
        for settings in rows.values():
            both = rows[True, True]
            assert settings.distillation == both.distillation
            assert settings.experts == both.experts
            rest = [{key: value for key, value in one.method.items() if key not in ("matchers", "schedulers")}
                    for one in (settings, both)]  # fmt: skip
            assert rest[0] == rest[1]
            assert settings.method["matchers"]["endpoint"] == both.method["matchers"]["endpoint"]
