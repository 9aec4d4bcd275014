"""No augmentation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hoptm_plugin.core.interfaces import Augmentation
from hoptm_plugin.core.registry import register


@register("none")
class NoAugmentation(Augmentation):
    """No augmentation: the identity; draws nothing."""

    def draw(
        self, batch: int, image_shape: tuple[int, int, int], generator: torch.Generator, siamese: bool = False
    ) -> None:
        """Draw nothing; the generator is left as it is."""

    def apply(self, images: Tensor, parameters: None) -> Tensor:
        """Return the images themselves."""
        return images

    def apply_many(self, images: Tensor, parameters: Sequence[None], sizes: Sequence[int]) -> Tensor:
        """Return the images themselves."""
        return images
