"""Same seed, same bits; a killed and resumed run equals an uninterrupted one."""

import os
import signal
import time

import pytest
from command_line import HANG, TINY_NETWORK, TINY_PROTOCOL, call, card, fork, start
from generated import NPZ

BUDGET = (
    *TINY_NETWORK, *TINY_PROTOCOL, *NPZ, "experts.count=3", "experts.training.batch=8", "method.student_steps=4",
    "method.sampler.max_start_epoch=2", "distillation.iterations=60", "distillation.checkpoint_every=5",
    "distillation.log_every=1", "distillation.images.learning_rate=0.1",
)  # fmt: skip


@pytest.fixture
def run(tmp_path, npz_file):
    """Return the arguments of a run into ``folder`` with experts of its own."""

    def arguments(folder, *more):
        return ("run", "dataset=npz", f"dataset.root={npz_file}", *BUDGET, f"experts.root={tmp_path / folder}-experts",
                f"hydra.run.dir={tmp_path / folder}", *more)  # fmt: skip

    return arguments


def finish(arguments, cwd):
    result = fork(*arguments, cwd=cwd)
    assert result.code == 0, result.err
    return result


def bits(folder):
    return (folder / "synthetic.safetensors").read_bytes()


def kill_when(process, happened):
    """SIGKILL the process as soon as ``happened()`` is true; fail if it ends before."""
    deadline = time.monotonic() + HANG
    while not happened():
        assert process.poll() is None, f"ended before it could be killed: {process.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_same_seed_same_bits_and_another_seed_other_bits(run, tmp_path):
    finish(run("one"), tmp_path)
    finish(run("two"), tmp_path)
    finish(run("three", "seed=1"), tmp_path)
    assert bits(tmp_path / "one") == bits(tmp_path / "two")
    assert bits(tmp_path / "one") != bits(tmp_path / "three")
    assert card(tmp_path / "one")["evaluations"] == card(tmp_path / "two")["evaluations"]
    assert card(tmp_path / "one")["config_sha256"] == card(tmp_path / "two")["config_sha256"]


@pytest.mark.campaign
def test_killed_and_resumed_equals_uninterrupted(run, tmp_path):
    finish(run("whole"), tmp_path)
    killed = tmp_path / "killed"
    # once among the experts, once in the distillation loop
    first = start(*run("killed"), cwd=tmp_path)
    kill_when(first, lambda: any((tmp_path / "killed-experts").rglob("expert-00000.safetensors")))
    second = start(*run("killed", "resume=true"), cwd=tmp_path)
    kill_when(second, lambda: (killed / "checkpoint.safetensors").exists())
    assert not (killed / "synthetic.safetensors").exists()
    # the folder's own settings serve where none are given
    finish(("run", f"hydra.run.dir={killed}", "resume=true"), tmp_path)
    assert bits(killed) == bits(tmp_path / "whole")
    metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("killed", "whole")]
    assert metrics[0] == metrics[1]
    assert card(killed)["evaluations"] == card(tmp_path / "whole")["evaluations"]

    # resuming a finished run shows its card and changes nothing
    before = {path.name: path.stat().st_mtime_ns for path in killed.iterdir()}
    assert "HoP-TM" in finish(("run", f"hydra.run.dir={killed}", "resume=true"), tmp_path).out
    assert {path.name: path.stat().st_mtime_ns for path in killed.iterdir()} == before

    refused = call("run", f"hydra.run.dir={killed}", "resume=true", "ipc=2", cwd=tmp_path)
    assert refused.code == 2
    assert "ipc: 1 in the folder, 2 now" in refused.err
