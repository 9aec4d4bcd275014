"""What every contract shares: one run per check and spec, settings, randomness and state."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor

from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.interfaces import Task
from hoptm_plugin.core.registry import Registry
from hoptm_plugin.testing.examples import example_task

Spec: TypeAlias = Mapping[str, Any]


class Contract:
    """Runs each check once for each of ``specs``; subclasses say how a part is used.

    Attributes:
        registry: where the parts are registered.
        specs: one mapping for every setting of a part that is worth checking.
    """

    registry: ClassVar[Registry[Any]]
    specs: ClassVar[list[Spec]] = []

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every check for every spec, each under the spec's name."""
        if not self.specs:
            raise pytest.UsageError(f"{type(self).__name__}.specs is empty: name at least one part")
        if "spec" in metafunc.fixturenames:
            metafunc.parametrize("spec", self.specs, indirect=True, ids=map(_label, self.specs))

    @pytest.fixture
    def spec(self, request: pytest.FixtureRequest, tmp_path: Path) -> Spec:
        """One entry of ``specs``, completed."""
        return self.complete(deepcopy(dict(request.param)), tmp_path)

    def complete(self, spec: Spec, folder: Path) -> Spec:
        """Return the spec with what needs files; override where a part reads any, and write them into ``folder``."""
        return spec

    def build(self, spec: Spec) -> Any:
        """Return a fresh part."""
        return self.registry.build(deepcopy(dict(spec)))

    def use(self, part: Any, step: int) -> Any:
        """Return something comparable that the part gives at iteration ``step``."""
        raise NotImplementedError(f"{type(self).__name__}.use")

    def test_is_explained(self, spec: Spec) -> None:
        """The first line of the docstring says what the part does; ``hoptm-bench list`` shows it."""
        described = dict(self.registry.describe())
        assert len(described[spec["name"]]) >= 10, "the first line of the docstring must say what the part does"

    def test_refuses_unknown_settings(self, spec: Spec) -> None:
        """A misspelt setting is an error, never ignored."""
        with pytest.raises(ConfigurationError, match="no_such_setting"):
            self.build({**spec, "no_such_setting": 1})

    def test_global_randomness_untouched(self, spec: Spec) -> None:
        """Parts draw from the generators they are handed, never from the global ones."""
        self.use(self.build(spec), 0)  # libraries that are imported late may draw while they load, once
        with global_randomness_untouched():
            self.use(self.build(spec), 0)

    def test_state_round_trip(self, spec: Spec) -> None:
        """A part that takes back its state goes on as if it had never stopped."""
        going_on, resumed = self.build(spec), self.build(spec)
        for step in range(3):
            self.use(going_on, step)
        resumed.load_state_dict(stored(going_on.state_dict()))
        for step in range(3, 6):
            assert same(self.use(going_on, step), self.use(resumed, step))


class TaskContract(Contract):
    """What every part that is handed a task shares; the task's data must not depend on the seed."""

    def task(self, seed: int = 0) -> Task:
        """Return the task that the part is tried on."""
        return example_task(ipc=2, seed=seed)


@contextmanager
def global_randomness_untouched() -> Iterator[None]:
    """Check that the global generators of torch, numpy and Python stay as they are."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    yield
    assert torch.equal(before[0], torch.get_rng_state()), "drew from torch's global generator"
    np.testing.assert_equal(np.random.get_state(), before[1], "drew from numpy's global generator")
    assert before[2] == random.getstate(), "drew from Python's global generator"


def stored(state: Any) -> Any:
    """Return a copy of what ``state_dict()`` gave, as a checkpoint does; refuse what a checkpoint cannot hold."""
    if isinstance(state, dict):
        assert all(isinstance(key, str) and "/" not in key for key in state), f"keys must be text without /: {state}"
        return {key: stored(value) for key, value in state.items()}
    assert state is None or isinstance(state, (Tensor, bool, int, float, str)), f"cannot be stored: {type(state)}"
    return state.detach().clone() if isinstance(state, Tensor) else state


def same(first: Any, second: Any) -> bool:
    """Tell whether two results are equal to the bit."""
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def _label(spec: Spec) -> str:
    settings = ",".join(f"{key}={value}" for key, value in spec.items() if key != "name")
    return f"{spec['name']}({settings})" if settings else str(spec["name"])
