"""Work shared out to processes: what it gives, and that none of them outlives whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HANG = 120
SCRIPT = '''
import os, sys, time
from pathlib import Path
from hoptm_plugin.runtime.processes import shared_out
from hoptm_plugin.runtime.stopping import Stopped, deferred, stop_on_signals

def steps(number, folder, count):
    """Work in steps, between which it can be stopped."""
    (folder / f"{number}.begun").write_text(str(os.getpid()))
    with deferred():
        from hoptm_plugin.runtime.stopping import asked_to_stop
        for step in range(count):
            time.sleep(0.02)
            if asked_to_stop():
                break
        (folder / f"{number}.kept").write_text(str(step))
    return number, os.environ["OMP_NUM_THREADS"]

def die(number):
    os._exit(1)

def leave(number):
    raise SystemExit(75)

def one_dies(number, folder, count):
    """The first is killed while the other works."""
    if number:
        return steps(number, folder, count)
    while not list(folder.glob("*.begun")):
        time.sleep(0.02)
    os._exit(1)

class Odd(Exception):
    """Cannot be sent as it is."""
    def __init__(self, one, two):
        super().__init__(one)

def fail(number):
    raise Odd("a reason", 2) if number else ValueError("another")

if __name__ == "__main__":
    folder, what = Path(sys.argv[1]), sys.argv[2]
    work = {"steps": lambda: (steps, [(n, folder, int(sys.argv[3])) for n in range(4)]),
            "die": lambda: (die, [(n,) for n in range(3)]), "leave": lambda: (leave, [(n,) for n in range(3)]),
            "one": lambda: (one_dies, [(n, folder, 100000) for n in range(4)]), "fail": lambda: (fail, [(1,)])}
    try:
        with stop_on_signals():
            print(shared_out(*work[what](), at_once=2))
    except Stopped as stopped:
        print(f"stopped by {stopped}")
        raise SystemExit(stopped.exit_code)
'''


@pytest.fixture
def script(tmp_path):
    """Start the script; its errors come with what it prints."""
    path = tmp_path / "shared.py"
    path.write_text(SCRIPT)
    started: list[subprocess.Popen[str]] = []

    def start(*arguments):
        process = subprocess.Popen([sys.executable, path, tmp_path, *arguments], stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, start_new_session=True)  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def wait_for(condition):
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def runs(number: int) -> bool:
    return Path(f"/proc/{number}").exists() and Path(f"/proc/{number}/stat").read_text().split(") ")[1][0] != "Z"


def test_all_jobs_are_done_in_order_with_a_share_of_the_cores(script, tmp_path):
    out, _ = script("steps", "2").communicate(timeout=HANG)
    share = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert out.strip() == str([(number, share) for number in range(4)])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_one_that_started_them_reaches_all(script, tmp_path, number):
    """What is being done is kept, what was not begun is left, also what the pool had handed over."""
    process = script("steps", "100000")
    wait_for(lambda: len(list(tmp_path.glob("*.begun"))) == 2)
    process.send_signal(number)
    out, _ = process.communicate(timeout=HANG)
    assert out == f"stopped by {signal.Signals(number).name}\n"
    assert process.returncode == (75 if number == signal.SIGTERM else 130)
    assert sorted(path.name for path in tmp_path.glob("*.kept")) == ["0.kept", "1.kept"]
    assert len(list(tmp_path.glob("*.begun"))) == 2


def test_none_outlives_the_one_that_started_them(script, tmp_path):
    process = script("steps", "100000")
    begun = [tmp_path / f"{number}.begun" for number in range(2)]
    wait_for(lambda: all(path.exists() and path.read_text() for path in begun))
    children = [int(path.read_text()) for path in begun]
    process.kill()
    process.wait(timeout=HANG)
    wait_for(lambda: not any(map(runs, children)))
    assert sorted(path.name for path in tmp_path.glob("*.kept")) == ["0.kept", "1.kept"]


def test_one_that_is_stopped_by_itself_ends_the_others(script):
    process = script("leave")
    out, _ = process.communicate(timeout=HANG)
    assert (process.returncode, out) == (75, "")


def test_one_that_dies_is_told(script):
    out, _ = script("die").communicate(timeout=HANG)
    assert "WorkerDiedError" in out


def test_where_one_dies_the_others_are_kept_and_none_stays(script, tmp_path):
    process = script("one")
    out, _ = process.communicate(timeout=HANG)
    assert "WorkerDiedError" in out
    assert [path.name for path in tmp_path.glob("*.kept")] == ["1.kept"]
    assert not runs(int((tmp_path / "1.begun").read_text()))


def test_what_a_job_raises_is_raised_also_where_it_cannot_be_sent(script):
    out, _ = script("fail").communicate(timeout=HANG)
    assert "RuntimeError: Odd: a reason" in out
