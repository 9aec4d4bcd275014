"""The contracts of hoptm_plugin.testing over the whole registry, and checks that every entry must pass."""

import inspect

import pytest

import hoptm_plugin.builtin  # noqa: F401
from hoptm_plugin.core.interfaces import REGISTRIES, matchers, samplers, schedulers, schedules
from hoptm_plugin.core.plugins import load_plugins
from hoptm_plugin.testing import MatcherContract, SamplerContract, ScheduleContract, SchedulerContract

load_plugins()

MATCHERS = [
    {"name": "endpoint"},
    {"name": "endpoint", "reduction": "sum_of_ratios"},
    {"name": "endpoint", "reduction": "unmasked_denominator"},
    {"name": "shape_wise_potential"},
    {"name": "shape_wise_potential", "vertices": "middle", "beta": 0.1},
]
SCHEDULERS = [
    {"name": "self_paced", "kappa": 1.0},
    {"name": "self_paced", "kappa": 1.0, "sticky": False},
    {"name": "self_paced", "kappa": 0.5, "errors": "normalised"},
    {"name": "self_paced", "kappa": {"name": "geometric", "start": 0.1, "growth": 3, "every": 1}},
    {"name": "self_paced", "kappa": 2.0, "granularity": "tensor"},
    {"name": "sequential_start_epochs", "first": 2, "last": 6, "expansion_end": 4},
]
SCHEDULES = [{"name": "geometric", "start": 0.1, "growth": 2, "every": 2}]
SAMPLERS = [
    {"name": "uniform", "max_start_epoch": 4},
    {"name": "uniform", "max_start_epoch": 4, "min_start_epoch": 4, "inclusive": True, "experts": "random"},
]


class TestMatchers(MatcherContract):
    specs = MATCHERS


class TestSchedulers(SchedulerContract):
    specs = SCHEDULERS


class TestSchedules(ScheduleContract):
    specs = SCHEDULES


class TestSamplers(SamplerContract):
    specs = SAMPLERS


@pytest.mark.parametrize(
    ("registry", "specs"),
    [(matchers, MATCHERS), (schedulers, SCHEDULERS), (schedules, SCHEDULES), (samplers, SAMPLERS)],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_no_entry_escapes_the_contracts(registry, specs):
    assert set(registry) == {spec["name"] for spec in specs}


ENTRIES = [(registry, name) for registry in REGISTRIES for name in registry]


@pytest.mark.parametrize(("registry", "name"), ENTRIES, ids=[f"{r.kind}:{n}".replace(" ", "-") for r, n in ENTRIES])
def test_every_entry_has_typed_settings_and_a_docstring(registry, name):
    cls = registry.get(name)
    assert inspect.getdoc(cls)
    assert cls.__doc__ != cls.__mro__[1].__doc__
    parameters = inspect.signature(cls).parameters.values()
    # a **kwargs would swallow a misspelt setting
    assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)
    assert all(p.annotation is not p.empty for p in parameters)
