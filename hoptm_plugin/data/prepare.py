"""From raw pixels to what networks see: validation split, normalisation, resize, whitening; on the device once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hoptm_plugin.core.dataset import ImageData, Normalisation, Split
from hoptm_plugin.core.errors import ConfigurationError, DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.roles import Decides, decides
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.text import UNPRINTABLE
from hoptm_plugin.data.aside import put_aside
from hoptm_plugin.data.duplicates import without_leaks
from hoptm_plugin.data.files import check_splits
from hoptm_plugin.data.geometry import decoded, needs_resize, resized, said, squared
from hoptm_plugin.data.memory import require
from hoptm_plugin.data.preprocess import BesideReader, Preprocess
from hoptm_plugin.data.splits import stratified
from hoptm_plugin.data.whitening import check_features, whiten

BLOCK_BYTES = 2**26  # float pixels converted at a time
LONGEST_NAME = 500
Labelled = tuple[Tensor, Tensor]


def prepare(raw: RawImages, beside: BesideReader, seeds: Seeds, device: torch.device) -> ImageData:
    """Decode, carve validation, look for leaks, put aside, normalise or whiten, and resize; in blocks, on ``device``.

    z = (x / 255 - mean) / std, then a bicubic resize of z and a centre crop (order and fit as set). Where neither
    resize nor whitening is needed images stay uint8 and :meth:`Split.batch` normalises them; else they become float32.

    Raises:
        ConfigurationError: settings that do not fit these images.
        DataError: raw images that break their contract, leaks where they are refused, or too little memory.

    Source: HoP-TM's released code for the order of operations; its antialiasing is unknown; docs/methods.md 1.2.
    """
    for name in (raw.name, *raw.class_names):  # a card could not hold it, as would be found out at the end only
        if not 0 < len(name) <= LONGEST_NAME or UNPRINTABLE.search(name) or set(name) & {"\n", "\t"}:
            raise DataError(f"data set {raw.name}: {name!r} is no name of a class or data set, which are of 1 to "
                            f"{LONGEST_NAME} characters on one line; rename it")  # fmt: skip
    preprocess = beside.preprocess
    channels = _channels(raw, preprocess)
    source, raw = raw, decoded(raw, preprocess)
    check_splits(_splits(raw), len(raw.class_names), f"data set {raw.name}")
    splits, places, provenance = _with_validation(raw, preprocess, seeds)
    splits, kept, leaks, provenance, hashes = without_leaks(splits, places, source, provenance, beside.duplicates)
    parted, groups = None, None if raw.groups is None else raw.groups[places["train"][1][kept]]
    if beside.holdout_fraction is not None:
        parted = put_aside(splits["train"][1], raw.class_names, hashes["train"], groups, beside, seeds)
        splits, provenance, hashes = parted.applied(splits, provenance, hashes)
        groups = None if groups is None else groups[parted.rows["train"]]
        leaks = (*leaks, parted.said)
    if preprocess.zca:
        normalisation = Normalisation((0.0,) * channels, (1.0,) * channels, "zca")
    else:
        normalisation = _normalisation(raw, preprocess, splits["train"][0], channels)
    height, width = raw.train[0].shape[2:]
    side = preprocess.image_size
    shape = (channels, side or height, side or width)
    if preprocess.zca:
        check_features(shape)
    total = sum(len(labels) for _, labels in splits.values())
    as_float = preprocess.zca or needs_resize(height, width, side, preprocess.fit)
    require(total * channels * shape[1] * shape[2] * (4 if as_float else 1), device,
            f"{total} images of {'x'.join(map(str, shape))} as {'float32' if as_float else 'uint8'}")  # fmt: skip
    images = {}
    for split, (pixels, _) in splits.items():
        if as_float:
            images[split] = _to_float(pixels, shape, normalisation, preprocess, device)
        else:
            images[split] = squared(pixels, shape[1:], 0).expand(-1, channels, -1, -1).to(device).contiguous()
    inverse = whiten(images, preprocess.zca_eps) if preprocess.zca else None
    parts = {name: Split(images[name], labels.to(device), normalisation) for name, (_, labels) in splits.items()}
    name = raw.name if raw.named_size in (None, shape[1]) else f"{raw.name} as {shape[2]}x{shape[1]}"
    read, told = said(source, preprocess, shape)
    return ImageData(
        name, raw.class_names, parts["train"], parts["validation"], parts["test"], normalisation,
        fingerprint(splits, raw.class_names, preprocess, normalisation), inverse, {**provenance, "read": read},
        (told, *leaks), hashes, None if parted is None else parted.of(parts), groups,
    )  # fmt: skip


def fingerprint(
    splits: Mapping[str, Labelled], class_names: tuple[str, ...], preprocess: Preprocess, normalisation: Normalisation
) -> str:
    """Return SHA-256 over raw pixels, labels, splits, class names and preprocessing; not over device or file names.

    ``validation_fraction`` enters through the splits it makes.
    """
    digest = hashlib.sha256()
    neutral = {name for name in Preprocess.model_fields if getattr(preprocess, name) in _marks(name).unless}
    settings = preprocess.model_dump(mode="json", exclude={"validation_fraction", *neutral})
    header = {"classes": class_names, "preprocess": settings, "mean": normalisation.mean, "std": normalisation.std}
    digest.update(json.dumps(header, sort_keys=True).encode())
    for name in ("train", "validation", "test", *sorted(splits.keys() - {"train", "validation", "test"})):
        images, labels = splits[name]
        digest.update(f"{name} {tuple(images.shape)}".encode())
        digest.update(labels.contiguous().numpy().astype("<i8").data)
        for block in _blocks(images):
            digest.update(block.contiguous().numpy().data)
    return digest.hexdigest()


def _marks(name: str) -> Decides:
    known = decides(Preprocess, name)
    assert known is not None
    return known


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and population standard deviation per channel of uint8 images, as pixels in [0, 1].

    Sums are exact: whole numbers below 2^53 in float64.
    """
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for block in _blocks(images):
        pixels = block.to(torch.float64)
        total += pixels.sum(dim=(0, 2, 3))
        squares += pixels.square().sum(dim=(0, 2, 3))
    count = images.numel() // images.shape[1]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _splits(raw: RawImages) -> dict[str, Labelled]:
    return {"train": raw.train, "test": raw.test, **({"validation": raw.validation} if raw.validation else {})}


def _with_validation(
    raw: RawImages, preprocess: Preprocess, seeds: Seeds
) -> tuple[dict[str, Labelled], dict[str, tuple[str, Tensor]], dict[str, Any]]:
    """Return all three splits, and for each of them the source's split and the rows of it that its images are.

    A carved validation split takes whole groups, and also moves its files in ``provenance["split"]``.
    """
    splits, provenance = _splits(raw), dict(raw.provenance)
    places = {name: (name, torch.arange(len(labels))) for name, (_, labels) in splits.items()}
    if raw.validation is not None:
        return splits, places, provenance
    images, labels = raw.train
    kept, held = stratified(
        labels, raw.class_names, preprocess.validation_fraction, seeds.child("validation"), raw.groups
    )
    if not len(held):
        raise DataError(f"data set {raw.name}: no class has two training images, so none can be held out for "
                        f"validation; supply a validation split or more images")  # fmt: skip
    splits["train"], splits["validation"] = (images[kept], labels[kept]), (images[held], labels[held])
    places["train"], places["validation"] = ("train", kept), ("train", held)
    provenance["validation_carved"] = {"fraction": preprocess.validation_fraction, "images": len(held)}
    if "split" in provenance:
        files = provenance["split"]["train"]
        moved = {name: [files[i] for i in part.tolist()] for name, part in (("train", kept), ("validation", held))}
        provenance["split"] = {**provenance["split"], **moved}
    return splits, places, provenance


def _channels(raw: RawImages, preprocess: Preprocess) -> int:
    given = raw.train[0].shape[1] if raw.pictures is None else raw.pictures.channels
    wanted = preprocess.channels or given
    if wanted < given:
        raise ConfigurationError(f"dataset.preprocess.channels: {raw.name} has {given} channels, which are not reduced "
                                 f"to {wanted}; set it to null, or let the reader decode to grey where it can, with "
                                 f"dataset.channels=1")  # fmt: skip
    return wanted


def _normalisation(raw: RawImages, preprocess: Preprocess, train: Tensor, channels: int) -> Normalisation:
    kind: str = preprocess.normalisation
    if preprocess.mean is not None and preprocess.std is not None:
        mean, std, kind = preprocess.mean, preprocess.std, "given"
    elif kind == "released":
        if raw.released is None:
            raise ConfigurationError(f"dataset.preprocess.normalisation: no constants were released for {raw.name} as "
                                     f"read here; use dataset.preprocess.normalisation=measured")  # fmt: skip
        mean, std = raw.released
    elif kind == "measured":
        mean, std = channel_statistics(train)
        if train.shape[1] < channels:
            mean, std = mean * channels, std * channels
        if min(std) == 0:
            raise DataError(f"data set {raw.name}: all training pixels of a channel are equal, so its measured "
                            f"standard deviation is 0; use dataset.preprocess.normalisation=none")  # fmt: skip
    else:
        mean, std = (0.0,) * channels, (1.0,) * channels
    if len(mean) != channels:
        raise ConfigurationError(f"dataset.preprocess.{'mean' if kind == 'given' else 'normalisation'}: {len(mean)} "
                                 f"constants ({kind}) for images of {channels} channels; give dataset.preprocess.mean "
                                 f"and .std of {channels} numbers, or use normalisation=measured")  # fmt: skip
    return Normalisation(mean, std, kind)


def _to_float(
    pixels: Tensor, shape: tuple[int, int, int], normalisation: Normalisation, preprocess: Preprocess,
    device: torch.device,
) -> Tensor:  # fmt: skip
    result = torch.empty((len(pixels), *shape), device=device)
    blocks = _blocks(pixels)
    black = normalisation.apply(torch.zeros(shape[0], 1, 1, device=device))
    for block, converted in zip(blocks, result.split(len(blocks[0])), strict=True):
        images = (block.to(device).float() / 255).expand(-1, shape[0], -1, -1)
        if preprocess.resize_order == "after_normalise":
            images = _resize(normalisation.apply(images), preprocess)
        else:
            images = normalisation.apply(_resize(images, preprocess).clamp(0, 1))
        converted.copy_(squared(images, shape[1:], black))
    return result


def _resize(images: Tensor, preprocess: Preprocess) -> Tensor:
    if preprocess.image_size is None:
        return images
    return resized(images, preprocess.image_size, preprocess.fit, preprocess.antialias)


def _blocks(images: Tensor) -> tuple[Tensor, ...]:
    """Return runs of uint8 images whose float64 form takes about ``BLOCK_BYTES``."""
    return images.split(max(1, BLOCK_BYTES // (8 * images[0].numel())))
