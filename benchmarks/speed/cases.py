"""What ``run.py`` measures: suites, their cases, and the variants of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Settings = dict[str, Any]
COMMON: Settings = {
    "classes": 9, "images": 90, "side": 32, "depth": 3, "width": 128, "batch": 10, "steps": 80,
    "epochs": 1, "networks": 1, "classical": False, "keep_freed_memory": True, "compiled": False,
    "precision": "float32", "unroll": "auto", "memory_budget": 2**30, "threads": None, "busy": 0, "environment": None,
    "captured": False, "stacked": False,
}  # fmt: skip

BASELINE = "classical"
CLASSICAL: dict[str, Settings] = {BASELINE: {"classical": True, "keep_freed_memory": False}}
BOTH_CLASSICAL: dict[str, Settings] = {**CLASSICAL, "classical, freed memory kept": {"classical": True}}
COMPILED: dict[str, Settings] = {"compiled": {"compiled": True}}
BOTH_COMPILED: dict[str, Settings] = {**COMPILED, "compiled bf16": {"compiled": True, "precision": "bf16"}}
ADJOINT: dict[str, Settings] = {"adjoint": {"unroll": "adjoint"}}
TF32: dict[str, Settings] = {"compiled tf32": {"compiled": True, "precision": "tf32"}}
CAPTURED: dict[str, Settings] = {"captured": {"compiled": True, "captured": True}}
DISTILLING: dict[str, Settings] = {**BOTH_CLASSICAL, **ADJOINT, "kept": {}, **BOTH_COMPILED, **TF32, **CAPTURED}
SIDE_BY_SIDE: dict[str, Settings] = {"compiled parallel 8": {"compiled": True, "networks": 8}}
TRAINING: dict[str, Settings] = {**BOTH_CLASSICAL, "eager": {}, **BOTH_COMPILED, **SIDE_BY_SIDE}
CUDA_ONLY = (*TF32, *CAPTURED, *SIDE_BY_SIDE)

EXPERTS: Settings = {"images": 1024, "batch": 256, "optimiser": {}}
EVALUATION: Settings = {"batch": 128, "epochs": 10, "optimiser": {"momentum": 0.9, "weight_decay": 5e-4}}
FEW: Settings = {"steps": 10}  # with more, the classical graph of larger batches and images would not fit
ONCE: Settings = {"iterations": 0}  # the first iteration is all
COVID: Settings = {"classes": 3, "images": 150, "side": 112, "depth": 5, "batch": 20}


@dataclass(frozen=True)
class Case:
    """What one function of ``measure.py`` measures of several variants.

    Attributes:
        title: formatted with the setting.
        measure: the function.
        setting: beats ``COMMON``; a variant's own settings beat both.
        variants: settings by name.
    """

    title: str
    measure: str
    setting: Settings
    variants: Mapping[str, Settings]


def _scaling() -> list[Case]:
    pair = {**CLASSICAL, **COMPILED}
    settings: list[tuple[str, Settings]] = [("N={steps}", {"steps": steps}) for steps in (10, 20, 40, 80)]
    settings += [("N={steps}, batch {batch}", {**FEW, "images": 900, "batch": batch}) for batch in (10, 50, 100)]
    settings += [("N={steps}, {side}x{side}", {**FEW, "side": 2**depth * 4, "depth": depth}) for depth in (3, 4)]
    iterations = [Case(title, "iteration", setting, pair) for title, setting in settings]
    networks = [Case("{networks} networks", "evaluation", {**EVALUATION, "networks": n}, pair) for n in (1, 2, 4, 8)]
    return [*iterations, *networks]


WAYS: dict[str, Settings] = {
    "as people run it": {"classical": True, "keep_freed_memory": False},
    "libgomp's default": {"environment": {}},
    "passive": {"environment": {"OMP_WAIT_POLICY": "PASSIVE"}},
    "spin 1000": {"environment": {"GOMP_SPINCOUNT": "1000"}},
    "spin 10000": {"environment": {"GOMP_SPINCOUNT": "10000"}},
    "one thread": {"environment": {}, "threads": 1},
}
"""What threads do while they wait for each other, and how many there are."""


STACKED: dict[str, Settings] = {
    BASELINE: {"classical": True, "keep_freed_memory": False},
    "one after the other": {},
    "one computation": {"stacked": True},
    "one computation, compiled": {"stacked": True, "compiled": True},
}


def _published_size() -> list[Case]:
    """Return distillations of the published size side by side, and one in the classical way."""
    ours = {name: {**each, "stacked": True} for name, each in {**BOTH_COMPILED, **TF32, **CAPTURED}.items()}
    return [
        Case(
            "{runs} runs, PathMNIST IPC 10",
            "side_by_side",
            {"runs": runs},
            {**(CLASSICAL if runs == 1 else {}), **ours},
        )
        for runs in (1, 8, 16)
    ]


def _waiting() -> list[Case]:
    short = {**EXPERTS, "images": 512, "algorithm": "sgd"}
    kinds: list[tuple[str, str, Settings]] = [
        ("iteration", "iteration", {"steps": 30}),
        ("experts", "experts", short),
        ("evaluation", "evaluation", EVALUATION),
    ]
    return [
        Case(f"{name}, width {{width}}, {{busy}} busy", measure, {**setting, "width": width, "busy": busy}, WAYS)
        for busy in (0, 1, 2)
        for name, measure, setting in kinds
        for width in (8, 32, 128)
    ]


SUITES: dict[str, list[Case]] = {
    "iteration": [Case("PathMNIST IPC 10", "iteration", {}, DISTILLING)],
    "experts": [
        Case("SGD", "experts", {**EXPERTS, "algorithm": "sgd"}, TRAINING),
        Case("GSAM", "experts", {**EXPERTS, "algorithm": "gsam"}, TRAINING),
    ],
    "evaluation": [Case("PathMNIST IPC 10", "evaluation", EVALUATION, TRAINING)],
    "segments": [Case("3 of 21 epochs", "segments", {"stored_epochs": 20}, {**CLASSICAL, "expert store": {}})],
    "start-up": [Case("process", "start_up", {}, {**CLASSICAL, "help": {}, "list": {}, "list methods": {}})],
    "precision": [Case("PathMNIST IPC 10", "precision", {}, {"eager": {}, **BOTH_COMPILED, **TF32})],
    "counts": [Case("PathMNIST IPC 10", "counts", {}, {**CLASSICAL, **ADJOINT, "kept": {}, **COMPILED})],
    "scaling": _scaling(),
    "waiting": _waiting(),
    "side-by-side": [
        Case("{runs} runs, {side}x{side}, width {width}", "side_by_side", {**setting, "runs": runs}, STACKED)
        for setting in ({"side": 8, "depth": 2, "width": 8, "steps": 10}, {"width": 32, "steps": 10})
        for runs in (1, 2, 4, 8, 16)
    ],
    "published-size": _published_size(),
    "large": [
        Case("PathMNIST IPC 1000", "iteration", {**ONCE, "images": 9000, "batch": 100, "steps": 100}, ADJOINT),
        Case("COVID IPC 50, 112x112", "iteration", {**ONCE, **COVID}, ADJOINT),
    ],
}
DEFAULT = [
    name
    for name in SUITES
    if name not in ("precision", "counts", "scaling", "large", "waiting", "side-by-side", "published-size")
]
