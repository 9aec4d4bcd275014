"""Image files: which of them count, and decoding them into one array."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.data.files import entries
from hoptm_plugin.data.memory import require

T = TypeVar("T")
SHOWN = 3  # unreadable files named in one error
EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}


def images_in(folder: Path) -> list[Path]:
    """Return the image files directly in ``folder``, sorted by name; everything else in it is passed over."""
    return [path for path in entries(folder) if path.suffix.lower() in IMG_EXTENSIONS and path.is_file()]


def decode(paths: Sequence[Path], channels: int) -> tuple[Tensor, int]:
    """Decode image files in a thread pool.

    Pillow decodes, because it refuses truncated files and reads as ``torchvision.datasets.ImageFolder`` does. Files of
    any 8-bit kind become RGB (3 channels) or grey by ITU-R 601 luminance (1 channel); transparency is dropped. Where
    sizes differ, the most frequent one is taken (the larger of equally frequent ones), and the other images are scaled
    (bicubic, antialiased) to cover it and cropped around their centre.

    Returns:
        uint8 images (n, C, H, W) in the order of ``paths``, and how many were brought to another size.

    Raises:
        DataError: naming the first few unreadable files and their number.
    """
    faults: dict[Path, str] = {}
    sizes = _for_each(paths, _size, faults)
    counts = Counter(size for size in sizes if size is not None)
    if not counts:
        raise _unreadable(faults, len(paths))
    width, height = max(counts, key=lambda size: (counts[size], size[0] * size[1], size))
    require(len(paths) * channels * height * width, torch.device("cpu"), f"{len(paths)} decoded images")
    pixels = np.empty((len(paths), channels, height, width), dtype=np.uint8)
    rows = {path: row for row, path in enumerate(paths)}

    def fill(path: Path) -> None:
        pixels[rows[path]] = _pixels(path, channels, (width, height))

    _for_each([path for path in paths if path not in faults], fill, faults)
    if faults:
        raise _unreadable(faults, len(paths))
    return torch.from_numpy(pixels), len(paths) - counts[width, height]


def _for_each(paths: Sequence[Path], function: Callable[[Path], T], faults: dict[Path, str]) -> list[T | None]:
    """Call ``function`` on every path in threads (Pillow frees the GIL); gather what fails instead of stopping."""

    def guarded(path: Path) -> T | None:
        try:
            return function(path)
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
            faults[path] = str(error).replace(str(path), path.name) or type(error).__name__
            return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(guarded, paths))


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        if image.mode not in EIGHT_BIT_MODES:
            raise ValueError(f"pixels of mode {image.mode}, convert it to 8 bits per channel")
        return image.size


def _pixels(path: Path, channels: int, size: tuple[int, int]) -> np.ndarray:
    """Return uint8 (C, H, W)."""
    with Image.open(path) as image:
        decoded = image.convert("L" if channels == 1 else "RGB")
    if decoded.size != size:
        decoded = ImageOps.fit(decoded, size, Image.Resampling.BICUBIC)
    return np.asarray(decoded).reshape(size[1], size[0], channels).transpose(2, 0, 1)


def _unreadable(faults: dict[Path, str], total: int) -> DataError:
    shown = "; ".join(f"{path}: {faults[path]}" for path in sorted(faults)[:SHOWN])
    more = "; ..." if len(faults) > SHOWN else ""
    return DataError(f"{len(faults)} of {total} images cannot be read ({shown}{more}); replace or remove them")
