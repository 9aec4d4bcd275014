"""The registry: what it refuses, how it converts plain settings, and that it reports all problems at once."""

from __future__ import annotations

import subprocess
import sys
from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal

import pytest

import hoptm_plugin.builtin  # noqa: F401  registers the library's own parts
from hoptm_plugin.core.errors import ConfigurationError, PluginError, UnknownNameError
from hoptm_plugin.core.interfaces import (
    REGISTRIES,
    LabelPolicy,
    Matcher,
    Number,
    Part,
    Schedule,
    matchers,
    methods,
    networks,
    schedulers,
    schedules,
)
from hoptm_plugin.core.registry import _BY_BASE, Registry, build, register
from hoptm_plugin.schedulers import Geometric, SelfPaced
from hoptm_plugin.trajectory import TrajectoryMatching


class Wheel(Part):
    """Base of wheels."""

    @abstractmethod
    def turn(self): ...


@pytest.fixture
def wheels():
    registry = Registry("wheel", Wheel)

    @register("round")
    class Round(Wheel):
        """A round wheel.

        And more about it.
        """

        def __init__(self, radius: float, spokes: int = 8, tyre: Literal["air", "solid"] = "air",
                     hub: Wheel | None = None, spares: Mapping[str, Wheel] | None = None,
                     grip: Number = 1.0) -> None:  # fmt: skip
            if radius <= 0:
                raise ValueError("radius must be above 0")
            self.radius, self.spokes, self.tyre, self.hub = radius, spokes, tyre, hub
            self.spares, self.grip = dict(spares or {}), grip

    yield registry
    _BY_BASE.pop(Wheel)


def test_a_taken_name_is_refused_and_both_are_named(wheels):
    class Other(Wheel):
        pass

    with pytest.raises(PluginError, match=r"wheel 'round' \(.*Other\): the name is taken by .*Round"):
        register("round")(Other)
    assert wheels.get("round").__name__ == "Round"
    again = wheels.get("round")
    assert register("round")(again) is again  # a module imported twice is no mistake


@pytest.mark.parametrize("thing", [object, int, lambda: 3])
def test_wrong_bases_are_refused(thing):
    with pytest.raises(PluginError, match=r"'x' \(.*must be a subclass of one of .*Matcher"):
        register("x")(thing)
    assert "x" not in list(matchers)


def test_abstract_leftovers_are_refused_by_name():
    class Half(LabelPolicy):
        pass

    class Unfinished(Matcher):
        @abstractmethod
        def more(self): ...

    with pytest.raises(PluginError, match=r"Half\): abstract methods are left: initial"):
        register("half")(Half)
    with pytest.raises(PluginError, match="abstract methods are left: loss, more"):
        register("unfinished")(Unfinished)


def test_unknown_names_come_with_a_near_match_and_all_known_ones(wheels):
    with pytest.raises(UnknownNameError, match=r"cart\.front\.name: no wheel is called 'rond'; did you mean 'round'\?"):
        wheels.build({"name": "rond"}, "cart.front")
    with pytest.raises(UnknownNameError, match=r"no wheel is called 'xyz' \(known: round\)"):
        wheels.get("xyz")
    with pytest.raises(UnknownNameError, match="did you mean 'shape_wise_potential'"):
        matchers.build({"name": "shape_wise"}, "method.matchers.shape")


def test_unknown_keywords_come_with_a_near_match(wheels):
    message = (
        r"cart\.radios: unknown setting; did you mean 'radius'\? \(known: grip, hub, radius, spares, spokes, tyre\)"
    )
    with pytest.raises(ConfigurationError, match=message):
        wheels.build({"name": "round", "radius": 1, "radios": 2}, "cart")


def test_all_problems_of_one_part_at_once(wheels):
    with pytest.raises(ConfigurationError) as caught:
        wheels.build({"name": "round", "spokes": "many", "tyre": "wood", "colour": "red",
                      "hub": {"name": "square"}}, "cart")  # fmt: skip
    places = sorted(problem.split(":")[0] for problem in caught.value.problems)
    assert places == ["cart.colour", "cart.hub.name", "cart.radius", "cart.spokes", "cart.tyre"]
    assert "missing" in str(caught.value)
    assert "'many'" in str(caught.value)
    assert "'air'" in str(caught.value)


def test_all_problems_of_several_parts_in_a_mapping_at_once(wheels):
    """One bad entry must not hide the next (architecture.md 9: all of them at once)."""
    spares = {"a": {"name": "round", "radius": "wide"}, "b": {"name": "round"}, "c": {"name": "rnd", "radius": 1}}
    with pytest.raises(ConfigurationError) as caught:
        wheels.build({"name": "round", "radius": 1, "spares": spares}, "cart")
    places = sorted(problem.split(":")[0] for problem in caught.value.problems)
    assert places == ["cart.spares.a.radius", "cart.spares.b.radius", "cart.spares.c.name"]


def test_all_problems_of_a_weighted_matcher_at_once():
    spec = hoptm() | {"matchers": {"endpoint": {"name": "endpoint", "weight": "heavy", "eps": "tiny"}}}
    with pytest.raises(ConfigurationError) as caught:
        methods.build(spec, "method")
    places = sorted(problem.split(":")[0] for problem in caught.value.problems)
    assert places == ["method.matchers.endpoint.eps", "method.matchers.endpoint.weight"]


def test_a_constructors_own_refusal_is_placed(wheels):
    with pytest.raises(ConfigurationError, match=r"^cart\.hub: radius must be above 0$"):
        wheels.build({"name": "round", "radius": 1, "hub": {"name": "round", "radius": -1}}, "cart")


@pytest.mark.parametrize("spec", [{}, {"name": 3}, "round", None, ["round"], {"Name": "round"}])
def test_a_part_needs_a_name(wheels, spec):
    with pytest.raises(ConfigurationError, match=r"cart: must be a mapping with a 'name' \(one of round\)"):
        wheels.build(spec, "cart")


@pytest.mark.parametrize(("text", "value"), [("1e-10", 1e-10), ("5e-9", 5e-9), (2, 2.0), ("0.5", 0.5)])
def test_yaml_numbers_without_a_dot_become_floats(wheels, text, value):
    """PyYAML reads 1e-10 as a string."""
    wheel = wheels.build({"name": "round", "radius": text, "grip": text})
    assert isinstance(wheel.radius, float)
    assert isinstance(wheel.grip, float)
    assert wheel.radius == wheel.grip == value
    assert schedules.build({"name": "geometric", "start": text, "growth": "1.5"}).at(500) == value * 1.5
    assert schedulers.build({"name": "self_paced", "kappa": text}).kappa == value


@pytest.mark.parametrize(("key", "value"), [("radius", "wide"), ("radius", [1.0]), ("spokes", 2.5), ("spokes", "2.5"),
                                            ("radius", None), ("radius", {"name": "round"}), ("tyre", 3),
                                            ("hub", "round"), ("hub", 3), ("spares", [1]),
                                            ("grip", "firm")])  # fmt: skip
def test_ill_typed_values_are_refused_in_place(wheels, key, value):
    with pytest.raises(ConfigurationError) as caught:
        wheels.build({"name": "round", "radius": 1} | {key: value}, "cart")
    assert all(problem.startswith(f"cart.{key}") for problem in caught.value.problems), caught.value.problems
    assert all("\n" not in problem for problem in caught.value.problems)


def test_a_number_may_be_a_schedule():
    paced = schedulers.build({"name": "self_paced", "kappa": {"name": "geometric", "start": "1e-10", "growth": 1.3}})
    assert isinstance(paced, SelfPaced)
    assert isinstance(paced.kappa, Geometric)
    assert paced.kappa.at(500) == pytest.approx(1.3e-10)
    with pytest.raises(ConfigurationError, match=r"p\.kappa\.every: "):
        schedulers.build(
            {"name": "self_paced", "kappa": {"name": "geometric", "start": 1, "growth": 1, "every": "x"}}, "p"
        )


def test_a_bad_number_is_one_problem_at_its_own_place():
    """Not one line per alternative of the annotation (a number, or a schedule), at places that do not exist."""
    with pytest.raises(ConfigurationError) as caught:
        schedulers.build({"name": "self_paced", "kappa": "low"}, "p")
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["p.kappa"]


def test_null_drops_an_entry_of_a_mapping(wheels):
    spares = {"a": None, "b": {"name": "round", "radius": 2}}
    wheel = wheels.build({"name": "round", "radius": 1, "spares": spares, "hub": None})
    assert list(wheel.spares) == ["b"]
    assert wheel.hub is None
    assert wheels.build({"name": "round", "radius": 1, "spares": None}).spares == {}


def test_parts_already_built_are_taken_as_they_are(wheels):
    hub = wheels.build({"name": "round", "radius": 1})
    assert wheels.build({"name": "round", "radius": 1, "hub": hub}).hub is hub
    kappa = Geometric(1.0, 2.0)
    assert schedulers.build({"name": "self_paced", "kappa": kappa}).kappa is kappa


def test_the_specification_is_not_changed(wheels):
    spec = {"name": "round", "radius": "1", "spares": {"a": None, "b": {"name": "round", "radius": 2}}}
    copy = {**spec, "spares": {**spec["spares"], "b": dict(spec["spares"]["b"])}}
    wheels.build(spec)
    assert spec == copy


def test_listing_is_sorted_and_takes_the_first_line(wheels):
    @register("a wheel")
    class Other(Wheel):
        """Another wheel."""

    assert wheels.describe() == [("a wheel", "Another wheel."), ("round", "A round wheel.")]
    assert list(wheels) == ["a wheel", "round"]


def test_every_built_in_part_explains_itself_in_one_line():
    for registry in REGISTRIES:
        for name, line in registry.describe():
            assert line.endswith("."), (registry.kind, name, line)
            assert len(line) > 10, (registry.kind, name)


def test_plain_functions_can_be_built_too():
    def area(width: float, height: float = 2.0) -> float:
        return width * height

    assert build(area, {"width": "1e1"}) == 20.0
    with pytest.raises(ConfigurationError, match=r"x\.width: missing"):
        build(area, {}, "x")


def hoptm():
    """HoP-TM's method as YAML gives it."""
    return {
        "name": "trajectory_matching", "student_steps": 80, "expert_epochs": 2, "student_batch": 10,
        "step_size": "1e-2",
        "matchers": {"endpoint": {"name": "endpoint", "weight": 1},
                     "shape": {"name": "shape_wise_potential", "weight": "5e-1", "vertices": "all"}},
        "schedulers": {"pace": {"name": "self_paced",
                                "kappa": {"name": "geometric", "start": "5e-9", "growth": 1.5, "every": 500}}},
        "sampler": {"name": "uniform", "max_start_epoch": 4}, "labels": {"name": "hard"},
        "initial_images": {"name": "real"},
    }  # fmt: skip


def test_hoptm_is_built_from_plain_settings():
    method = methods.build(hoptm(), "method")
    assert isinstance(method, TrajectoryMatching)
    assert method.matchers["shape"].weight == 0.5
    assert method.step_size == 0.01
    assert method.schedulers["pace"].kappa.at(9999) == pytest.approx(1.11e-5, rel=0.01)
    assert method.last_expert_epoch() == 5  # docs/methods.md 1.7: t is at most 3, and M is 2
    assert method.student_batch == 10


def test_a_matchers_weight_may_be_a_schedule_in_settings():
    spec = hoptm()
    spec["matchers"]["shape"]["weight"] = {"name": "geometric", "start": 1, "growth": 2}
    assert isinstance(methods.build(spec).matchers["shape"].weight, Schedule)


def test_null_takes_a_matcher_or_scheduler_out():
    spec = hoptm()
    spec["matchers"]["shape"] = None
    spec["schedulers"]["pace"] = None
    method = methods.build(spec)
    assert list(method.matchers) == ["endpoint"]
    assert method.schedulers == {}
    spec["matchers"]["endpoint"] = None
    with pytest.raises(ConfigurationError, match="at least one matcher"):
        methods.build(spec)


def test_the_whole_methods_problems_at_once():
    spec = hoptm() | {"labels": {"name": "hrd"}, "sampler": {"name": "uniform", "max_epoch": 4}, "step_size": "small"}
    spec["schedulers"] = {"pace": {"name": "self_paced", "kappa": 1, "stiky": True}}
    with pytest.raises(ConfigurationError) as caught:
        methods.build(spec, "method")
    places = {problem.split(":")[0] for problem in caught.value.problems}
    assert places == {"method.labels.name", "method.sampler.max_epoch", "method.sampler.max_start_epoch",
                      "method.step_size", "method.schedulers.pace.stiky"}  # fmt: skip


def test_networks_refuse_settings_of_other_networks():
    with pytest.raises(ConfigurationError, match=r"network\.kernel: unknown setting"):
        networks.build({"name": "convnet", "kernel": 5}, "network")


@pytest.mark.slow
def test_a_name_of_the_library_s_own_is_taken_whoever_comes_first():
    code = (
        "from hoptm_plugin import Matcher, register\n"
        "try:\n"
        "    @register('endpoint')\n"
        "    class Mine(Matcher):\n"
        "        def loss(self, pair): return 0\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "PluginError matcher 'endpoint' (__main__.Mine): the name is taken by" in done.stdout


@pytest.mark.campaign
@pytest.mark.parametrize("base", ["Method", "RunLogger", "Schedule"])
def test_each_kind_of_part_is_known_to_a_plug_in_that_is_imported_first(base):
    code = f"from hoptm_plugin import {base}, registry\nprint(sorted(registry({base})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("['")
