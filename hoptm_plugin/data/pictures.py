"""Picture files of one data set: opened by their headers, decoded to one array as a viewer shows them."""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.data import dicom, rasters
from hoptm_plugin.data.headers import Header, Unfit, files_in, kind_of, refusal
from hoptm_plugin.data.memory import available_bytes, require
from hoptm_plugin.data.preprocess import Fit

__all__ = ["Pictures", "Reading", "files_in"]

T = TypeVar("T")
THREADS = 8
BYTES_PER_PIXEL = 32  # of one picture while it is decoded, in its copies and as float64
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Reading:
    """How picture files become pixels.

    Attributes:
        channels: 1 (grey, by ITU-R 601 luminance) or 3 (RGB); None: grey where every picture is stored grey, else RGB.
        background: what shows through transparent pixels; None refuses pictures that are not opaque.
        window: stored values (of DICOM, rescaled ones) that become black and white, of pictures of more than 8 bits;
            values outside are clipped. None: of DICOM each file's own window; of others and of files without one, the
            lowest and the highest value of all, one range for all. Of DICOM's MONOCHROME1, low becomes white.

    Raises:
        ValueError: a window that does not ascend.
    """

    channels: Literal[1, 3] | None = None
    background: Literal["black", "white"] | None = None
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.window is not None and not -np.inf < self.window[0] < self.window[1] < np.inf:
            raise ValueError(f"window must be two numbers, the lower first, got {list(self.window)}")


class Pictures:
    """Picture files of one data set: opened by their headers, decoded when the target size is known.

    JPEG, MPO (its first picture, as viewers show it), PNG, TIFF, BMP, GIF, WEBP, PPM and DICOM are read, whatever the
    files' names. Orientation tags are applied and palettes resolved; colour profiles are not applied, and counted.
    What would be read otherwise than a viewer shows it is refused. Grey pictures of more than 8 bits go through one
    window to 8: round(255 (v - low) / (high - low)), clipped, before they are resized.

    Args:
        paths: the files; their order is that of the rows.
        reading: how they become pixels.

    Attributes:
        sizes: (width, height) as shown, after orientation, in the order of the paths.
        channels: of what :meth:`decode` returns.
        window: values that become 0 and 255; None where no picture needs one.

    Raises:
        DataError: naming the first few files that cannot be read, their number and the remedy; or pictures whose
            brightness has no common scale.
    """

    def __init__(self, paths: Sequence[Path], reading: Reading) -> None:
        self.paths, self.reading = list(paths), reading
        self._headers = self._for_all(self._header, range(len(self.paths)), THREADS)
        self.sizes = [header.size for header in self._headers]
        self.channels: int = reading.channels or (1 if all(header.grey for header in self._headers) else 3)
        self._scales = [
            "rescaled" if header.scale == "own" and reading.window is not None else header.scale
            for header in self._headers
        ]
        self._composited = 0
        self._check_scales()
        self.window = self._window()

    def __len__(self) -> int:
        return len(self.paths)

    def decode(self, size: tuple[int, int] | None, fit: Fit = "crop") -> Tensor:
        """Decode all pictures.

        Args:
            size: (width, height) to which each picture is brought by its own resize (bicubic, antialiased), unless it
                has it; None: all have one size and are taken as they are.
            fit: "crop" covers the target and cuts the centre; "pad" fits inside and fills with black; "stretch"
                changes the shape.

        Returns:
            uint8 (n, C, H, W), in the order of the paths.

        Raises:
            DataError: naming the first few damaged files and their number; or too little memory.
            ValueError: ``size`` is None and the pictures differ.
        """
        if size is None and len(set(self.sizes)) != 1:
            raise ValueError(f"pictures of {len(set(self.sizes))} sizes have no common one; give a size")
        width, height = size or self.sizes[0]
        need = len(self) * self.channels * height * width
        require(need + self._need(), CPU, f"{len(self)} decoded images")
        pixels = np.empty((len(self), self.channels, height, width), dtype=np.uint8)

        def fill(row: int) -> bool:
            image, composited = self._picture(row, size)
            image = _fitted(image.convert("L" if self.channels == 1 else "RGB"), (width, height), fit)
            pixels[row] = np.asarray(image).reshape(height, width, self.channels).transpose(2, 0, 1)
            return composited

        self._composited = sum(self._for_all(fill, range(len(self)), self._threads()))
        return torch.from_numpy(pixels)

    def described(self) -> dict[str, Any]:
        """Return what the pictures are and what was done to them, for the card and the log; counts of none left out.

        Keys: ``pictures``, ``kinds`` (their counts), ``smallest`` and ``largest`` (width, height), ``channels``;
        ``window`` and ``window_from``; ``own_windows`` (DICOM files shown by their own), ``turned`` (by their
        orientation tags), ``transparent`` (have transparency), ``composited`` on ``background`` (known once decoded),
        ``first_of_several`` (MPO), ``profiles_not_applied``.
        """
        by_area = sorted(self.sizes, key=lambda size: (size[0] * size[1], size))
        counts = {
            "own_windows": self._scales.count("own"),
            "turned": sum(header.orientation != 1 for header in self._headers),
            "transparent": sum(header.transparent for header in self._headers),
            "composited": self._composited,
            "first_of_several": sum(header.format == "MPO" for header in self._headers),
            "profiles_not_applied": sum(header.profile for header in self._headers),
        }
        told: dict[str, Any] = {
            "pictures": len(self),
            "kinds": dict(sorted(Counter(f"{header.format} {header.words}" for header in self._headers).items())),
            "smallest": list(by_area[0]),
            "largest": list(by_area[-1]),
            "channels": self.channels,
        }
        if self.window is not None:
            told |= {"window": list(self.window),
                     "window_from": "the lowest and highest value of all" if self.reading.window is None
                     else "dataset.window"}  # fmt: skip
        if self._composited:
            told["background"] = self.reading.background
        return told | {name: count for name, count in counts.items() if count}

    def _header(self, row: int) -> Header:
        path = self.paths[row]
        kind = kind_of(path)
        if kind is None:
            raise Unfit("is no picture")
        return dicom.header(path) if kind == "DICOM" else rasters.header(path, kind)

    def _check_scales(self) -> None:
        """Refuse pictures whose values do not mean the same brightness, unless a window says what they mean."""
        counts: Counter[str] = Counter("8 bits" if scale == "own" else scale for scale in self._scales)
        if {"stored", "rescaled"} <= set(counts) or (len(counts) > 1 and self.reading.window is None):
            words = {"8 bits": "of 8 bits or with a window of their own", "stored": "of more than 8 bits",
                     "rescaled": "DICOM files without a window"}  # fmt: skip
            counted = ", ".join(f"{counts[scale]} {words[scale]}" for scale in words if scale in counts)
            raise DataError(
                f"the images' brightness has no common scale: {counted}; convert them to one kind"
                + ("" if {"stored", "rescaled"} <= set(counts) else ", or say which values are black and white "
                   "in the deeper ones with dataset.window=[LOW,HIGH]")
            )  # fmt: skip

    def _window(self) -> tuple[float, float] | None:
        """Return the window given, or else the range of all pictures that need one."""
        rows = [row for row, scale in enumerate(self._scales) if scale in ("stored", "rescaled")]
        if not rows or self.reading.window is not None:
            return self.reading.window if rows else None
        require(self._need(), CPU, "decoding an image")
        ends = [each for each in self._for_all(self._range, rows, self._threads()) if each is not None]
        low, high = min((low for low, _ in ends), default=0.0), max((high for _, high in ends), default=0.0)
        if low == high:
            raise DataError(f"all pixels of the {len(rows)} images of more than 8 bits are equal ({low:g}); "
                            f"say which values are black and white with dataset.window=[LOW,HIGH]")  # fmt: skip
        return low, high

    def _range(self, row: int) -> tuple[float, float] | None:
        values = self._values(row)
        return (float(values.min()), float(values.max())) if values.size else None

    def _values(self, row: int) -> np.ndarray:
        path, header = self.paths[row], self._headers[row]
        return dicom.values(path) if header.format == "DICOM" else rasters.values(path, header)

    def _picture(self, row: int, target: tuple[int, int] | None) -> tuple[Image.Image, bool]:
        """Return a picture as shown, of mode L or RGB, and whether the background shows."""
        path, header, scale = self.paths[row], self._headers[row], self._scales[row]
        if header.format == "DICOM":
            return Image.fromarray(dicom.rendered(path, self.window if scale == "rescaled" else None)), False
        if scale == "stored":
            assert self.window is not None
            return Image.fromarray(rasters.windowed(rasters.values(path, header), self.window)), False
        return rasters.rendered(path, header, self.reading.background, target)

    def _need(self) -> int:
        """Return the bytes that decoding the largest picture takes."""
        return BYTES_PER_PIXEL * max(width * height for width, height in self.sizes)

    def _threads(self) -> int:
        """Return how many pictures are decoded at once, so that they fit into half of the free memory."""
        free = available_bytes(CPU)
        return THREADS if free is None else max(1, min(THREADS, free // 2 // self._need()))

    def _for_all(self, function: Callable[[int], T], rows: Sequence[int], threads: int) -> list[T]:
        """Call ``function`` on every row in threads (decoders free the GIL); gather what fails instead of stopping."""
        faults: dict[Path, str] = {}

        def guarded(row: int) -> T | None:
            try:
                return function(row)
            except Unfit as fault:
                faults[self.paths[row]] = str(fault)
            except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more
                text = " ".join(str(error).replace(str(self.paths[row]), self.paths[row].name).split())
                faults[self.paths[row]] = f"cannot be decoded ({text[:200] or type(error).__name__})"
            return None

        with _quiet(), ThreadPoolExecutor(min(threads, os.cpu_count() or 1)) as pool:
            found = list(pool.map(guarded, rows))
        if faults:
            raise refusal(faults, len(self.paths))
        return cast(list[T], found)


def _fitted(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    if image.size == size:
        return image
    if fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    if fit == "stretch":
        return image.resize(size, Image.Resampling.BICUBIC)
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    padded = Image.new(image.mode, size)
    padded.paste(image.resize(inner, Image.Resampling.BICUBIC), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return padded


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what decoders warn about and log of single files from users: it is refused in one error, or harmless."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in ("PIL", "pydicom")}
    try:
        for logger in levels:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
