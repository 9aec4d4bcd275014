"""From raw pixels to what networks see: validation split, normalisation, resize, whitening; on the device once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from hoptm_plugin.core.dataset import ImageData, Normalisation, Split
from hoptm_plugin.core.errors import ConfigurationError, DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.text import UNPRINTABLE
from hoptm_plugin.data.files import check_splits
from hoptm_plugin.data.hashes import image_hashes
from hoptm_plugin.data.memory import require
from hoptm_plugin.data.splits import stratified
from hoptm_plugin.data.whitening import check_features, whiten

BLOCK_BYTES = 2**26  # float pixels converted at a time
LONGEST_NAME = 500
Labelled = tuple[Tensor, Tensor]


class Preprocess(BaseModel):
    """How raw images become network input.

    Attributes:
        image_size: pixels per side after resizing the shorter side and cropping the centre; None leaves images as read.
        channels: 3 repeats grey images; None leaves channels as read. RGB is never made grey here: a reader's own
            ``channels: 1`` does that while decoding, with proper rounding.
        antialias: of the bicubic resize. False is the released code's environment.
        resize_order: "after_normalise" resizes the normalised tensor, overshoot included, as HoP-TM's released code
            does; "before_normalise" resizes pixels and clamps them to [0, 1] first.
        normalisation: "released" constants of a paper's code, "measured" on the train pixels, or "none".
        mean: per channel, of pixels in [0, 1]; with ``std``, used instead of ``normalisation``.
        std: per channel.
        zca: whiten instead of normalising.
        zca_eps: added to the covariance's eigenvalues.
        validation_fraction: of each class, carved from train where the source has no validation split.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: Annotated[int, Field(gt=0)] | None = None
    channels: Literal[1, 3] | None = None
    antialias: bool = False
    resize_order: Literal["after_normalise", "before_normalise"] = "after_normalise"
    normalisation: Literal["released", "measured", "none"] = "measured"
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = None
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    zca: bool = False
    zca_eps: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _mean_and_std_together(self) -> Preprocess:
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std must be given together, one number per channel each")
        return self


def prepare(raw: RawImages, preprocess: Preprocess, seeds: Seeds, device: torch.device) -> ImageData:
    """Carve validation, normalise or whiten, and resize; whole arrays, in blocks, on ``device``.

    z = (x / 255 - mean) / std, then a bicubic resize of z and a centre crop (order as set). Where neither resize nor
    whitening is needed images stay uint8 and :meth:`Split.batch` normalises them; else they become float32.

    Raises:
        ConfigurationError: settings that do not fit these images.
        DataError: raw images that break their contract, or too little memory.

    Source: HoP-TM's released code for the order of operations; its antialiasing is unknown; docs/methods.md 1.2.
    """
    for name in (raw.name, *raw.class_names):  # a card could not hold it, as would be found out at the end only
        if not 0 < len(name) <= LONGEST_NAME or UNPRINTABLE.search(name) or set(name) & {"\n", "\t"}:
            raise DataError(f"data set {raw.name}: {name!r} is no name of a class or data set, which are of 1 to "
                            f"{LONGEST_NAME} characters on one line; rename it")  # fmt: skip
    check_splits(_splits(raw), len(raw.class_names), f"data set {raw.name}")
    splits, provenance = _with_validation(raw, preprocess, seeds)
    channels = _channels(raw, preprocess)
    if preprocess.zca:
        normalisation = Normalisation((0.0,) * channels, (1.0,) * channels, "zca")
    else:
        normalisation = _normalisation(raw, preprocess, splits["train"][0], channels)
    height, width = raw.train[0].shape[2:]
    size = (preprocess.image_size or height, preprocess.image_size or width)
    resize = preprocess.image_size is not None and min(height, width) != preprocess.image_size
    if preprocess.zca:
        check_features((channels, *size))
    total = sum(len(labels) for _, labels in splits.values())
    as_float = resize or preprocess.zca
    require(total * channels * size[0] * size[1] * (4 if as_float else 1), device,
            f"{total} images of {channels}x{size[0]}x{size[1]} as {'float32' if as_float else 'uint8'}")  # fmt: skip
    images = {}
    for split, (pixels, _) in splits.items():
        if as_float:
            images[split] = _to_float(pixels, (channels, *size), normalisation, preprocess, device)
        else:
            images[split] = _crop(pixels, size).expand(-1, channels, -1, -1).to(device).contiguous()
    inverse = whiten(images, preprocess.zca_eps) if preprocess.zca else None
    parts = {name: Split(images[name], labels.to(device), normalisation) for name, (_, labels) in splits.items()}
    return ImageData(raw.name, raw.class_names, parts["train"], parts["validation"], parts["test"], normalisation,
                     fingerprint(splits, raw.class_names, preprocess, normalisation), inverse, provenance,
                     {name: image_hashes(pixels) for name, (pixels, _) in splits.items()})  # fmt: skip


def fingerprint(
    splits: Mapping[str, Labelled], class_names: tuple[str, ...], preprocess: Preprocess, normalisation: Normalisation
) -> str:
    """Return SHA-256 over raw pixels, labels, splits, class names and preprocessing; not over device or file names.

    ``validation_fraction`` enters through the splits it makes.
    """
    digest = hashlib.sha256()
    settings = preprocess.model_dump(mode="json", exclude={"validation_fraction"})
    header = {"classes": class_names, "preprocess": settings, "mean": normalisation.mean, "std": normalisation.std}
    digest.update(json.dumps(header, sort_keys=True).encode())
    for name in ("train", "validation", "test"):
        images, labels = splits[name]
        digest.update(f"{name} {tuple(images.shape)}".encode())
        digest.update(labels.contiguous().numpy().astype("<i8").data)
        for block in _blocks(images):
            digest.update(block.contiguous().numpy().data)
    return digest.hexdigest()


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
) -> tuple[dict[str, Labelled], Mapping[str, Any]]:
    """Return all three splits; a carved validation split also moves its files in ``provenance["split"]``."""
    splits, provenance = _splits(raw), dict(raw.provenance)
    if raw.validation is not None:
        return splits, provenance
    images, labels = raw.train
    kept, held = stratified(labels, raw.class_names, preprocess.validation_fraction, seeds.child("validation"))
    if not len(held):
        raise DataError(f"data set {raw.name}: no class has two training images, so none can be held out for "
                        f"validation; supply a validation split or more images")  # fmt: skip
    splits["train"], splits["validation"] = (images[kept], labels[kept]), (images[held], labels[held])
    provenance["validation_carved"] = {"fraction": preprocess.validation_fraction, "images": len(held)}
    if "split" in provenance:
        files = provenance["split"]["train"]
        moved = {name: [files[i] for i in part.tolist()] for name, part in (("train", kept), ("validation", held))}
        provenance["split"] = {**provenance["split"], **moved}
    return splits, provenance


def _channels(raw: RawImages, preprocess: Preprocess) -> int:
    given = raw.train[0].shape[1]
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
    for block, converted in zip(blocks, result.split(len(blocks[0])), strict=True):
        images = (block.to(device).float() / 255).expand(-1, shape[0], -1, -1)
        if preprocess.resize_order == "after_normalise":
            images = _resize(normalisation.apply(images), preprocess)
        else:
            images = normalisation.apply(_resize(images, preprocess).clamp(0, 1))
        converted.copy_(_crop(images, shape[1:]))
    return result


def _resize(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Bring the shorter side to the image size."""
    if preprocess.image_size is None or min(images.shape[2:]) == preprocess.image_size:
        return images
    return TF.resize(images, [preprocess.image_size], InterpolationMode.BICUBIC, antialias=preprocess.antialias)


def _crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    return images if images.shape[2:] == size else TF.center_crop(images, list(size))


def _blocks(images: Tensor) -> tuple[Tensor, ...]:
    """Return runs of uint8 images whose float64 form takes about ``BLOCK_BYTES``."""
    return images.split(max(1, BLOCK_BYTES // (8 * images[0].numel())))
