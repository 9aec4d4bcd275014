"""The device of a run, and what is global in torch for as long as the run lasts: threads, TF32, determinism."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hoptm_plugin.core.compute import Precision
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.runtime.compute import can_compile
from hoptm_plugin.runtime.environment import private_folder
from hoptm_plugin.runtime.gpus import claim_gpu


def resolve(asked: str, precision: Precision, compiled: bool) -> torch.device:
    """Return the device, of several GPUs a free one.

    Args:
        asked: "auto" (CUDA where there is one), "cpu" or "cuda".
        precision: of the unroll.
        compiled: whether compiling was asked for, so that it must be possible.

    Raises:
        ConfigurationError: no CUDA device, TF32 elsewhere than on one, or no compiler.
    """
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise ConfigurationError("runtime.device: cuda was asked for, but torch sees no CUDA device; use cpu or auto")
    name = ("cuda" if available else "cpu") if asked == "auto" else asked
    if precision == "tf32" and name != "cuda":
        raise ConfigurationError("runtime.precision: tf32 exists on CUDA only; use float32")
    device = torch.device(name)
    if name == "cuda" and torch.cuda.device_count() > 1:
        device = torch.device(name, claim_gpu(private_folder("gpus")))
    if compiled and not can_compile(device):
        needed = "a C++ compiler (g++ or clang++)" if name == "cpu" else "Triton and a C compiler"
        raise ConfigurationError(
            f"runtime.compile: needs {needed} and Python's headers, which are not all there; use false or auto"
        )
    return device


@contextmanager
def computing(device: torch.device, precision: Precision, threads: int | None) -> Iterator[None]:
    """Compute deterministically, in this precision and with these threads, and leave torch as it was found.

    Args:
        device: which becomes the current one, where it is a GPU.
        precision: "tf32" lets CUDA round matrix products and convolutions to 10-bit mantissas.
        threads: of the CPU; None leaves torch's choice.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (torch.get_num_threads(), matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    current = torch.cuda.current_device() if device.type == "cuda" else None
    if "torch._dynamo" in sys.modules:  # an earlier run of this process compiled: its networks are of no more use
        torch.compiler.reset()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
        cudnn.deterministic, cudnn.benchmark = True, False
        if device.type == "cuda":
            torch.cuda.set_device(device)
        yield
    finally:
        torch.set_num_threads(before[0])
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before[1:]
        if current is not None:
            torch.cuda.set_device(current)
