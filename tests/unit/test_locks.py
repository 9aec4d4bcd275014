"""Locks between processes: one holder at a time, and the dead hold nothing."""

import multiprocessing
import os
import signal
import time

import pytest

from hoptm_plugin.core.errors import StorageError
from hoptm_plugin.storage.locks import Lock

FORK = multiprocessing.get_context("fork")
PROCESSES, ROUNDS = 4, 250


def hold(path, connection):
    lock = Lock(path)
    connection.send(lock.acquire())
    connection.recv()
    lock.close()
    connection.send("closed")
    connection.recv()


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock; and the way to tell it something."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=hold, args=(tmp_path / "lock", theirs))
    process.start()
    assert ours.recv() is True
    yield process, ours
    process.kill()
    process.join()


def test_one_holds_it_and_says_who_it_is(other, tmp_path):
    process, connection = other
    lock = Lock(tmp_path / "lock")
    assert not lock.acquire()
    assert lock.holder().startswith(f"process {process.pid} on ")
    connection.send("close")
    assert connection.recv() == "closed"
    assert list(tmp_path.iterdir()) == []
    assert lock.acquire()
    assert not lock.left_over
    lock.close()
    lock.close()
    assert list(tmp_path.iterdir()) == []


def test_the_dead_hold_nothing(other, tmp_path):
    process, _ = other
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (tmp_path / "lock").exists()
    lock = Lock(tmp_path / "lock")
    assert lock.acquire()
    assert lock.left_over
    lock.close()
    assert list(tmp_path.iterdir()) == []


def test_two_of_one_process_do_not_share_it(tmp_path):
    one, two = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert one.acquire()
    assert not two.acquire()
    one.close()
    assert two.acquire()
    two.close()


def count(folder):
    for _ in range(ROUNDS):
        lock = Lock(folder / "lock")
        while not lock.acquire():
            time.sleep(0.0002)
        counter = folder / "counter"
        number = int(counter.read_text())
        time.sleep(0.0002)
        counter.write_text(str(number + 1))
        lock.close()


@pytest.mark.slow
def test_no_update_is_lost(tmp_path):
    """Also not by one that opened the file before its holder removed it, while another makes a new one."""
    (tmp_path / "counter").write_text("0")
    processes = [FORK.Process(target=count, args=(tmp_path,)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert int((tmp_path / "counter").read_text()) == PROCESSES * ROUNDS


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be written: (Not a directory|File exists)"):
        Lock(tmp_path / "file/lock").acquire()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """Work goes on, with a warning."""
    import filelock

    def unknown(self):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(filelock.UnixFileLock, "_acquire", unknown)
    lock = Lock(tmp_path / "lock")
    with pytest.warns(UserWarning, match="the file system knows no locks"):
        assert lock.acquire()
    lock.close()
