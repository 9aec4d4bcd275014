"""Being starved of cores is noticed by the kernel's own count, said once, and not of one thread or a GPU."""

from __future__ import annotations

import time

import pytest
import torch

from hoptm_plugin.runtime import starving
from hoptm_plugin.runtime.starving import Starvation, waited

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Let seconds pass and threads wait as told: {"now": seconds, "waited": seconds}."""
    state = {"now": 0.0, "waited": 0.0, "threads": 2}
    monkeypatch.setattr(time, "monotonic", lambda: state["now"])
    monkeypatch.setattr(starving, "waited", lambda: state["waited"])
    monkeypatch.setattr(torch, "get_num_threads", lambda: state["threads"])
    return state


def test_it_is_said_once_with_what_helps(machine):
    said = []
    watch = Starvation(said.append, CPU)
    machine |= {"now": 10.0, "waited": 15.0}
    watch.look()
    assert said == [], "so soon it may be a moment"
    machine |= {"now": 20.0, "waited": 30.0}
    watch.look()
    machine |= {"now": 900.0, "waited": 900.0}
    watch.look()
    (line,) = said
    assert "2 threads wait 75 % of the time" in line
    assert "runtime.threads=1" in line


def test_later_moments_are_looked_at_by_themselves(machine):
    said = []
    watch = Starvation(said.append, CPU)
    for now, seconds in ((21.0, 1.0), (110.0, 2.0)):
        machine |= {"now": now, "waited": seconds}
        watch.look()
    assert said == []
    machine |= {"now": 200.0, "waited": 100.0}
    watch.look()
    assert len(said) == 1


def test_nothing_is_said_of_a_quiet_machine_one_thread_or_a_gpu(machine):
    said = []
    for device, threads, seconds in ((CPU, 2, 7.0), (CPU, 1, 40.0), (torch.device("cuda"), 2, 40.0)):
        machine |= {"now": 0.0, "waited": 0.0, "threads": threads}
        watch = Starvation(said.append, device)
        machine |= {"now": 20.0, "waited": seconds}
        watch.look()
    assert said == []


def test_the_kernels_count_is_read(tmp_path, monkeypatch):
    assert waited() >= 0
    for number, nanoseconds in enumerate((1_500_000_000, 500_000_000)):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "schedstat").write_text(f"12 {nanoseconds} 7\n")
    monkeypatch.setattr(starving, "TASKS", tmp_path)
    assert waited() == 2.0
    monkeypatch.setattr(starving, "TASKS", tmp_path / "of another system")
    assert waited() == 0
