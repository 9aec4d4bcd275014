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
from command_line import fork, forked
from disturbed import assert_same, stage
from disturbed import command as command_in

STAGES = ("experts", "distillation", "evaluation")
KILLS, KILLS_A_STAGE = 50, 10

pytestmark = pytest.mark.slow


@pytest.fixture
def command(npz_file):
    """Return the command of a run in a folder."""
    return functools.partial(command_in, npz_file)


@pytest.mark.campaign
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


@pytest.mark.campaign
def test_a_kill_before_and_after_every_rename(command, undisturbed, tmp_path):
    """Every file is either not there yet or whole."""
    folder, killed = tmp_path / "run", 0
    for number in itertools.count(1):  # each process gets a little further than the one before
        result = fork(*command(folder), cwd=tmp_path, before=functools.partial(kill_at_rename, number))
        if result.code == 0:
            break
        assert result.code == -signal.SIGKILL, result.err
        assert all(json.loads(path.read_text()) for path in folder.glob("*.json"))
        killed += 1
    assert killed > 10
    assert_same(folder, undisturbed)


@pytest.mark.campaign
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
