"""The product of a distillation: synthetic images with labels and a step size, stored without pickle."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from torch.utils.data import Dataset

from hoptm_plugin.core.dataset import Normalisation
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.core.files import read_tensors, write_tensors

KIND, VERSION = "synthetic set", 1


class _Metadata(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: str
    version: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalisation: str
    info: dict[str, Any]


@dataclass
class SyntheticSet(Dataset[tuple[Tensor, Tensor]]):
    """Synthetic images and labels; an ordinary torch data set of (image, target).

    Attributes:
        images: (n, C, H, W) float, in normalised or whitened space, never clamped.
        labels: (n,) int64 class indices (hard), or (n, K) float logits (soft).
        step_size: 0-d float, the student's learning rate alpha; also the learning rate to train on this set with.
            None where the method learns none.
        class_names: one per class index.
        normalisation: of the data set it was distilled from.
        info: JSON values: data set, method, images per class.
    """

    images: Tensor
    labels: Tensor
    step_size: Tensor | None
    class_names: tuple[str, ...]
    normalisation: Normalisation
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse shapes and types that do not fit together."""
        n, k = len(self.images), len(self.class_names)
        soft = self.labels.is_floating_point()
        if self.images.ndim != 4 or not self.images.is_floating_point():
            raise ValueError(f"images must be float (n, C, H, W), got {self.images.dtype} {tuple(self.images.shape)}")
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

    @property
    def soft(self) -> bool:
        """Whether labels are logits."""
        return self.labels.is_floating_point()

    @property
    def targets(self) -> Tensor:
        """What ``cross_entropy`` takes: class indices (n,), or probabilities softmax(labels) (n, K)."""
        return self.labels.softmax(dim=1) if self.soft else self.labels

    def __len__(self) -> int:
        """Return the number of synthetic images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return (image (C, H, W), target: class index or probabilities)."""
        return self.images[index], self.targets[index]

    def detached(self) -> SyntheticSet:
        """Return a copy without gradients that later steps do not change."""
        step_size = None if self.step_size is None else self.step_size.detach().clone()
        images, labels = self.images.detach().clone(), self.labels.detach().clone()
        return SyntheticSet(images, labels, step_size, self.class_names, self.normalisation, dict(self.info))

    def to(self, device: torch.device) -> SyntheticSet:
        """Return the set on a device."""
        step_size = None if self.step_size is None else self.step_size.to(device)
        images, labels = self.images.to(device), self.labels.to(device)
        return SyntheticSet(images, labels, step_size, self.class_names, self.normalisation, dict(self.info))

    def save(self, path: Path) -> None:
        """Write one safetensors file with JSON metadata, whole or not at all."""
        tensors = {"images": self.images, "labels": self.labels}
        if self.step_size is not None:
            tensors["step_size"] = self.step_size
        normalisation = self.normalisation
        metadata = _Metadata(kind=KIND, version=VERSION, class_names=self.class_names, mean=normalisation.mean,
                             std=normalisation.std, normalisation=normalisation.kind, info=self.info)  # fmt: skip
        write_tensors(path, tensors, metadata.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> SyntheticSet:
        """Read a stored set; refuse anything that is not one.

        Raises:
            FileFormatError: missing, damaged, another kind of file, or values that do not fit together.
        """
        tensors, raw = read_tensors(path, KIND)
        try:
            metadata = _Metadata.model_validate(raw)
            if (metadata.kind, metadata.version) != (KIND, VERSION):
                raise ValueError(f"it is a {metadata.kind} of version {metadata.version}")
            if unknown := set(tensors) - {"images", "labels", "step_size"}:
                raise ValueError(f"unknown tensors {sorted(unknown)}")
            if bad := [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
                raise ValueError(f"{', '.join(bad)} hold NaN or infinite values")
            normalisation = Normalisation(metadata.mean, metadata.std, metadata.normalisation)
            return cls(tensors["images"], tensors["labels"], tensors.get("step_size"), metadata.class_names,
                       normalisation, metadata.info)  # fmt: skip
        except ValidationError as error:
            fault = error.errors()[0]
            raise FileFormatError(f"{path}: not a {KIND}: metadata {fault['loc']}: {fault['msg']}") from None
        except (ValueError, KeyError) as error:
            raise FileFormatError(f"{path}: not a valid {KIND} of version {VERSION}: {error}") from None
