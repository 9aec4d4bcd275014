"""Scales: which settings they fill in, what beats them, when one applies of itself, and what is then said."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml

import hoptm_plugin.builtin  # noqa: F401  registers the library's own parts
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.interfaces import methods
from hoptm_plugin.runs import composition
from hoptm_plugin.runs.composition import compose
from hoptm_plugin.runs.folder import overlaid

BASELINES = (
    "mtt", "ftd", "datm", "att", "tesla", "pad", "mct", "dm", "idm", "dc", "dsa", "tgdd", "ncfm", "random", "herding",
    "kcenter", "rded", "full",
)  # fmt: skip
METHODS = ("hoptm", *BASELINES)
TRAJECTORY = ("hoptm", "mtt", "ftd", "datm", "att", "tesla", "pad", "mct")
OWN = "dataset=npz"
# image passes a second of two slow cores, at width 32 and 32x32: of experts, of a few images, and of those tested
EXPERTS, SMALL, FORWARD = 1200, 1000, 3000
MINUTES = 20


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@cache
def scaled(method, scale="laptop"):
    return compose(f"method={method}", OWN, f"scale={scale}", "ipc=10")


def seconds(settings, classes, train, test):
    """Return about how long a run takes on a laptop, from its image passes."""
    method, ipc = methods.build(settings.method, "method"), settings.ipc
    experts, loop, protocol = settings.experts, settings.distillation, settings.protocol
    twice = 2 if experts.training.algorithm == "gsam" else 1
    epochs, curriculum = experts.count * method.last_expert_epoch(), experts.training.curriculum
    epochs += curriculum.scoring_networks * curriculum.scoring_epochs if curriculum else 0
    trained = epochs * experts.training.images(train) * twice
    images = train if method.whole_split else method.training_images(classes, ipc)
    sets = images * (1 + (loop.average_decay is not None)) + (0 if method.whole_split else classes * ipc)
    judged = protocol.repeats * protocol.epochs * protocol.images(sets)
    distilled = loop.iterations * method.image_passes(classes, ipc)
    return trained / EXPERTS + (distilled + judged) / SMALL + 3 * protocol.repeats * test / FORWARD


@pytest.mark.parametrize("method", METHODS)
def test_a_laptop_s_run_is_bounded_whatever_the_size_of_the_data_set(method):
    settings = scaled(method)
    small, large = (seconds(settings, 10, train, 10_000) for train in (200, 90_000))
    assert small == large
    assert 0 < large < 60 * MINUTES
    assert settings.network["width"] == 32


@pytest.mark.parametrize(
    ("method", "scale"),
    [*((method, "laptop") for method in METHODS), ("hoptm", "workstation"),
     *(pytest.param(method, "workstation", marks=pytest.mark.slow) for method in BASELINES)],
)  # fmt: skip
def test_every_method_has_every_scale(method, scale):
    settings = scaled(method, scale)
    built = methods.build(settings.method, "method")
    assert (settings.scale, settings.recipe) == (scale, f"scale {scale}")
    assert built.last_expert_epoch() <= (5 if scale == "laptop" else 12)
    schedulers = settings.method.get("schedulers") or {}
    over = (schedulers.get("pace", {}).get("quantile") or {}).get("over", settings.distillation.iterations)
    assert over == settings.distillation.iterations, "the mask opens over the run"
    if method in TRAJECTORY:
        assert settings.distillation.step_size.constraint == "log"


@pytest.mark.parametrize("method", TRAJECTORY)
def test_methods_that_match_trajectories_have_one_budget(method):
    settings, mtt = scaled(method), scaled("mtt")
    for key in ("student_steps", "expert_epochs", "student_batch", "step_size"):
        assert settings.method[key] == mtt.method[key]
    assert (settings.distillation.iterations, settings.distillation.images) == (
        mtt.distillation.iterations, mtt.distillation.images)  # fmt: skip
    assert settings.experts.training.batch == mtt.experts.training.batch


def test_own_data_are_of_a_laptop_s_size_on_a_cpu_and_it_is_said():
    settings = compose("method=hoptm", OWN)
    assert settings.scale == "laptop"
    assert settings.recipe.startswith("scale laptop, since nobody published how to distil this data set")
    assert "scale=published" in settings.recipe
    assert "\n" not in settings.recipe
    given = compose("method=hoptm", OWN, "scale=laptop")
    assert given.deciding() == settings.deciding()


def test_own_data_are_of_a_workstation_s_size_on_a_gpu_unless_it_computes_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compose(OWN).scale == "workstation"
    assert "there is a GPU" in compose(OWN).recipe
    assert compose(OWN, "runtime.device=cpu").scale == "laptop"
    assert compose(OWN, runtime={"device": "cpu"}).scale == "laptop"


@pytest.mark.parametrize("dataset", ["folder", "table", "bloodmnist"])
def test_data_that_no_recipe_knows_get_a_scale(dataset):
    assert compose(f"dataset={dataset}").scale == "laptop"


@pytest.mark.parametrize(("method", "dataset"), [("hoptm", "covid19cxr"), ("hoptm", "digits"), ("dm", "digits"),
                                                 ("hoptm", "cifar10"), ("random", "cifar10")])  # fmt: skip
def test_data_that_a_recipe_knows_get_none(method, dataset):
    """CIFAR-10 has recipes of other methods: all that compare on it have the published size."""
    settings = compose(f"method={method}", f"dataset={dataset}")
    assert settings.scale is None
    assert "scale" not in settings.recipe
    unscaled = compose(f"method={method}", f"dataset={dataset}", "scale=published")
    assert unscaled.deciding() == settings.deciding()


def test_a_scale_beats_a_recipe_and_what_is_given_beats_both():
    settings = compose("method=hoptm", "dataset=covid19cxr", "scale=laptop", "experts.count=7", "network.norm=none")
    assert (settings.network["width"], settings.network["depth"], settings.network["norm"]) == (32, 5, "none")
    assert settings.experts.count == 7
    assert settings.distillation.iterations == 300
    assert settings.recipe == "recipe hoptm/covid19cxr, ipc 1; scale laptop"
    assert settings.reported is None, "what was published was not for this size"
    assert compose("method=hoptm", "dataset=covid19cxr", "scale=published").reported is not None


RECIPES = sorted(
    {(each.parent.name, each.stem)
     for package in ("hoptm_plugin", "hoptm_baselines")
     for each in Path(str(files(package))).glob("conf/recipe/*/*.yaml")
     if each.parent.name != "shared"}
)  # fmt: skip


@pytest.mark.parametrize(
    ("method", "dataset", "scale", "ipc"),
    [
        ("datm", "cifar10", "laptop", 1),
        ("datm", "pathmnist", "workstation", 10),
        *(pytest.param(*recipe, scale, ipc, marks=pytest.mark.campaign)
          for recipe, scale, ipc in product(RECIPES, ("laptop", "workstation"), (1, 2, 10, 50))),
    ],
)  # fmt: skip
def test_a_scale_fits_onto_every_recipe(method, dataset, scale, ipc):
    """DATM's recipes leave its scheduler out at some IPC: what a scale sets of a part names the part."""
    settings = compose(f"method={method}", f"dataset={dataset}", f"scale={scale}", f"ipc={ipc}")
    assert methods.build(settings.method, "method")
    assert settings.scale == scale


def test_a_smaller_recipe_stays_small():
    quick = compose("method=hoptm", "dataset=digits")
    settings = compose("method=hoptm", "dataset=digits", "scale=workstation")
    assert settings.network == quick.network
    assert settings.experts.count == quick.experts.count


@pytest.mark.parametrize("given", ["method.schedulers.pace.kappa.start=1e-6", "method.schedulers.pace.kappa=1e-6"])
def test_a_threshold_by_hand_is_not_replaced(given):
    pace = compose("method=hoptm", OWN, given).method["schedulers"]["pace"]
    kappa = pace["kappa"]
    assert pace["quantile"] is None
    assert kappa == 1e-6 or (kappa["start"], kappa["every"]) == (1e-6, 15)


def test_a_rate_of_the_step_size_is_for_its_constraint():
    log, none = (compose("method=mtt", OWN, *given).distillation.step_size
                 for given in ((), ("distillation.step_size.constraint=none",)))  # fmt: skip
    assert (log.constraint, log.learning_rate) == ("log", 0.1)
    assert (none.constraint, none.learning_rate) == ("none", 1e-5)


def test_a_rate_of_the_step_size_given_by_hand_keeps_its_meaning():
    given = compose("method=mtt", OWN, "distillation.step_size.learning_rate=1e-4").distillation.step_size
    assert (given.constraint, given.learning_rate) == ("damped", 1e-4)


def test_what_follows_the_iterations_follows_those_of_the_scale():
    quantile = "method.schedulers.pace.quantile={name:linear,start:0.1,end:1.0,over:'${distillation.iterations}'}"
    settings = compose("method=hoptm", OWN, "method.schedulers.pace.kappa=null", quantile)
    assert settings.tied == ("method.schedulers.pace.quantile.over",)
    assert settings.method["schedulers"]["pace"]["quantile"]["over"] == settings.distillation.iterations == 300


def test_published_is_named_only_where_nothing_of_it_was_changed():
    assert compose(OWN, "scale=published", "seed=3", "dataset.root=x").scale == "published"
    assert compose(OWN, "scale=published", "network.width=16").scale is None
    assert compose(OWN, "scale=published").network["width"] == 128


def test_unknown_scales_are_refused_by_name():
    with pytest.raises(ConfigurationError, match="scale 'lpatop': no such choice; did you mean 'laptop'"):
        compose(OWN, "scale=lpatop")
    with pytest.raises(ConfigurationError, match=r"scale .*laptop.*: no such choice"):
        compose(OWN, "scale=[laptop]")


def test_a_method_without_a_scale_of_its_own_is_bounded_by_the_shared_one():
    values = {"scale": "laptop", "ipc": 1, "network": {"name": "mine", "width": 64, "depth": None},
              "experts": {"count": 3, "training": {"batch": 256}}, "distillation": {"iterations": 1000},
              "method": {"student_steps": 5}, "protocol": {"epochs": 1001}, "runtime": {"device": "cpu"}}  # fmt: skip
    shared = yaml.safe_load((files("hoptm_plugin.conf") / "scales" / "shared.yaml").read_text())
    note = composition._apply_scale(values, {"shared": shared}, ["protocol.repeats"], own_data=True)
    assert (note, values["scale"]) == ("scale laptop", "laptop")
    assert values["network"] == {"name": "mine", "width": 32, "depth": None}
    assert values["experts"] == {"count": 3, "training": {"batch": 64, "epoch_images": 8192}}
    assert (values["distillation"]["iterations"], values["method"], values["protocol"]["epochs"]) == (
        300, {"student_steps": 5}, 301)  # fmt: skip


def test_a_method_given_whole_has_the_shared_scale_alone():
    settings = compose(OWN, method={"name": "random_subset"})
    assert (settings.scale, settings.method) == ("laptop", {"name": "random_subset"})
    assert settings.distillation.images == compose("dataset=cifar10").distillation.images, "HoP-TM's is not its own"


def test_data_in_memory_get_a_scale_whatever_the_default_data_set_has():
    from hoptm_plugin import Arrays

    images, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    data = Arrays(train=(images, labels), test=(images, labels))
    assert compose(dataset=data).scale == "laptop"


def test_the_scale_of_a_run_cannot_be_changed_afterwards():
    stored = scaled("mtt")
    same = compose("method=mtt", OWN, "scale=laptop", "experts.count=2")
    assert overlaid(stored.plain(), same).experts.count == 2
    with pytest.raises(ConfigurationError, match="made at laptop, not at workstation"):
        overlaid(stored.plain(), compose(OWN, "scale=workstation"))


def test_a_scale_decides_nothing_by_its_name():
    one = compose("method=mtt", OWN, "scale=laptop")
    assert one.model_copy(update={"scale": None}).digest() == one.digest()


def test_devices_are_told_apart_without_touching_them():
    from hoptm_plugin.runtime.device import kind_of_device

    assert [kind_of_device(asked) for asked in ("auto", "cpu", "cuda")] == ["cpu", "cpu", "cuda"]
