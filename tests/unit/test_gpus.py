"""Which GPU a process takes where there are several; a CUDA device is not needed."""

import multiprocessing
import os
import signal
from types import SimpleNamespace

import pytest
import torch

from hoptm_plugin.runtime import gpus


@pytest.fixture
def devices(monkeypatch):
    """Let torch see so many CUDA devices."""

    def see(count):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"GPU-{index}"))
        gpus.claim_gpu.cache_clear()

    yield see
    gpus.claim_gpu.cache_clear()


def hold(folder, count, connection):
    gpus.claim_gpu.cache_clear()  # inherited by the fork
    torch.cuda.device_count = lambda: count
    torch.cuda.get_device_properties = lambda index: SimpleNamespace(uuid=f"GPU-{index}")
    connection.send(gpus.claim_gpu(folder))
    connection.recv()


@pytest.fixture
def others(tmp_path):
    """Start a process that claims one of so many devices; return it and the device."""
    started = []

    def start(count):
        ours, theirs = multiprocessing.get_context("fork").Pipe()
        process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path, count, theirs))
        process.start()
        started.append(process)
        return process, ours.recv()

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.mark.parametrize("count", [0, 1])
def test_where_there_is_no_choice_nothing_is_locked(count, devices, tmp_path):
    devices(count)
    assert gpus.claim_gpu(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_each_process_gets_its_own_and_the_dead_hold_none(devices, others, tmp_path, capsys):
    devices(3)
    (first, one), (_, two) = others(3), others(3)
    assert (one, two) == (0, 1)
    assert gpus.claim_gpu(tmp_path) == 2
    assert gpus.claim_gpu(tmp_path) == 2, "it stays with its device"
    assert others(3)[1] in range(3), "shared, since all are taken"
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert others(3)[1] == 0
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_had_or_written_to(devices, tmp_path):
    devices(2)
    assert gpus.claim_gpu(None) == 0
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="all 2 GPUs are in use"):
        assert gpus.claim_gpu(tmp_path / "file") == os.getpid() % 2
