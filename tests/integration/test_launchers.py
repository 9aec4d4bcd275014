"""Sweeps through Hydra's launchers: the same cards as one after the other, requeued and killed jobs, one message."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from command_line import HANG, TINY_RUN, call, card, fork, start
from disturbed import BUDGET
from generated import NPZ

LAUNCHERS = {
    "basic": (),
    "processes": ("hydra/launcher=processes",),
    "submitit_local": ("hydra/launcher=submitit_local",),
    "ray_local": ("hydra/launcher=ray_local", "hydra.launcher.ray.init.num_cpus=2"),
}
PACKAGES = {"processes": "joblib", "submitit_local": "submitit", "ray_local": "ray"}
pytestmark = pytest.mark.slow
# one launcher is tried in every gate, the others in the campaigns
EACH = [pytest.param(each, marks=() if each == "processes" else pytest.mark.campaign) for each in PACKAGES]
THREADS = ("runtime.threads=1", "runtime.compile=false", "distillation.step_size.learning_rate=0")


def sweep(npz_file, folder, *more):
    return ("run", "-m", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_RUN, *THREADS,
            f"experts.root={folder.parent}/store", f"hydra.sweep.dir={folder}", *more)  # fmt: skip


def results(folder):
    """Return, by job, the card without its cost and without the commit, and the bytes of the set."""
    found = {}
    for path in folder.glob("*/result.json"):
        content = card(path.parent)
        del content["cost"], content["sha256"], content["software"]["commit"]
        found[path.parent.name] = content, (path.parent / "synthetic.safetensors").read_bytes()
    return found


@pytest.fixture(scope="module")
def one_after_the_other(tmp_path_factory, npz_file):
    """The results of eight runs without a launcher."""
    folder = tmp_path_factory.mktemp("basic") / "sweep"
    done = fork(*sweep(npz_file, folder, "method=hoptm,mtt", "seed=0,1", "ipc=1,2"), cwd=folder.parent)
    assert done.code == 0, done.err
    return results(folder), folder.parent / "store"


@pytest.mark.campaign
@pytest.mark.parametrize("launcher", EACH)
def test_eight_runs_give_the_same_cards(launcher, one_after_the_other, npz_file, tmp_path):
    pytest.importorskip(PACKAGES[launcher])
    expected, store = one_after_the_other
    assert len(expected) == 8
    home = tmp_path / "home"
    home.mkdir()
    # the store of the others: its folder is a setting, and stands in the artefact config.yaml
    arguments = sweep(npz_file, tmp_path / "sweep", "method=hoptm,mtt", "seed=0,1", "ipc=1,2", f"experts.root={store}")
    done = call(*arguments, *LAUNCHERS[launcher], cwd=tmp_path, environment={"HOME": str(home)})
    assert done.code == 0, done.err
    assert "Traceback" not in done.err + done.out
    found = results(tmp_path / "sweep")
    assert found == expected
    left = [path for path in home.rglob("*") if path.is_file() and "compiled" not in path.parts]
    assert left == [], "no token, no settings of a launcher"


@pytest.mark.campaign
@pytest.mark.parametrize("launcher", EACH)
def test_a_failing_job_stops_no_other(launcher, npz_file, tmp_path):
    pytest.importorskip(PACKAGES[launcher])
    done = call(*sweep(npz_file, tmp_path / "sweep", "ipc=9,1"), *LAUNCHERS[launcher], cwd=tmp_path)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    assert done.err.count("error: ") == 1
    assert "error: ipc=9: class " in done.err
    assert list(results(tmp_path / "sweep")) == ["1-hoptm-npz-ipc1-seed0"]


@pytest.mark.parametrize(
    ("launcher", "says"),
    [("proceses", "did you mean 'processes'"), ("slurm", 'Could not detect "srun"')],
)
def test_launchers_that_are_not_there(launcher, says, npz_file, tmp_path):
    done = fork(*sweep(npz_file, tmp_path / "sweep", "seed=0,1", f"hydra/launcher={launcher}"), cwd=tmp_path)
    assert done.code == (1 if launcher == "slurm" else 2)
    assert done.err.count("error: ") == 1
    assert says in done.err, done.err
    assert "Traceback" not in done.err


def workers(mark, parent=None):
    """Return the processes of this machine whose command line holds all of ``mark``; of a parent only its own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if all(part in line for part in mark) and parent in (None, parent_of(path.parent)):
            found.append(int(path.parent.name))
    return found


def parent_of(process):
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def wait_for(process, happened):
    deadline = time.monotonic() + HANG
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.campaign
def test_submitit_requeues_a_job_that_was_preempted(undisturbed, npz_file, tmp_path):
    """SIGUSR2, as Slurm sends it: checkpoint, requeue by submitit, the same bits."""
    pytest.importorskip("submitit")
    folder = tmp_path / "sweep"
    job = folder / "0-hoptm-npz-ipc1-seed0"
    arguments = ("run", "-m", "dataset=npz", f"dataset.root={npz_file}", *BUDGET, f"experts.root={tmp_path}/store",
                 f"hydra.sweep.dir={folder}", "resume=auto", "hydra/launcher=submitit_local")  # fmt: skip
    process = start(*arguments, cwd=tmp_path)
    try:
        wait_for(process, lambda: (job / "metrics.jsonl").exists())
        (worker,) = workers(("submitit.core._submit", str(folder)))
        os.kill(worker, signal.SIGUSR2)
        _, err = process.communicate(timeout=HANG)
    finally:
        process.kill()
    assert process.returncode == 0, err
    logs = "".join(path.read_text() for path in folder.glob(".submitit/*/*.out"))
    logs += "".join(path.read_text() for path in folder.glob(".submitit/*/*.err"))
    assert "stopped by SIGUSR2; go on with" in logs
    assert "Exiting gracefully" in logs or "Requeued job" in logs, logs
    assert (job / "synthetic.safetensors").read_bytes() == (undisturbed / "synthetic.safetensors").read_bytes()
    assert card(job)["evaluations"] == card(undisturbed)["evaluations"]


@pytest.mark.campaign
def test_a_worker_that_was_killed_is_named_and_the_sweep_goes_on_when_it_is_run_again(npz_file, tmp_path):
    pytest.importorskip("joblib")
    folder = tmp_path / "sweep"
    endless = ("distillation.iterations=100000", "distillation.checkpoint_every=1", "hydra/launcher=processes")
    process = start(*sweep(npz_file, folder, "seed=0,1", *endless), cwd=tmp_path)
    try:
        wait_for(process, lambda: len(list(folder.glob("*/checkpoint.safetensors"))) == 2)
        for worker in workers(("joblib.externals.loky", "LokyProcess"), process.pid):
            os.kill(worker, signal.SIGKILL)
        _, err = process.communicate(timeout=HANG)
    finally:
        process.kill()
    assert process.returncode == 1, err
    assert err.count("error: ") == 1
    assert "error: the launcher could not run the sweep to its end: TerminatedWorkerError" in err
    assert "hydra.sweep.dir" in err
    assert "Traceback" not in err
    other = ("distillation.iterations=100000", "distillation.images.learning_rate=7")
    again = call(*sweep(npz_file, folder, "seed=0,1", "hydra/launcher=processes", "resume=auto", *other), cwd=tmp_path)
    assert "was made with other settings" in again.err, "it found what was there"


FAKE = """#!/bin/sh
if [ "$(basename "$0")" = sbatch ]; then cp "$1" "{folder}/submitted.sh"; echo "Submitted batch job 7"; fi
"""


@pytest.mark.campaign
def test_the_script_for_slurm(npz_file, tmp_path):
    """Submitted to a Slurm that keeps the script and never runs it."""
    pytest.importorskip("submitit")
    for name in ("sbatch", "srun", "sacct", "scancel", "squeue"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(FAKE.format(folder=tmp_path))
        (tmp_path / "bin" / name).chmod(0o755)
    arguments = sweep(npz_file, tmp_path / "sweep", "seed=0,1,2", "hydra/launcher=slurm", "resume=auto",
                      "hydra.launcher.partition=gpu")  # fmt: skip
    process = start(*arguments, cwd=tmp_path,
                    environment={"PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"})  # fmt: skip
    try:
        wait_for(process, lambda: (tmp_path / "submitted.sh").exists())
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=HANG)
    finally:
        process.kill()
    assert process.returncode == 75, err
    assert "Traceback" not in err
    script = (tmp_path / "submitted.sh").read_text()
    for line in ("--array=0-2%3", "--gpus-per-node=1", "--signal=USR2@120", "--time=1440", "--cpus-per-task=8",
                 "--mem=32GB", "--partition=gpu", "--open-mode=append", "--job-name=hoptm-bench"):  # fmt: skip
        assert f"#SBATCH {line}" in script, script
    assert "submitit.core._submit" in script
    assert f"{sys.executable} -u -m submitit" in script


@pytest.mark.campaign
def test_workers_share_the_experts_of_one_store(npz_file, tmp_path):
    pytest.importorskip("joblib")
    done = call("experts", "-m", "worker=range(3)", "method=mtt", "dataset=npz", f"dataset.root={npz_file}", *NPZ,
                "network.width=4", "network.depth=2", "experts.count=5", "experts.epochs=3", *THREADS,
                f"experts.root={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/sweep", "hydra/launcher=processes",
                "method.sampler.max_start_epoch=1", cwd=tmp_path)  # fmt: skip
    assert done.code == 0, done.err
    assert done.out.count("5 experts of 3 epochs in ") == 3
    assert len(list((tmp_path / "store").glob("*/expert-*.safetensors"))) == 5
    assert not list((tmp_path / "store").rglob("*.lock"))
    shutil.rmtree(tmp_path / "sweep")
