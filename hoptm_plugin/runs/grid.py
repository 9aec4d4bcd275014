"""A synthetic set as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor
from torch.nn.functional import interpolate

from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.storage.files import write_atomically

MOST_COLUMNS, MOST_ROWS, LEAST_SIDE, GAP = 10, 20, 96, 2
LAYOUT, MOST_PIXELS = "hoptm-bench", 64 * 2**20


def write_grid(images: Tensor, path: Path, columns: int) -> None:
    """Write a PNG of images in rows of ``columns``: with ``columns`` = IPC, class-major images give a row per class.

    At most 10 columns and 20 rows are shown, the first of each. With one column, classes stand side by side instead,
    ten a row. Values are clamped to [0, 1] in the picture only; images below 96 pixels are enlarged by whole numbers,
    nearest neighbour, so that every pixel stays visible. The layout is written into the PNG, for :func:`read_grid`.

    Args:
        images: (n, C, H, W) pixels, about [0, 1]; C is 1 (grey) or 3 (RGB); n is a multiple of ``columns``.
        path: the PNG, written whole or not at all.
        columns: images in one row of the set.

    Raises:
        ValueError: shapes that cannot be shown.
    """
    from torchvision.transforms.functional import to_pil_image  # slow to import
    from torchvision.utils import make_grid

    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images) or columns < 1 or len(images) % columns:
        raise ValueError(f"cannot show images {tuple(images.shape)} in rows of {columns}")
    if columns == 1:
        shown = images[: MOST_COLUMNS * MOST_ROWS]
    else:
        shown = images.unflatten(0, (-1, columns))[:MOST_ROWS, :MOST_COLUMNS].flatten(0, 1)
    shown = shown.detach().float().cpu().clamp(0, 1)
    height, width = shown.shape[2:]
    scale = max(1, -(-LEAST_SIDE // max(height, width)))
    in_a_row = MOST_COLUMNS if columns == 1 else min(columns, MOST_COLUMNS)
    grid = make_grid(interpolate(shown, scale_factor=scale, mode="nearest"), in_a_row, GAP, pad_value=1)
    layout = {"count": len(shown), "height": height, "width": width, "channels": images.shape[1], "scale": scale,
              "columns": min(in_a_row, len(shown)), "per_class": min(columns, MOST_COLUMNS)}  # fmt: skip
    text = PngImagePlugin.PngInfo()
    text.add_text(LAYOUT, json.dumps(layout))
    # rounded to the nearest of 256 values, where to_pil_image alone would cut off
    picture = to_pil_image((grid * 255).round().to(torch.uint8))
    write_atomically(path, lambda temporary: picture.save(temporary, format="png", pnginfo=text))


def read_grid(path: Path) -> Tensor:
    """Read back the images of a grid that :func:`write_grid` wrote, as they were before they were enlarged.

    Returns:
        (classes, images of each, C, H, W) uint8.

    Raises:
        FileFormatError: missing, damaged, or not such a picture.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.verify()  # the checksums of its pixels, which loading leaves alone
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError(f"larger than {MOST_PIXELS} pixels")
            picture.load()
            layout = {key: int(value) for key, value in json.loads(picture.info[LAYOUT]).items()}
            pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
        count, columns, scale, per_class = (layout[key] for key in ("count", "columns", "scale", "per_class"))
        height, width = layout["height"] * scale + GAP, layout["width"] * scale + GAP  # of a tile and a gap
        if min(count, columns, scale, per_class, height - GAP, width - GAP) < 1 or count % per_class:
            raise ValueError("a layout that cannot be")
        if tuple(pixels.shape[1:]) != (-(-count // columns) * height + GAP, columns * width + GAP):
            raise ValueError(f"its {pixels.shape[2]}x{pixels.shape[1]} pixels do not fit its layout")
        tiles = pixels[:, GAP:, GAP:].unflatten(1, (-1, height)).unflatten(3, (-1, width))  # (3, row, y, column, x)
        images = tiles[:, :, :-GAP:scale, :, :-GAP:scale].permute(1, 3, 0, 2, 4).flatten(0, 1)[:count]
        return images[:, : 1 if layout["channels"] == 1 else 3].unflatten(0, (-1, per_class)).clone()
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise FileFormatError(f"{path}: not a picture that hoptm-bench wrote ({error!r})") from None
