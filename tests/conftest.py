"""Fixtures shared by all tests: the small examples that the contracts are run on."""

from __future__ import annotations

import os
from zlib import crc32

# read when torch is imported: small tensors gain nothing by threads, and two workers' threads wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from hoptm_plugin.testing import example_data, example_task


@pytest.hookimpl(tryfirst=True)  # before those that -m leaves out are sorted out
def pytest_collection_modifyitems(config, items):
    """Let every campaign be slow; keep one part of all that was collected, where one was asked for."""
    for item in items:
        if item.get_closest_marker("campaign"):
            item.add_marker("slow")
    if part := config.getoption("--part"):
        number, parts = map(int, part.split("/"))
        kept, left_out = [], []
        for item in items:
            (kept if crc32(item.nodeid.encode()) % parts == number % parts else left_out).append(item)
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_addoption(parser):
    """Take ``--part``."""
    parser.addoption("--part", metavar="K/N", help="run one Nth of the tests: part K modulo N, by their names")


@pytest.fixture
def make_data():
    """Return a maker of random, learnable image data: each class has a mean image of its own."""
    return example_data


@pytest.fixture
def make_task():
    """Return a maker of a task: tiny data, a small ConvNet, random-walk experts in memory."""
    return example_task
