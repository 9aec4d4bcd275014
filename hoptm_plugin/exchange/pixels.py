"""From normalised images to 8-bit pixels, and what that costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from hoptm_plugin.cards.record import Record
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.synthetic import SyntheticSet

BLOCK = 256  # images in float64 at a time
NOISE = 1e-6  # rounding errors of float32, which are no overshoot


class PixelLoss(Record):
    """How far 8-bit pixels are from the images they were made of; distances are in pixels of [0, 1].

    Attributes:
        clipped: fraction of values that lay outside [0, 1].
        overshoot: the most that one lay outside.
        clipping_rms: root mean square, over all values, of what clipping to [0, 1] changed.
        rounding_rms: root mean square, over all values, of what rounding to 256 levels changed after that.
    """

    clipped: Annotated[float, Field(ge=0, le=1)]
    overshoot: NonNegativeFloat
    clipping_rms: NonNegativeFloat
    rounding_rms: NonNegativeFloat

    def __str__(self) -> str:
        """Return it as one line."""
        clipped = "no value lay outside [0, 1]"
        if self.clipped:
            clipped = (
                f"{100 * self.clipped:.3g}% of values lay outside [0, 1], by at most {self.overshoot:.3g}, and were "
                f"clipped (RMS change {self.clipping_rms:.3g})"
            )
        return f"{clipped}; rounding to 256 levels changed pixels by {self.rounding_rms:.2g} RMS"


def to_pixels(synthetic: SyntheticSet) -> tuple[Tensor, PixelLoss]:
    """Return uint8 pixels (n, C, H, W) = round(255 clip(std z + mean, 0, 1)), and what was lost.

    Raises:
        ConfigurationError: images that are whitened, or neither grey nor RGB.
    """
    if synthetic.normalisation.kind == "zca":
        raise ConfigurationError(
            "format: the set lies in ZCA-whitened space, and what turns it back into pixels was fitted on the real "
            "data and is not in the file; use format safetensors or ddranking, which keep whitened values"
        )
    check_channels(synthetic)
    pixels = torch.empty(synthetic.images.shape, dtype=torch.uint8)
    outside, overshoot, clipping, rounding = 0, 0.0, 0.0, 0.0
    for start in range(0, len(synthetic.images), BLOCK):
        exact = synthetic.normalisation.invert(synthetic.images[start : start + BLOCK].detach().cpu().double())
        inside = exact.clamp(0, 1)
        levels = (255 * inside).round()
        pixels[start : start + BLOCK] = levels.to(torch.uint8)
        distance = (exact - inside).abs()
        outside += int((distance > NOISE).sum())
        overshoot = max(overshoot, float(distance.max()))
        clipping += float(distance.square().sum())
        rounding += float((levels / 255 - inside).square().sum())
    total = pixels.numel()
    return pixels, PixelLoss(
        clipped=outside / total,
        overshoot=overshoot,
        clipping_rms=(clipping / total) ** 0.5,
        rounding_rms=(rounding / total) ** 0.5,
    )


def as_exported(synthetic: SyntheticSet) -> SyntheticSet:
    """Return a set as those get it who are given 8-bit pixels; whitened ones are only exported as they are."""
    if synthetic.normalisation.kind == "zca":
        return synthetic.detached()
    pixels = to_pixels(synthetic)[0].to(synthetic.images.device).to(synthetic.images.dtype) / 255
    return replace(synthetic.detached(), images=synthetic.normalisation.apply(pixels))


def check_channels(synthetic: SyntheticSet) -> None:
    """Refuse images that are neither grey nor RGB.

    Raises:
        ConfigurationError: naming their channels.
    """
    if (channels := synthetic.images.shape[1]) not in (1, 3):
        raise ConfigurationError(f"format: the images have {channels} channels, but this format holds grey (1) or "
                                 f"RGB (3) images; use format safetensors")  # fmt: skip
