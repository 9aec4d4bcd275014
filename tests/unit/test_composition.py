"""How settings become one: recipes, stored runs, overrides; and every YAML file in every combination builds."""

from __future__ import annotations

from importlib.resources import files

import hydra
import pytest
from hydra.core.plugins import Plugins

import hoptm_plugin.builtin  # noqa: F401  registers the library's own parts
from hoptm_plugin.cli.entry import _settings
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError, RunFolderError
from hoptm_plugin.core.interfaces import augmentations, datasets, methods, networks
from hoptm_plugin.core.plugins import load_plugins
from hoptm_plugin.data.prepare import Preprocess
from hoptm_plugin.experts import ExpertRecipe, ExpertTraining
from hoptm_plugin.runs.composition import apply_recipe, explicit_paths, overlay, resumed
from hoptm_plugin.runs.folder import RunFolder, config_sha256, distillation_sha256, read_config, remove_if_empty
from hoptm_plugin.runs.search_path import PluginSearchPath
from hoptm_plugin.runs.settings import validate_settings

PACKAGES = ("hoptm_plugin.conf", "hoptm_baselines.conf")
MULTI_LABEL = "chestmnist"


def choices(group):
    found = [path.name for package in PACKAGES if (files(package) / group).is_dir()
             for path in (files(package) / group).iterdir()]  # fmt: skip
    return sorted(name.removesuffix(".yaml") for name in found)


def compose(*overrides):
    """Return the settings that the command line would have, recipe included."""
    Plugins.instance().register(PluginSearchPath)
    with hydra.initialize_config_module("hoptm_plugin.conf", version_base="1.3"):
        return _settings(hydra.compose("config", list(overrides), return_hydra_config=True))


def builds(values):
    """Check a whole configuration: it is valid, and every part that needs no data can be built."""
    load_plugins()
    settings = validate_settings(values)
    dataset = dict(settings.dataset)
    Preprocess.model_validate(dataset.pop("preprocess"))
    for registry, spec in ((methods, settings.method), (networks, settings.network),
                           (augmentations, settings.augment), (datasets, dataset)):  # fmt: skip
        assert registry.build(spec) is not None


PAIRS = [("hoptm", dataset) for dataset in choices("dataset")] + [
    (method, dataset) for method in choices("method") for dataset in ("digits", "npz") if method != "hoptm"
]


@pytest.mark.parametrize(("method", "dataset"), PAIRS)
def test_methods_compose_with_data_sets(method, dataset):
    values, explicit, _ = compose(f"method={method}", f"dataset={dataset}")
    assert explicit == ["method=", "dataset="]
    assert values["method_id"] == method
    if dataset == MULTI_LABEL:
        with pytest.raises(ConfigurationError, match="multi-label"):
            builds(values)
    else:
        builds(values)


@pytest.mark.parametrize(
    "choice", [f"{group}={name}" for group in ("network", "augment", "experts", "protocol", "runtime")
               for name in choices(group)]
)  # fmt: skip
def test_every_other_choice_composes(choice):
    builds(compose(choice)[0])


def test_explicit_paths():
    overrides = ["method=mtt", "network=vgg11", "dataset@dataset=npz", "+a.b=1", "++c=2", "~d.e", "ipc=3", "x=a=b"]
    groups = {"method", "dataset", "network"}
    assert explicit_paths(overrides, groups) == ["method=", "network", "dataset=", "a.b", "c", "d.e", "ipc", "x"]


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
    note = apply_recipe(result, recipe, list(explicit), "mine")
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
    assert (applied(explicit=explicit, reported={"mine": 1})[0]["reported"] is not None) == kept


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


def test_overlay_takes_explicit_settings_only():
    stored, given = values(), values() | {"ipc": 9, "network": {"width": 8, "depth": 2}, "reported": {"x": 1}}
    result = overlay(stored, given, ["network.width", "reported"])
    assert result == stored | {"network": {"width": 8, "depth": 3}, "reported": {"x": 1}}
    assert stored == values(), "what is stored must not change"


def test_overlay_adds_below_null_and_removes_what_was_deleted():
    given = values()
    given["method"] = {"part": {"new": {"name": "a"}}}
    assert overlay(values(), given, ["method.part.new"])["method"] == {"steps": 1, "part": {"new": {"name": "a"}}}
    assert overlay(values(), given, ["method.steps"])["method"] == {"part": None}


def test_overlay_of_a_chosen_method_takes_its_name_along():
    stored = values() | {"method_id": "a", "method_title": "A", "method_cites": ["x"]}
    given = values() | {"method_id": "b", "method_title": "B", "method_cites": [], "method": {"name": "b"}, "ipc": 7}
    taken = ("method", "method_id", "method_title", "method_cites")
    assert overlay(stored, given, ["method="]) == stored | {key: given[key] for key in taken}


def test_resumed_settings_are_the_stored_ones(tmp_path):
    resume = values() | {"resume": True}
    with pytest.raises(RunFolderError, match="no run to resume"):
        resumed(resume, [], tmp_path)
    RunFolder(tmp_path / "run").begin(values())
    given = resume | {"ipc": 8, "network": {"width": 4, "depth": 4}}
    wanted = resume | {"network": {"width": 128, "depth": 4}}
    assert resumed(given, ["network.depth", "resume"], tmp_path / "run") == wanted


def test_resume_auto_goes_on_where_a_run_lies_and_begins_elsewhere(tmp_path):
    auto = values() | {"resume": "auto", "ipc": 8}
    assert resumed(auto, ["resume", "ipc"], tmp_path / "run") == auto | {"resume": False}
    RunFolder(tmp_path / "run").begin(values())
    assert resumed(auto, ["resume"], tmp_path / "run") == values() | {"resume": True}
    with pytest.raises(ConfigurationError, match="resume"):
        resumed(values() | {"resume": "perhaps"}, [], tmp_path)


def test_folder_check_names_what_differs_but_not_what_may(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.check(values(), resume=False)
    folder.begin(values() | {"runtime": {"device": "cuda"}, "resume": False})
    folder.check(values() | {"runtime": {"device": "cpu"}, "resume": True}, resume=True)
    with pytest.raises(RunFolderError, match=r"network.depth: 3 in the folder, 4 now"):
        folder.check(values() | {"network": {"width": 128, "depth": 4}}, resume=True)
    with pytest.raises(RunFolderError, match="not empty"):
        folder.check(values(), resume=False)


def test_config_digest_ignores_what_changes_no_result():
    digest = config_sha256(values())
    assert config_sha256(values() | {"resume": True, "runtime": {"device": "cpu"}}) == digest
    assert config_sha256(dict(reversed(values().items()))) == digest
    assert config_sha256(values() | {"ipc": 6}) != digest


def test_the_digests_of_default_settings_are_those_from_before_lower_precision_could_be_chosen():
    """Runs made earlier and later stand in one row, and stores of experts are found again."""
    settings = compose("method=mtt", "dataset=digits", "ipc=1")[0]
    assert config_sha256(settings) == "1d0427f01f4985fb97537a7ca958f8a4c8fc3c70f8723f921f01950ff84e7d94"
    assert distillation_sha256(settings) == "bc1775b2840b4cbe731ede432d33073631b83c83d84a7a8b7a6eb9e3f60ae21a"
    recipe = ExpertRecipe(data="d", network={"name": "convnet"}, augmentation={"name": "dsa"},
                          training=ExpertTraining(), seed=0)  # fmt: skip
    assert recipe.digest == "d7ed1354071a885e"


@pytest.mark.parametrize("setting", ["runtime.precision", "experts.training.precision"])
def test_lower_precision_makes_another_set_and_cannot_be_changed_on_resuming(setting, tmp_path):
    plain, low = (compose("dataset=digits", *more)[0] for more in ((), (f"{setting}=bf16",)))
    assert config_sha256(plain) != config_sha256(low)
    assert distillation_sha256(plain) != distillation_sha256(low)
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
        validate_settings(compose(*settings)[0])
    assert (
        validate_settings(compose(settings[0], "distillation.selection=validation")[0]).protocol.split == "validation"
    )


def test_notes_and_records_of_a_search_change_nothing(tmp_path):
    """A run may be resumed under another note; and what did not exist yet counts as its default."""
    values, folder = compose("method=mtt", "network=alexnet")[0], RunFolder(tmp_path / "run")
    tuning = {"split": "validation", "networks": 1, "seed": 0, "chosen": "a", "candidates": []}
    changed = values | {"note": "other words", "tuning": tuning}
    folder.begin(values)
    folder.check(changed, resume=True)
    assert config_sha256(changed) == config_sha256(values)
    assert distillation_sha256(changed) == distillation_sha256(values)
    protocol = {key: value for key, value in values["protocol"].items() if key != "split"}
    network = {key: value for key, value in values["network"].items() if key != "width_factor"}
    older = {key: value for key, value in values.items() if key not in ("note", "tuning")}
    assert config_sha256(older | {"protocol": protocol, "network": network}) == config_sha256(values)
    judged = values | {"protocol": values["protocol"] | {"split": "validation"}}
    assert config_sha256(judged) != config_sha256(values)
    assert distillation_sha256(judged) == distillation_sha256(values)
