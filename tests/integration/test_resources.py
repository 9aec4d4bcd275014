"""A disk that is full or read-only, memory that runs out: the cause, the remedy, and nothing lost."""

import contextlib
import functools
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command_line import SECONDS, TINY_RUN, fork, forked
from disturbed import EXPERTS, assert_same, command, stage
from generated import NPZ

FULL, READ_ONLY = "No space left on device", "Read-only file system"


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


def remount(folder, mode):
    subprocess.run(["mount", "-o", f"remount,{mode}", folder], check=True)


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
    from hoptm_plugin.core.tensors import read_tensors

    for path in folder.rglob("*.safetensors"):
        read_tensors(path, "file")


@pytest.mark.parametrize("where", ["experts", "distillation", "evaluation"])
def test_a_disk_that_becomes_full(where, disk, undisturbed, npz_file, tmp_path):
    folder = disk / "run"
    with forked(*command(npz_file, folder), cwd=tmp_path) as running:
        deadline = time.monotonic() + SECONDS
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


def fill_before(disk, module, name):
    """Have the disk filled right before a function of the library is called for the first time."""
    from importlib import import_module

    place = import_module(module)
    owner, _, attribute = name.rpartition(".")
    owner = getattr(place, owner) if owner else place
    original = getattr(owner, attribute)

    def filled(*arguments, **keywords):
        fill(disk)
        return original(*arguments, **keywords)

    setattr(owner, attribute, filled)


@pytest.mark.parametrize(
    ("module", "name", "file"),
    [
        ("hoptm_plugin.commands.folder", "RunFolder.begin", "config.yaml"),
        ("hoptm_plugin.engine.distil", "write_checkpoint", "checkpoint.safetensors"),
        ("hoptm_plugin.core.synthetic", "SyntheticSet.save", "synthetic.safetensors"),
        ("hoptm_plugin.results.finished", "write_json", "evaluations.json"),
        ("hoptm_plugin.commands.run", "write_card", "result.json"),
    ],
)
def test_a_disk_that_is_full_when_a_file_is_written(module, name, file, disk, undisturbed, npz_file, tmp_path):
    folder = disk / "run"
    before = functools.partial(fill_before, disk, module, name)
    fails(fork(*command(npz_file, folder), cwd=tmp_path, before=before), f"{folder / file}: cannot be written: {FULL}")
    whole(disk)
    (disk / "ballast").unlink()
    done = fork(*command(npz_file, folder), cwd=tmp_path)
    assert done.code == 0, done.err
    assert_same(folder, undisturbed)


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "{run}", "--format", "medmnist", "-o", "{disk}/set"),
        ("export", "{run}", "--format", "folder", "-o", "{disk}/set"),
        ("report", "{run}", "-o", "{disk}/page.html"),
        ("compare", "{run}", "--output", "{disk}/table.csv", "--format", "csv"),
        ("eval", "synthetic={run}", "hydra.run.dir={disk}/judged"),
        ("run", "-m", "method=random", "seed=0,1", "hydra.sweep.dir={disk}/sweep"),
    ],
    ids=lambda arguments: " ".join(arguments[:4]),
)
@pytest.mark.parametrize("trouble", [FULL, READ_ONLY])
def test_commands_on_a_full_or_read_only_disk(arguments, trouble, disk, finished_run, tmp_path):
    if trouble == FULL:
        fill(disk)
    else:
        remount(disk, "ro")
    given = [each.format(run=finished_run, disk=disk) for each in arguments]
    result = fork(*given, cwd=tmp_path)
    assert result.code in (1, 2), result
    assert "Traceback" not in result.err + result.out, result.err
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.err
    assert trouble in lines[0]
    assert ("the sweep's folder" if "-m" in given and trouble == FULL else str(disk)) in lines[0]
    left = [path.name for path in disk.rglob("*") if path.name != "ballast" and not path.is_dir()]
    assert [name for name in left if name != "multirun.yaml"] == []


def test_a_run_on_a_read_only_disk_is_read(disk, finished_run, npz_file, tmp_path):
    shutil.copytree(finished_run, disk / "run")
    remount(disk, "ro")
    for arguments in (("run", f"hydra.run.dir={disk / 'run'}", "resume=true"), ("compare", str(disk / "run")),
                      ("report", str(disk / "run"), "-o", "page.html"), ("verify", str(disk / "run")),
                      ("eval", f"synthetic={disk / 'run'}", "hydra.run.dir=judged")):  # fmt: skip
        result = fork(*arguments, cwd=tmp_path)
        assert result.code == 0, result.err


def test_experts_on_a_read_only_disk(disk, undisturbed, npz_file, tmp_path):
    """All of them there: they are read. One missing: one message."""
    store = next(undisturbed.with_name("run-experts").iterdir())
    shutil.copytree(store, disk / "store" / store.name)
    remount(disk, "ro")
    arguments = [*command(npz_file, tmp_path / "run"), f"experts.root={disk / 'store'}"]
    result = fork(*arguments, cwd=tmp_path)
    assert result.code == 0, result.err
    more = [*command(npz_file, tmp_path / "more"), f"experts.root={disk / 'store'}", f"experts.count={EXPERTS + 1}"]
    fails(fork(*more, cwd=tmp_path), str(disk / "store"), READ_ONLY, "choose a folder that can be written to")


def to_full_disk(disk):
    """Send both streams to files on a disk that is full."""
    for descriptor in (1, 2):
        os.dup2(os.open(disk / f"log{descriptor}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    fill(disk)


def test_a_log_on_a_full_disk_ends_no_run(disk, npz_file, tmp_path):
    arguments = ("run", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_RUN, f"experts.root={tmp_path}/store",
                 f"hydra.run.dir={tmp_path}/run")  # fmt: skip
    fork(*arguments, cwd=tmp_path, before=functools.partial(to_full_disk, disk))
    assert (tmp_path / "run/result.json").exists()


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
    "evaluation": (("network.width=16", "method.student_steps=2", "networks=[{name: convnet, width: 2048}]"),
                   "while evaluating the synthetic set", "runtime.parallel_networks=1"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("where", list(MEMORY))
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
