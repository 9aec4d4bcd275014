"""Several processes on one expert store, in one folder of results, on one run."""

import functools
import os
import signal
import time
from collections import Counter
from contextlib import ExitStack

import pytest
from command_line import HANG, TINY_RUN, fork, forked
from disturbed import EXPERTS, command, stage
from generated import NPZ


def record_writes(log):
    """Append a line to ``log`` for every expert that this process stores."""
    from hoptm_plugin.experts import ExpertStore

    write = ExpertStore.write

    def recorded(self, expert, *rest):
        write(self, expert, *rest)
        with log.open("a") as stream:
            stream.write(f"{os.getpid()} {expert}\n")

    ExpertStore.write = recorded


def experts(npz_file, root):
    arguments = [each for each in command(npz_file, root)[1:] if not each.startswith(("hydra", "resume"))]
    return ("experts", *arguments, "experts.epochs=30", f"experts.root={root}")


@pytest.mark.campaign
def test_four_processes_build_one_store(npz_file, tmp_path):
    log, arguments = tmp_path / "log", experts(npz_file, tmp_path / "store")
    with ExitStack() as stack:
        start = functools.partial(forked, *arguments, cwd=tmp_path, before=functools.partial(record_writes, log))
        results = [running.result() for running in [stack.enter_context(start()) for _ in range(4)]]
    assert [result.code for result in results] == [0] * 4, results
    assert all(f"{EXPERTS} experts of 30 epochs" in result.out for result in results)
    trained = Counter(line.split()[1] for line in log.read_text().splitlines())
    assert trained == Counter(map(str, range(EXPERTS))), "each once"
    assert len({line.split()[0] for line in log.read_text().splitlines()}) > 1, "they shared the work"
    (store,) = (tmp_path / "store").glob("[0-9a-f]*")
    files = [*(f"expert-{expert:05d}.safetensors" for expert in range(EXPERTS)), "manifest.json"]
    assert sorted(path.name for path in store.iterdir()) == files

    assert fork(*experts(npz_file, tmp_path / "alone"), cwd=tmp_path).code == 0
    from hoptm_plugin.storage.tensors import read_tensors

    (alone,) = (tmp_path / "alone").iterdir()
    for name in files[:-1]:
        one, other = (read_tensors(folder / name, "expert")[0]["parameters"] for folder in (store, alone))
        assert one.equal(other)


@pytest.mark.campaign
def test_the_death_of_one_does_not_stop_the_others(npz_file, tmp_path):
    arguments, root = experts(npz_file, tmp_path / "store"), tmp_path / "store"
    with forked(*arguments, cwd=tmp_path) as killed, forked(*arguments, cwd=tmp_path) as other:
        deadline = time.monotonic() + HANG
        while len(list(root.glob("*/expert-*.lock"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(killed.process.pid, signal.SIGKILL)
        assert other.result().code == 0, other.result()
    (store,) = root.glob("[0-9a-f]*")
    files = [*(f"expert-{expert:05d}.safetensors" for expert in range(EXPERTS)), "manifest.json"]
    assert sorted(path.name for path in store.iterdir()) == files, "no lock of the dead, no temporary file"


@pytest.mark.slow
def test_two_processes_in_one_run_folder(npz_file, tmp_path):
    folder = tmp_path / "run"
    endless = (*command(npz_file, folder), "distillation.iterations=100000")
    with forked(*endless, cwd=tmp_path) as first:
        while stage(folder) != "distillation":
            assert first.process.is_alive(), first.result()
            time.sleep(0.005)
        second = fork(*endless, cwd=tmp_path)
        assert second.code == 2
        assert f"error: {folder}: process {first.process.pid} on " in second.err
        assert "works in it; wait for it, or choose another folder with hydra.run.dir=PATH" in second.err
        assert first.process.is_alive()


@pytest.mark.slow
def test_runs_that_start_together_get_folders_of_their_own(npz_file, tmp_path):
    arguments = ("run", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_RUN, f"experts.root={tmp_path}/store")
    with ExitStack() as stack:
        running = [stack.enter_context(forked(*arguments, cwd=tmp_path)) for _ in range(4)]
        results = [each.result() for each in running]
    assert [result.code for result in results] == [0] * 4, results
    cards = sorted((tmp_path / "runs").rglob("result.json"))
    assert len(cards) == 4
    assert len({(card.parent / "synthetic.safetensors").read_bytes() for card in cards}) == 1
