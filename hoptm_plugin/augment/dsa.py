"""DSA, differentiable Siamese augmentation, on Kornia."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from hoptm_plugin.augment import transforms
from hoptm_plugin.core.interfaces import Augmentation
from hoptm_plugin.core.registry import register

Group: TypeAlias = Literal["color", "crop", "cutout", "flip", "scale", "rotate"]


@dataclass(frozen=True)
class DSAParameters:
    """What one call of DSA drew.

    Attributes:
        group: the operation, the same for the whole batch.
        values: one row per image, or a single row that all images of a call share (Siamese), on the generator's
            device. color: (b, 3) float, brightness offset, saturation and contrast factor; crop: (b, 2) int64, shift
            of rows and columns in pixels; cutout: (b, 2) int64, row and column of the centre; flip: (b, 1) bool;
            scale: (b, 2) float, s_x and s_y; rotate: (b, 1) float, radians.
    """

    group: Group
    values: Tensor


@register("dsa")
class DSA(Augmentation):
    """DSA: one operation a call for the whole batch, drawn uniformly, with numbers of its own per image.

    With u ~ U(0, 1), drawn anew for every number, on normalised images, unclamped:

    - color: x + (u - .5) ``brightness``; (x - m) u ``saturation`` + m, m the mean over channels per pixel;
      (x - n) (u + ``contrast``) + n, n the mean over channels and pixels; in this order.
    - crop: shift by integers from [-s, s], s = int(``crop_ratio`` * side + .5), zeros from outside.
    - cutout: a box of k = int(``cutout_ratio`` * side + .5) with its centre anywhere, cut at the border, is set to 0.
    - flip: left-right with probability ``prob_flip``.
    - scale: s_x, s_y ~ U(1 / ``scale_ratio``, ``scale_ratio``); rotate: U(-1, 1) ``rotate_degrees``; bilinear, zeros
      outside.

    ``hoptm_plugin.augment.transforms`` says for each where Kornia gives the published formula and where it does not.

    Args:
        strategy: the operations drawn from; digits drop flip.
        prob_flip: probability of a mirror image.
        scale_ratio: largest factor, at least 1.
        rotate_degrees: largest angle.
        crop_ratio: largest shift as a part of each side.
        cutout_ratio: side of the erased box as a part of each side.
        brightness: width of the offset's range, in normalised units.
        saturation: largest factor.
        contrast: smallest factor; the largest is 1 more.
        align_corners: of scale and rotate; the trajectory-matching methods say True. DSA's and IDM's code leave it to
            torch, where it was True and is now False. Both maps keep the centre, so it matters for rotate on images
            that are not square, and nowhere else.

    Source: Zhao & Bilen 2021 (arXiv 2102.08259); docs/methods.md 1.4.
    Deviates: numbers come from the given generator, not from a reseeded global one.
    """

    cites = ("zhao2021dsa", "riba2020kornia")

    def __init__(
        self,
        strategy: tuple[Group, ...] = ("color", "crop", "cutout", "flip", "scale", "rotate"),
        prob_flip: float = 0.5,
        scale_ratio: float = 1.2,
        rotate_degrees: float = 15.0,
        crop_ratio: float = 0.125,
        cutout_ratio: float = 0.5,
        brightness: float = 1.0,
        saturation: float = 2.0,
        contrast: float = 0.5,
        align_corners: bool = True,
    ) -> None:
        if not strategy or len(set(strategy)) < len(strategy):
            raise ValueError(f"strategy must name at least one group and none twice, got {list(strategy)}")
        if scale_ratio < 1:
            raise ValueError(f"scale_ratio must be at least 1, got {scale_ratio}")
        for name, value in (("prob_flip", prob_flip), ("crop_ratio", crop_ratio), ("cutout_ratio", cutout_ratio)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        self.strategy, self.prob_flip, self.scale_ratio = strategy, prob_flip, scale_ratio
        self.rotate_degrees, self.crop_ratio, self.cutout_ratio = rotate_degrees, crop_ratio, cutout_ratio
        self.brightness, self.saturation, self.contrast = brightness, saturation, contrast
        self.align_corners = align_corners

    def draw(
        self, batch: int, image_shape: tuple[int, int, int], generator: torch.Generator, siamese: bool = False
    ) -> DSAParameters:
        """Draw a group and its numbers for ``batch`` images (C, H, W), or one row for all of them (``siamese``).

        A Siamese draw does not depend on ``batch`` and applies to batches of any size.
        """
        rows, device = 1 if siamese else batch, generator.device
        group = self.strategy[int(torch.randint(len(self.strategy), (), generator=generator, device=device))]

        def uniform(columns: int) -> Tensor:
            return torch.rand(rows, columns, generator=generator, device=device, dtype=torch.float32)

        def integers(low: int, high: int) -> Tensor:
            return torch.randint(low, high + 1, (rows,), generator=generator, device=device)

        sides = image_shape[1:]
        match group:
            case "color":
                b, s, c = uniform(3).unbind(1)
                values = torch.stack([(b - 0.5) * self.brightness, s * self.saturation, c + self.contrast], dim=1)
            case "crop":
                values = torch.stack([integers(-margin, margin) for margin in _parts(self.crop_ratio, sides)], dim=1)
            case "cutout":
                boxes = zip(sides, _parts(self.cutout_ratio, sides), strict=True)
                values = torch.stack([integers(0, side - box % 2) for side, box in boxes], dim=1)
            case "flip":
                values = uniform(1) < self.prob_flip
            case "scale":
                values = uniform(2) * (self.scale_ratio - 1 / self.scale_ratio) + 1 / self.scale_ratio
            case "rotate":
                values = (uniform(1) - 0.5) * 2 * math.radians(self.rotate_degrees)
        return DSAParameters(group, values)

    def apply(self, images: Tensor, parameters: DSAParameters) -> Tensor:
        """Apply a draw to images (B, C, H, W), on their device and in their precision."""
        values = parameters.values.to(images.device).expand(len(images), -1)
        if values.is_floating_point():
            values = values.to(images.dtype)
        sides = tuple(images.shape[2:])
        match parameters.group:
            case "color":
                return transforms.color(images, *values.unbind(1))
            case "crop":
                return transforms.crop(images, values, _parts(self.crop_ratio, sides))
            case "cutout":
                return transforms.cutout(images, values, _parts(self.cutout_ratio, sides))
            case "flip":
                return transforms.flip(images, values)
            case "scale":
                return transforms.scale(images, values, self.align_corners)
            case "rotate":
                return transforms.rotate(images, values, self.align_corners)

    def apply_many(self, images: Tensor, parameters: Sequence[DSAParameters], sizes: Sequence[int]) -> Tensor:
        """Apply the i-th draw to the i-th run of ``sizes[i]`` images; one call per group drawn, at most six in all."""
        pieces = list(images.split(list(sizes)))
        members: dict[Group, list[int]] = {}
        for index, (draw, _) in enumerate(zip(parameters, pieces, strict=True)):
            members.setdefault(draw.group, []).append(index)
        for group, indices in members.items():
            rows = torch.cat([parameters[index].values.expand(sizes[index], -1) for index in indices])
            batch = torch.cat([pieces[index] for index in indices])
            results = self.apply(batch, DSAParameters(group, rows)).split([sizes[index] for index in indices])
            for index, result in zip(indices, results, strict=True):
                pieces[index] = result
        return torch.cat(pieces)


def _parts(ratio: float, sides: tuple[int, ...]) -> tuple[int, int]:
    """Return int(ratio * side + .5) for height and width."""
    height, width = (int(ratio * side + 0.5) for side in sides)
    return height, width
