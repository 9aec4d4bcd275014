"""The old way to read picture files, for readers that have not gone over to :mod:`hoptm_plugin.data.pictures`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from hoptm_plugin.data.pictures import Pictures, Reading, files_in


def images_in(folder: Path) -> list[Path]:
    """Return the picture files directly in ``folder``, sorted by name."""
    return files_in(folder)[0]


def decode(paths: Sequence[Path], channels: int) -> tuple[Tensor, int]:
    """Return uint8 images (n, C, H, W) of the most frequent size, and how many were brought to it."""
    pictures = Pictures(paths, Reading(channels=1 if channels == 1 else 3))
    counts = Counter(pictures.sizes)
    size = max(counts, key=lambda each: (counts[each], each[0] * each[1], each))
    return pictures.decode(size), len(paths) - counts[size]
