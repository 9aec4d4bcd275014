"""VGG11 for 32x32 images."""

from __future__ import annotations

from torch import nn

from hoptm_plugin.core.interfaces import NetworkBuilder
from hoptm_plugin.core.registry import register
from hoptm_plugin.networks.layers import Classifier, DeepNorm, norm_layers, pool_to_head, scaled, too_small

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


@register("vgg11")
class VGG11(NetworkBuilder):
    """VGG11: eight 3x3 convolutions with norm and ReLU in five stages, each ended by a 2x2 max pool; one linear layer.

    Widths 64 | 128 | 256 256 | 512 512 | 512 512; convolutions have padding 1 and a bias; the head is linear 512 -> K.
    Images of one channel get padding 3 in the first convolution (28x28 becomes 32x32), as in the released code.

    Args:
        norm: "instance" or "batch" (running statistics: trajectory matching refuses it).
        width_factor: of all numbers of channels, rounded; 1 is the published network, less is for small budgets.

    Source: Simonyan & Zisserman 2015; docs/methods.md 1.5; at 32x32 it equals the published network.
    Deviates: where the last map is larger than 1x1, adaptive average pooling brings it to 1x1 (an extension: the
    released code fails there).
    """

    cites = ("simonyan2014vgg",)

    def __init__(self, norm: DeepNorm = "instance", width_factor: float = 1.0) -> None:
        self.norm = norm
        self.stages = [[scaled(planes, width_factor) for planes in stage] for stage in STAGES]

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the network.

        Raises:
            ConfigurationError: nothing is left of the images after five poolings.
        """
        channels, height, width = image_shape
        layers: list[nn.Module] = []
        padding = 3 if channels == 1 else 1
        height, width = height + 2 * padding - 2, width + 2 * padding - 2
        for stage in self.stages:
            for planes in stage:
                layers.append(nn.Conv2d(channels, planes, kernel_size=3, padding=padding))
                layers += [*norm_layers(self.norm, planes, height, width), nn.ReLU()]
                channels, padding = planes, 1
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        if min(height, width) < 1:
            raise too_small("vgg11", image_shape, "its five poolings divide them by 32")
        head, pixels = pool_to_head(height, width, largest=1)
        return Classifier([*layers, *head], channels * pixels, num_classes)
