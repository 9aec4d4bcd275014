"""Images of sets inside a page: PNG, encoded again, each set within its share of a limit of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from hoptm_plugin.cards.card import Card
from hoptm_plugin.core.interfaces import ImagesAre

Kind: TypeAlias = Literal["distilled", "initial"]
ENLARGED, LARGEST_SCALE = 48, 6
SAMPLED, SAMPLE_BYTES = 10, 60_000  # classes of a sample, and bytes
WORDS: Final[dict[ImagesAre, str]] = {"real": "real", "from_real": "derived", "unknown": "real or derived", "made": ""}
CAPTIONS: Final[dict[ImagesAre, str]] = {
    "real": "real training images",
    "from_real": "derived from real training images: averaged, shrunk or otherwise changed",
    "unknown": "real training images, or derived from them",
    "made": "",
}
BARELY_CHANGED: Final = 4  # mean difference of an image's pixels, of 255


class Strip(NamedTuple):
    """Images of one class side by side, as one picture; sides in pixels of the screen."""

    name: str
    text: str
    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Pictures:
    """Images of a set.

    Attributes:
        kind: "distilled", or "initial": those that the distillation started from.
        real: whether they are real training images, or derived from them; what may be counts as such.
        strips: one a class.
        remark: what of the set is not shown; "" where all is.
        caption: what they are, where they are real or may be; "" where they are not.
        sample: the first image of each of the first classes, small.
    """

    kind: Kind
    real: bool
    strips: tuple[Strip, ...]
    remark: str
    caption: str = ""
    sample: tuple[Strip, ...] = ()


def pictures(card: Card, initial: Tensor | None, distilled: Tensor | None, most: int) -> tuple[Pictures, ...]:
    """Return the pictures of a run, the distilled set first.

    Args:
        card: the run's.
        initial: (classes, images of each, C, H, W) of bytes, or None where there are none to show.
        distilled: likewise.
        most: bytes that each set may take in the page.
    """
    began: ImagesAre = card.began_from
    if began == "unknown" and card.images_are in ("real", "made"):  # changed ones may have begun as either
        began = card.images_are
    started_real = began != "made"  # where that is not known, they may be
    # without the start nothing tells whether the images left it
    unchanged = initial is None or distilled is None or barely_changed(initial, distilled)
    sets: tuple[tuple[Kind, Tensor | None, bool], ...] = (
        ("distilled", distilled, started_real and unchanged), ("initial", initial, started_real)
    )  # fmt: skip
    return tuple(
        Pictures(
            kind, real, *strips(images, card.dataset.classes, card.ipc, WORDS[began] if real else kind, most),
            CAPTIONS[began] if real else "",
            strips(images[:SAMPLED, :1], card.dataset.classes, 1, WORDS[began] if real else kind, SAMPLE_BYTES)[0],
        )
        for kind, images, real in sets
        if images is not None
    )  # fmt: skip


def barely_changed(initial: Tensor, distilled: Tensor) -> bool:
    """Say whether an image of the distilled set is still, to the eye, the one that it started from."""
    if initial.shape != distilled.shape:
        return True  # cannot be told, so it counts as real
    difference = (initial.int() - distilled.int()).abs().float()
    return bool((difference.mean(dim=(2, 3, 4)) <= BARELY_CHANGED).any())


def strips(
    images: Tensor, classes: Sequence[str], ipc: int | None, kind: str, most: int
) -> tuple[tuple[Strip, ...], str]:
    """Return a set's images, class by class, and what is not shown of them.

    Args:
        images: (classes, images of each, C, H, W) of bytes.
        classes: names of all classes.
        ipc: images per class of the whole set; None where that is not known.
        kind: of the images, in a word.
        most: bytes; where all take more, the first of each class are shown, and then smaller ones.
    """
    images = images[: len(classes)]
    rows, count, _, height, width = images.shape
    need = sum(len(_png(row)) * 4 // 3 for row in images)
    shown = max(1, min(count, count * most // need))
    factor = 1
    while need * shown / count / factor**2 > 1.2 * most and min(height, width) // (2 * factor) >= 8:
        factor *= 2
    remarks = [
        f"first {few} of {whole} {what} are shown" if few > 1 else f"first of {whole} {what} is shown"
        for few, whole, what in ((shown, ipc or count, "images of each class"), (rows, len(classes), "classes"))
        if few < whole
    ]
    if factor > 1:
        remarks.append(f"reduced from {width} x {height} to {width // factor} x {height // factor} pixels")
    found = tuple(_strip(row[:shown], name, kind, factor) for row, name in zip(images, classes, strict=False))
    return found, "; ".join(remarks)


def _strip(images: Tensor, name: str, kind: str, factor: int) -> Strip:
    small = avg_pool2d(images.float(), factor).round().to(torch.uint8)
    scale = min(LARGEST_SCALE, max(1, round(ENLARGED / small.shape[-1])))
    source = f"data:image/png;base64,{base64.b64encode(_png(small)).decode()}"
    text = f"{len(images)} {kind} image{'s' if len(images) > 1 else ''} of class {name}"
    return Strip(name, text, source, (len(small) * (small.shape[-1] + 1) - 1) * scale, small.shape[-2] * scale)


def _png(images: Tensor) -> bytes:
    """Return images (n, C, H, W) of bytes side by side, a white column between two, as PNG."""
    row = torch.cat(list(pad(images, (0, 1), value=255)), dim=2)[..., :-1]
    pixels = np.ascontiguousarray(row.permute(1, 2, 0).numpy())
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, format="png")
    return stream.getvalue()
