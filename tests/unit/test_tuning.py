"""Tuning: what is tried, what is taken, what is recorded, and what of it `run` reads again; nothing is trained here."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from test_suite_search import scored_card

from hoptm_plugin import Arrays, ConfigurationError, compose, tune
from hoptm_plugin.cards.card import write_card
from hoptm_plugin.core.errors import FileFormatError, RunFolderError
from hoptm_plugin.pages.tuned import write_figure
from hoptm_plugin.runs import tuning
from hoptm_plugin.runs.tuning import _rounds, attempt, read_tuning
from hoptm_plugin.runtime.progress import silent
from hoptm_plugin.storage.files import with_checksum

RATE = "distillation.images.learning_rate"
DM = ("method=dm", "dataset=digits", "distillation.iterations=9")


def rate(settings):
    return settings.distillation.images.learning_rate


class Launched:
    """A launcher whose runs have the accuracies of ``given``, by learning rate; None is a run that fails."""

    def __init__(self, folder, given):
        self.folder, self.given, self.jobs = folder, given, []

    def __call__(self, jobs):
        reasons = []
        for job in jobs:
            self.jobs.append((job.name, rate(job.settings), job.settings.distillation.iterations))
            accuracy = self.given[rate(job.settings)]
            accuracy = accuracy(job.settings) if callable(accuracy) else accuracy
            reasons.append("diverged" if accuracy is None else None)
            if accuracy is not None:
                card = scored_card(SimpleNamespace(settings=job.settings), accuracy)
                write_card(card, self.folder / job.name / "result.json")
        return reasons


def tuned(folder, given, *more, **keywords):
    """Tune the learning rate; return what was found, and the launcher."""
    launch = Launched(folder, given)
    return tune(*DM, *more, over={RATE: list(given)}, folder=folder, launch=launch, **keywords), launch


def test_the_best_of_a_grid_is_taken_recorded_and_run_again(tmp_path):
    found, launch = tuned(tmp_path / "t", {1: 0.3, 10: 0.5, 100: None, 1000: 0.5}, "runtime.device=cpu", "ipc=2")
    assert [each[1:] for each in launch.jobs] == [(1, 9), (10, 9), (100, 9), (1000, 9)]
    record = found.record
    assert [(each.settings, each.accuracy) for each in record.candidates] == [
        (f"{RATE}=1", 0.3), (f"{RATE}=10", 0.5), (f"{RATE}=100", None), (f"{RATE}=1000", 0.5)]  # fmt: skip
    assert (record.chosen, record.split, record.seed, record.networks) == (f"{RATE}=10", "validation", 100, 2)
    assert read_tuning(tmp_path / "t") == record
    again = compose(f"settings={tmp_path / 't/best.yaml'}")
    assert found.settings.digest() == again.digest() == compose(*DM, "ipc=2", f"{RATE}=10").digest()
    assert again.tuning == found.settings.tuning == record
    assert (again.seed, again.protocol.repeats, again.protocol.split) == (0, 5, "test"), "those are of the tuning alone"
    assert found.command == f"hoptm-bench run settings={tmp_path / 't/best.yaml'} runtime.device=cpu"
    assert "runtime" not in (tmp_path / "t/best.yaml").read_text(), "it is of this machine"
    assert found.sure.startswith(f"not sure: the second ({RATE}=1000) is as good; the first of equals was taken")


def test_candidates_share_all_but_what_is_tried(tmp_path):
    seen = []

    def launch(jobs):
        seen.extend(jobs)
        return ["no"] * len(jobs)

    over = {RATE: [1, 1e3], "+method.matchers": [None]}
    with pytest.raises(ConfigurationError, match=r"unknown|matchers"):
        tune(*DM, over=over, folder=tmp_path / "t", launch=launch)
    assert not seen, "all of them are composed and checked before any of them runs"
    assert not (tmp_path / "t").exists()
    with pytest.raises(ConfigurationError, match="every candidate failed"):
        tune(*DM, "seed=7", "protocol.repeats=3", over={RATE: [1, 1e3], "augment": ["dsa", "none"]},
             folder=tmp_path / "t", launch=launch)  # fmt: skip
    assert [(rate(job.settings), job.settings.augment["name"]) for job in seen] == [
        (1, "dsa"), (1, "none"), (1000, "dsa"), (1000, "none")]  # fmt: skip
    assert {(job.settings.seed, job.settings.protocol.repeats, job.settings.protocol.split) for job in seen} == {
        (7, 3, "validation")}  # fmt: skip
    assert [compose(*job.overrides).digest() for job in seen] == [job.settings.digest() for job in seen]


def test_halving_gives_the_better_ones_more_iterations(tmp_path):
    given = {float(value): (lambda settings, value=value: min(0.9, 0.1 + value / 10)) for value in range(1, 8)}
    found, launch = tuned(tmp_path / "t", given, strategy="halving")
    assert [each[1:] for each in launch.jobs] == [
        *((value, 3) for value in range(1, 8)), (5, 9), (6, 9), (7, 9)]  # fmt: skip
    assert found.record.chosen == f"{RATE}=7.0"
    assert [each.iterations for each in found.record.candidates] == [3, 3, 3, 3, 9, 9, 9]
    assert list(found.table["iterations"]) == [3] * 7 + [9] * 3
    # a candidate that was the best with few iterations and is not with all
    turned = {5.0: lambda settings: 0.2 if settings.distillation.iterations == 9 else 0.8}
    found, _ = tuned(tmp_path / "u", given | turned, strategy="halving")
    assert found.record.chosen == f"{RATE}=7.0"
    (chosen,) = (each for each in found.record.candidates if each.settings == found.record.chosen)
    assert chosen.accuracy == pytest.approx(0.8)


def test_rounds_of_halving():
    assert _rounds(27, 900, "halving") == [(9, 27), (3, 9), (1, 3)]
    assert _rounds(9, 90, "halving") == [(3, 9), (1, 3)]
    assert _rounds(4, 90, "halving") == [(3, 4), (1, 2)]
    assert _rounds(27, 4, "halving") == [(3, 27), (1, 9)], "no candidate can have less than one iteration"
    assert _rounds(27, 1, "halving") == _rounds(27, 1, "grid") == [(1, 27)]
    assert _rounds(3, 900, "halving") == [(1, 3)]


def test_an_interrupted_tuning_goes_on_and_tries_again_what_failed(tmp_path):
    folder, given = tmp_path / "t", {float(value): min(0.9, value / 10) for value in range(1, 6)}

    def stopping(jobs):
        launch(jobs[:2])
        raise KeyboardInterrupt

    launch = Launched(folder, given)
    keywords = {"over": {RATE: list(given)}, "folder": folder, "strategy": "halving"}
    with pytest.raises(KeyboardInterrupt):
        tune(*DM, launch=stopping, **keywords)
    assert not list(folder.glob("*.lock"))
    with pytest.raises(RunFolderError, match="holds a tuning; to go on with it add resume=auto"):
        tune(*DM, launch=launch, **keywords)
    with pytest.raises(RunFolderError, match="nothing is chosen yet"):
        read_tuning(folder)
    launch.jobs.clear()
    first = tune(*DM, launch=launch, resume="auto", **keywords)
    assert [each[1:] for each in launch.jobs] == [(3, 3), (4, 3), (5, 3), (4, 9), (5, 9)]
    launch.jobs.clear()
    again = tune(*DM, launch=launch, resume=True, **keywords)
    assert launch.jobs == []
    assert again.record == first.record
    pd.testing.assert_frame_equal(again.table, first.table)
    launch.given[3.0] = None
    with pytest.raises(RunFolderError, match="holds no tuning to resume"):
        tune(*DM, launch=launch, resume=True, **(keywords | {"folder": tmp_path / "none"}))
    found, launch = tuned(tmp_path / "u", {1: 0.3, 10: None})
    assert list(found.table["failed"])[1] == "diverged"
    found, launch = tuned(tmp_path / "u", {1: 0.3, 10: 0.4}, resume="auto")
    assert [each[1] for each in launch.jobs] == [10]
    assert found.record.chosen == f"{RATE}=10"


@pytest.mark.parametrize(
    ("change", "named"),
    [({"over": {RATE: [1, 20]}}, "other candidates"), ({"strategy": "halving"}, None), ({"more": ["ipc=2"]}, "beside"),
     ({"more": ["seed=3"]}, "beside")],
)  # fmt: skip
def test_a_folder_of_another_tuning_is_refused(change, named, tmp_path):
    tuned(tmp_path, {1: 0.3, 10: 0.4})
    keywords = {"over": {RATE: [1, 10]}, "folder": tmp_path, "resume": "auto", "launch": lambda jobs: []} | change
    more = keywords.pop("more", [])
    if named is None:
        named = "other strategy"
    with pytest.raises(RunFolderError, match=rf"holds another tuning \({named}|settings {named}"):
        tune(*DM, *more, **keywords)


def test_a_folder_with_anything_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(RunFolderError, match="not empty, and no tuning"):
        tuned(tmp_path, {1: 0.3}, resume="auto")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("more", "over", "named"),
    [
        ((), {}, "over: names no setting"),
        ((), {RATE: []}, "over: names no setting"),
        ((), {"seed": [0, 1]}, r"over\.seed: decides a seed, and the best of several seeds is luck"),
        ((), {"protocol.epochs": [1, 2]}, r"over\.protocol\.epochs: decides how a set is judged"),
        ((), {"runtime.threads": [1, 2]}, r"over\.runtime\.threads: decides no result"),
        ((), {"dataset": ["digits", "cifar10"]}, "dataset: is given, and over"),
        ((), {"+dataset": ["digits"], "ipc": [1]}, "is given, and over"),
        ((), {"ipc": [1, 2]}, r"over\.ipc: candidates would not be judged alike"),
        ((), {"distillation.imagse.rate": [1, 2]}, "distillation.imagse: unknown setting"),
        ((), {RATE: [-1, -2]}, rf"{RATE}"),
        ((f"{RATE}=3",), {RATE: [1, 2]}, rf"{RATE}: is given, and over\.{RATE} tries values for it"),
        (("protocol.split=test",), {RATE: [1, 2]}, "protocol.split=test: settings are chosen on the validation split"),
        (("distillation.selection=test_leaky",), {RATE: [1, 2]}, "leaves the test split alone"),
        (("ipc=1,2",), {RATE: [1, 2]}, "ipc: several values; a tuning takes one"),
        ((), {"note": ["x" * 600]}, "note"),
        ((), {"method_title": ["x" * 499]}, "method_title"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_is_refused_before_any_work(more, over, named, tmp_path):
    with pytest.raises(ConfigurationError, match=named):
        tune(*DM, *more, over=over, folder=tmp_path / "t", launch=lambda jobs: pytest.fail("nothing may run"))
    assert not (tmp_path / "t").exists()


def test_the_scale_that_was_tuned_at_stands_in_the_best_settings(tmp_path):
    found, _ = tuned(tmp_path / "t", {1: 0.3, 10: 0.5}, "scale=laptop")
    again = compose(f"settings={tmp_path / 't/best.yaml'}")
    assert found.settings.digest() == again.digest()
    assert again.scale == "laptop"
    assert found.command == f"hoptm-bench run settings={tmp_path / 't/best.yaml'}"


def test_values_that_are_no_list_and_what_halving_would_change_are_refused(tmp_path):
    for odd in (10, "abc"):
        with pytest.raises(ConfigurationError, match="is no list of values to try"):
            tune(*DM, over={RATE: odd}, folder=tmp_path / "t", launch=lambda jobs: [])
    with pytest.raises(ConfigurationError, match=r"method\.real_batch: told as a function of distillation\.iterations"):
        tune(*DM, "method.real_batch='${distillation.iterations}'", over={RATE: [1, 10]}, folder=tmp_path / "t",
             strategy="halving", launch=lambda jobs: [])  # fmt: skip


def test_halving_over_iterations_and_unknown_strategies_are_refused(tmp_path):
    over = {"distillation.iterations": [3, 9]}
    for strategy, named in (("halving", "halving gives candidates their iterations"), ("best", "must be grid or")):
        with pytest.raises(ConfigurationError, match=named):
            tune(*DM[:2], over=over, folder=tmp_path / "t", strategy=strategy, launch=lambda jobs: [])


def test_cards_of_other_settings_or_of_the_test_split_are_no_results(tmp_path):
    folder = tmp_path / "t"

    def launch(jobs):
        for job, protocol in zip(jobs, ({"split": "test"}, {}), strict=True):
            card = scored_card(SimpleNamespace(settings=job.settings), 0.9)
            card = card.model_copy(update={"protocol": card.protocol | protocol})
            card = card if protocol else card.model_copy(update={"config_sha256": "0" * 64})
            write_card(card, folder / job.name / "result.json")
        return [None] * len(jobs)

    with pytest.raises(ConfigurationError, match=r"every candidate failed[^$]*it has no card"):
        tune(*DM, over={RATE: [1, 10]}, folder=folder, launch=launch)


def test_a_damaged_record_is_refused(tmp_path):
    tuned(tmp_path, {1: 0.3, 10: 0.4})
    path = tmp_path / "tuning.json"
    content = json.loads(path.read_text())
    for damaged in (path.read_text().replace("0.3", "0.9", 1), "{", json.dumps(with_checksum(content | {"more": 1}))):
        path.write_text(damaged)
        with pytest.raises(FileFormatError, match=re.escape(str(path))):
            tuned(tmp_path, {1: 0.3, 10: 0.4}, resume="auto")


def test_the_table_and_the_figure_hold_all_candidates(tmp_path):
    found, _ = tuned(tmp_path / "t", {1: 0.25, 10: 0.5, 100: None})
    table = pd.read_csv(tmp_path / "t/candidates.csv")
    assert list(table[RATE]) == [1, 10, 100]
    assert list(table["accuracy"].fillna(-1)) == [0.25, 0.5, -1]
    assert list(table["networks"]) == [2, 2, 0]
    assert table["failed"][2] == "diverged"
    assert [path.rpartition("/")[2] for path in table["folder"]] == ["candidate-0", "candidate-1", "candidate-2"]
    root = ET.parse(write_figure(found)).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = " ".join(root.itertext())
    assert f"{RATE}=10 (best)" in text
    assert "failed" in text


@dataclass
class Ranked:
    candidate: int
    accuracies: tuple

    @property
    def accuracy(self):
        return sum(self.accuracies) / len(self.accuracies)


@pytest.mark.parametrize(
    ("best", "second", "images", "said"),
    [
        ((0.8, 0.81, 0.8), (0.5, 0.51, 0.5), 10_000, "sure: 30.00 points above the second"),
        ((0.8, 0.81, 0.8), (0.5, 0.51, 0.5), 10, "not sure: 30.00 points"),
        ((0.8, 0.6, 0.9), (0.7, 0.6, 0.9), 10_000, "not sure: 3.33 points"),
        ((0.8,), (0.5,), 10_000, "not sure: 30.00 points above the second (b); the networks' scatter is not known"),
        ((0.8, 0.8), (0.8, 0.8), 10_000, "not sure: the second (b) is as good"),
    ],
)  # fmt: skip
def test_whether_the_best_is_sure_is_said(best, second, images, said):
    file = SimpleNamespace(images=images, candidates=["a", "b"])
    assert tuning._sure([Ranked(0, best), Ranked(1, second)], file).startswith(said)
    assert tuning._sure([Ranked(0, best)], file) == "no other candidate was judged beside it"


def test_data_in_memory_are_tuned_on_and_no_file_claims_to_hold_them(tmp_path):
    images = torch.randint(0, 255, (40, 1, 8, 8), dtype=torch.uint8)
    data = Arrays((images, torch.arange(40) % 2), (images[:8], torch.arange(8) % 2))
    launch = Launched(tmp_path / "t", {1.0: 0.2, 2.0: 0.4})
    found = tune("method=dm", over={RATE: [1.0, 2.0]}, folder=tmp_path / "t", launch=launch, dataset=data, ipc=2)
    assert found.command is None
    assert not (tmp_path / "t/best.yaml").exists()
    assert found.settings.dataset["data"] is data
    assert (rate(found.settings), found.settings.ipc) == (2, 2)


# what `run` makes of a file of settings


def test_a_file_of_settings_stands_for_its_overrides(tmp_path):
    path = tmp_path / "my settings.yaml"
    path.write_text("settings: [method=mtt, 'experts.count=3', 'network.width=16']\n")
    asked = compose(f"settings='{path}'", "network.width=8", ipc=10)
    assert asked.digest() == compose("method=mtt", "experts.count=3", "network.width=8", ipc=10).digest()
    assert asked.given == compose("method=mtt", "experts.count=3", "network.width=16", "network.width=8", ipc=10).given


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("settings: method=mtt", "it may hold `settings`, a list"),
        ("settings: [1]", "it may hold"),
        ("other: []", "no list `settings`"),
        ("- method=mtt", "no list `settings`"),
        ("", "no list `settings`"),
        ("settings: [method=mtt]\nmore: 1", "it may hold"),
        ("settings: [method=mtt]\ntuning: {split: test}", "its tuning is none: split"),
        ("settings: [!!python/object/apply:os.system [ls]]", "not a file of settings"),
        ("settings: &a [*a]", "not a file of settings"),
        ("settings: [[[[", "not a file of settings"),
        ("settings: ['method=[']", "not a setting of the form KEY=VALUE"),
        *((f"settings: ['{line}']", "no file may say this") for line in (
            "hydra.launcher._target_=os.system", "hydra/launcher=processes", "+hydra.x=1", "experts.root=/etc",
            "experts={root: /etc}", "resume=true", "synthetic=/x", "loggers=[tensorboard]", "settings=other.yaml",
            "note=${oc.env:HOME}")),
    ],
)  # fmt: skip
def test_what_no_file_of_settings_may_hold_is_refused(text, named, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(named)):
        compose(f"settings={path}")


def test_a_file_of_settings_that_is_not_there_is_one_error(tmp_path):
    with pytest.raises(ConfigurationError, match=r"settings: .*none\.yaml does not exist"):
        compose(f"settings={tmp_path}/none.yaml")


def test_what_a_tuning_writes_is_plain_yaml(tmp_path):
    tuned(tmp_path / "t", {1: 0.3, 10: 0.5}, "method_title='a: b, c'")
    content = yaml.safe_load((tmp_path / "t/best.yaml").read_text())
    assert content["settings"] == [*DM, "method_title='a: b, c'", f"{RATE}=10"]
    assert compose(f"settings={tmp_path / 't/best.yaml'}").method_title == "a: b, c"


# runs that are extended, where they can be


@pytest.mark.parametrize("extends", [True, False])
def test_a_run_goes_on_where_it_can_and_begins_anew_where_not(extends, tmp_path, monkeypatch):
    made, told, folder = [], [], tmp_path / "candidate-0"
    settings = compose(*DM)
    (folder).mkdir()
    (folder / "config.yaml").write_text("")
    short = settings.distillation.model_copy(update={"iterations": 3})
    monkeypatch.setattr(tuning, "read_settings", lambda path: settings.model_copy(update={"distillation": short}))

    def run(asked, where, progress):
        made.append((where.name, asked.resume))
        if where == folder and not extends:
            raise RunFolderError("its schedule hangs on the number of iterations")
        where.mkdir(exist_ok=True)

    def progress(title, total, done=0):
        told.append(title)
        return silent(title, total, done)

    monkeypatch.setattr(tuning, "run", run)
    assert attempt(settings, folder, progress) is None
    anew = ("candidate-0-9-iterations", "auto")
    assert made == [("candidate-0", "auto"), *([] if extends else [anew])]
    assert bool(told) != extends
    if not extends:
        assert "its 3 iterations cannot be extended (its schedule hangs" in told[0]
        made.clear()
        assert attempt(settings, folder, progress) is None
        assert made == [anew], "once it has begun anew it goes on there"


def test_what_stops_a_run_is_the_reason_of_its_row(tmp_path, monkeypatch):
    errors = [FileFormatError("x.pt: broken"), RuntimeError("no"), KeyboardInterrupt()]

    def run(asked, where, progress):
        raise errors.pop(0)

    monkeypatch.setattr(tuning, "run", run)
    settings = compose(*DM)
    assert attempt(settings, tmp_path / "new", silent) == "x.pt: broken"
    assert attempt(settings, tmp_path / "new", silent) == "RuntimeError: no"
    with pytest.raises(KeyboardInterrupt):
        attempt(settings, tmp_path / "new", silent)
