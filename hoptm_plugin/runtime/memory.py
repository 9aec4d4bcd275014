"""Saying what to do when memory is exhausted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hoptm_plugin.core.errors import OutOfMemoryError

# how torch's allocator of the CPU says it, in an error without a type of its own
_CPU_SIGNS = ("can't allocate memory", "DefaultCPUAllocator", "not enough memory", "Cannot allocate memory",
              "std::bad_alloc", "could not create a primitive")  # fmt: skip
_GPU_SIGNS = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def exhausted(error: BaseException) -> bool:
    """Tell whether an error says that memory, of the CPU or of CUDA, is exhausted."""
    signs = (*_GPU_SIGNS, *_CPU_SIGNS)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)


@contextmanager
def memory_named(doing: str, remedy: str) -> Iterator[None]:
    """Turn exhausted memory, of the CPU or of CUDA, into one message.

    Args:
        doing: what is being done, "distilling".
        remedy: what needs less memory.

    Raises:
        OutOfMemoryError: naming both.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not exhausted(error):
            raise
        cuda = isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _GPU_SIGNS)
        where = "the GPU's memory" if cuda else "memory"
        wanted = re.search(r"[Tt]ried to allocate [\d.]+ \w+", str(error))
        reason = f"t{wanted[0][1:]}" if wanted else type(error).__name__
        raise OutOfMemoryError(f"{where} is exhausted while {doing} ({reason}); {remedy}") from None
