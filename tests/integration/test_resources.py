"""A disk that is full or read-only, memory that runs out: the cause, the remedy, and nothing lost."""

import contextlib
import functools
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import HANG, fork, forked
from disturbed import assert_same, command, stage

FULL = "No space left on device"


def stages(first):
    """Return the parts of a run as parameters, one of them for every gate and the others for the campaigns."""
    return [pytest.param(each, marks=() if each == first else pytest.mark.campaign)
            for each in ("experts", "distillation", "evaluation")]  # fmt: skip


@pytest.fixture
def disk(tmp_path):
    """Return a file system of two megabytes of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder):
    """Take all space that is left."""
    with (folder / "ballast").open("ab", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))


def fails(result, *says, code=1):
    assert result.code == code, result
    assert "Traceback" not in result.err + result.out, result.err
    assert "Exception ignored" not in result.err
    assert result.err.count("error: ") == 1, result.err
    for said in says:
        assert said in result.err, result.err


def whole(folder):
    """Refuse temporary files, and what cannot be read."""
    left = [path for path in folder.rglob("*") if path.suffix == ".tmp" or path.name == ".lock"]
    assert left == []
    from hoptm_plugin.storage.tensors import read_tensors

    for path in folder.rglob("*.safetensors"):
        read_tensors(path, "file")


@pytest.mark.slow
@pytest.mark.parametrize("where", stages("distillation"))
def test_a_disk_that_becomes_full(where, disk, undisturbed, npz_file, tmp_path):
    folder = disk / "run"
    with forked(*command(npz_file, folder), cwd=tmp_path) as running:
        deadline = time.monotonic() + HANG
        while stage(folder) != where:
            assert running.process.is_alive(), running.result()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        fill(disk)
        result = running.result()
    fails(result, f"error: {disk}/run", f": cannot be written: {FULL}; free some space there, or choose another folder",
          "What was stored before is intact",
          f"go on with: hoptm-bench run hydra.run.dir={folder} resume=true")  # fmt: skip
    whole(disk)
    (disk / "ballast").unlink()
    done = fork(*command(npz_file, folder), cwd=tmp_path)
    assert done.code == 0, done.err
    assert_same(folder, undisturbed)


def limit_memory(mebibytes):
    """Let this process take so much more address space than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


LARGE = ("method=mtt", "dataset=digits", "experts.count=1", "method.sampler.max_start_epoch=1", "experts.epochs=2",
         "method.expert_epochs=1", "distillation.iterations=1", "distillation.step_size.learning_rate=0",
         "protocol.repeats=1", "protocol.epochs=1", "protocol.random_subset=false", "runtime.compile=false",
         "runtime.threads=1", "experts.training.batch=32", "network.depth=2", "resume=auto")  # fmt: skip
MEMORY = {
    "experts": (("network.width=128", "experts.training.batch=1024"), "while training experts",
                "runtime.parallel_networks=1"),
    "distillation": (("network.width=16", "method.student_steps=200", "runtime.unroll=full"), "while distilling",
                     "runtime.unroll=adjoint"),
    "evaluation": (("network.width=16", "method.student_steps=2", "networks=[{name: convnet, width: 1400}]"),
                   "while evaluating the synthetic set", "runtime.parallel_networks=1"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("where", stages("experts"))
def test_memory_that_runs_out(where, tmp_path):
    settings, doing, remedy = MEMORY[where]
    arguments = ("run", *LARGE, *settings, f"experts.root={tmp_path}/store", f"hydra.run.dir={tmp_path}/run")
    limited = functools.partial(limit_memory, 400)
    result = fork(*arguments, cwd=tmp_path, before=limited)
    fails(
        result, f"error: memory is exhausted {doing}", remedy, f"go on with: hoptm-bench run hydra.run.dir={tmp_path}"
    )
    whole(tmp_path)
    if where == "distillation":  # the remedy, in the same memory
        done = fork(*arguments, "runtime.unroll=adjoint", cwd=tmp_path, before=limited)
        assert done.code == 0, done.err


@pytest.mark.slow
def test_a_network_that_no_memory_holds_is_refused_before_any_work(tmp_path):
    settings = ("method=random", "networks=[{name: convnet, width: 4096}]", f"hydra.run.dir={tmp_path}/run")
    result = fork("run", *settings, cwd=tmp_path, before=functools.partial(limit_memory, 400))
    assert result.code == 1, result
    assert "error: memory is exhausted while trying a network on two images" in result.err
    assert not (tmp_path / "run").exists()


HELD = """
import gc, sys
from hoptm_plugin.cli import main
gc.disable()  # so that only what a job lets go, or has looked for, is gone
main(sys.argv[1:])
import torch
print("held:", sum(each.nbytes for each in gc.get_objects() if isinstance(each, torch.Tensor)))
"""


@pytest.mark.campaign
def test_a_sweep_holds_no_data_of_earlier_jobs(tmp_path):
    tiny = ("network.width=4", "network.depth=2", "protocol.repeats=1", "protocol.epochs=1",
            "protocol.random_subset=false", "runtime.compile=false", "runtime.threads=1")  # fmt: skip
    arguments = ("run", "-m", "method=random", "dataset=digits", "seed=0,1", *tiny, f"hydra.sweep.dir={tmp_path}/runs")
    done = subprocess.run(
        [sys.executable, "-c", HELD, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    one_job = 1797 * 32 * 32 * 4  # the digits, as float32
    assert int(done.stdout.rpartition("held:")[2]) < one_job / 2


@pytest.mark.campaign
def test_a_process_that_was_killed_is_remembered(npz_file, tmp_path):
    """The system kills whoever takes too much memory, without a word."""
    folder = tmp_path / "run"
    with forked(*command(npz_file, folder), cwd=tmp_path) as running:
        while stage(folder) != "distillation":
            assert running.process.is_alive(), running.result()
            time.sleep(0.005)
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.join()
    result = fork(*command(npz_file, folder), cwd=tmp_path)
    assert result.code == 0
    assert (
        f"{folder}: the process before this one was killed. If it was for want of memory, runtime.unroll" in result.err
    )
