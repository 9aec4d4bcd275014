"""The device of a run, and what is global in torch for as long as the run lasts: threads, TF32, determinism."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hoptm_plugin.core.compute import Precision
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.runtime.compute import can_compile, compiler_put_back
from hoptm_plugin.runtime.environment import private_folder
from hoptm_plugin.runtime.gpus import claim_gpu


def kind_of_device(asked: str) -> str:
    """Return "cpu" or "cuda" for what was asked for: "auto" is CUDA where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked


def resolve(asked: str, precision: Precision, compiled: bool, captured: bool = False) -> torch.device:
    """Return the device, of several GPUs a free one.

    Args:
        asked: "auto" (CUDA where there is one), "cpu" or "cuda".
        precision: of the unroll.
        compiled: whether compiling was asked for, so that it must be possible.
        captured: whether steps are to be captured as a CUDA graph.

    Raises:
        ConfigurationError: no CUDA device, TF32 or CUDA graphs elsewhere than on one, or no compiler.
    """
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise ConfigurationError("runtime.device: cuda was asked for, but torch sees no CUDA device; use cpu or auto")
    name = kind_of_device(asked)
    if precision == "tf32" and name != "cuda":
        raise ConfigurationError("runtime.precision: tf32 exists on CUDA only; use float32")
    if captured and name != "cuda":
        raise ConfigurationError("runtime.capture: CUDA graphs exist on CUDA only; leave it out")
    device = torch.device(name)
    if name == "cuda" and torch.cuda.device_count() > 1:
        device = torch.device(name, claim_gpu(private_folder("gpus")))
    if compiled and not can_compile(device):
        needed = "a C++ compiler (g++ or clang++)" if name == "cpu" else "Triton and a C compiler"
        raise ConfigurationError(
            f"runtime.compile: needs {needed} and Python's headers, which are not all there; use false or auto"
        )
    return device


_computing: list[tuple[torch.device, Precision, int | None]] = []


@contextmanager
def computing(device: torch.device, precision: Precision, threads: int | None) -> Iterator[None]:
    """Compute deterministically, in this precision and with these threads, and leave torch as it was found.

    Inside a block of the same arguments nothing changes, so that several may be left in any order in there. What
    glibc's malloc was told to keep (:func:`hoptm_plugin.runtime.compute.keep_freed_memory`) stays.

    Args:
        device: which becomes the current one, where it is a GPU.
        precision: "tf32" lets CUDA round matrix products and convolutions to 10-bit mantissas.
        threads: of the CPU; None leaves torch's choice.
    """
    asked = device, precision, threads
    if asked in _computing:
        yield
        return
    backends: Any = torch.backends
    on_cuda = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    on_cpu = [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    # whole backends first: "none", which is full precision, has each operation do as its backend does
    rounding = [(each, each.fp32_precision) for each in (backends, backends.cudnn, backends.mkldnn, *on_cuda, *on_cpu)]
    try:
        older = backends.cudnn.allow_tf32  # an older name of it, which torch holds beside the newer ones
    except RuntimeError:  # not to be read any more, since the caller used both
        older = None
    switches = torch.get_num_threads(), backends.cudnn.deterministic, backends.cudnn.benchmark
    current = torch.cuda.current_device() if device.type == "cuda" else None
    with warnings.catch_warnings(), compiler_put_back():
        for category in (FutureWarning, DeprecationWarning):  # torch warns of itself when it loads forward derivatives
            warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=category)
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            if older is not None:
                backends.cudnn.allow_tf32 = precision == "tf32"
            for each, _ in rounding:
                each.fp32_precision = "tf32" if precision == "tf32" and each in on_cuda else "none"
            backends.cudnn.deterministic, backends.cudnn.benchmark = True, False
            if device.type == "cuda":
                torch.cuda.set_device(device)
            _computing.append(asked)
            yield
        finally:
            if asked in _computing:
                _computing.remove(asked)
            if older is not None:
                backends.cudnn.allow_tf32 = older
            for each, before in rounding:
                each.fp32_precision = before
            torch.set_num_threads(switches[0])
            backends.cudnn.deterministic, backends.cudnn.benchmark = switches[1:]
            if current is not None:
                torch.cuda.set_device(current)
