"""From a data set's settings to a data set in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from hoptm_plugin.core.dataset import ImageData
from hoptm_plugin.core.errors import Problems
from hoptm_plugin.core.interfaces import DatasetReader, RawImages, Undecoded, datasets
from hoptm_plugin.core.registry import checked
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.files import FileReader
from hoptm_plugin.data.geometry import decoded
from hoptm_plugin.data.prepare import prepare
from hoptm_plugin.data.preprocess import BesideReader, Fit

PATH = "dataset"
PLACES = ("root", "images")


class _DecodedOnce:
    """Pictures that are decoded once for all that prepare them alike."""

    def __init__(self, pictures: Undecoded) -> None:
        self.sizes, self.channels, self.described = pictures.sizes, pictures.channels, pictures.described
        self._decode = lru_cache(maxsize=1)(pictures.decode)

    def decode(self, size: tuple[int, int] | None, fit: Fit = "crop") -> Tensor:
        """Return what the pictures are; nobody may write into it."""
        return self._decode(size, fit)


def load(spec: Mapping[str, Any], seeds: Seeds, device: torch.device, source: RawImages | None = None) -> ImageData:
    """Read and prepare the data set that ``spec`` describes.

    Args:
        spec: the reader's ``name`` and keywords, a mapping ``preprocess``, and ``duplicates``.
        seeds: decide splits that the source does not fix, and with them the fingerprint that experts are stored
            under: pass the same seeds to every run that is to be compared.
        device: where the images go.
        source: what :func:`opened` gave; None opens it.

    Raises:
        ConfigurationError: wrong settings, all at once.
        DataError: data that is missing or unreadable, or does not fit into memory.
    """
    reader, beside = _parts(spec)
    return prepare(reader.read(seeds.child("reader")) if source is None else source, beside, seeds, device)


def opened(spec: Mapping[str, Any], seeds: Seeds) -> RawImages:
    """Open the data set that ``spec`` describes, for several that :func:`load` the same with other splits.

    Raises:
        ConfigurationError: wrong settings, all at once.
        DataError: data that is missing or unreadable.
    """
    reader, _ = _parts(spec)
    raw = reader.read(seeds.child("reader"))
    return raw if raw.pictures is None else replace(raw, pictures=_DecodedOnce(raw.pictures))


def read(spec: Mapping[str, Any], seeds: Seeds) -> RawImages:
    """Read the data set that ``spec`` describes, with its pixels, and prepare nothing.

    Raises:
        ConfigurationError: wrong settings, all at once; pictures of different sizes, and no image size.
        DataError: data that is missing or unreadable, or does not fit into memory.
    """
    reader, beside = _parts(spec)
    return decoded(reader.read(seeds.child("reader")), beside.preprocess)


def check_spec(spec: Mapping[str, Any]) -> None:
    """Check the settings, and that the source is where they say; no image is read.

    Raises:
        ConfigurationError: wrong settings, all at once.
        DataError: the source is missing or lacks what its reader needs.
    """
    reader, _ = _parts(spec)
    if isinstance(reader, FileReader):
        reader.locate()


def check_ipc(data: ImageData, ipc: int) -> list[str]:
    """Return one line per class that has fewer training images than ``ipc``."""
    counts = torch.bincount(data.train.labels, minlength=len(data.class_names)).tolist()
    return [
        f"ipc={ipc}: class {name!r} of {data.name} has only {count} training images; "
        + (f"use ipc={count} or fewer, or add images" if count else "add images or leave the class out")
        for name, count in zip(data.class_names, counts, strict=True)
        if count < ipc
    ]


def _parts(spec: Mapping[str, Any]) -> tuple[DatasetReader, BesideReader]:
    # a variable of the shell that is set to nothing names no folder, and not the one that one stands in
    settings = {key: None if key in PLACES and value == "" else value for key, value in spec.items()}
    given = {key: value for key in BesideReader.model_fields if (value := settings.pop(key, None)) is not None}
    problems = Problems()
    reader = problems.attempt(lambda: datasets.build(settings, PATH))
    preprocess = given.get("preprocess")
    if isinstance(preprocess, Mapping) and preprocess.get("image_size") == "auto":
        given["preprocess"] = {**preprocess, "image_size": None if reader is None else reader.image_size}
    beside = problems.attempt(lambda: checked(BesideReader, given, PATH))
    problems.raise_if_any()
    assert reader is not None
    assert beside is not None
    return reader, beside
