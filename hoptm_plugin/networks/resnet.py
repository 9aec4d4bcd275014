"""ResNet18 for 32x32 images, and its average-pooling twin."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import relu

from hoptm_plugin.core.interfaces import NetworkBuilder
from hoptm_plugin.core.registry import register
from hoptm_plugin.networks.layers import Classifier, DeepNorm, norm_layers, pool_to_head, scaled, too_small

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions without bias, each with a norm, added to a shortcut.

    ``pooled``: a stride of 2 becomes stride 1 and 2x2 average pooling, after the first ReLU and, in the shortcut,
    between convolution and norm.
    """

    def __init__(
        self, channels: int, planes: int, stride: int, size: tuple[int, int], norm: DeepNorm, pooled: bool
    ) -> None:
        super().__init__()
        step = 1 if pooled else stride
        pool = [nn.AvgPool2d(stride)] if pooled and stride > 1 else []
        self.residual = nn.Sequential(
            nn.Conv2d(channels, planes, kernel_size=3, stride=step, padding=1, bias=False),
            *norm_layers(norm, planes, *size),
            nn.ReLU(),
            *pool,
            nn.Conv2d(planes, planes, kernel_size=3, padding=1, bias=False),
            *norm_layers(norm, planes, *size),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != planes:
            convolution = nn.Conv2d(channels, planes, kernel_size=1, stride=step, bias=False)
            self.shortcut = nn.Sequential(convolution, *pool, *norm_layers(norm, planes, *size))

    def forward(self, maps: Tensor) -> Tensor:
        """Return relu(residual + shortcut)."""
        return relu(self.residual(maps) + self.shortcut(maps))


class _ResNet(NetworkBuilder):
    """Convolution, norm, ReLU, four stages of two blocks, and the head on at most largest x largest pixels."""

    cites = ("he2016resnet",)
    pooled: ClassVar[bool]
    largest: ClassVar[int]

    def __init__(self, norm: DeepNorm = "instance", width_factor: float = 1.0) -> None:
        self.norm = norm
        self.widths = [scaled(planes, width_factor) for planes, _ in STAGES]

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the network.

        Raises:
            ConfigurationError: the images are too small.
        """
        channels, height, width = image_shape
        name, first = "resnet18_ap" if self.pooled else "resnet18", self.widths[0]
        stem = [nn.Conv2d(channels, first, 3, padding=1, bias=False), *norm_layers(self.norm, first, height, width)]
        layers, channels = [*stem, nn.ReLU()], first
        for planes, (_, stride) in zip(self.widths, STAGES, strict=True):
            # a strided convolution of padding 1 rounds the halved size up, pooling rounds it down
            height, width = ((length + (0 if self.pooled else stride - 1)) // stride for length in (height, width))
            for step in (stride, 1):
                layers.append(BasicBlock(channels, planes, step, (height, width), self.norm, self.pooled))
                channels = planes
        if min(height, width) < 1:
            raise too_small(name, image_shape, "its three poolings divide them by 8")
        if self.norm == "instance" and height * width == 1:
            raise too_small(name, image_shape, "the instance norm of its last stage would erase a 1x1 map")
        head, pixels = pool_to_head(height, width, self.largest)
        return Classifier([*layers, *head], channels * pixels, num_classes)


@register("resnet18")
class ResNet18(_ResNet):
    """ResNet18: four stages of two basic blocks (64, 128, 256, 512; strides 1, 2, 2, 2), average pool, linear layer.

    The first convolution is 3x3 with stride 1 and there is no max pool; the head is linear 512 -> K.

    Args:
        norm: "instance" or "batch" (running statistics: trajectory matching refuses it).
        width_factor: of all numbers of channels, rounded; 1 is the published network, less is for small budgets.

    Source: He et al. 2016; docs/methods.md 1.5; at 32x32 it equals the published network.
    Deviates: the final 4x4 average pool is adaptive, so that any size gives 1x1 (an extension beyond 32x32: the
    released code fails there).
    """

    pooled, largest = False, 1


@register("resnet18_ap")
class ResNet18AP(_ResNet):
    """ResNet18_AP: ResNet18 with stride-2 convolutions replaced by 2x2 average pooling, and no final pool.

    The head is linear 512x4x4 -> K.

    Args:
        norm: "instance" or "batch" (running statistics: trajectory matching refuses it).
        width_factor: of all numbers of channels, rounded; 1 is the published network, less is for small budgets.

    Source: Zhao & Bilen 2021 (arXiv 2102.08259); docs/methods.md 1.5; at 32x32 it equals the published network.
    Deviates: where the last map is larger than 4x4, adaptive average pooling brings it to 4x4 (an extension: the
    released code fails there); smaller maps (3x3 at 28x28) feed a smaller linear layer.
    """

    pooled, largest = True, 4
