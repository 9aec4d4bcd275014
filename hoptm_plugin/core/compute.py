"""How one task is computed: settings that change nothing but rounding, time and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

UnrollStrategy: TypeAlias = Literal["full", "adjoint", "auto"]
Precision: TypeAlias = Literal["float32", "tf32", "bf16"]
TrainingPrecision: TypeAlias = Literal["float32", "bf16"]

MIB = 2**20
CPU_BUDGET = 256 * MIB
MOST_PARALLEL = 16


@dataclass(frozen=True)
class Compute:
    """How one task is computed.

    Attributes:
        unroll: how the student's steps are differentiated.
        compiled: whether single training steps and student steps are compiled.
        precision: of the unroll: "float32", "tf32" (set for all of torch by the caller), or "bf16", where the student
            computes in bfloat16 and its parameters and gradients stay as they are.
        memory_budget: bytes that may be spent on going faster: on graphs of student steps that are kept instead of
            built again, and on networks trained side by side.
        parallel_networks: networks trained side by side; None: as many as ``memory_budget`` holds on CUDA, at most 16,
            and one on the CPU, where one network keeps all cores busy.
        captured: whether all student steps of an iteration are launched as one, on CUDA.
        stacked: whether students of several runs side by side are one batched computation; else one follows the other.
    """

    unroll: UnrollStrategy = "auto"
    compiled: bool = False
    precision: Precision = "float32"
    memory_budget: int = CPU_BUDGET
    parallel_networks: int | None = None
    captured: bool = False
    stacked: bool = False

    def side_by_side(self, device: torch.device, bytes_per_network: Callable[[], int]) -> int:
        """Return how many networks to train at once; their need of memory is asked for only where it decides."""
        if self.parallel_networks is not None:
            return self.parallel_networks
        if device.type != "cuda":
            return 1
        return max(1, min(MOST_PARALLEL, self.memory_budget // max(1, bytes_per_network())))
