"""Several training images in one stored image: a mosaic, and how it is taken apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def expand_mosaic(images: Tensor, factor: int) -> Tensor:
    """Cut images (n, C, H, W) into ``factor`` x ``factor`` tiles and enlarge each to (H, W): (factor^2 n, C, H, W).

    Tiles come column by column, each from top to bottom, and within a tile position all n images in order; the
    enlargement is bilinear without aligned corners. Differentiable; factor 1 returns the images.

    Raises:
        ValueError: height or width is not a multiple of ``factor``.

    Source: IDM (Zhao et al. 2023, arXiv 2307.09742), partitioning and expansion; docs/methods.md 9.
    """
    height, width = images.shape[2:]
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"images of {height}x{width} pixels cannot be cut into {factor}x{factor} equal tiles")
    if factor == 1:
        return images
    tiles = [tile for column in images.chunk(factor, dim=3) for tile in column.chunk(factor, dim=2)]
    return interpolate(torch.cat(tiles), size=(height, width), mode="bilinear", align_corners=False)
