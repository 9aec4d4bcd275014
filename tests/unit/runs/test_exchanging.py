"""A part is exchanged by its name: what was meant for the old one is dropped and said, what was given is checked."""

from __future__ import annotations

import warnings

import pytest

from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.runs.assembly import build_parts
from hoptm_plugin.runs.composition import compose
from hoptm_plugin.runs.exchanging import loosened
from hoptm_plugin.runs.folder import overlaid

LINEAR = ("method.schedulers.pace.kappa.name=linear", "method.schedulers.pace.kappa.end=1",
          "method.schedulers.pace.kappa.over=9")  # fmt: skip
DROPPED = "dropped what this part does not know"
EXCHANGES = {
    "matcher": (["method.matchers.shape.name=endpoint"], ["vertices", "beta"]),
    "matcher of a baseline": (["method=att", "method.matchers.endpoint.name=shape_wise_potential"], ["choice"]),
    "scheduler": (["method.schedulers.pace.name=sequential_start_epochs", "method.schedulers.pace.first=1",
                   "method.schedulers.pace.last=4", "method.schedulers.pace.expansion_end=9"],
                  ["sticky", "errors", "granularity", "quantile", "kappa"]),
    "schedule": ([*LINEAR], ["growth", "every"]),
    "labels": (["method=datm", "method.labels.name=hard"], ["start", "teacher_epoch"]),
    "initial images": (["method=datm", "method.initial_images.name=real"], ["teacher_epoch"]),
    "initial images, whole": (["method=datm", "method.initial_images={name:stored,path:RUN}"], ["teacher_epoch"]),
    "initial images of DM": (["method=dm", "method.initial_images.name=correct",
                              "method.initial_images.teacher_epoch=2"], []),
    "network": (["network.name=resnet18", "network.width_factor=0.5"], ["depth", "width", "act", "pool"]),
    "network under a recipe": (["dataset=digits", "network.name=alexnet"], ["depth", "width", "norm", "act", "pool"]),
    "augment": (["augment.name=none"], ["strategy", "prob_flip"]),
    "method": (["method.name=distribution_matching", "method.matcher={name:mean_features}"],
               ["student_steps", "matchers", "sampler"]),
    "method of a baseline": (["method=dm", "method.name=random_subset"], ["real_batch", "matcher", "initial_images"]),
}  # fmt: skip


@pytest.mark.parametrize("what", EXCHANGES)
def test_what_the_new_part_does_not_know_is_dropped_and_said(what):
    overrides, dropped = EXCHANGES[what]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        settings = compose(*overrides)
    build_parts(settings)
    lines = [str(each.message) for each in caught if DROPPED in str(each.message)]
    assert len(lines) == bool(dropped)
    assert all(name in line.partition("know: ")[2].split(", ") for name in dropped for line in lines)


def test_what_was_given_is_kept_and_checked():
    with pytest.warns(UserWarning, match="know: beta, points, distances$"):
        settings = compose("method.matchers.shape.name=endpoint", "method.matchers.shape.vertices=all",
                           "method.matchers.shape.weight=3")  # fmt: skip
    assert settings.method["matchers"]["shape"] == {"name": "endpoint", "weight": 3, "vertices": "all"}
    with pytest.raises(ConfigurationError, match=r"method\.matchers\.shape\.vertices: unknown setting"):
        build_parts(settings)
    with pytest.warns(UserWarning, match=DROPPED):
        settings = compose("network.name=resnet18", "network.widht=3")
    with pytest.raises(ConfigurationError, match=r"network\.widht: unknown setting"):
        build_parts(settings)


def test_what_the_old_one_was_told_and_the_new_one_knows_stays():
    with pytest.warns(UserWarning, match=DROPPED):
        settings = compose("method.matchers.shape.name=endpoint")
    assert settings.method["matchers"]["shape"] == {"name": "endpoint", "weight": 0.5}


def test_a_part_that_is_not_exchanged_loses_nothing():
    """So that a misspelt keyword is an error wherever nobody named another part."""
    with pytest.raises(ConfigurationError, match="vertexes"):
        build_parts(compose("+method.matchers.shape.vertexes=all", "augment=none"))
    with pytest.raises(ConfigurationError, match=r"unknown setting"):
        compose("method.matchers.shape.vertexes=all", "augment.name=dsa")


def test_an_exchanged_method_goes_by_its_own_name():
    with pytest.warns(UserWarning, match=DROPPED):
        settings = compose("method=hoptm", "dataset=pathmnist", "method.name=random_subset")
    assert (settings.method_id, settings.method_title, settings.reported) == ("random_subset", "random_subset", None)
    assert compose("method=mtt", "method.name=trajectory_matching").method_id == "mtt", "it is the same one"
    other = compose("method=herding", "method.name=k_center_subset")
    assert (other.method_id, list(other.method_cites)) == ("k_center_subset", []), "though it knows all that"


def test_a_part_of_a_stored_run_is_exchanged_as_well():
    stored = compose("method=hoptm", "network.width=8").plain()
    with pytest.warns(UserWarning, match=DROPPED):
        given = compose("network.name=resnet18")
    assert overlaid(stored, given).network == {"name": "resnet18", "norm": "instance"}


def test_only_what_belongs_to_an_exchanged_part_is_let_through():
    given = ["method.sampler={name: x}", "network.name=y", "network.z=1", "networks=[a]", "hydra.x={a: 1}", "ipc=1",
             "+method.sampler.k=2", "~network.depth", "network_a=1"]  # fmt: skip
    assert [new for old, new in zip(given, loosened(given), strict=True) if old != new] == [
        "++method.sampler={name: x}", "++network.name=y", "++network.z=1"]  # fmt: skip
