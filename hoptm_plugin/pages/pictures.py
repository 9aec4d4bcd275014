"""Images of a set as PNG inside a page, decoded and encoded again, within a limit of bytes for the whole page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hoptm_plugin.runs.grid import Tiles

MOST_BYTES: Final = 12 * 10**6  # of all pictures of a page, as they stand in it
TEXT_BYTES, ENLARGED, LARGEST_SCALE = 200, 48, 6
BARELY_CHANGED: Final = 4  # mean difference of an image's pixels, of 255


@dataclass(frozen=True)
class Strip:
    """Images of one class side by side, as one picture.

    Attributes:
        name: of the class.
        text: what a screen reader says instead.
        source: the PNG as a data URI.
        width: in pixels of the screen.
        height: in pixels of the screen.
    """

    name: str
    text: str
    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Strips:
    """A set's images.

    Attributes:
        strips: one a class.
        remark: what of the set is not shown; "" where all is.
    """

    strips: tuple[Strip, ...]
    remark: str


def trimmed(tiles: Tiles, most: int) -> Tiles:
    """Return the first images of each class, and of the first classes, that take ``most`` bytes of memory or less."""
    count, size = len(tiles.images), tiles.images[0].numel()
    per_class = min(tiles.per_class, count)
    if count * size <= most and per_class == tiles.per_class:
        return tiles
    rows = tiles.images[: count // per_class * per_class].unflatten(0, (-1, per_class))
    kept = max(1, min(per_class, most // (size * len(rows))))
    rows = rows[: max(1, most // (size * kept)), :kept]
    return Tiles(rows.flatten(0, 1).clone(), kept)


def barely_changed(initial: Tiles, distilled: Tiles) -> bool:
    """Say whether an image of the distilled set is still, to the eye, the one that it started from."""
    if initial.images.shape != distilled.images.shape:
        return True  # cannot be told, so it counts as real
    difference = (initial.images.int() - distilled.images.int()).abs().float()
    return bool((difference.flatten(1).mean(dim=1) <= BARELY_CHANGED).any())


def shares(needs: Sequence[int], whole: int = MOST_BYTES) -> list[int]:
    """Divide ``whole`` among sets that would take ``needs`` bytes: small ones get all, the others equal parts."""
    given = [0] * len(needs)
    for done, index in enumerate(sorted(range(len(needs)), key=lambda index: needs[index])):
        given[index] = min(needs[index], whole // (len(needs) - done))
        whole -= given[index]
    return given


def needed(tiles: Tiles) -> int:
    """Return about how many bytes a set's strips take."""
    encoded = len(_png(torch.cat(list(tiles.images), dim=2)))
    return encoded * 4 // 3 + TEXT_BYTES * (len(tiles.images) // tiles.per_class + 1)


def strips(
    tiles: Tiles, classes: Sequence[str], ipc: int | None, kind: str, need: int, most: int
) -> Strips:  # fmt: skip
    """Return a set's images, class by class: the first of each class, and smaller ones, where they take too much.

    Args:
        tiles: class-major.
        classes: names of all classes.
        ipc: images per class of the whole set; None where that is not known.
        kind: of the images, in a word: "distilled" or "initial".
        need: bytes that all of it would take, as :func:`needed` gives them.
        most: bytes.
    """
    rows = tiles.images[: len(tiles.images) // tiles.per_class * tiles.per_class].unflatten(0, (-1, tiles.per_class))
    rows = rows[: len(classes)]
    count = tiles.per_class
    shown = max(1, min(count, count * most // max(1, need)))
    factor = 1
    while need * shown / count / factor**2 > 1.2 * most and min(rows.shape[-2:]) // (2 * factor) >= 8:
        factor *= 2
    pictures = tuple(_strip(row[:shown], name, kind, factor) for row, name in zip(rows, classes, strict=False))
    remarks = []
    if shown < (ipc or count):
        remarks.append(_first(shown, ipc or count, "images of each class"))
    if len(rows) < len(classes):
        remarks.append(_first(len(rows), len(classes), "classes"))
    if factor > 1:
        height, width = rows.shape[-2:]
        remarks.append(f"reduced from {width} x {height} to {width // factor} x {height // factor} pixels")
    return Strips(pictures, "; ".join(remarks))


def _first(shown: int, whole: int, of_what: str) -> str:
    return f"first {shown} of {whole} {of_what} are shown" if shown > 1 else f"first of {whole} {of_what} is shown"


def _strip(images: Tensor, name: str, kind: str, factor: int) -> Strip:
    if factor > 1:
        small = torch.nn.functional.avg_pool2d(images.float(), factor)
        images = small.round().to(torch.uint8)
    scale = min(LARGEST_SCALE, max(1, round(ENLARGED / images.shape[-1])))
    padded = torch.nn.functional.pad(images, (0, 1), value=255)  # one white column between two images
    row = torch.cat(list(padded), dim=2)[..., :-1]
    source = f"data:image/png;base64,{base64.b64encode(_png(row)).decode()}"
    number = f"{len(images)} {kind} image{'s' if len(images) > 1 else ''}"
    text = f"{number} of class {name}"
    return Strip(name, text, source, row.shape[2] * scale, row.shape[1] * scale)


def _png(image: Tensor) -> bytes:
    """Return an image (C, H, W) of bytes as PNG."""
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, format="png")
    return stream.getvalue()
