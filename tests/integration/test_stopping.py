"""Signals that ask to stop: what is done is kept, the exit code says to requeue, the bits stay the same."""

import functools
import itertools
import signal
import time

import pytest
from command_line import HANG, fork, forked, invoke
from disturbed import assert_same, command, stage

STOPPED, INTERRUPTED = 75, 130


def stop(arguments, cwd, number, reached, before=None):
    """Start a command, send it a signal once ``reached()``, and return what it left behind."""
    with forked(*arguments, cwd=cwd, before=before) as running:
        deadline = time.monotonic() + HANG
        while not reached():
            assert running.process.is_alive(), running.result()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        signal_to(running, number)
        return running.result()


def signal_to(running, number):
    import os

    os.kill(running.process.pid, number)


WHERE, SIGNALS = ("experts", "distillation", "evaluation"), (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
FEW = {("experts", signal.SIGTERM), ("distillation", signal.SIGUSR2)}
MOMENTS = [
    pytest.param(*each, marks=pytest.mark.slow if each in FEW else pytest.mark.campaign)
    for each in itertools.product(WHERE, SIGNALS)
]


@pytest.mark.parametrize(("where", "number"), MOMENTS)
def test_a_stopped_run_goes_on_to_the_same_bits(where, number, undisturbed, npz_file, tmp_path):
    folder = tmp_path / "run"
    arguments = command(npz_file, folder)
    result = stop(arguments, tmp_path, number, lambda: stage(folder) == where)
    said = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    assert result.code == (INTERRUPTED if number == signal.SIGINT else STOPPED), result.err
    assert f"error: {said}; go on with: hoptm-bench run hydra.run.dir={folder} resume=true" in result.err
    assert "Traceback" not in result.err
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")], "a lock or a temporary file"
    assert fork("run", f"hydra.run.dir={folder}", "resume=true", cwd=tmp_path).code == 0
    assert_same(folder, undisturbed)


@pytest.mark.slow
def test_a_stop_writes_a_checkpoint_of_the_last_iteration(npz_file, tmp_path):
    """Checkpoints that are far apart would lose everything."""
    from hoptm_plugin.engine.checkpoint import read_checkpoint

    folder = tmp_path / "run"
    metrics = folder / "metrics.jsonl"
    rare = ("distillation.checkpoint_every=100000", "distillation.iterations=100000")
    result = stop((*command(npz_file, folder), *rare), tmp_path, signal.SIGTERM,
                  lambda: metrics.exists() and len(metrics.read_bytes().splitlines()) > 5)  # fmt: skip
    assert result.code == STOPPED
    state = read_checkpoint(folder / "checkpoint.safetensors")
    assert state["done"] == len(metrics.read_text().splitlines()) > 5


@pytest.mark.campaign
def test_a_stop_keeps_an_expert_that_is_not_finished(npz_file, tmp_path):
    """To the same bits as one that was never interrupted."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def experts(root):
        arguments = [each for each in command(npz_file, root)[1:] if not each.startswith(("hydra", "resume"))]
        return ("experts", *arguments, "experts.count=1", "experts.epochs=200", f"experts.root={root}")

    assert fork(*experts(whole), cwd=tmp_path).code == 0
    locked = functools.partial(lambda: any(parts.glob("*/expert-00000.lock")))
    stops = 0
    for delay in (0.15, 0.5, 1.5):  # on a busy machine the first may come before the first epoch
        result = stop(experts(parts), tmp_path, signal.SIGTERM, lambda: locked() and not time.sleep(delay))  # noqa: B023
        assert result.code == STOPPED, result
        assert "stopped by SIGTERM; the same command goes on" in result.err
        stops += len(list(parts.glob("*/expert-00000.begun.safetensors")))
    assert stops
    assert fork(*experts(parts), cwd=tmp_path).code == 0
    stores = [next(root.iterdir()) for root in (whole, parts)]
    assert sorted(path.name for path in stores[1].iterdir()) == ["expert-00000.safetensors", "manifest.json"]
    tensors = [tensors_of(store / "expert-00000.safetensors") for store in stores]
    assert tensors[0] == tensors[1]


def tensors_of(path):
    from hoptm_plugin.storage.tensors import read_tensors

    return read_tensors(path, "expert")[0]["parameters"].numpy().tobytes()


@pytest.mark.slow
def test_the_handler_before_ours_is_called_once_the_work_is_saved(npz_file, tmp_path):
    """submitit's handler requeues the job and ends the process; it must not do so before the checkpoint."""
    folder = tmp_path / "run"
    result = stop(command(npz_file, folder), tmp_path, signal.SIGUSR2, lambda: stage(folder) == "distillation",
                  functools.partial(install_handler, folder))  # fmt: skip
    assert result.code == 17
    assert (tmp_path / "requeued").read_text() == "checkpoint"


def install_handler(folder):
    def requeue(number, frame):
        there = "checkpoint" if (folder / "checkpoint.safetensors").exists() else "nothing"
        folder.with_name("requeued").write_text(there)
        raise SystemExit(17)

    signal.signal(signal.SIGUSR2, requeue)


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGTERM, pytest.param(signal.SIGUSR2, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("gap", [0.05, pytest.param(0.3, marks=pytest.mark.campaign)])
def test_a_second_signal_changes_nothing(gap, second, npz_file, tmp_path):
    """Schedulers send several; the exit code must say what to do all the same."""
    folder = tmp_path / "run"
    with forked(*command(npz_file, folder), cwd=tmp_path) as running:
        while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").stat().st_size:
            assert running.process.is_alive(), running.result()
            time.sleep(0.002)
        signal_to(running, signal.SIGUSR2)
        time.sleep(gap)
        if running.process.is_alive():
            signal_to(running, second)
        result = running.result()
    assert result.code == STOPPED, result
    assert (folder / "checkpoint.safetensors").exists()


@pytest.mark.slow
def test_a_folder_in_which_a_process_was_killed_at_once_can_be_used(npz_file, undisturbed, tmp_path):
    """Before its configuration was renamed into place."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".lock", ".config.yaml.abcdefgh.tmp"):
        (folder / name).write_text("")
    result = invoke(*command(npz_file, folder), cwd=tmp_path)
    assert result.code == 0, result.err
    assert_same(folder, undisturbed)
