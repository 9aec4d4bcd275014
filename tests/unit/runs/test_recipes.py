"""Every recipe composes, validates and builds; its numbers are the published ones, typed here a second time."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from importlib.resources import files

import pytest
import yaml

from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.data.covid19cxr import CLASSES as COVID_CLASSES
from hoptm_plugin.runs.assembly import build_parts
from hoptm_plugin.runs.composition import compose
from hoptm_plugin.settings import RunSettings

PACKAGES = ("hoptm_plugin.conf", "hoptm_baselines.conf")
SHARED = "shared"
MEDICAL = {"pathmnist": (1, 5, 10, 100, 1000), "covid19cxr": (1, 5, 10, 50)}
STD = 0.2  # of CIFAR's constants: images here are pixels over it
TRAJECTORY = ("hoptm", "mtt", "ftd", "datm", "att", "pad")


def read(package, method, dataset):
    return yaml.safe_load((files(package) / "recipe" / method / f"{dataset}.yaml").read_text())


def recipes():
    """Yield (package, method, data set) of every recipe file."""
    for package in PACKAGES:
        for folder in (files(package) / "recipe").iterdir():
            if folder.is_dir() and folder.name not in (SHARED, "__pycache__"):
                yield from ((package, folder.name, file.name.removesuffix(".yaml")) for file in folder.iterdir())


def listed(package, method, dataset):
    """Return the IPCs that a recipe lists, those of the files it includes among them."""
    recipe = read(package, method, dataset)
    found = set(recipe.get("ipc") or ())
    for entry in recipe.get("defaults", ()):
        if entry != "_self_":
            *_, other, name = entry.partition("@")[0].split("/")
            (holds,) = (each for each in PACKAGES if (files(each) / "recipe" / other / f"{name}.yaml").is_file())
            found |= listed(holds, other, name)
    return found


CELLS = sorted((method, data, ipc) for package, method, data in recipes()
               for ipc in listed(package, method, data) or {1})  # fmt: skip


@cache
def settings(method, dataset, ipc):
    """Return the settings that the command line would have, and its note."""
    composed = compose(f"method={method}", f"dataset={dataset}", f"ipc={ipc}")
    return composed.plain(), composed.recipe


def at(values, path):
    for key in path.split("."):
        values = values[key]
    return values


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Empty sources with the names that readers look for before they read."""
    root = tmp_path_factory.mktemp("sources")
    for path in ("cifar10/data_batch_1.bin", "cifar100/train.bin", "pathmnist/pathmnist.npz", "tinyimagenet/wnids.txt",
                 "tinyimagenet/train/x", "tinyimagenet/val/images/x",
                 *(f"covid19cxr/{name}/x" for name in COVID_CLASSES)):  # fmt: skip
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


FIRST = {method: (dataset, ipc) for method, dataset, ipc in reversed(CELLS)}


@pytest.mark.parametrize(
    ("method", "dataset", "ipc"),
    [pytest.param(*cell, marks=() if FIRST[cell[0]] == cell[1:] else pytest.mark.campaign) for cell in CELLS],
)
def test_every_cell_builds(method, dataset, ipc, roots):
    values, note = settings(method, dataset, ipc)
    assert note.startswith(f"recipe {method}/{dataset}")
    assert "none for" not in note
    if "root" in values["dataset"]:
        values = values | {"dataset": values["dataset"] | {"root": str(roots / dataset)}}
    assert values["method_id"] == method
    build_parts(RunSettings.of(values))


def test_every_recipe_belongs_to_a_method_and_a_data_set():
    def names(group):
        return {file.name.removesuffix(".yaml") for package in PACKAGES if (files(package) / group).is_dir()
                for file in (files(package) / group).iterdir()}  # fmt: skip

    assert {method for _, method, _ in recipes()} <= names("method")
    assert {dataset for _, _, dataset in recipes()} <= names("dataset")
    assert names(f"recipe/{SHARED}") <= names("dataset")


def test_shared_settings_are_no_method():
    with pytest.raises(ConfigurationError, match="no such choice"):
        compose(f"method={SHARED}")


def test_other_data_take_the_method_s_defaults():
    composed = compose("method=mtt", "dataset=npz", "ipc=10", "scale=published")
    assert (composed.recipe, composed.method["student_steps"], composed.reported) == ("", 20, None)


@pytest.mark.parametrize("method", [*TRAJECTORY, "dm", "idm"])
@pytest.mark.parametrize("dataset", MEDICAL)
def test_medical_recipes_list_what_the_paper_compares(method, dataset):
    assert [ipc for m, d, ipc in CELLS if (m, d) == (method, dataset)] == [*MEDICAL[dataset]]


SEGMENTS = ("method.student_steps", "method.expert_epochs", "method.student_batch", "method.step_size",
            "method.sampler.min_start_epoch", "method.sampler.max_start_epoch", "distillation.iterations",
            "distillation.images.learning_rate", "distillation.step_size.learning_rate", "experts.count",
            "network.depth", "dataset.preprocess.zca")  # fmt: skip
# docs/methods.md 2.5: N, M, batch, alpha, T-, T+, iterations, lr_img, lr_lr, experts, depth, ZCA
RELEASED = {
    **{("pathmnist", ipc): (80, 2, 10, 0.01, 0, 4, 10000, 10, 1e-7, 100, 3, False) for ipc in (1, 5, 10)},
    ("pathmnist", 100): (80, 2, 100, 0.01, 0, 40, 10000, 10, 1e-5, 100, 3, False),
    ("pathmnist", 1000): (100, 2, 100, 0.01, 40, 60, 10000, 10, 1e-5, 100, 3, False),
    **{("covid19cxr", ipc): (80, 2, 10, 0.001, 0, 4, 10000, 100, 1e-7, 100, 5, False) for ipc in (1, 5)},
    ("covid19cxr", 10): (80, 2, 10, 0.001, 0, 20, 10000, 100, 1e-7, 100, 5, False),
    ("covid19cxr", 50): (80, 3, 20, 0.001, 0, 20, 10000, 100, 1e-5, 100, 5, False),
}


@pytest.mark.parametrize(
    "method", [pytest.param(each, marks=() if each == "hoptm" else pytest.mark.campaign) for each in TRAJECTORY]
)
def test_medical_trajectory_methods_share_hoptm_s_segments(method):
    for (dataset, ipc), expected in RELEASED.items():
        values, _ = settings(method, dataset, ipc)
        assert tuple(at(values, path) for path in SEGMENTS) == expected, (dataset, ipc)


# docs/methods.md 3 to 7 and 20: N, M, T-, T+, batch, lr_img, lr_lr, alpha, depth, ZCA
SHORT = ("method.student_steps", "method.expert_epochs", "method.sampler.min_start_epoch",
         "method.sampler.max_start_epoch", "method.student_batch", "distillation.images.learning_rate",
         "distillation.step_size.learning_rate", "method.step_size", "network.depth",
         "dataset.preprocess.zca")  # fmt: skip
TABLES = {
    ("mtt", "cifar10", 1): (50, 2, 0, 2, None, 100, 1e-7, 0.01, 3, True),
    ("mtt", "cifar10", 10): (30, 2, 0, 20, None, 100, 1e-5, 0.001, 3, True),
    ("mtt", "cifar10", 50): (30, 2, 0, 40, None, 1000, 1e-5, 0.001, 3, False),
    ("mtt", "cifar100", 1): (20, 3, 0, 20, None, 1000, 1e-5, 0.01, 3, True),
    ("mtt", "cifar100", 10): (20, 2, 0, 20, None, 1000, 1e-5, 0.01, 3, False),
    ("mtt", "cifar100", 50): (80, 2, 0, 40, 125, 1000, 1e-5, 0.01, 3, True),
    ("mtt", "tinyimagenet", 1): (10, 2, 0, 10, None, 1e4, 1e-4, 0.01, 4, False),
    ("mtt", "tinyimagenet", 10): (20, 2, 0, 40, 200, 1e4, 1e-4, 0.01, 4, False),
    ("mtt", "tinyimagenet", 50): (20, 2, 0, 40, 300, 1e4, 1e-4, 0.01, 4, False),
    ("ftd", "cifar10", 1): (50, 2, 0, 2, None, 100, 1e-7, 0.01, 3, True),
    ("ftd", "cifar10", 10): (30, 2, 0, 20, None, 100, 1e-5, 0.001, 3, True),
    ("ftd", "cifar10", 50): (30, 2, 0, 40, None, 1000, 1e-5, 0.01, 3, True),
    ("ftd", "cifar100", 1): (40, 3, 0, 20, None, 1000, 1e-5, 0.01, 3, True),
    ("ftd", "cifar100", 10): (20, 2, 0, 40, None, 1000, 1e-5, 0.01, 3, True),
    ("ftd", "cifar100", 50): (80, 2, 0, 40, 1000, 1000, 1e-5, 0.01, 3, True),
    ("ftd", "tinyimagenet", 1): (30, 2, 0, 10, None, 1e4, 1e-4, 0.01, 4, True),
    ("ftd", "tinyimagenet", 10): (20, 2, 0, 40, 500, 1e4, 1e-4, 0.01, 4, True),
    ("att", "cifar10", 1): (80, 4, 0, 2, None, 100, 1e-7, 0.01, 3, True),
    ("att", "cifar10", 10): (30, 2, 0, 20, None, 1e4, 1e-4, 0.01, 3, True),
    ("att", "cifar10", 50): (50, 2, 0, 40, None, 100, 1e-5, 0.001, 3, False),
    ("att", "cifar100", 1): (50, 4, 0, 20, None, 500, 1e-5, 0.01, 3, True),
    ("att", "cifar100", 10): (20, 2, 0, 40, None, 1000, 1e-5, 0.01, 3, False),
    ("att", "cifar100", 50): (80, 2, 0, 40, 1200, 1000, 1e-5, 0.01, 3, True),
    ("att", "tinyimagenet", 1): (30, 2, 0, 10, None, 1e4, 1e-4, 0.01, 4, False),
    ("att", "tinyimagenet", 10): (20, 2, 0, 40, None, 1e4, 1e-6, 0.001, 4, False),
    ("datm", "cifar10", 1): (80, 2, 0, 4, 10, 100, 1e-7, 0.01, 3, True),
    ("datm", "cifar10", 50): (80, 2, 0, 40, 500, 1000, 1e-5, 0.01, 3, True),
    ("datm", "cifar10", 1000): (100, 2, 40, 60, 1000, 50, 1e-5, 0.01, 3, True),
    ("datm", "cifar100", 1): (40, 3, 0, 20, None, 1000, 1e-5, 0.01, 3, True),
    ("datm", "cifar100", 100): (80, 2, 30, 70, 1000, 50, 1e-5, 0.01, 3, True),
    ("datm", "tinyimagenet", 1): (40, 2, 0, 20, None, 1e4, 1e-4, 0.01, 4, True),
    ("datm", "tinyimagenet", 50): (20, 2, 40, 70, 1000, 100, 1e-4, 0.01, 4, True),
    ("mct", "cifar10", 1): (60, 6, 0, 4, None, 1000, 1e-7, 0.01, 3, False),
    ("mct", "cifar10", 10): (30, 15, 0, 8, None, 1000, 1e-5, 0.01, 3, False),
    ("mct", "cifar10", 50): (30, 2, 0, 40, None, 1000, 1e-5, 0.01, 3, False),
}


@pytest.mark.parametrize("cell", TABLES)
def test_segments_of_published_tables(cell):
    values, _ = settings(*cell)
    assert tuple(at(values, path) for path in SHORT) == TABLES[cell]
    assert values["reported"] is None


def check(cell, expected):
    values, _ = settings(*cell)
    assert {path: at(values, path) for path in expected} == expected, cell


def test_hoptm_s_own():
    pace, shape = "method.schedulers.pace.kappa", "method.matchers.shape.weight"
    for ipc, start in ((1, 5e-9), (5, 5e-9), (10, 5e-9), (100, 5e-8), (1000, 5e-8)):
        check(("hoptm", "pathmnist", ipc), {f"{pace}.start": start, f"{pace}.growth": 1.5, shape: 0.5})
    for ipc, growth in ((1, 1.3), (5, 1.3), (10, 1.3), (50, 1.6)):
        check(("hoptm", "covid19cxr", ipc), {f"{pace}.start": 1e-10, f"{pace}.growth": growth, shape: 1.0})


@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_rded_s_own(ipc):
    crops = {"name": "scored_crops", "candidates": 300, "crops": 5, "area": [0.08, 1.0], "factor": 1, "fit": "pad",
             "observers": 1, "teacher_epoch": 100}  # fmt: skip
    check(("rded", "cifar10", ipc), {"method.initial_images": crops, "method.labels.teacher_epoch": 100,
                                     "method.labels.name": "soft", "experts.count": 1, "network.depth": 3,
                                     "dataset.preprocess.zca": False})  # fmt: skip


@pytest.mark.slow
def test_experts_of_each_method():
    training = "experts.training"
    for dataset, ipc in (("cifar10", 1), ("pathmnist", 100), ("covid19cxr", 10)):
        check(("mtt", dataset, ipc), {f"{training}.algorithm": "sgd", f"{training}.batch": 256})
        check(("att", dataset, ipc), {f"{training}.algorithm": "sgd", f"{training}.batch": 512})
        gsam = {f"{training}.algorithm": "gsam", f"{training}.rho": 0.01, f"{training}.batch": 256}
        alpha = {"cifar10": 0.3, "pathmnist": 1.0, "covid19cxr": 0.3}[dataset]
        check(("ftd", dataset, ipc), gsam | {f"{training}.alpha": alpha})
        check(("datm", dataset, ipc), gsam | {f"{training}.alpha": 0.3, "method.labels.teacher_epoch": 100,
                                              "method.initial_images.teacher_epoch": 100})  # fmt: skip
    check(("ftd", "cifar10", 50), {f"{training}.alpha": 1.0})
    check(("hoptm", "pathmnist", 1), {f"{training}.algorithm": "gsam", f"{training}.rho": 0.01,
                                      f"{training}.alpha": 0.3})  # fmt: skip


@pytest.mark.parametrize(
    ("method", "dataset", "ipc", "decay", "iterations", "every"),
    [
        ("ftd", "cifar10", 1, 0.9999, 5000, 100),
        ("ftd", "cifar10", 50, 0.999, 5000, 100),
        ("ftd", "cifar100", 10, 0.9995, 5000, 100),
        ("ftd", "pathmnist", 5, 0.9999, 10000, 500),
        ("ftd", "covid19cxr", 50, 0.999, 10000, 1000),
        ("att", "cifar10", 1, 0.9999, 6000, 100),
        ("att", "cifar10", 50, 0.999, 1000000, 1000),
        ("att", "cifar100", 50, 0.999, 100000, 100000),
        ("att", "tinyimagenet", 10, 0.999, 80000, 100),
        ("att", "covid19cxr", 10, 0.9999, 10000, 500),
        ("att", "pathmnist", 1000, 0.999, 10000, 1000),
        ("mtt", "cifar100", 10, None, 5000, 100),
    ],
)
def test_moving_averages_and_budgets(method, dataset, ipc, decay, iterations, every):
    check((method, dataset, ipc), {"distillation.average_decay": decay, "distillation.iterations": iterations,
                                   "distillation.evaluate_every": every})  # fmt: skip


@pytest.mark.parametrize(
    ("dataset", "ipc", "opening", "rate", "threshold", "initial", "every"),
    [
        ("cifar10", 1, None, 5, 1.1, "correct", 500),
        ("cifar10", 10, (10, 20, 1000), 2, 1, "correct", 500),
        ("cifar10", 50, (20, 40, 2000), 2, 1, "correct", 500),
        ("cifar10", 500, None, 10, 1, "correct", 1000),
        ("cifar100", 10, (30, 50, 2000), 10, 1, "correct", 500),
        ("cifar100", 50, None, 10, 1, "real", 500),
        ("tinyimagenet", 1, (15, 20, 2000), 10, 1, "correct", 500),
        ("tinyimagenet", 10, None, 10, 1, "correct", 500),
        ("pathmnist", 1, None, 5, 1.1, "correct", 500),
        ("pathmnist", 5, None, 5, 1.1, "correct", 500),
        ("pathmnist", 10, (2, 4, 1000), 2, 1, "correct", 500),
        ("pathmnist", 100, (20, 40, 1000), 2, 1, "correct", 1000),
        ("pathmnist", 1000, None, 10, 1, "correct", 1000),
        ("covid19cxr", 10, (10, 20, 1000), 2, 1, "correct", 500),
        ("covid19cxr", 50, (10, 20, 1000), 2, 1, "correct", 1000),
    ],
)
def test_datm_s_own(dataset, ipc, opening, rate, threshold, initial, every):
    values, _ = settings("datm", dataset, ipc)
    found = values["method"]["schedulers"]["sequential"]
    assert (None if found is None else (found["first"], found["last"], found["expansion_end"])) == opening
    check(("datm", dataset, ipc), {"distillation.labels": {"learning_rate": rate, "momentum": 0.9},
                                   "distillation.skip_above": threshold, "method.initial_images.name": initial,
                                   "method.labels.name": "soft", "distillation.evaluate_every": every})  # fmt: skip


# docs/methods.md 19: the paper's ratios, and the epoch from which experts see all images
PAD = {
    "cifar10": (20, {1: 0, 10: 0.25, 50: 0.25, 500: 0.5, 1000: 0.75}),
    "cifar100": (40, {1: 0, 10: 0.25, 50: 0.5, 100: 0.5}),
    "tinyimagenet": (40, {1: 0, 10: 0.25, 50: 0.5}),
    "pathmnist": (20, {1: 0, 5: 0, 10: 0.25, 100: 0.25, 1000: 0.75}),
    "covid19cxr": (20, {1: 0, 5: 0, 10: 0.25, 50: 0.25}),
}


@pytest.mark.parametrize("dataset", PAD)
def test_pad_is_datm_but_for_ratio_and_curriculum(dataset):
    all_at, ratios = PAD[dataset]
    for ipc, ratio in ratios.items():
        (own, _), (datm, _) = settings("pad", dataset, ipc), settings("datm", dataset, ipc)
        own, datm = deepcopy(own), deepcopy(datm)
        pace = own["method"]["schedulers"].pop("parameters")
        assert (pace["lower"], pace["difficulty"], pace["kappa"], pace["sticky"]) == (ratio, "depth", None, False)
        curriculum = own["experts"]["training"].pop("curriculum")
        assert (curriculum["start"], curriculum["all_at"]) == (0.75, all_at)
        assert (curriculum["drop_after"], curriculum["drop"]) == ([40, 60], [0.1, 0.2])
        for key in ("method_id", "method_title", "method_cites", "recipe", "reported"):
            del own[key], datm[key]
        assert own == datm


@pytest.mark.parametrize(
    ("dataset", "ipc", "rate", "depth"),
    [("cifar10", 1, 1, 3), ("cifar10", 50, 1, 3), ("cifar10", 100, 10, 3), ("cifar10", 1250, 10, 3),
     ("cifar100", 125, 1, 3), ("tinyimagenet", 50, 1, 4), ("pathmnist", 10, 1, 3), ("pathmnist", 100, 10, 3),
     ("pathmnist", 1000, 10, 3), ("covid19cxr", 50, 1, 5)],
)  # fmt: skip
def test_dm_s_own(dataset, ipc, rate, depth):
    check(("dm", dataset, ipc), {"distillation.images.learning_rate": rate, "network.depth": depth,
                                 "method.real_batch": 256, "distillation.iterations": 20000,
                                 "distillation.evaluate_every": 2000, "method.stepping": "joint"})  # fmt: skip


# docs/methods.md 15: IPC, steps on the images, epochs between two of them; 5 takes what 1 has
CONDENSED = ((1, 1, 1), (5, 1, 1), (10, 10, 50), (20, 20, 25), (30, 30, 20), (40, 40, 15), (50, 50, 10))


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize(("method", "augmented", "initial"), [("dc", False, "noise"), ("dsa", True, "real")])
def test_dc_s_and_dsa_s_own(method, augmented, initial, dataset):
    for ipc, outer, inner in CONDENSED:
        check((method, dataset, ipc), {
            "method.outer_steps": outer, "method.inner_epochs": inner, "method.real_batch": 256,
            "method.inner_batch": 256, "method.inner_learning_rate": 0.01, "method.augmented": augmented,
            "method.initial_images.name": initial, "method.matcher": {"name": "rowwise_cosine", "eps": 1e-6},
            "distillation.iterations": 1000, "distillation.images": {"learning_rate": 0.1, "momentum": 0.5},
            "augment.name": "dsa", "network.depth": 3})  # fmt: skip


@pytest.mark.parametrize(
    ("dataset", "ipc", "weight", "real", "interval", "every", "steps", "depth"),
    [
        ("cifar10", 1, 0.5, 5000, 5, 100, 10, 3),
        ("cifar10", 10, 0.5, 256, 30, 100, 10, 3),
        ("cifar10", 50, 0.1, 256, 30, 500, 10, 3),
        ("cifar100", 1, 0.5, 5000, 5, 100, 10, 3),
        ("cifar100", 10, 0.1, 256, 30, 100, 50, 3),
        ("cifar100", 50, 0.1, 256, 30, 500, 10, 3),
        ("tinyimagenet", 1, 0.5, 256, 30, 100, 10, 3),
        ("tinyimagenet", 10, 0.5, 256, 30, 500, 10, 3),
        ("tinyimagenet", 50, 0.8, 256, 30, 1000, 50, 3),
        ("pathmnist", 5, 0.5, 5000, 5, 100, 10, 3),
        ("pathmnist", 1000, 0.1, 256, 30, 500, 10, 3),
        ("covid19cxr", 10, 0.5, 256, 30, 100, 10, 5),
    ],
)
def test_idm_s_own(dataset, ipc, weight, real, interval, every, steps, depth):
    check(("idm", dataset, ipc), {
        "method.ce_weight": weight, "method.real_batch": real, "method.new_network_every": interval,
        "distillation.evaluate_every": every, "method.training_steps": steps, "network.depth": depth,
        "method.mosaic": 2, "method.initial": "mosaic", "method.ce_scale": "percent", "method.queue_size": 100,
        "method.queue_start": 3, "method.networks_matched": 1, "method.networks_trained": 2,
        "method.training_batch": 256, "distillation.images.learning_rate": 0.2, "distillation.iterations": 20000,
    })  # fmt: skip


@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_mct_s_own(ipc):
    check(("mct", "cifar10", ipc), {
        "method.view": {"name": "piecewise_linear", "waypoints": [0, 17, 34, 50], "smooth": True},
        "method.sampler.continuous": True, "method.gradient": "tesla_halved", "distillation.iterations": 5000,
        "experts.training.algorithm": "sgd", "experts.count": 100, "method.labels.name": "hard",
    })  # fmt: skip


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize("ipc", [1, 5, 10, 20, 30, 40, 50])
def test_tgdd_s_own(dataset, ipc):
    rate = round(0.01 * ipc / STD**2, 9)  # of pixels .01 times IPC
    check(("tgdd", dataset, ipc), {
        "distillation.images": {"learning_rate": rate, "momentum": 0.5}, "distillation.iterations": 10000,
        "distillation.evaluate_every": 500, "method.networks": "snapshots", "method.last_epoch": 60,
        "method.window": 7, "method.ce_weight": 1.0, "method.ce_steps": "shared", "method.real_batch": 128,
        "method.mosaic": 1, "method.clamp": True, "method.stepping": "per_class", "network.depth": 3,
        "experts.count": 5, "experts.training.batch": 64, "experts.training.learning_rate": 0.01,
        "experts.training.momentum": 0.9, "experts.training.weight_decay": 5e-4,
        "dataset.preprocess.mean": None, "dataset.preprocess.zca": False,
    })  # fmt: skip


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_ncfm_s_own(dataset, ipc):
    # of pixels .001 and 5e-4, and .01
    images = {"learning_rate": 0.001 / STD, "momentum": 0.5, "algorithm": "adamw", "weight_decay": 5e-4 * STD}
    if (dataset, ipc) == ("cifar100", 10):
        images = {"learning_rate": round(0.01 / STD**2, 9), "momentum": 0.5}
    check(("ncfm", dataset, ipc), {
        "distillation.images": images, "distillation.iterations": 20000, "method.networks": "mixed",
        "method.last_epoch": 60, "method.ce_weight": 1.0, "method.ce_steps": "own", "method.real_batch": 1024,
        "method.matcher": {"name": "characteristic_function", "frequencies": 4096, "amplitude_weight": 0.5,
                           "phase_weight": 0.5, "scale": 300},
        "method.mosaic": 2, "method.clamp": True, "method.stepping": "per_class", "network.depth": 3,
        "experts.count": 20, "experts.training.batch": 128, "experts.training.learning_rate": 0.01,
        "experts.training.momentum": 0.9, "experts.training.weight_decay": 5e-4,
    })  # fmt: skip


@pytest.mark.parametrize("method", ["dm", "idm"])
def test_cifar100_of_dm_and_idm_has_their_constants(method):
    check((method, "cifar100", 10), {"dataset.preprocess.mean": [0.5071, 0.4866, 0.4409],
                                     "dataset.preprocess.std": [0.2673, 0.2564, 0.2762]})  # fmt: skip
