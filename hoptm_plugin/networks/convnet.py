"""ConvNet-D(depth): the network of the dataset-distillation literature."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import nn

from hoptm_plugin.core.interfaces import NetworkBuilder
from hoptm_plugin.core.registry import register
from hoptm_plugin.networks.layers import GROUPS, AvgPool2d, Classifier, Norm, norm_layers, too_small

# never in place, which would break functional calls
ACTIVATIONS = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}
POOLINGS: dict[str, Callable[[], nn.Module]] = {"max": partial(nn.MaxPool2d, 2), "avg": AvgPool2d}


@register("convnet")
class ConvNet(NetworkBuilder):
    """ConvNet: ``depth`` blocks of 3x3 convolution, norm, activation and 2x2 pooling, then one linear layer.

    Convolutions have stride 1, padding 1 and a bias. Images of one channel get padding 3 in the first convolution, so
    that 28x28 becomes 32x32. The linear layer takes the map that is left, whatever its size: (width, H / 2^depth, W /
    2^depth) with each halving rounded down, 128x4x4 for 32x32 images at depth 3.

    Args:
        depth: number of blocks; usual are 3 at 32x32, 4 at 64x64, 5 at 112x112 and 128x128.
        width: channels of every block.
        norm: "none", "batch" (running statistics: trajectory matching refuses it), "layer", "instance" or "group".
        act: "sigmoid", "relu" or "leaky_relu" (slope 0.01).
        pool: "none", "max" or "avg".

    Source: Gidaris & Komodakis 2018; Zhao et al. 2021 (arXiv 2006.05929); docs/methods.md 1.5.
    Deviates: layer norm and the linear layer follow the real map size for every input; the released code takes 32x32
    for its named variants.
    """

    cites = ("gidaris2018convnet", "zhao2021dc")

    def __init__(
        self,
        depth: int = 3,
        width: int = 128,
        norm: Norm = "instance",
        act: Literal["sigmoid", "relu", "leaky_relu"] = "relu",
        pool: Literal["none", "max", "avg"] = "avg",
    ) -> None:
        if depth < 1 or width < 1:
            raise ValueError(f"depth and width must be at least 1, got {depth} and {width}")
        if norm == "group" and width % GROUPS:
            raise ValueError(f"width must be a multiple of {GROUPS} with norm=group, got {width}")
        self.depth, self.width, self.norm, self.act, self.pool = depth, width, norm, act, pool

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the network.

        Raises:
            ConfigurationError: the images are too small for the depth.
        """
        channels, height, width = image_shape
        layers: list[nn.Module] = []
        for block in range(self.depth):
            padding = 3 if channels == 1 and block == 0 else 1
            layers.append(nn.Conv2d(channels, self.width, kernel_size=3, padding=padding))
            channels, height, width = self.width, height + 2 * padding - 2, width + 2 * padding - 2
            self._check(image_shape, block, height, width)
            layers += [*norm_layers(self.norm, channels, height, width), ACTIVATIONS[self.act]()]
            if self.pool != "none":
                layers.append(POOLINGS[self.pool]())
                height, width = height // 2, width // 2
        return Classifier(layers, channels * height * width, num_classes)

    def remarks(self, image_shape: tuple[int, int, int]) -> list[str]:
        """Say where so many blocks leave one pixel, as where a recipe's depth meets smaller images than its own."""
        _, height, width = image_shape
        shorter = min(height, width) + (4 if image_shape[0] == 1 else 0)
        usual = max(1, (shorter // 4).bit_length() - 1)
        if self.pool == "none" or self.depth <= usual or shorter >> self.depth > 1:
            return []
        return [f"convnet: network.depth={self.depth} leaves maps of one pixel of {width}x{height} images, by which "
                f"networks may learn little; usual at this size is network.depth={usual}"]  # fmt: skip

    def _check(self, image_shape: tuple[int, int, int], block: int, height: int, width: int) -> None:
        if self.pool != "none" and min(height, width) < 2:
            reason = f"block {block + 1} cannot pool a {height}x{width} map"
        elif self.norm == "instance" and height * width == 1:
            reason = f"the instance norm of block {block + 1} would erase its 1x1 map"
        else:
            return
        remedy = f"use network.depth={block} or less, or larger images" if block else "use larger images"
        raise too_small("convnet", image_shape, reason, remedy)
