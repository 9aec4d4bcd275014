"""The product of a distillation: synthetic images with labels and a step size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hoptm_plugin.core.dataset import Normalisation
from hoptm_plugin.core.mosaic import expand_mosaic


@dataclass
class SyntheticSet(Dataset[tuple[Tensor, Tensor]]):
    """Synthetic images and labels; an ordinary torch data set of (image, target), mosaics taken apart.

    Attributes:
        images: (n, C, H, W) float, in normalised or whitened space, never clamped.
        labels: (n,) int64 class indices (hard), or (n, K) float logits (soft).
        step_size: 0-d float, the student's learning rate alpha; also the learning rate to train on this set with.
            None where the method learns none.
        class_names: one per class index.
        normalisation: of the data set it was distilled from.
        info: JSON values: data set, with the fingerprint of its images and the SHA-256 of its splits; method; images
            per class.
        mosaic: each stored image is a mosaic of mosaic x mosaic training images (IDM); 1 where it is one itself.
    """

    images: Tensor
    labels: Tensor
    step_size: Tensor | None
    class_names: tuple[str, ...]
    normalisation: Normalisation
    info: dict[str, Any] = field(default_factory=dict)
    mosaic: int = 1

    def __post_init__(self) -> None:
        """Refuse shapes and types that do not fit together."""
        if self.images.ndim != 4 or not self.images.is_floating_point():
            raise ValueError(f"images must be float (n, C, H, W), got {self.images.dtype} {tuple(self.images.shape)}")
        n, k = len(self.images), len(self.class_names)
        soft = self.labels.is_floating_point()
        if tuple(self.labels.shape) != ((n, k) if soft else (n,)) or not (soft or self.labels.dtype == torch.int64):
            raise ValueError(f"labels must be int64 ({n},) or float ({n}, {k}), got {self.labels.dtype} "
                             f"{tuple(self.labels.shape)}")  # fmt: skip
        if not soft and n and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < k:
            raise ValueError(f"hard labels must lie in 0..{k - 1}")
        if self.step_size is not None and (self.step_size.ndim != 0 or not self.step_size.is_floating_point()):
            given = f"{self.step_size.dtype} {tuple(self.step_size.shape)}"
            raise ValueError(f"step_size must be one floating-point number, got {given}")
        if len(self.normalisation.mean) != self.images.shape[1] or len(self.normalisation.std) != self.images.shape[1]:
            raise ValueError(f"normalisation must have {self.images.shape[1]} channels")
        if self.mosaic < 1 or any(side % self.mosaic for side in self.images.shape[2:]):
            size = "x".join(map(str, self.images.shape[2:]))
            raise ValueError(f"images of {size} pixels are no mosaics of {self.mosaic}x{self.mosaic} images")

    @property
    def soft(self) -> bool:
        """Whether labels are logits."""
        return self.labels.is_floating_point()

    @property
    def targets(self) -> Tensor:
        """What ``cross_entropy`` takes: class indices (n,), or probabilities softmax(labels) (n, K)."""
        return self.labels.softmax(dim=1) if self.soft else self.labels

    def __len__(self) -> int:
        """Return the number of images to train on."""
        return len(self.images) * self.mosaic**2

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return (image (C, H, W), target: class index or probabilities)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")
        tile, at = divmod(index % len(self), len(self.images))
        return expand_mosaic(self.images[at : at + 1], self.mosaic)[tile], self.targets[at]

    def expanded(self) -> SyntheticSet:
        """Return the set to train on: mosaics taken apart, labels repeated; differentiable."""
        if self.mosaic == 1:
            return self
        labels = torch.cat([self.labels] * self.mosaic**2)
        return replace(self, images=expand_mosaic(self.images, self.mosaic), labels=labels, mosaic=1)

    def check_ipc(self, ipc: int) -> None:
        """Refuse a set that does not hold ``ipc`` images of every class; each counts once, mosaic or not.

        Soft labels may become any class's, so of these only the sum is counted. A set whose mosaics were taken apart
        for an export says so in ``info["taken_apart"]`` and holds that number squared times as many.

        Raises:
            ValueError: saying how many there are.
        """
        apart = self.info.get("taken_apart", 1)
        if type(ipc) is not int or type(apart) is not int or min(ipc, apart) < 1:
            raise ValueError(f"ipc={ipc!r} with taken_apart={apart!r} is no number of images per class")
        wanted, classes = ipc * apart**2, len(self.class_names)
        counts = [wanted] * classes
        if not self.soft:
            counts = torch.bincount(self.labels.cpu(), minlength=classes).tolist()
        named = zip(self.class_names, counts, strict=True)
        wrong = [f"{count} of {name!r}" for name, count in named if count != wanted]
        if wrong or len(self.images) != classes * wanted:
            found = f" ({', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''})" if wrong else ""
            raise ValueError(f"it holds {len(self.images)} images{found}, but ipc={ipc} is {wanted} of each of its "
                             f"{classes} classes")  # fmt: skip

    def detached(self) -> SyntheticSet:
        """Return a copy without gradients that later steps do not change."""
        return self._map(lambda tensor: tensor.detach().clone())

    def to(self, device: torch.device) -> SyntheticSet:
        """Return the set on a device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> SyntheticSet:
        step_size = None if self.step_size is None else change(self.step_size)
        return replace(
            self, images=change(self.images), labels=change(self.labels), step_size=step_size, info=dict(self.info)
        )
