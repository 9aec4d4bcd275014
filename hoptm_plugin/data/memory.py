"""Refuse arrays that would not fit before allocating them."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from hoptm_plugin.core.errors import DataError

MEMINFO = Path("/proc/meminfo")


def available_bytes(device: torch.device) -> int | None:
    """Return the bytes free on ``device``; None where that cannot be known.

    On Linux this is the kernel's MemAvailable: sysconf's SC_AVPHYS_PAGES leaves out the page cache, which reading a
    large file has just filled. Elsewhere the physical memory stands in. A container's or job's limit is not seen.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not a POSIX system
        return None


def require(needed: int, device: torch.device, what: str) -> None:
    """Refuse to go on when ``needed`` bytes for ``what`` exceed what is free on ``device``.

    Raises:
        DataError: with both sizes in GiB and the settings that lower the need.
    """
    free = available_bytes(device)
    if free is not None and needed > free:
        raise DataError(f"{what} need {needed / 2**30:.1f} GiB of memory on {device}, but {free / 2**30:.1f} GiB are "
                        f"free; lower dataset.preprocess.image_size, use fewer channels or classes, or another "
                        f"device")  # fmt: skip
