"""The settings that ``scaling.py`` predicts: recipes where there are some, assumptions where there are none."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from estimate import DataSize
from scaling_model import Target
from suite_file import SUITES, Suite, load_suite
from suite_plan import Plan

# splits of MedMNIST and of the COVID-19 Radiography Database, 8:2 (methods.md 1.1); ImageNet-1K (ILSVRC 2012)
PATH_HELD, PATH_TEST, COVID_ALL, COVID_TEST = 10_004 + 7_180, 7_180, 21_165, 4_233
IMAGENET = DataSize(train=1_281_167, classes=1000, image=(3, 64, 64))
IMAGENET_TEST = 50_000
# TESLA's published command for IPC 1 (methods.md 6); none was published for IPC 10
IMAGENET_SETTINGS = [
    "method=hoptm", "dataset=folder", "dataset.root=FOLDER", "network=convnet_d4", "ipc=10", "method.student_steps=10",
    "method.expert_epochs=3", "method.student_batch=100", "method.sampler.max_start_epoch=10",
]  # fmt: skip
STEPS = 80  # of HoP-TM's published settings


def _target(name: str, overrides: list[str], size: DataSize, held: int, test: int, resized: bool) -> Target:
    suite = Suite(title=name, data=size, sweeps=[{"title": name, "overrides": overrides}])
    return Target(name, Plan(suite, [], Path("out")).jobs[0], size, held, test, resized)


@cache
def targets() -> tuple[Target, ...]:
    """Return all settings, composed as ``hoptm-bench run`` would."""
    path, covid = (load_suite(SUITES / f"{name}.yaml").data for name in ("table1_pathmnist", "table2_covid19cxr"))
    hoptm = ["method=hoptm"]
    return (
        _target("PathMNIST IPC 1000", [*hoptm, "dataset=pathmnist", "ipc=1000"], path, PATH_HELD, PATH_TEST, True),
        _target("COVID19-CXR IPC 50", [*hoptm, "dataset=covid19cxr", "ipc=50"], covid, COVID_ALL - covid.train,
                COVID_TEST, True),
        _target("ImageNet-1K IPC 10", IMAGENET_SETTINGS, IMAGENET, IMAGENET_TEST, IMAGENET_TEST, False),
        _target(f"ImageNet-1K IPC 10, N={STEPS}", [*IMAGENET_SETTINGS, f"method.student_steps={STEPS}"], IMAGENET,
                IMAGENET_TEST, IMAGENET_TEST, False),
    )  # fmt: skip
