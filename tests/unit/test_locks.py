"""Locks between processes: one holder at a time, whoever is killed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
import time
import warnings
from pathlib import Path

import pytest

from hoptm_plugin.core.errors import StorageError
from hoptm_plugin.core.locks import Lock

FORK = multiprocessing.get_context("fork")


def hold(path, ready):
    lock = Lock(path)
    ready.put((lock.acquire(), lock.left_over))
    time.sleep(60)


def count_up(folder, until, found):
    """Add one to a file as often as the lock is had, with a gap between reading and writing it."""
    taken, said_left_over = 0, False
    counter = folder / "counter"
    while time.monotonic() < until:
        lock = Lock(folder / "counter.lock")
        if lock.acquire():
            value = int(counter.read_text())
            counter.write_text(str(value + 1))
            taken, said_left_over = taken + 1, said_left_over or lock.left_over
            lock.release()
    found.put((taken, said_left_over))


@pytest.fixture
def holder(tmp_path):
    """A process that holds ``tmp_path/a.lock``."""
    ready = FORK.Queue()
    process = FORK.Process(target=hold, args=(tmp_path / "a.lock", ready))
    process.start()
    assert ready.get(timeout=20) == (True, False)
    yield process
    process.kill()
    process.join()


def test_one_process_holds_it_and_is_named(holder, tmp_path):
    lock = Lock(tmp_path / "a.lock")
    assert not lock.acquire()
    assert lock.holder() == f"process {holder.pid} on {socket.gethostname()}"
    lock.release()  # of no effect: it is not held here
    assert (tmp_path / "a.lock").exists()
    assert not Lock(tmp_path / "a.lock").acquire()


def test_a_killed_owner_frees_it_and_the_next_one_learns_of_it(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    lock = Lock(tmp_path / "a.lock")
    assert lock.acquire()
    assert lock.left_over
    lock.release()
    assert list(tmp_path.iterdir()) == []
    again = Lock(tmp_path / "a.lock")
    assert again.acquire()
    assert not again.left_over
    again.release()


def test_one_process_cannot_take_it_twice(tmp_path):
    first, second = (Lock(tmp_path / "new/a.lock") for _ in range(2))
    assert first.acquire()
    assert not second.acquire()
    assert second.holder() == f"process {os.getpid()} on {socket.gethostname()}"
    first.release()
    assert second.acquire()
    assert not second.left_over
    second.release()
    assert second.holder() == "another process"


@pytest.mark.parametrize(
    ("content", "left_over"),
    [
        (b"", False),  # killed, or without space on the disk, before it was named
        (b"process 1 on another-machine\n", True),
        (b"process 99999999999999999999999 on HERE\n", True),
        (b"process 1 on HERE\n", False),  # process 1 lives: it let go when the file had been read
        (b"nonsense", True),
        (b"\xff\xfe", False),
    ],
)
def test_what_a_file_without_a_lock_says(content, left_over, tmp_path):
    path = tmp_path / "a.lock"
    path.write_bytes(content.replace(b"HERE", socket.gethostname().encode()))
    lock = Lock(path)
    assert lock.acquire()
    assert lock.left_over == left_over
    lock.release()
    assert not path.exists()


def test_no_update_is_lost_between_processes_that_make_and_remove_the_file(tmp_path):
    """One that opened the file before it was removed must not share the lock with one that made a new file."""
    (tmp_path / "counter").write_text("0")
    found = FORK.Queue()
    until = time.monotonic() + 3
    processes = [FORK.Process(target=count_up, args=(tmp_path, until, found)) for _ in range(6)]
    for process in processes:
        process.start()
    results = [found.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert int((tmp_path / "counter").read_text()) == sum(taken for taken, _ in results)
    assert sum(taken > 0 for taken, _ in results) > 1, "they did compete"
    assert not any(said_left_over for _, said_left_over in results), "nobody was killed"
    assert not (tmp_path / "counter.lock").exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_lets_everybody_work_with_one_warning(number, tmp_path, monkeypatch):
    import fcntl

    def refuse(handle, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / "a.lock").write_text("process 1 on another-machine\n")  # from before; nobody waits for it
    for _ in range(2):  # two processes
        lock = Lock(tmp_path / "a.lock")
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            assert lock.acquire()
        (only,) = [str(each.message) for each in seen]
        assert str(tmp_path) in only
        assert "knows no locks" in only
        assert not lock.left_over
        lock.release()


def test_a_lock_that_cannot_be_written_is_one_storage_error_and_leaves_no_file(tmp_path, monkeypatch):
    def full(self, *arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(StorageError, match=r"a\.lock: cannot be written: No space left on device; free some space"):
            Lock(tmp_path / "a.lock").acquire()
    assert list(tmp_path.iterdir()) == []
    lock = Lock(tmp_path / "a.lock")
    assert lock.acquire()
    assert not lock.left_over
    lock.release()
