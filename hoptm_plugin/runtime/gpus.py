"""One process to a GPU, where several processes on a machine may choose among several GPUs."""

from __future__ import annotations

import atexit
import os
import warnings
from functools import cache
from pathlib import Path

import torch

from hoptm_plugin.core.errors import StorageError
from hoptm_plugin.storage.locks import Lock


@cache
def claim_gpu(folder: Path | None) -> int:
    """Return the index of a visible CUDA device that no other process of this user works on, held until this one ends.

    Where all are taken, one is shared, and a warning says so. Ray and Slurm give a process the sight of its own
    device only, and then there is nothing to choose.

    Args:
        folder: of locks, one for each device of all machines that share it; None: the first device is taken.
    """
    count = torch.cuda.device_count()
    if count < 2 or folder is None:
        return 0
    for index in range(count):
        lock = Lock(folder / f"{torch.cuda.get_device_properties(index).uuid}.lock")
        try:
            if lock.acquire():
                atexit.register(lock.close)
                return index
        except StorageError:
            break
    shared = os.getpid() % count
    warnings.warn(f"all {count} GPUs are in use by other runs; sharing GPU {shared}", stacklevel=2)
    return shared
