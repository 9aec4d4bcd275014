"""SIGKILL at any moment: what is run again ends with the bits of a run that nothing disturbed; nothing is lost."""

import collections
import functools
import itertools
import json
import os
import random
import signal
import sys
import time

import pytest
from command_line import TINY_NETWORK, card, fork, forked
from generated import NPZ

EXPERTS = 8
BUDGET = (
    *TINY_NETWORK, *NPZ, f"experts.count={EXPERTS}", "experts.training.batch=4", "method.student_steps=4",
    "method.sampler.max_start_epoch=4", "distillation.iterations=80", "distillation.checkpoint_every=2",
    "distillation.log_every=1", "distillation.images.learning_rate=0.1", "distillation.step_size.learning_rate=1e-6",
    "protocol.repeats=4", "protocol.epochs=60", "runtime.threads=1", "runtime.compile=false",
)  # fmt: skip
STAGES = ("experts", "distillation", "evaluation")
KILLS, KILLS_A_STAGE = 50, 10


@pytest.fixture(scope="module")
def command(npz_file):
    """Return the command of a run in ``folder`` with experts of its own."""

    def arguments(folder):
        return ("run", "dataset=npz", f"dataset.root={npz_file}", *BUDGET, f"experts.root={folder}-experts",
                f"hydra.run.dir={folder}", "resume=auto")  # fmt: skip

    return arguments


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, command):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    result = fork(*command(folder), cwd=folder.parent)
    assert result.code == 0, result.err
    return folder


def stage(folder):
    """Return what a run was doing, by its files; None before it did anything."""
    if (folder / "result.json").exists():
        return "done"
    if (folder / "synthetic.safetensors").exists():
        return "evaluation"
    if (folder / "metrics.jsonl").exists():
        return "distillation"
    return "experts" if (folder / "config.yaml").exists() else None


def assert_same(folder, expected):
    """Refuse a run that differs from the one that nothing disturbed in anything but its cost, or left something."""
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in expected.iterdir()}, "a lock, a temporary file or less than all"
    for name in names - {"result.json", "checkpoint.safetensors", "config.yaml"}:  # these hold seconds and paths
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    mine, theirs = card(folder), card(expected)
    for each in (mine, theirs):
        del each["cost"], each["sha256"], each["artefacts"]["config.yaml"], each["software"]["commit"]
    assert mine == theirs
    (store,) = folder.with_name(f"{folder.name}-experts").iterdir()
    files = [*(f"expert-{expert:05d}.safetensors" for expert in range(EXPERTS)), "manifest.json"]
    assert sorted(path.name for path in store.iterdir()) == files


@pytest.mark.slow
def test_fifty_kills_at_random_moments(command, undisturbed, tmp_path, capsys):
    chance, kills = random.Random(0), collections.Counter()
    for run in itertools.count():
        folder = tmp_path / f"run{run}"
        while stage(folder) != "done":
            wanted = min(STAGES, key=lambda name: kills[name])
            with forked(*command(folder), cwd=tmp_path) as running:
                while running.process.is_alive() and stage(folder) not in (wanted, "done"):
                    time.sleep(0.005)
                running.process.join(chance.uniform(0, 0.8))
                if running.process.is_alive():
                    at = stage(folder)
                    running.process.kill()
                    running.process.join()
                    kills[at] += 1
                else:
                    assert running.result().code == 0, running.result().err
        assert fork(*command(folder), cwd=tmp_path).code == 0, "a finished run is shown"
        assert_same(folder, undisturbed)
        if sum(kills.values()) >= KILLS and all(kills[name] >= KILLS_A_STAGE for name in STAGES):
            break
        assert run < KILLS, f"no end: {kills}"
    with capsys.disabled():
        sys.stderr.write(f"\n{sum(kills.values())} kills over {run + 1} runs: {dict(kills)}\n")


def kill_at_rename(number):
    """Have this process killed by its ``number``-th renaming of a file into place: before it, or right after it."""
    from pathlib import Path

    replace, calls = Path.replace, itertools.count()

    def counted(self, target):
        at = next(calls)
        if at == number // 2 and number % 2 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = replace(self, target)
        if at == number // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Path.replace = counted


@pytest.mark.slow
def test_a_kill_before_and_after_every_rename(command, undisturbed, tmp_path):
    """Every file is either not there yet or whole."""
    folder, killed = tmp_path / "run", 0
    # each process gets three renames further than the one before, or two and dies before the third
    for number in itertools.cycle((4, 5)):
        result = fork(*command(folder), cwd=tmp_path, before=functools.partial(kill_at_rename, number))
        if result.code == 0:
            break
        assert result.code == -signal.SIGKILL, result.err
        assert all(json.loads(path.read_text()) for path in folder.glob("*.json"))
        killed += 1
    assert killed > 20
    assert_same(folder, undisturbed)


def test_the_card_is_written_whole_or_not_at_all(command, undisturbed, tmp_path):
    """Killed before the card's rename, right after it, and before the evaluations are removed."""
    for number, written in ((0, False), (1, True)):
        folder = tmp_path / f"run{number}"
        kill = functools.partial(kill_at_card, number)
        assert fork(*command(folder), cwd=tmp_path, before=kill).code == -signal.SIGKILL
        assert (folder / "result.json").exists() == written
        assert (folder / "evaluations.json").exists()
        result = fork(*command(folder), cwd=tmp_path)
        assert result.code == 0, result.err
        assert "Experts" not in result.err
        assert "epochs 0/" not in result.err, "no network was trained again"
        assert_same(folder, undisturbed)


def kill_at_card(number):
    """Have this process killed right before (0) or after (1) the card is renamed into place."""
    from pathlib import Path

    replace = Path.replace

    def killing(self, target):
        if Path(target).name != "result.json":
            return replace(self, target)
        if number:
            replace(self, target)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it survived")

    Path.replace = killing
