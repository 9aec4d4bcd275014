"""Sweeps side by side: the folders and cards that the basic launcher leaves, up to rounding and cost."""

from __future__ import annotations

import json
import signal
import time

import pytest
from command_line import HANG, TINY_RUN, card, fork, invoke, start
from generated import NPZ

from hoptm_plugin import compose, run_side_by_side
from hoptm_plugin.core.errors import ConfigurationError, HopTMError, RunFolderError
from hoptm_plugin.storage.sets import read_set

LAUNCHER = "hydra/launcher=side_by_side"
NUMBERS = 1e-3  # of what a few steps in float32 round to
STEADY = ("distillation.step_size.constraint=damped", "runtime.compile=false")


def sweep(npz_file, folder, *more):
    return ("run", "-m", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_RUN, *STEADY,
            f"experts.root={folder.parent}/store", f"hydra.sweep.dir={folder}", *more)  # fmt: skip


def figures(value):
    """Return what a card says, without cost and what only names bytes."""
    content = json.loads(json.dumps(value))
    for key in ("cost", "sha256", "artefacts"):
        del content[key]
    del content["software"]["commit"]
    return content


def assert_alike(one, other, path=""):
    """Refuse two JSON values that differ by more than rounding."""
    assert type(one) is type(other) or {type(one), type(other)} <= {int, float}, path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_alike(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for at, pair in enumerate(zip(one, other, strict=True)):
            assert_alike(*pair, f"{path}[{at}]")
    elif isinstance(one, int | float):
        assert one == pytest.approx(other, rel=NUMBERS, abs=NUMBERS), path
    else:
        assert one == other, path


@pytest.fixture(scope="module")
def one_after_the_other(tmp_path_factory, npz_file):
    folder = tmp_path_factory.mktemp("basic") / "sweep"
    done = invoke(*sweep(npz_file, folder, "method=hoptm,mtt,att", "seed=0,1"), cwd=folder.parent)
    assert done.code == 0, done.err
    return folder


def test_a_sweep_leaves_what_the_basic_launcher_leaves(one_after_the_other, npz_file, tmp_path):
    done = invoke(*sweep(npz_file, tmp_path / "sweep", "method=hoptm,mtt,att", "seed=0,1", LAUNCHER), cwd=tmp_path)
    assert done.code == 0, done.err
    assert "as one computation they" not in done.err
    names = sorted(path.name for path in one_after_the_other.iterdir())
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == names
    jobs = [name for name in names if name != "multirun.yaml"]
    assert len(jobs) == 6
    for job in jobs:
        mine, theirs = tmp_path / "sweep" / job, one_after_the_other / job
        assert {path.name for path in mine.iterdir()} == {path.name for path in theirs.iterdir()}
        assert_alike(figures(card(mine)), figures(card(theirs)), job)
        one, other = (read_set(folder / "synthetic.safetensors") for folder in (mine, theirs))
        assert (one.images - other.images).abs().max() < NUMBERS
        assert f"folder: {mine}" in done.out


def test_what_it_cost_is_shared_out(npz_file, tmp_path):
    """Eight runs of about the same work: their seconds are those of the process, not eight times them."""
    done = invoke(*sweep(npz_file, tmp_path / "sweep", "method=mtt", "seed=range(8)", LAUNCHER), cwd=tmp_path)
    assert done.code == 0, done.err
    seconds = [card(path.parent)["cost"]["distill_s"] for path in (tmp_path / "sweep").glob("*/result.json")]
    assert len(seconds) == 8
    assert max(seconds) < 3 * min(seconds)


def test_a_failing_run_stops_no_other(npz_file, tmp_path):
    """One is refused beforehand; one runs into an exploding step size; two are made."""
    taken = tmp_path / "sweep" / "0-mtt-npz-ipc1-seed0"
    done = invoke(*sweep(npz_file, tmp_path / "sweep", "method=mtt", "ipc=1,9", "seed=0,1", LAUNCHER), cwd=tmp_path)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    assert done.err.count("error: ") == 1
    assert done.err.count(" failed: ipc=9: class ") == 2
    assert sorted(path.parent.name for path in (tmp_path / "sweep").glob("*/result.json")) == [
        taken.name, "1-mtt-npz-ipc1-seed1"]  # fmt: skip

    again = invoke(*sweep(npz_file, tmp_path / "sweep", "method=mtt", "ipc=1", "seed=0,1,2", LAUNCHER), cwd=tmp_path)
    assert again.code == 2, again.err
    assert again.err.count("not empty. To continue the run in it add resume=true") == 3, "two jobs, one last error"
    assert (tmp_path / "sweep" / "2-mtt-npz-ipc1-seed2" / "result.json").exists()


@pytest.mark.parametrize("command", [("experts", "-m"), ("eval", "-m")])
def test_other_commands_refuse_it(command, tmp_path):
    done = invoke(*command, "method=mtt", LAUNCHER, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    instead = f"for {command[0]} take processes"
    assert done.err == f"error: hydra/launcher: side_by_side makes the runs of hoptm-bench run -m and tune; {instead}\n"
    assert list(tmp_path.iterdir()) == []


def test_one_that_diverges_keeps_its_set_and_the_others_go_on(npz_file, tmp_path):
    rate = "distillation.step_size.learning_rate=1e-8,1e30"
    free = "distillation.step_size.constraint=none"
    done = invoke(*sweep(npz_file, tmp_path / "sweep", "method=mtt", rate, free, LAUNCHER), cwd=tmp_path)
    assert done.code == 1, done.err
    good, bad = sorted((tmp_path / "sweep").glob("*-mtt-*"))
    assert (good / "result.json").exists()
    assert not (bad / "result.json").exists()
    assert read_set(bad / "synthetic.safetensors").info["stopped"].startswith("stopped since it diverged")
    assert f"job {bad.name} failed: iteration " in done.err


@pytest.mark.slow
def test_a_group_that_is_stopped_goes_on(npz_file, tmp_path):
    """SIGTERM: each writes a checkpoint, one message says how to go on, and the same command does."""
    many = ("method=mtt", "seed=range(3)", "distillation.iterations=150", "distillation.checkpoint_every=100", LAUNCHER)
    process = start(*sweep(npz_file, tmp_path / "sweep", *many), cwd=tmp_path)
    folders = [tmp_path / "sweep" / f"{seed}-mtt-npz-ipc1-seed{seed}" for seed in range(3)]
    try:
        while not all((folder / "metrics.jsonl").exists() for folder in folders):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=HANG)
    finally:
        process.kill()
    assert process.returncode == 75, err
    assert err.count("error: ") == 1
    assert "stopped by SIGTERM; go on with all runs by the same command, hydra.sweep.dir=" in err
    assert all((folder / "checkpoint.safetensors").exists() for folder in folders)
    assert not any((folder / "result.json").exists() for folder in folders)
    done = fork(*sweep(npz_file, tmp_path / "sweep", *many, "resume=auto"), cwd=tmp_path)
    assert done.code == 0, done.err
    assert all((folder / "result.json").exists() for folder in folders)


@pytest.mark.slow
def test_networks_that_fill_the_cores_are_made_by_processes(npz_file, tmp_path):
    wide = ("network.width=128", "network.depth=3", "method=mtt", "seed=0,1", "ipc=1,9", LAUNCHER)
    done = fork(*sweep(npz_file, tmp_path / "sweep", *wide), cwd=tmp_path)
    assert done.code == 2, done.err
    assert "on this CPU they are no faster as one computation" in done.err
    assert "Traceback" not in done.err
    assert sorted(path.parent.name[0] for path in (tmp_path / "sweep").glob("*/result.json")) == ["0", "2"]


def test_from_python(npz_file, tmp_path):
    """Cards in the order of the runs, or why one failed; two runs in one folder, or on two machines, are refused."""

    def job(*more):
        return compose("dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_RUN, *STEADY, "method=mtt",
                       f"experts.root={tmp_path / 'store'}", *more)  # fmt: skip

    told = []
    jobs = [(job("seed=0"), tmp_path / "a"), (job("ipc=9"), tmp_path / "b"), (job("seed=1"), tmp_path / "c")]
    first, refused, last = run_side_by_side(jobs, ended=lambda number, outcome: told.append((number, outcome)))
    assert (first.seed, last.seed) == (0, 1)
    assert isinstance(refused, HopTMError)
    assert sorted(number for number, _ in told) == [0, 1, 2]
    assert isinstance(run_side_by_side(jobs[:1])[0], RunFolderError)
    with pytest.raises(ConfigurationError, match="the same folder"):
        run_side_by_side([jobs[0], jobs[0]])
    with pytest.raises(ConfigurationError, match=r"runtime\.threads"):
        run_side_by_side([jobs[0], (job("runtime.threads=1"), tmp_path / "d")])
