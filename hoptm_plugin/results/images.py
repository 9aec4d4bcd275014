"""A synthetic set as a picture."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import make_grid, save_image

from hoptm_plugin.core.files import write_atomically

MOST_COLUMNS, MOST_ROWS, LEAST_SIDE, GAP = 10, 20, 96, 2


def write_grid(images: Tensor, path: Path, columns: int) -> None:
    """Write a PNG of images in rows of ``columns``: with ``columns`` = IPC, class-major images give a row per class.

    At most 10 columns and 20 rows are shown, the first of each. With one column, classes stand side by side instead,
    ten a row. Values are clamped to [0, 1] in the picture only; images below 96 pixels are enlarged by whole numbers,
    nearest neighbour, so that every pixel stays visible.

    Args:
        images: (n, C, H, W) pixels, about [0, 1]; C is 1 (grey) or 3 (RGB); n is a multiple of ``columns``.
        path: the PNG, written whole or not at all.
        columns: images in one row of the set.

    Raises:
        ValueError: shapes that cannot be shown.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images) or columns < 1 or len(images) % columns:
        raise ValueError(f"cannot show images {tuple(images.shape)} in rows of {columns}")
    if columns == 1:
        shown = images[: MOST_COLUMNS * MOST_ROWS]
    else:
        shown = images.unflatten(0, (-1, columns))[:MOST_ROWS, :MOST_COLUMNS].flatten(0, 1)
    shown = shown.detach().float().cpu().clamp(0, 1)
    scale = max(1, -(-LEAST_SIDE // max(shown.shape[2:])))
    shown = interpolate(shown, scale_factor=scale, mode="nearest")
    grid = make_grid(shown, nrow=MOST_COLUMNS if columns == 1 else min(columns, MOST_COLUMNS), padding=GAP, pad_value=1)
    write_atomically(path, lambda temporary: save_image(grid, temporary, format="png"))
