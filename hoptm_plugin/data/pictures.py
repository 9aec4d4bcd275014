"""Picture files: which there are, what their headers say, and their pixels as a viewer shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

Fit = Literal["crop", "pad", "stretch"]


@dataclass(frozen=True)
class Reading:
    """How picture files become pixels.

    Attributes:
        channels: 1 (grey by ITU-R 601 luminance) or 3; None: grey where every picture is grey, else RGB.
        background: what shows through transparent pixels; None refuses pictures that are not opaque.
        window: stored values that become black and white, of pictures of more than 8 bits; None: the lowest and the
            highest stored value of all pictures, one range for all.
    """

    channels: Literal[1, 3] | None = 3
    background: Literal["black", "white"] | None = None
    window: tuple[float, float] | None = None


class Pictures:
    """Picture files of one data set: opened by their headers, decoded when the target size is known.

    Attributes:
        sizes: (width, height) as shown, after orientation, in the order of the paths.
        channels: of what :meth:`decode` returns.
        window: stored values that become 0 and 255; None where all pictures are of 8 bits.
    """

    sizes: list[tuple[int, int]]
    channels: int
    window: tuple[float, float] | None

    def __init__(self, paths: Sequence[Path], reading: Reading) -> None:
        raise NotImplementedError

    def decode(self, size: tuple[int, int] | None, fit: Fit = "crop") -> Tensor:
        """Return uint8 (n, C, H, W)."""
        raise NotImplementedError

    def described(self) -> dict[str, Any]:
        """Return what was read, in short words and without file names, for the card and the log."""
        raise NotImplementedError


def files_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the picture files directly in a folder, and what else lies there that is not hidden."""
    raise NotImplementedError
