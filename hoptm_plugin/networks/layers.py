"""What the architectures share: norms by name, the head, and the refusal of too small images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn

from hoptm_plugin.core.errors import ConfigurationError

Norm: TypeAlias = Literal["none", "batch", "layer", "instance", "group"]
DeepNorm: TypeAlias = Literal["instance", "batch"]

GROUPS = 4
WRITTEN_OUT = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12)


class HasFeatures(Protocol):
    """What methods that compare features ask of a network: it is ``classifier`` after ``features``.

    Attributes:
        features: a module or a method from images (B, C, H, W) to what they are compared by, (B, F) once flattened.
        classifier: a module or a method from flat features (B, F) to logits (B, K).
    """

    features: Callable[[Tensor], Tensor]
    classifier: Callable[[Tensor], Tensor]


class Classifier(nn.Module):
    """Features (B, F) of images (B, C, H, W), and one linear layer on them.

    Attributes:
        features: maps images to the flat features that distribution matching compares.
        classifier: linear F -> K.
    """

    def __init__(self, layers: Iterable[nn.Module], num_features: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Linear(num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K)."""
        return self.classifier(self.features(images))


class GroupNorm(nn.GroupNorm):
    """Group norm; compiled by torch 2.11, whose own does not compile with forward derivatives, it is written out."""

    def forward(self, images: Tensor) -> Tensor:
        """Return (x - mean) / sqrt(var + eps) * weight + bias, mean and variance of each image and group."""
        if not (WRITTEN_OUT and torch.compiler.is_compiling()):
            return super().forward(images)
        groups = images.unflatten(1, (self.num_groups, -1))
        centred = groups - groups.mean(dim=(2, 3, 4), keepdim=True)
        scaled = centred * torch.rsqrt(centred.square().mean(dim=(2, 3, 4), keepdim=True) + self.eps)
        return scaled.flatten(1, 2) * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class AvgPool2d(nn.AvgPool2d):
    """Average pooling of 2x2; on a CPU by sums of rows and columns, on large maps twice as fast as PyTorch's own."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, images: Tensor) -> Tensor:
        """Return the means of squares that do not overlap; a last odd row or column is left out."""
        plain = images.device.type == "cpu" and images.dtype in (torch.float32, torch.float64)
        if not plain or torch.compiler.is_compiling():  # the compiler fuses it by itself
            return super().forward(images)
        height, width = images.shape[-2:]
        if height % 2 or width % 2:
            images = images[..., : height // 2 * 2, : width // 2 * 2]
        upper, lower = images.unflatten(-2, (-1, 2)).unbind(-2)
        left, right = (upper + lower).unflatten(-1, (-1, 2)).unbind(-1)
        return (left + right) / 4


def features(network: nn.Module, images: Tensor) -> Tensor:
    """Return the flat features (B, F) that ``network`` computes of images (B, C, H, W) before its classifier.

    Raises:
        ConfigurationError: the network is no :class:`hoptm_plugin.networks.HasFeatures`.
    """
    if not all(callable(getattr(network, part, None)) for part in ("features", "classifier")):
        raise no_features(network)
    return cast(HasFeatures, network).features(images).flatten(1)


def no_features(network: nn.Module) -> ConfigurationError:
    """Say that a network is no :class:`HasFeatures`."""
    return ConfigurationError(
        f"network {type(network).__name__}: does not say what its features are, which this method compares; give it "
        f"`features`, from images (B, C, H, W) to (B, F), and `classifier`, from these to logits, that in a row are "
        f"the network, as hoptm_plugin.networks.Classifier has them, or choose one of `hoptm-bench list networks`"
    )


def norm_layers(norm: Norm, channels: int, height: int, width: int) -> list[nn.Module]:
    """Return the norm layer for maps (channels, height, width), or nothing; eps is 1e-5.

    "instance" is GroupNorm with one channel per group and an affine map, as the distillation literature has it; "group"
    has 4 groups; "layer" normalises channels and pixels together, with one weight and bias per element.
    """
    match norm:
        case "none":
            return []
        case "batch":
            return [nn.BatchNorm2d(channels)]
        case "layer":
            return [nn.LayerNorm([channels, height, width])]
        case "instance":
            return [GroupNorm(channels, channels)]
        case "group":
            return [GroupNorm(GROUPS, channels)]


def pool_to_head(height: int, width: int, largest: int) -> tuple[list[nn.Module], int]:
    """Return what brings maps of any size to at most ``largest`` x ``largest``, and how many pixels are left.

    Maps that fit stay as they are, so that the published input size gives the published network.
    """
    head = (min(height, largest), min(width, largest))
    return ([] if head == (height, width) else [nn.AdaptiveAvgPool2d(head)]), head[0] * head[1]


def too_small(
    network: str, image_shape: tuple[int, int, int], reason: str, remedy: str = "use larger images or convnet"
) -> ConfigurationError:
    """Say that images are too small for a network."""
    size = "x".join(map(str, image_shape))
    return ConfigurationError(f"network {network!r}: {size} images are too small, {reason}; {remedy}")


def scaled(channels: int, width_factor: float) -> int:
    """Return a number of channels times ``width_factor``, rounded, at least 1.

    Raises:
        ValueError: the factor is not above 0.
    """
    if width_factor <= 0:
        raise ValueError(f"width_factor must be above 0, and is {width_factor:g}")
    return max(1, round(channels * width_factor))
