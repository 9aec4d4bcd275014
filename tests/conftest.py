"""Fixtures shared by all tests: the small examples that the contracts are run on."""

from __future__ import annotations

import os

# read when torch is imported: small tensors gain nothing by threads, and two workers' threads wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from hoptm_plugin.testing import example_data, example_task


@pytest.hookimpl(tryfirst=True)  # before those that -m leaves out are sorted out
def pytest_collection_modifyitems(items):
    """Let every campaign be slow."""
    for item in items:
        if item.get_closest_marker("campaign"):
            item.add_marker("slow")


@pytest.fixture
def make_data():
    """Return a maker of random, learnable image data: each class has a mean image of its own."""
    return example_data


@pytest.fixture
def make_task():
    """Return a maker of a task: tiny data, a small ConvNet, random-walk experts in memory."""
    return example_task
