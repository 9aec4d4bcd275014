"""The search for settings that precedes a suite's runs: what it tries, on what, what it takes, and what it records."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import estimate
import pytest
from scored_cards import evaluations
from small_suite import SIZE, SMALL, small
from suite_file import Suite
from suite_plan import Plan
from suite_search import searching, settled, supposed

from hoptm_plugin.cards.card import write_card
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.runs.composition import Written, parsed
from hoptm_plugin.runs.planning import ExpertStage, Stage
from hoptm_plugin.runs.tuning import tune

SEARCHED = {
    "search": ["seed=100", "protocol.repeats=2"],
    "sweeps": [
        {"title": "MTT", "overrides": ["method=mtt", "ipc=1", "seed=0,1"],
         "search": ["distillation.images.learning_rate=10,100", "method.step_size=0.01,0.02"]},
        {"title": "random", "overrides": ["method=random", "ipc=1"]},
        {"title": "alike", "overrides": ["method=mtt", "ipc=1", "method_title=again"], "settings_of": "MTT"},
        {"title": "elsewhere", "overrides": ["networks=[alexnet]"], "evaluates": ["MTT"], "seeds": [1],
         "tables": ["others"]},
    ],
    "tables": {"others": {"title": "Other networks"}},
}  # fmt: skip
CANDIDATES = [
    f"distillation.images.learning_rate={rate} method.step_size={alpha}" for rate in (10, 100) for alpha in (0.01, 0.02)
]


def test_a_search_tries_every_candidate_with_one_seed_on_the_validation_split_alone():
    search = searching(small(**SEARCHED))
    assert search.folder == Path("out-search")
    assert [" ".join(f"{key}={value}" for key, value in (
        ("distillation.images.learning_rate", int(job.settings.distillation.images.learning_rate)),
        ("method.step_size", job.settings.method["step_size"]),
    )) for job in search.jobs] == CANDIDATES  # fmt: skip
    assert {(job.settings.seed, job.settings.protocol.split, job.settings.protocol.repeats) for job in search.jobs} == {
        (100, "validation", 2)
    }
    assert searching(small()) is None
    more = SEARCHED | {"sweeps": [SEARCHED["sweeps"][0] | {"overrides": ["method=mtt", "ipc=1,2"]}]}
    with pytest.raises(ConfigurationError, match="MTT: has a search, so it may sweep over nothing but the seed"):
        searching(small(**more))


def test_no_setting_of_the_command_line_brings_a_search_to_the_test_split():
    search = searching(small("protocol.split=test", "seed=5", **SEARCHED))
    assert {(job.settings.protocol.split, job.settings.seed) for job in search.jobs} == {("validation", 100)}


def finished(search, accuracies, folder):
    """Let the command of the search find these accuracies, and return the plan of the runs after it."""
    (command,) = search.commands()
    assert command[0] == "tune"
    over = [line.removeprefix("over.") for line in command if line.startswith("over.")]
    shared = [line for line in command[1:] if not line.startswith(("over.", "hydra.", "resume="))]

    def launched(jobs):
        for job, accuracy in zip(jobs, accuracies, strict=True):
            if accuracy is not None:
                write_card(scored_card(job, accuracy), search.folder / "0" / job.name / "result.json")
        return [None if accuracy is not None else "diverged" for accuracy in accuracies]

    values = {line.partition("=")[0]: [Written(each) for each in line.partition("=")[2].split(",")] for line in over}
    place = parsed([line for line in command if line.startswith("hydra.sweep.dir=")])["hydra.sweep.dir"]
    assert Path(place) == search.folder / "0"
    with nullcontext() if any(accuracies) else pytest.raises(ConfigurationError, match="every candidate failed"):
        tune(*shared, over=values, folder=place, launch=launched)
    return settled(Plan(Suite.model_validate(SMALL | SEARCHED), [], folder), search)


def scored_card(job, accuracy):
    from hoptm_plugin.cards.card import Card, software_versions

    settings = job.settings
    return Card.model_validate({
        "schema": 1, "method": settings.method_id, "title": settings.method_title, "ipc": settings.ipc,
        "dataset": {"name": "digits", "fingerprint": "f" * 64, "classes": ["0", "1"], "train": 9, "validation": 10,
                    "test": 10},
        "seed": settings.seed, "protocol": settings.protocol.model_dump(mode="json"), "selection": "last",
        "evaluations": [evaluations([accuracy] * settings.protocol.repeats)], "software": software_versions(),
        "config_sha256": settings.digest(), "artefacts": {},
        "cost": {"experts_s": None, "distill_s": 1, "evaluate_s": 1, "seconds_per_iteration": None,
                 "peak_memory_bytes": None, "device": "cpu"},
    })  # fmt: skip


@pytest.fixture
def searched(tmp_path):
    def with_accuracies(*accuracies):
        plan = Plan(Suite.model_validate(SMALL | SEARCHED), [], tmp_path / "out")
        return finished(searching(plan), accuracies, tmp_path / "out")

    return with_accuracies


@pytest.mark.slow
def test_the_best_candidate_is_taken_and_recorded(searched):
    plan = searched(0.2, 0.5, None, 0.5)
    chosen = [job.settings for job in plan.jobs if job.settings.method_id == "mtt"]
    assert {(one.distillation.images.learning_rate, one.method["step_size"]) for one in chosen} == {(10, 0.02)}
    own, again, judged = (plan.jobs[at].settings.tuning for at in (0, 3, 4))
    assert own.chosen == CANDIDATES[1], "the first of equals"
    assert [(each.settings, each.accuracy) for each in own.candidates] == list(
        zip(CANDIDATES, (0.2, 0.5, None, 0.5), strict=True)
    )
    assert (own.split, own.seed, own.networks, own.reused) == ("validation", 100, 2, None)
    assert again == own.model_copy(update={"reused": "MTT"})
    assert judged == own
    assert plan.jobs[2].settings.tuning is None, "nothing was searched for"


def test_a_search_that_failed_altogether_is_one_error(searched):
    with pytest.raises(ConfigurationError, match=r"MTT: every candidate of its search failed; see .*out-search"):
        searched(None, None, None, None)


def test_cards_of_other_settings_are_no_results(tmp_path):
    """A folder's name says sweep, method, IPC and seed: a card in it may be of an earlier version of the suite."""
    sweeps = [{"title": "one", "overrides": ["method=mtt", "ipc=1"]}]
    older, newer = (
        Plan(Suite.model_validate(SMALL | {"sweeps": sweeps}), [f"distillation.iterations={count}"], tmp_path)
        for count in (5, 6)
    )
    (job,) = older.jobs
    write_card(scored_card(job, 0.5), tmp_path / job.folder.replace("*", "digits") / "result.json")
    assert (older.failed(), [each.name for each in newer.failed()]) == ([], [job.name])
    noted = Plan(older.suite, [*older.extra, "note=other words"], tmp_path)
    assert noted.failed() == [], "a note changes nothing"


@pytest.mark.parametrize(
    ("extra", "named"),
    [("method.step_size=0.5", r"method\.step_size: is what the suite's search chooses"),
     ("+method.step_size=0.5", r"method\.step_size: is what"), ("ipc=1,2", "give one value of every other setting")],
)  # fmt: skip
def test_settings_that_a_search_cannot_have_are_refused_before_it(extra, named):
    with pytest.raises(ConfigurationError, match=named):
        searching(small(extra, **SEARCHED))


def test_a_variant_s_own_sweeps_must_refer_to_each_other():
    variants = {"cpu": {"note": "less", "sweeps": SEARCHED["sweeps"][1:]}}
    with pytest.raises(ConfigurationError, match=r"--variant cpu: .*alike: settings_of names no sweep with a search"):
        Suite.model_validate(SMALL | SEARCHED | {"variants": variants}).varied("cpu")


def test_before_the_search_the_first_candidate_stands_in():
    plan = supposed(small(**SEARCHED))
    mtt = [job.settings for job in plan.jobs if job.settings.method_id == "mtt"]
    assert {(one.distillation.images.learning_rate, one.method["step_size"], one.tuning) for one in mtt} == {
        (10, 0.01, None)
    }


def test_sets_are_judged_again_without_distilling():
    plan = supposed(small(**SEARCHED))
    (job,) = (job for job in plan.jobs if job.evaluates)
    assert (job.evaluates, job.folder) == ("0/1-mtt-digits-ipc1-seed1", "3/0-eval")
    assert (job.settings.networks, job.settings.seed, job.expert_epochs) == (["alexnet"], 1, 0)
    command = plan.commands()[3]
    assert command[:2] == ["eval", "-m"]
    assert "synthetic=out/0/1-mtt-digits-ipc1-seed1" in command
    (found,) = estimate.estimate([job], SIZE, [])
    assert (found.experts, found.distillation) == (ExpertStage(), Stage())
    assert found.evaluation.seconds > 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings_of": "random"}, "settings_of names no sweep with a search"),
        ({"evaluates": ["nobody"]}, "names what does not exist: nobody"),
        ({"tables": ["none"]}, "names what does not exist: none"),
        ({"title": "random"}, "sweeps are called alike: random"),
        ({"seeds": [1]}, "seeds and ipc choose among sets to evaluate"),
        ({"ipc": 1}, "seeds and ipc choose among sets to evaluate"),
    ],
)
def test_suites_that_refer_to_nothing_are_refused(change, named):
    sweeps = [*SEARCHED["sweeps"][:2], SEARCHED["sweeps"][1] | {"title": "other"} | change]
    with pytest.raises(ValueError, match=named):
        Suite.model_validate(SMALL | SEARCHED | {"sweeps": sweeps})
