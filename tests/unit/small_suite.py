"""A suite made up for several tests, and the plan of it."""

from __future__ import annotations

from pathlib import Path

from suite_file import DataSize, Suite
from suite_plan import Plan

SMALL = {
    "title": "small",
    "data": {"train": 100, "classes": 10, "image": [1, 32, 32]},
    "settings": ["protocol.random_subset=false"],
    "sweeps": [{"title": "one", "overrides": ["method=mtt,hoptm", "ipc=1,2"]}],
}
SIZE = DataSize(**SMALL["data"])


def small(*extra, **changed):
    return Plan(Suite.model_validate(SMALL | changed), extra, Path("out"))
