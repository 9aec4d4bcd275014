"""How settings become one: recipes, stored runs, overrides; and every YAML file in every combination builds."""

from __future__ import annotations

from importlib.resources import files

import hydra
import pytest

import hoptm_plugin.builtin  # noqa: F401  registers the library's own parts
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError, RunFolderError
from hoptm_plugin.core.interfaces import augmentations, datasets, methods, networks, value_at
from hoptm_plugin.data.preprocess import BesideReader
from hoptm_plugin.runs.composition import _apply_recipe, _given_paths, compose
from hoptm_plugin.runs.folder import RunFolder, overlaid, remove_if_empty
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.run_files import read_config

PACKAGES = ("hoptm_plugin.conf", "hoptm_baselines.conf")
MULTI_LABEL = "chestmnist"


def choices(group):
    found = [path.name for package in PACKAGES if (files(package) / group).is_dir()
             for path in (files(package) / group).iterdir()]  # fmt: skip
    return sorted(name.removesuffix(".yaml") for name in found)


def builds(values):
    """Check a whole configuration: it is valid, and every part that needs no data can be built."""
    settings = RunSettings.of(values)
    dataset = dict(settings.dataset)
    beside = {key: dataset.pop(key) for key in BesideReader.model_fields if key in dataset}
    if beside["preprocess"]["image_size"] == "auto":
        beside["preprocess"]["image_size"] = datasets.build(dataset, "dataset").image_size
    BesideReader.model_validate(beside)
    for registry, spec in ((methods, settings.method), (networks, settings.network),
                           (augmentations, settings.augment), (datasets, dataset)):  # fmt: skip
        assert registry.build(spec) is not None


PAIRS = [("hoptm", dataset) for dataset in choices("dataset")] + [
    (method, dataset) for method in choices("method") for dataset in ("digits", "npz") if method != "hoptm"
]


@pytest.mark.parametrize(
    ("method", "dataset"),
    [pytest.param(*pair, marks=() if pair[1] in ("digits", "covid19cxr") else pytest.mark.slow) for pair in PAIRS],
)
def test_methods_compose_with_data_sets(method, dataset):
    settings = compose(f"method={method}", f"dataset={dataset}")
    values = settings.values()
    assert settings.given == ("method=", "dataset=")
    assert settings.method_id == method
    assert RunSettings.of(settings.plain()).deciding() == settings.deciding(), "stored and read, they must be the same"
    refused = {MULTI_LABEL: "multi-label", "arrays": "arrays in memory"}
    if dataset in refused:
        with pytest.raises(ConfigurationError, match=refused[dataset]):
            builds(values)
    else:
        builds(values)


@pytest.mark.parametrize(
    "choice", [f"{group}={name}" for group in ("network", "augment", "experts", "protocol", "runtime")
               for name in choices(group)]
)  # fmt: skip
def test_every_other_choice_composes(choice):
    builds(compose(choice).values())


RANGES = {  # what is matched at first and in the end, from the easiest (0) to the hardest (1)
    "quantile:{name:linear,start:0.1,end:1.0,over:9}": ((0.0, 0.1), (0.0, 1.0)),
    "lower:{name:linear,start:0.9,end:0.0,over:9},quantile:1.0": ((0.9, 1.0), (0.0, 1.0)),
    "quantile:1.0": ((0.0, 1.0), (0.0, 1.0)),
    "lower:0.25,quantile:0.75": ((0.25, 0.75), (0.25, 0.75)),
}


@pytest.mark.parametrize("scale", ["published", "laptop"])
@pytest.mark.parametrize("given", RANGES)
def test_easy_first_hard_first_or_neither_is_one_setting(given, scale):
    """So that one sweep holds all of them (docs/methods.md 2.3)."""
    settings = compose("dataset=digits", f"scale={scale}", "method.schedulers.pace.kappa=null",
                       f"method.schedulers.pace={{{given}}}")  # fmt: skip
    pace = methods.build(settings.method).schedulers["pace"]
    ends = [(value_at(pace.lower, step), value_at(pace.quantile, step)) for step in (0, 9)]
    assert ends == [pytest.approx(each) for each in RANGES[given]]
    assert (pace.sticky, pace.kappa) == (True, None)


def test_explicit_paths():
    overrides = ["method=mtt", "network=vgg11", "dataset@dataset=npz", "+a.b=1", "++c=2", "~d.e", "ipc=3", "x=a=b"]
    groups = {"method", "dataset", "network"}
    assert _given_paths(overrides, groups) == ["method=", "network", "dataset=", "a.b", "c", "d.e", "ipc", "x"]


def values():
    return {"ipc": 5, "reported": None, "network": {"width": 128, "depth": 3}, "method": {"steps": 1, "part": None},
            "dataset": {"size": 28}}  # fmt: skip


RECIPE = {
    "all": {"network": {"width": 32}, "method": {"steps": 2},
            "reported": {"source": "a paper", "ipc": {1: {"accuracy": 0.1}, 5: {"accuracy": 0.5}}}},
    "ipc": {1: {"method": {"steps": 3}}, 5: {"method": {"steps": 4}}},
}  # fmt: skip


def applied(recipe=RECIPE, explicit=(), **changed):
    result = values() | changed
    note = _apply_recipe(result, recipe, list(explicit), "mine")
    return result, note


def test_a_recipe_s_ipc_beats_its_all():
    result, note = applied()
    assert note == "recipe mine, ipc 5"
    assert result["network"] == {"width": 32, "depth": 3}
    assert result["method"]["steps"] == 4
    assert result["reported"] == RECIPE["all"]["reported"]


@pytest.mark.parametrize(("ipc", "used", "steps"), [(3, 1, 3), (50, 5, 4)])
def test_nearest_lower_ipc_serves(ipc, used, steps):
    result, note = applied(ipc=ipc)
    assert note == f"recipe mine: none for ipc {ipc}, that of ipc {used} is used"
    assert result["method"]["steps"] == steps


def test_lowest_ipc_serves_below_all():
    result, note = applied({"ipc": {10: {"method": {"steps": 9}}}}, ipc=1)
    assert "that of ipc 10 is used" in note
    assert result["method"]["steps"] == 9


def test_explicit_settings_beat_the_recipe():
    result, _ = applied(explicit=["network.width", "method.steps"])
    assert result["network"]["width"] == 128
    assert result["method"]["steps"] == 1
    assert applied(explicit=["network"])[0]["network"] == {"width": 128, "depth": 3}


def test_a_chosen_method_or_data_set_does_not_shut_out_the_recipe():
    assert applied(explicit=["method=", "dataset="])[0]["method"]["steps"] == 4


def test_an_explicit_path_below_keeps_a_recipe_from_replacing_what_holds_it():
    recipe = {"all": {"method": {"part": {"name": "other", "weight": 2}}}}
    assert applied(recipe)[0]["method"]["part"] == {"name": "other", "weight": 2}
    assert applied(recipe, ["method.part.weight"])[0]["method"]["part"] is None


@pytest.mark.parametrize(
    ("explicit", "kept"),
    [
        (["dataset.root", "method=", "ipc", "seed", "runtime.device"], True),
        (["dataset.download"], True),
        (["dataset.size"], False),
        (["network.width"], False),
        (["method.matchers.shape"], False),
        (["dataset=", "protocol.epochs"], False),
        (["protocol.random_subset"], True),
        (["networks"], True),  # and "network" is another setting
        (["network"], False),
        (["network.width", "reported"], True),
    ],
)
def test_what_was_reported_belongs_to_the_setting_as_it_is(explicit, kept):
    settings = compose("method=hoptm", "dataset=pathmnist")
    assert settings.reported is not None
    assert (settings.without_published(explicit).reported is not None) == kept


def test_recipes_are_not_shared_between_runs():
    result, _ = applied({"all": {"method": {"part": {"list": [1]}}}})
    result["method"]["part"]["list"].append(2)
    assert applied({"all": {"method": {"part": {"list": [1]}}}})[0]["method"]["part"] == {"list": [1]}


@pytest.mark.parametrize("recipe", [{"al": {}}, {"all": {"netwrok": {}}}])
def test_malformed_recipes_are_refused_by_name(recipe):
    with pytest.raises(ConfigurationError, match=r"recipe mine.*(al|netwrok)"):
        applied(recipe)


@pytest.mark.parametrize("ipc", ["abc", None, [1]])
def test_an_impossible_ipc_is_left_to_validation(ipc):
    result, note = applied(ipc=ipc)
    assert note == "recipe mine"
    assert result["ipc"] == ipc


@pytest.fixture
def small():
    return compose("method=mtt", "dataset=digits", "ipc=5")


def with_given(settings, *given, **fields):
    return settings.changed(given=given, **fields)


def test_what_was_given_beats_what_is_stored_and_nothing_else_does(small):
    stored = small.plain()
    given = with_given(small, "network.width", ipc=9, network=small.network | {"width": 8, "depth": 2})
    result = overlaid(stored, given)
    assert (result.ipc, result.network["width"], result.network["depth"]) == (5, 8, small.network["depth"])
    assert stored == small.plain(), "what is stored must not change"


def test_a_part_that_was_added_or_deleted_by_hand_is_so_on_top_of_stored_settings(small):
    added = with_given(small, "method.schedulers.new", method=small.method | {"schedulers": {"new": {"name": "a"}}})
    assert overlaid(small.plain(), added).method["schedulers"] == {"new": {"name": "a"}}
    without = {key: value for key, value in small.method.items() if key != "student_batch"}
    assert (
        "student_batch" not in overlaid(small.plain(), with_given(small, "method.student_batch", method=without)).method
    )


def test_a_chosen_method_takes_its_name_along(small):
    other = compose("method=dm", "dataset=digits", "ipc=7")
    result = overlaid(small.plain(), with_given(other, "method="))
    assert (result.method_id, result.method_title, result.method) == ("dm", other.method_title, other.method)
    assert (result.ipc, result.distillation) == (5, small.distillation)


def test_resumed_settings_are_the_stored_ones_with_what_was_given(small, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RunFolderError, match="no run to resume"):
        folder.continued(small.changed(resume=True))
    folder.begin(small)
    given = with_given(small, "network.depth", "resume", resume=True, ipc=8, network=small.network | {"depth": 2})
    result = folder.continued(given)
    assert (result.ipc, result.network["depth"], result.resume) == (5, 2, True)


def test_resume_auto_goes_on_where_a_run_lies_and_begins_elsewhere(small, tmp_path):
    folder, auto = RunFolder(tmp_path / "run"), with_given(small, "resume", resume="auto", ipc=8)
    assert (folder.continued(auto).resume, folder.continued(auto).ipc) == (False, 8)
    folder.begin(small)
    assert (folder.continued(auto).resume, folder.continued(auto).ipc) == (True, 5)
    with pytest.raises(ConfigurationError, match="resume"):
        small.changed(resume="perhaps")


def test_folder_check_names_what_differs_but_not_what_may(small, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.check(small, resume=False)
    folder.begin(small)
    folder.check(compose("method=mtt", "dataset=digits", "ipc=5", "runtime.threads=1", "experts.root=x"), resume=True)
    with pytest.raises(RunFolderError, match=r"network.depth: 3 in the folder, 4 now"):
        folder.check(compose("method=mtt", "dataset=digits", "ipc=5", "network.depth=4"), resume=True)
    with pytest.raises(RunFolderError, match="not empty"):
        folder.check(small, resume=False)


@pytest.mark.parametrize("setting", ["runtime.precision", "experts.training.precision"])
def test_lower_precision_makes_another_set_and_cannot_be_changed_on_resuming(setting, tmp_path):
    plain, low = (compose("dataset=digits", *more) for more in ((), (f"{setting}=bf16",)))
    assert plain.digest() != low.digest()
    assert plain.set_digest() != low.set_digest()
    folder = RunFolder(tmp_path / "run")
    folder.begin(plain)
    with pytest.raises(RunFolderError, match=f"{setting.split('.')[0]}.*bf16"):
        folder.check(low, resume=True)


@pytest.mark.parametrize("text", ["a: [1", "- 1", "!!python/object/apply:os.getcwd []", "\x00"])
def test_configurations_that_are_none(text, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(FileFormatError, match=r"config\.yaml"):
        read_config(tmp_path / "config.yaml")


def test_only_empty_folders_below_the_working_folder_are_removed(tmp_path, monkeypatch):
    here = tmp_path / "here"
    for path in (here / "runs/today/run", here / "kept/run", tmp_path / "there/run"):
        path.mkdir(parents=True)
    (here / "kept/file").write_text("")
    monkeypatch.chdir(here)
    for path in (here / "runs/today/run", here / "kept/run", tmp_path / "there/run", here, tmp_path):
        remove_if_empty(path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {"here", "here/kept", "here/kept/file",
                                                                                 "there"}  # fmt: skip


def test_a_run_on_the_validation_split_may_not_choose_its_checkpoint_on_the_test_split():
    settings = ("protocol.split=validation", "distillation.selection=test_leaky")
    with pytest.raises(ConfigurationError, match=r"protocol\.split=validation leaves the test split alone"):
        compose(*settings)
    assert compose(settings[0], "distillation.selection=validation").protocol.split == "validation"


def test_notes_and_records_of_a_search_change_nothing(small, tmp_path):
    """A run may be resumed under another note."""
    folder = RunFolder(tmp_path / "run")
    tried = {"settings": "a", "accuracy": 0.5}
    tuning = {"split": "validation", "networks": 1, "seed": 0, "chosen": "a", "candidates": (tried,)}
    changed = small.changed(note="other words", tuning=tuning)
    folder.begin(small)
    folder.check(changed, resume=True)
    assert (changed.digest(), changed.set_digest()) == (small.digest(), small.set_digest())
    judged = small.changed(protocol=small.protocol.model_dump() | {"split": "validation"})
    assert judged.digest() != small.digest()
    assert judged.set_digest() == small.set_digest()


def test_python_says_the_same_as_the_command_line(tmp_path):
    typed = compose("method=mtt", "ipc=3", "networks=[convnet,vgg11]", "dataset=npz", f"dataset.root={tmp_path}")
    said = compose(f"dataset.root={tmp_path}", method="mtt", ipc=3, networks=["convnet", "vgg11"], dataset="npz")
    assert said == typed.changed(given=said.given)
    assert sorted(said.given) == sorted(typed.given)
    assert compose(note="it's 5 % ${off}").note == "it's 5 % ${off}"
    with pytest.raises(ConfigurationError, match=r"seed: no such|unknown setting"):
        compose("sede=3")


def test_composing_leaves_another_program_s_hydra_as_it_was():
    from hydra.core.global_hydra import GlobalHydra

    with hydra.initialize_config_module("hoptm_plugin.conf", version_base="1.3"):
        before = GlobalHydra.instance().hydra
        assert compose("method=mtt").method_id == "mtt"
        assert GlobalHydra.instance().hydra is before


def test_a_method_given_whole_does_not_go_by_another_one_s_name():
    spec = {"name": "trajectory_matching", "matchers": {}}
    settings = compose(method=spec, dataset="pathmnist")
    assert (settings.method, settings.method_id, settings.method_title) == (spec, spec["name"], spec["name"])
    assert (settings.method_cites, settings.reported) == ([], None)
    assert compose("method_title=Mine", method=spec).method_title == "Mine"


@pytest.mark.parametrize(
    "text",
    ["/home/müller/x.npz", "ends in \\", "${y}", *(
        pytest.param(each, marks=pytest.mark.campaign)
        for each in ("Größe", "it's", "a \\' b", "\\\\", "null", "1e-3", "a, b", "{x}", ""))],
    ids=range(12),
)  # fmt: skip
def test_any_text_survives_hydra_s_grammar(text):
    if text:
        assert compose(note=text).note == text
    assert compose(**{"dataset": "npz", "dataset.root": text}).dataset["root"] == text


def test_numpy_s_numbers_and_mappings_under_dotted_keys_are_settings():
    import numpy as np

    assert compose(ipc=np.int64(3), **{"distillation.images.learning_rate": np.float32(0.5)}).ipc == 3
    assert compose(**{"dataset.preprocess": {"image_size": 16}}).dataset["preprocess"]["image_size"] == 16


def test_a_recipe_is_not_another_method_s():
    settings = compose(method={"name": "random_subset"})
    unscaled = compose("dataset=npz", "scale=published")
    assert (settings.recipe, settings.distillation.iterations) == ("", unscaled.distillation.iterations)


def test_a_holdout_decides_the_result_and_none_changes_nothing():
    """Digests of runs that were made before there was such a setting stay what they were."""
    plain, held = compose("dataset=digits"), compose("dataset=digits", "dataset.holdout_fraction=0.3")
    older = {key: value for key, value in plain.dataset.items() if key != "holdout_fraction"}
    assert "holdout_fraction" in plain.dataset
    assert plain.changed(dataset=older).digest() == plain.digest() != held.digest()
    shadow = held.changed(dataset={**held.dataset, "shadow": {"number": 0, "pairs": 4}})
    assert len({held.digest(), shadow.digest(), shadow.set_digest(), held.set_digest()}) == 4
