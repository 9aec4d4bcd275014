"""Compilation and memory of what computes; none of it changes what is computed, but for rounding."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from hoptm_plugin.core.compute import CPU_BUDGET, MIB
from hoptm_plugin.core.errors import ConfigurationError, first_line

# operations that eager code needs minutes for on two cores; compiling takes half a minute and saves a third or more
WORTH_COMPILING = 1e13
# what an image's way forward and backward costs at least, in operations: small networks spend their time elsewhere
LEAST_PER_PASS = 3e7
# on two cores: up to where batched students are faster than one to a core, in pixels and operations of an image
MOST_PIXELS, MOST_OPERATIONS = 256, 1e7
# names that glibc's malloc.h gives to numbers
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_MMAPS = 65536  # its default
KEEP_UP_TO = 512 * MIB


def default_budget(device: torch.device) -> int:
    """Return the memory budget where none is given: a quarter of a GPU, 256 MiB on the CPU.

    On the CPU many kept graphs leave its caches, and gain little. A GPU's size is taken, not what of it is free: how
    many networks go side by side must not depend on who else uses it.
    """
    return torch.cuda.get_device_properties(device).total_memory // 4 if device.type == "cuda" else CPU_BUDGET


def can_compile(device: torch.device) -> bool:
    """Return whether ``torch.compile`` has what it needs.

    That is Python's headers and the C++ compiler that torch would choose, on CUDA Triton and a C compiler.
    """
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return False
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return bool(has_triton()) and any(shutil.which(name) for name in (os.environ.get("CC") or "gcc", "clang"))
    default = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    return shutil.which(os.environ.get("CXX") or default) is not None


def worth_compiling(device: torch.device, image_passes: float, forward_operations: float) -> bool:
    """Return whether compiling pays: on CUDA always, on the CPU for work that takes minutes.

    A rule without measurements, so that the same run computes the same bits on a busy machine.

    Args:
        device: where the work is done.
        image_passes: how many images go forward and backward through a network.
        forward_operations: of one image's way forward; 0 where nobody knows, which is not compiled.
    """
    if image_passes <= 0 or forward_operations <= 0 or not can_compile(device):
        return False
    return device.type == "cuda" or image_passes * max(3 * forward_operations, LEAST_PER_PASS) >= WORTH_COMPILING


def worth_stacking(device: torch.device, image_shape: tuple[int, int, int], forward_operations: float) -> bool:
    """Return whether students of several runs are faster as one batched computation than one to a core.

    On CUDA they are, since one of them leaves most of a GPU idle; on the CPU those whose operations are so small that
    calling them is what takes the time. A rule without measurements, as :func:`worth_compiling`.
    """
    small = image_shape[1] * image_shape[2] <= MOST_PIXELS and 0 < forward_operations <= MOST_OPERATIONS
    return device.type == "cuda" or small


def compile_step(function: Callable[..., Any], device: torch.device, graphs: bool = True) -> Callable[..., Any]:
    """Compile a function of tensors, once for every combination of shapes; on CUDA into CUDA ``graphs`` as well.

    Shapes are never generalised: code for a shape must not depend on the shapes seen before, or a resumed run would
    compute other bits. Results may lie in memory that the next call overwrites.
    """
    from torch._dynamo.exc import TorchDynamoException  # slow to import
    from torch._inductor.exc import InductorError

    _configure_compiler()
    mode = "reduce-overhead" if graphs and device.type == "cuda" else None
    compiled = torch.compile(function, fullgraph=True, dynamic=False, mode=mode)

    def call(*arguments: Any) -> Any:
        try:
            return compiled(*arguments)
        except (TorchDynamoException, InductorError) as error:
            raise ConfigurationError(
                f"runtime.compile: this network cannot be compiled ({first_line(error)}); use runtime.compile=false"
            ) from error

    return call


_undo: list[Callable[[], object]] = []


def _configure_compiler() -> None:
    if _undo:
        return
    # of no use to a user: that torch looks for CUDA to build extensions with, and how it builds itself
    builder = logging.getLogger("torch.utils.cpp_extension")
    _undo.append(partial(builder.setLevel, builder.level))
    builder.setLevel(logging.ERROR)
    dynamo, inductor = torch._dynamo.config, torch._inductor.config
    # its default of 8 counts all networks and batch sizes of one process together
    _undo.append(partial(setattr, dynamo, "recompile_limit", dynamo.recompile_limit))
    dynamo.recompile_limit = max(64, dynamo.recompile_limit)
    if torch.cuda.is_available():  # there, kernels are otherwise chosen by timing them
        _undo.append(partial(setattr, inductor, "deterministic", inductor.deterministic))
        inductor.deterministic = True


@contextmanager
def compiler_put_back() -> Iterator[None]:
    """Give the compiler its settings back at the end of the block, and free what was compiled in it."""
    try:
        yield
    finally:
        if _undo:
            torch.compiler.reset()
        while _undo:
            _undo.pop()()


def forward_operations(build: Callable[[], nn.Module], image_shape: tuple[int, int, int]) -> int:
    """Return the floating-point operations of one image's forward pass, or 0 where they cannot be counted.

    Nothing is computed for it. A network that does not fit the images, or that must see real numbers, has none.
    """
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
            build().eval()(torch.empty(1, *image_shape))
    except Exception:
        return 0
    return int(counter.get_total_flops())


def graph_bytes(build: Callable[[], object]) -> int:
    """Return the bytes of all that autograd saves for the graph that ``build()`` returns, shared memory once."""
    storages: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor):
        graph = build()  # held until all is counted, so that no memory is used twice
    del graph
    return sum(storages.values())


def keep_freed_memory(device: torch.device, step_bytes: Callable[[], int]) -> None:
    """Let glibc's malloc keep what was freed instead of returning it to the system page by page; elsewhere nothing.

    Tensors of megabytes come and go in every step. By default each is fresh memory, and the page faults cost as much
    time as the arithmetic. What is kept is held until the process ends, and does not fit together again: where a step
    takes more than ``KEEP_UP_TO``, its largest tensors are therefore still returned, or the peak would double.

    Args:
        device: where the step is computed; it matters on the CPU only.
        step_bytes: returns what a step takes, as :func:`graph_bytes` counts it.
    """
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_MAX, 0 if step_bytes() <= KEEP_UP_TO else _MMAPS)
        library.mallopt(_M_MMAP_THRESHOLD, 32 * MIB)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_M_TOP_PAD, 64 * MIB)
