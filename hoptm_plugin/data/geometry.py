"""What becomes of an image's size and shape: one decision for all images, and the line that says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.text import printable
from hoptm_plugin.data.files import some
from hoptm_plugin.data.preprocess import Fit, Preprocess

LONGEST_LINE = 500  # of a card
Size = tuple[int, int]
# what pictures say was done to them, in words, by the keys of their description
DONE = {
    "turned": "turned by their orientation tags",
    "own_windows": "shown by the windows in their files",
    "first_of_several": "holding several pictures, of which the first was taken",
    "profiles_not_applied": "with colour profiles, which were not applied",
    "composited": "not opaque and put",
}
WHILE_READ = "resized while they were read"
SHAPES = {"crop": "centre square", "pad": "padded with black to a square", "stretch": "stretched to a square"}


def sizes_of(raw: RawImages) -> Counter[Size]:
    """Return how many images have each size (width, height)."""
    if raw.pictures is not None:
        return Counter(raw.pictures.sizes)
    height, width = raw.train[0].shape[2:]
    parts = (raw.train, raw.test, raw.validation)
    return Counter({(width, height): sum(len(part[1]) for part in parts if part is not None)})


def decoded(raw: RawImages, preprocess: Preprocess) -> RawImages:
    """Return the data set with its pictures decoded to uint8 (n, C, H, W); tensors are returned as they are.

    Pictures of one size are decoded as they are. Where sizes differ, or with ``resize_order=while_reading``, each is
    brought to the image size by a resize of its own, so that no picture decides for the others.

    Raises:
        ConfigurationError: pictures of different sizes, and no image size; arrays that cannot be resized while reading.
    """
    if raw.pictures is None:
        if preprocess.resize_order == "while_reading":
            raise ConfigurationError(f"dataset.preprocess.resize_order: {raw.name} holds arrays, no picture files; "
                                     f"use before_normalise or after_normalise")  # fmt: skip
        return raw
    sizes, side = sizes_of(raw), preprocess.image_size
    if side is None and len(sizes) > 1:
        raise ConfigurationError(f"dataset.preprocess.image_size: the pictures of {raw.name} are of {_range(sizes)}; "
                                 f"say what size they are to have")  # fmt: skip
    sized = side is not None and (len(sizes) > 1 or preprocess.resize_order == "while_reading")
    images = raw.pictures.decode((side, side) if sized and side is not None else None, preprocess.fit)

    def chosen(part: tuple[Tensor, Tensor] | None) -> Any:
        if part is None:
            return None
        rows, labels = part
        first = int(rows[0]) if len(rows) else 0
        # rows that follow each other, as all readers here give them, are a view and take no memory
        consecutive = bool((rows.diff() == 1).all())
        return images[first : first + len(rows)] if consecutive else images[rows], labels

    fields = {name: chosen(getattr(raw, name)) for name in ("train", "test", "validation")}
    return replace(raw, pictures=None, **fields)


def resized(images: Tensor, side: int, fit: Fit, antialias: bool) -> Tensor:
    """Bring the shorter ("crop"), the longer ("pad") or both sides of float images (n, C, H, W) to ``side``."""
    height, width = images.shape[2:]
    if not needs_resize(height, width, side, fit):
        return images
    from torchvision.transforms.v2 import InterpolationMode, functional  # slow to import

    longer = max(height, width)
    size = {
        "crop": [side],  # of the shorter side
        "pad": [max(1, round(side * height / longer)), max(1, round(side * width / longer))],
        "stretch": [side, side],
    }[fit]
    return functional.resize(images, size, InterpolationMode.BICUBIC, antialias=antialias)


def needs_resize(height: int, width: int, side: int | None, fit: Fit) -> bool:
    """Tell whether images (H, W) must be interpolated to become squares of ``side``."""
    kept = {"crop": {min(height, width)}, "pad": {max(height, width)}, "stretch": {height, width}}[fit]
    return side is not None and kept != {side}


def squared(images: Tensor, size: tuple[int, ...], fill: Tensor | int) -> Tensor:
    """Cut the centre of images (n, C, H, W), or put them amid ``fill`` ((C, 1, 1), or 0), to have ``size``."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    if images.shape[2] > size[0] or images.shape[3] > size[1]:
        from torchvision.transforms.v2.functional import center_crop  # slow to import

        return center_crop(images, list(size))
    whole = images.new_empty((*images.shape[:2], *size))
    whole[:] = fill
    top, left = ((outer - inner) // 2 for outer, inner in zip(size, images.shape[2:], strict=True))
    whole[..., top : top + images.shape[2], left : left + images.shape[3]] = images
    return whole


def described(raw: RawImages, preprocess: Preprocess, shape: tuple[int, int, int]) -> list[str]:
    """Return what the images of a data set are and become (C, H, W), the first part a sentence of its own."""
    sizes, side = sizes_of(raw), preprocess.image_size
    kind, remarks = _kind(raw)
    total = sum(sizes.values())
    channels, height, width = shape
    became = f"{width}x{height}, {channels} channel{'s' if channels > 1 else ''}"
    uneven = any(w != h for w, h in sizes)
    changed = side is not None and (uneven or set(sizes) != {(width, height)})
    how = f"{SHAPES[preprocess.fit]}, " if side is not None and uneven else "" if changed else "as they are, "
    said = [f"{total:,} images of {_range(sizes)}, {kind} -> {how}{became}"]
    if side is None:
        return said + remarks
    scale = {"crop": min, "pad": max, "stretch": min}[preprocess.fit]
    up = sum(count for size, count in sizes.items() if scale(size) < side)
    if up:
        said.append(f"{'all' if up == total else f'{up:,}'} resized up")
    share = min(min(size) / max(size) for size in sizes)
    if preprocess.fit == "crop" and share < 1:
        said.append(f"the crop keeps {100 * share:.0f} % of a picture's area" if len(sizes) == 1 else
                    f"the crop keeps at least {100 * share:.0f} % of a picture's area")  # fmt: skip
    if len(sizes) > 1 and preprocess.resize_order != "while_reading":
        said.append(f"{WHILE_READ}, since sizes differ")
    return said + remarks


def said(raw: RawImages, preprocess: Preprocess, shape: tuple[int, int, int]) -> tuple[str, str]:
    """Return the line that says what was read and is done: for the card, and for the log, with names of files."""
    parts, names = [*described(raw, preprocess, shape), *raw.remarks], raw.left_out
    if names:
        parts.append(f"{len(names):,} left out that {'is' if len(names) == 1 else 'are'} no picture of a class")
    line = printable("; ".join(parts))
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 3]}...", line + (
        f": {some(names)}" if names else ""
    )


def _range(sizes: Mapping[Size, int]) -> str:
    """Return the size, or the smallest and the largest by area, such as "200x40 to 512x512"."""
    ends = [f(sizes, key=lambda size: (size[0] * size[1], size)) for f in (min, max)]
    return " to ".join(dict.fromkeys(f"{width}x{height}" for width, height in ends))


def _kind(raw: RawImages) -> tuple[str, list[str]]:
    """Return what pixels the source holds, in words, and what was done to read them."""
    if raw.pictures is None:
        return "grey" if raw.train[0].shape[1] == 1 else "RGB", []
    told = raw.pictures.described()
    kinds = [f"{count:,} {kind}" for kind, count in Counter(told.get("kinds", {})).most_common()]
    kind = next(iter(told["kinds"])) if len(kinds) == 1 else " and ".join(kinds)
    remarks = [f"{told[key]:,} {words}" for key, words in DONE.items() if told.get(key)]
    if "window" in told:
        low, high = told["window"]
        remarks.insert(0, f"values {low:g} to {high:g} shown as black to white ({told['window_from']})")
    if "background" in told:  # the last of them
        remarks[-1] += f" on {told['background']}"
    return kind, remarks
