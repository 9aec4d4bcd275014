"""DSA's six operations as functions of images and drawn numbers, vectorised over the batch and differentiable.

Images are (B, C, H, W), floating; the numbers are one row per image, on the images' device. Nothing is clamped.
"""

from __future__ import annotations

import torch
from kornia.enhance import adjust_brightness
from kornia.geometry import create_meshgrid
from kornia.geometry.bbox import bbox_to_mask
from kornia.geometry.transform import hflip, remap
from torch import Tensor
from torch.nn.functional import pad


def color(images: Tensor, offset: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Brightness x + b, then saturation (x - m) s + m, then contrast (x - n) c + n; b, s, c are (B,).

    m is the mean over channels per pixel, n the mean over channels and pixels per image. Brightness is Kornia's
    ``adjust_brightness`` without clipping. Kornia's saturation works in HSV, clamps to [0, 1] and refuses one channel;
    its contrast leaves out the mean, or takes a grey one and clamps: both are written out here.
    """
    images = adjust_brightness(images, offset, clip_output=False)
    mean = images.mean(dim=1, keepdim=True)
    images = (images - mean) * saturation.view(-1, 1, 1, 1) + mean
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * contrast.view(-1, 1, 1, 1) + mean


def crop(images: Tensor, shifts: Tensor, margin: tuple[int, int]) -> Tensor:
    """Shift: out(i, j) = x(i + t_r, j + t_c), zero outside; shifts (B, 2) int64 with abs(t) <= margin per axis.

    Zero padding and one gather: exact, and no two outputs read one pixel, so the backward pass has one order of adding.
    Kornia's ``crop_by_indices`` gives the same bits but slices image by image; ``translate`` interpolates.
    """
    batch, channels, height, width = images.shape
    padded = pad(images, (margin[1], margin[1], margin[0], margin[0]))
    rows = torch.arange(height, device=images.device) + shifts[:, :1] + margin[0]
    columns = torch.arange(width, device=images.device) + shifts[:, 1:] + margin[1]
    source = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).view(batch, 1, -1)
    return padded.flatten(2).gather(2, source.expand(-1, channels, -1)).view_as(images)


def cutout(images: Tensor, centres: Tensor, size: tuple[int, int]) -> Tensor:
    """Multiply by 0 rows o - k//2 ... o - k//2 + k - 1, columns likewise; centres o (B, 2) int64, k = size per axis.

    The mask is Kornia's ``bbox_to_mask``. Clamping the box's indices to the image, as the published code does, is the
    same as cutting the box at the border, because every drawn box overlaps the image. Kornia's ``RandomErasing`` draws
    boxes that lie inside and so always erases the full area.
    """
    first = centres - torch.tensor([side // 2 for side in size], device=images.device)
    last = first + torch.tensor([side - 1 for side in size], device=images.device)
    (top, left), (bottom, right) = first.unbind(1), last.unbind(1)
    corners = torch.stack([left, top, right, top, right, bottom, left, bottom], dim=1).view(-1, 4, 2)
    mask = bbox_to_mask(corners.to(images.dtype), images.shape[3], images.shape[2])
    return images * (1 - mask)[:, None]


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror left-right the images where ``mirrored`` (B,) is true; Kornia's ``hflip``."""
    return torch.where(mirrored.view(-1, 1, 1, 1), hflip(images), images)


def scale(images: Tensor, factors: Tensor, align_corners: bool) -> Tensor:
    """Sample at x_src = s_x x, y_src = s_y y in [-1, 1] coordinates; factors (B, 2) = (s_x, s_y).

    Above 1 the content shrinks and zeros come in, below 1 it grows. Kornia's ``create_meshgrid`` and ``remap``
    (bilinear, zero padding) on the published map; ``warp_affine`` would invert a matrix first, and ``RandomAffine``
    draws the zoom, 1 / s, uniformly instead of s.
    """
    x, y = _coordinates(images, align_corners)
    horizontal, vertical = factors.view(-1, 2, 1, 1).unbind(1)
    return _sample(images, horizontal * x, vertical * y, align_corners)


def rotate(images: Tensor, angles: Tensor, align_corners: bool) -> Tensor:
    """Sample at x_src = cos(a) x - sin(a) y, y_src = sin(a) x + cos(a) y in [-1, 1] coordinates; angles a (B,).

    Angles are in radians; positive ones turn the content anticlockwise. Kornia's ``create_meshgrid`` and ``remap``, as
    in :func:`scale`; ``RandomRotation`` turns in pixel coordinates, which differs where height and width do.
    """
    x, y = _coordinates(images, align_corners)
    cos, sin = (part.view(-1, 1, 1) for part in (angles.cos(), angles.sin()))
    return _sample(images, cos * x - sin * y, sin * x + cos * y, align_corners)


def _coordinates(images: Tensor, align_corners: bool) -> tuple[Tensor, Tensor]:
    height, width = images.shape[2:]
    grid = create_meshgrid(height, width, device=images.device, dtype=images.dtype, align_corners=align_corners)
    return grid[..., 0], grid[..., 1]


def _sample(images: Tensor, x: Tensor, y: Tensor, align_corners: bool) -> Tensor:
    return remap(images, x, y, "bilinear", "zeros", align_corners=align_corners, normalized_coordinates=True)
