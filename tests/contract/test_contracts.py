"""The contracts of hoptm_plugin.testing over the whole registry, and checks that every entry must pass.

A part that is new needs a spec here, below the contract of its kind: ``test_no_entry_escapes_the_contracts`` fails
until it has one.
"""

import inspect
from dataclasses import replace
from typing import ClassVar

import pytest
import sources
import torch

import hoptm_plugin.builtin  # noqa: F401
from hoptm_plugin import Arrays, ConfigurationError
from hoptm_plugin.core.interfaces import REGISTRIES
from hoptm_plugin.core.plugins import load_plugins
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.storage.sets import write_set
from hoptm_plugin.testing import (
    AugmentationContract,
    Contract,
    DatasetReaderContract,
    FeatureMatcherContract,
    GradientMatcherContract,
    InitialiserContract,
    LabelPolicyContract,
    LoggerContract,
    MatcherContract,
    MethodContract,
    NetworkContract,
    SamplerContract,
    ScheduleContract,
    SchedulerContract,
    TrajectoryViewContract,
    example_task,
)

load_plugins()

SHORT = {
    "sampler": {"name": "uniform", "max_start_epoch": 3}, "student_steps": 3, "expert_epochs": 2, "student_batch": 4,
    "step_size": 0.01, "labels": {"name": "hard"}, "initial_images": {"name": "real"},
}  # fmt: skip
SELF_PACED = {"name": "self_paced", "kappa": {"name": "geometric", "start": 0.01, "growth": 2, "every": 1}}


class TestMatchers(MatcherContract):
    specs: ClassVar = [
        {"name": "automatic"},
        {"name": "automatic", "choice": "l2"},
        {"name": "endpoint"},
        {"name": "endpoint", "reduction": "sum_of_ratios"},
        {"name": "endpoint", "reduction": "unmasked_denominator"},
        {"name": "shape_wise_potential"},
        {"name": "shape_wise_potential", "vertices": "middle", "beta": 0.1},
        {"name": "shape_wise_potential", "points": 4, "distances": 0.5},
        {"name": "shape_wise_potential", "points": 4, "vertices": "middle"},
    ]


class TestFeatureMatchers(FeatureMatcherContract):
    specs: ClassVar = [
        {"name": "mean_features"},
        {"name": "mean_features", "reduction": "mean"},
        {"name": "characteristic_function", "frequencies": 64},
        {"name": "characteristic_function", "frequencies": 64, "phase_weight": 0.0},
        {"name": "characteristic_function", "frequencies": 64, "amplitude_weight": 0.0, "scale": 1.0},
    ]


class TestGradientMatchers(GradientMatcherContract):
    specs: ClassVar = [
        {"name": "rowwise_cosine"}, {"name": "rowwise_cosine", "eps": 1e-12}, {"name": "squared"}, {"name": "cosine"},
    ]  # fmt: skip


class TestSchedulers(SchedulerContract):
    specs: ClassVar = [
        {"name": "self_paced", "kappa": 1.0},
        {"name": "self_paced", "kappa": 1.0, "sticky": False},
        {"name": "self_paced", "kappa": 0.5, "errors": "normalised"},
        {"name": "self_paced", "kappa": {"name": "geometric", "start": 0.1, "growth": 3, "every": 1}},
        {"name": "self_paced", "kappa": 2.0, "granularity": "tensor"},
        {"name": "self_paced", "quantile": 1.0, "lower": {"name": "linear", "start": 0.9, "end": 0.0, "over": 3}},
        {"name": "self_paced", "quantile": 1.0, "lower": 0.5, "difficulty": "depth"},
        {"name": "self_paced", "quantile": 0.6, "lower": 0.2, "ranked": "tensor", "sticky": False},
        {"name": "self_paced", "kappa": 2.0, "weights": "linear", "sticky": False},
        {
            "name": "self_paced",
            "kappa": {"name": "geometric", "start": 0.1, "growth": 3, "every": 1},
            "lower": 0.1,
            "weights": "logarithmic",
        },
        {"name": "self_paced", "quantile": 0.7, "weights": "mixture", "softness": 0.3},
        {"name": "sequential_start_epochs", "first": 2, "last": 6, "expansion_end": 4},
    ]


class TestSchedules(ScheduleContract):
    specs: ClassVar = [
        {"name": "geometric", "start": 0.1, "growth": 2, "every": 2},
        {"name": "linear", "start": 0.1, "end": 1.0, "over": 3},
    ]


class TestSamplers(SamplerContract):
    specs: ClassVar = [
        {"name": "uniform", "max_start_epoch": 4},
        {"name": "uniform", "max_start_epoch": 4, "min_start_epoch": 4, "inclusive": True, "experts": "random"},
        {"name": "uniform", "max_start_epoch": 4, "min_start_epoch": 3, "continuous": True},
    ]


class TestTrajectoryViews(TrajectoryViewContract):
    specs: ClassVar = [
        {"name": "piecewise_linear"},
        {"name": "piecewise_linear", "waypoints": [0, 5]},
        {"name": "piecewise_linear", "waypoints": [0, 1, 2, 4], "smooth": False},
    ]


class TestLabelPolicies(LabelPolicyContract):
    specs: ClassVar = [
        {"name": "hard"},
        {"name": "soft", "teacher_epoch": 3},
        {"name": "soft", "start": "one_hot"},
    ]


class TestInitialisers(InitialiserContract):
    specs: ClassVar = [{"name": "real"}, {"name": "noise"}]


class TestInitialisersThatAskExperts(InitialiserContract):
    specs: ClassVar = [
        {"name": "correct", "teacher_epoch": 3},
        {"name": "scored_crops", "teacher_epoch": 3, "candidates": 4},
        {"name": "scored_crops", "teacher_epoch": 3, "factor": 2, "fit": "enlarge", "observers": 2},
        {"name": "scored_crops", "teacher_epoch": 3, "candidates": 4, "area": [1, 1]},
    ]

    def task(self, seed=0):
        # many experts that know nothing: each class is predicted correctly by some of them
        return example_task(ipc=1, experts=20, seed=seed)


def stored_set(spec, folder, soft):
    """Write a set of training images of the example, its classes in no order, and name it in the spec."""
    task = example_task(ipc=2)
    order = torch.tensor([5, 0, 3, 1, 4, 2])  # of two rounds of three classes
    labels = torch.nn.functional.one_hot(task.train.labels[order], 3).float() if soft else task.train.labels[order]
    images, names = task.train.images[order], task.data.class_names
    made = SyntheticSet(images, labels, None, names, task.data.normalisation,
                        {"images_are": "real", "fingerprint": task.data.fingerprint})  # fmt: skip
    write_set(made, folder / "set.safetensors")
    return spec | {"path": folder / "set.safetensors"}


class TestStoredImages(InitialiserContract):
    specs: ClassVar = [{"name": "stored"}]
    deterministic = True

    def complete(self, spec, folder):
        return stored_set(spec, folder, soft=False)


class TestStoredLabels(LabelPolicyContract):
    specs: ClassVar = [{"name": "stored"}]

    def complete(self, spec, folder):
        return stored_set(spec, folder, soft=True)


class TestAugmentations(AugmentationContract):
    specs: ClassVar = [{"name": "none"}, {"name": "dsa"}, {"name": "dsa", "strategy": ["scale", "rotate"]}]


class TestNetworks(NetworkContract):
    specs: ClassVar = [
        {"name": "convnet", "width": 8},
        {"name": "convnet", "width": 8, "norm": "batch"},
        {"name": "convnet", "width": 8, "norm": "layer", "act": "sigmoid", "pool": "max"},
        {"name": "alexnet"},
        {"name": "resnet18"},
        {"name": "resnet18_ap"},
        {"name": "vgg11"},
    ]


class TestGreyNetworks(NetworkContract):
    image_shape = (1, 28, 28)
    specs: ClassVar = [{"name": "convnet", "width": 8}]


class TestDatasetReaders(DatasetReaderContract):
    specs: ClassVar = [{"name": "digits"}, {"name": "medmnist", "flag": "breastmnist"}] + [
        {"name": name}
        for name in ("arrays", "cifar10", "cifar100", "covid19cxr", "folder", "npz", "table", "tinyimagenet")
    ]

    def complete(self, spec, folder):
        if spec["name"] == "arrays":
            labels = torch.arange(6) % 2
            images = (40 * labels).view(-1, 1, 1).expand(-1, 8, 8).to(torch.uint8)
            return {**spec, "data": Arrays(train=(images, labels), test=(images, labels))}
        return {**spec, "root": sources.WRITERS[spec["name"]](folder)} if spec["name"] != "digits" else spec

    @pytest.fixture(autouse=True)
    def small_sources(self, monkeypatch):
        # the real set has 110,000 files
        for name, count in (("CLASSES", 3), ("TRAIN_IMAGES", 2), ("TEST_IMAGES", 1)):
            monkeypatch.setattr(f"hoptm_plugin.data.tinyimagenet.{name}", count)


class TestLoggers(LoggerContract):
    specs: ClassVar = [
        {"name": "tensorboard"}, {"name": "tensorboard", "images_every": 2, "most_images": 1}, {"name": "csv"},
    ]  # fmt: skip


class TestWandb(LoggerContract):
    specs: ClassVar = [{"name": "wandb", "mode": "offline", "images_every": 2}]

    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("wandb")


class TestMlflow(LoggerContract):
    specs: ClassVar = [{"name": "mlflow", "images_every": 2}]

    def complete(self, spec, folder):
        return {**spec, "tracking_uri": f"file:{folder / 'mlruns'}"}

    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch):
        pytest.importorskip("mlflow")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


class TestMethods(MethodContract):
    # trajectory matching
    specs: ClassVar = [
        {"name": "trajectory_matching", **SHORT, "matchers": {"endpoint": {"name": "endpoint"}}},
        {
            "name": "trajectory_matching", **SHORT, "labels": {"name": "soft", "teacher_epoch": 3},
            "matchers": {"endpoint": {"name": "endpoint"}, "shape": {"name": "shape_wise_potential", "weight": 0.5}},
            "schedulers": {"pace": SELF_PACED},
        },
        {
            "name": "trajectory_matching", **SHORT, "matchers": {"endpoint": {"name": "endpoint"}},
            "sampler": {"name": "uniform", "max_start_epoch": 3, "continuous": True},
            "view": {"name": "piecewise_linear", "waypoints": [0, 2, 5]},
        },
    ]  # fmt: skip


class TestSubsets(MethodContract):
    specs: ClassVar = [
        {"name": "random_subset"},
        {"name": "full_data"},
        {"name": "herding_subset", "teacher_epoch": 3},
        {"name": "herding_subset", "features": "pixels"},
        {"name": "k_center_subset", "teacher_epoch": 3},
        {"name": "k_center_subset", "features": "pixels"},
    ]


class TestInitialSet(MethodContract):
    specs: ClassVar = [
        {"name": "initial_set", "initial_images": {"name": "scored_crops", "teacher_epoch": 3}, "labels": labels}
        for labels in ({"name": "soft", "teacher_epoch": 3}, {"name": "hard"})
    ] + [{"name": "initial_set", "initial_images": {"name": "real"}, "labels": {"name": "hard"}}]


class TestPrivateMeans(MethodContract):
    specs: ClassVar = [
        {"name": "private_means", "initial_images": {"name": "noise"}},
        {"name": "private_means", "initial_images": {"name": "noise"}, "epsilon": 1.0, "networks": 2},
    ]

    @pytest.fixture(autouse=True)
    def known_noise(self, monkeypatch):
        """Let the noise be the same each time, which it never is."""
        monkeypatch.setattr("hoptm_baselines.private_means.entropy", lambda: 0)

    def task(self, seed=0):
        task = super().task(seed)
        fixed = replace(task.data.normalisation, kind="none")
        return replace(task, data=replace(task.data, normalisation=fixed))


class TestImported(MethodContract):
    specs: ClassVar = [{"name": "imported"}, {"name": "imported", "mosaic": 2, "step_size": 0.1}]

    def complete(self, spec, folder):
        task = self.task()
        images = torch.randn(len(task.data.class_names) * task.ipc, *task.data.image_shape)
        torch.save(images, folder / "images.pt")
        return {**spec, "files": [folder / "images.pt"]}

    def test_the_set_has_ipc_images_of_every_class(self, spec):
        # its files decide, and another number is refused
        assert len(self.build(spec).setup(self.task())) == self.build(spec).training_images(
            len(self.task().data.class_names), 2
        )
        with pytest.raises(ConfigurationError, match="but ipc=3 is 3 of each of its"):
            self.build(spec).setup(replace(self.task(), ipc=3))


class TestDistributionMatching(MethodContract):
    specs: ClassVar = [
        {
            "name": "distribution_matching", "matcher": {"name": "mean_features"}, "initial_images": {"name": "real"},
            "real_batch": 4, "stepping": stepping,
        }
        for stepping in ("joint", "per_class")
    ] + [
        {
            "name": "improved_distribution_matching", "matcher": {"name": "mean_features"}, "real_batch": 4,
            "training_batch": 8, "training_steps": 2, "queue_size": 3, "new_network_every": 2, **settings,
        }
        for settings in ({}, {"mosaic": 1, "ce_scale": "constant", "reset_meters_every": 2})
    ] + [
        {"name": "features_along_experts", "last_epoch": 4, "window": 2, "real_batch": 4, **settings}
        for settings in (
            {"matcher": {"name": "mean_features"}},
            {"matcher": {"name": "mean_features"}, "mosaic": 2, "stepping": "joint", "ce_weight": 0.0, "clamp": False},
            {"matcher": {"name": "characteristic_function", "frequencies": 64}, "networks": "mixed", "ce_steps": "own",
             "mosaic": 2},
            {"matcher": {"name": "characteristic_function", "frequencies": 64}, "networks": "mixed", "ce_steps": "own",
             "stepping": "joint"},
        )
    ]  # fmt: skip


class TestGradientMatching(MethodContract):
    specs: ClassVar = [
        {
            "name": "gradient_matching", "matcher": {"name": "rowwise_cosine"}, "real_batch": 4, "outer_steps": 2,
            "inner_epochs": 2, **settings,
        }
        for settings in ({"initial_images": {"name": "real"}},
                         {"initial_images": {"name": "noise"}, "augmented": False, "inner_batch": 4})
    ]  # fmt: skip


CONTRACTS = [value for value in list(globals().values()) if inspect.isclass(value) and issubclass(value, Contract)]


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind.replace(" ", "-"))
def test_no_entry_escapes_the_contracts(registry):
    checked = {spec["name"] for contract in CONTRACTS if contract.__dict__.get("specs")
               for spec in contract.specs if contract.registry is registry}  # fmt: skip
    assert set(registry) == checked


ENTRIES = [(registry, name) for registry in REGISTRIES for name in registry]
OVER_ENTRIES = pytest.mark.parametrize(
    ("registry", "name"), ENTRIES, ids=[f"{r.kind}:{n}".replace(" ", "-") for r, n in ENTRIES]
)


@OVER_ENTRIES
def test_every_entry_has_typed_settings_and_a_docstring(registry, name):
    cls = registry.get(name)
    assert inspect.getdoc(cls)
    assert cls.__doc__ != cls.__mro__[1].__doc__
    parameters = inspect.signature(cls).parameters.values()
    # a **kwargs would swallow a misspelt setting
    assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)
    assert all(p.annotation is not p.empty for p in parameters)


@OVER_ENTRIES
def test_every_citation_is_known(registry, name):
    from hoptm_plugin.cards.references import load_references

    assert set(registry.get(name).cites) <= set(load_references())
