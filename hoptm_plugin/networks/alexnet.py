"""AlexNet for 32x32 images."""

from __future__ import annotations

from torch import nn

from hoptm_plugin.core.interfaces import NetworkBuilder
from hoptm_plugin.core.registry import register
from hoptm_plugin.networks.layers import Classifier, pool_to_head, scaled, too_small


@register("alexnet")
class AlexNet(NetworkBuilder):
    """AlexNet: five convolutions, three 2x2 max pools, one linear layer; no norm, no dropout.

    Convolutions 5x5x128, pool, 5x5x192, pool, 3x3x256, 3x3x192, 3x3x192, pool, each with padding that keeps the size
    and a ReLU; the head is linear 192x4x4 -> K. Images of one channel get padding 4 in the first convolution (28x28
    becomes 32x32).

    Args:
        width_factor: of all numbers of channels, rounded; 1 is the published network, less is for small budgets.

    Source: the AlexNet in the released code of Zhao et al. 2021 (arXiv 2006.05929); docs/methods.md 1.5. At 32x32 it
    equals that network.
    Deviates: where the last map is larger than 4x4, adaptive average pooling brings it to 4x4 (an extension: the
    released code fails there); smaller maps feed a smaller linear layer.
    """

    cites = ("krizhevsky2012alexnet",)

    def __init__(self, width_factor: float = 1.0) -> None:
        self.widths = [scaled(planes, width_factor) for planes in (128, 192, 256, 192, 192)]

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the network.

        Raises:
            ConfigurationError: nothing is left of the images after three poolings.
        """
        channels, *size = image_shape
        padding = 4 if channels == 1 else 2
        height, width = ((length + 2 * padding - 4) // 8 for length in size)
        if min(height, width) < 1:
            raise too_small("alexnet", image_shape, "its three poolings divide them by 8")
        head, pixels = pool_to_head(height, width, largest=4)
        one, two, three, four, five = self.widths
        layers = [
            *(nn.Conv2d(channels, one, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(one, two, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(two, three, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(three, four, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(four, five, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *head,
        ]
        return Classifier(layers, five * pixels, num_classes)
