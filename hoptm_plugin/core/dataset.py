"""A data set in memory: three splits of whole arrays, and how its pixels were normalised."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalisation:
    """z = (x - mean) / std per channel, for pixels x in [0, 1]; or ZCA whitening, where mean and std are 0 and 1.

    Attributes:
        mean: one number per channel.
        std: one number per channel; as released by a paper's code it need not be a standard deviation.
        kind: "released", "measured", "none" or "zca".
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: str

    def apply(self, pixels: Tensor) -> Tensor:
        """Normalise pixels in [0, 1], shape (..., C, H, W)."""
        return (pixels - self._column(self.mean, pixels)) / self._column(self.std, pixels)

    def invert(self, images: Tensor) -> Tensor:
        """Return pixels, unclamped, from normalised images (..., C, H, W); ZCA is not undone here."""
        return images * self._column(self.std, images) + self._column(self.mean, images)

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


@dataclass(frozen=True)
class Split:
    """Images and labels of one split, on the device.

    Attributes:
        images: (n, C, H, W); float32 already normalised, or uint8 that :meth:`batch` normalises as it is read.
        labels: (n,) int64 class indices.
        normalisation: how uint8 pixels become network input.
    """

    images: Tensor
    labels: Tensor
    normalisation: Normalisation

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def batch(self, indices: Tensor | slice) -> Tensor:
        """Return normalised float32 images (b, C, H, W) at ``indices``."""
        images = self.images[indices]
        return self.normalisation.apply(images.float() / 255) if images.dtype == torch.uint8 else images

    def of_class(self, label: int) -> Tensor:
        """Return the indices of all images of one class, ascending."""
        return torch.nonzero(self.labels == label).flatten()


@dataclass(frozen=True)
class Aside:
    """Images that were put aside for an audit: no step of a run sees them.

    Attributes:
        holdout: to be compared with the training images, of the same kind and chosen by chance.
        reserve: outside all that an audit distils; what it must clear.
        rows: of "train", "holdout" and "reserve": numbers of their images among all of them, which are the same for
            every shadow distillation.
        units: of the same: numbers of what was divided as a whole, such as patients.
    """

    holdout: Split
    reserve: Split
    rows: Mapping[str, Tensor]
    units: Mapping[str, Tensor]


@dataclass(frozen=True)
class ImageData:
    """A labelled image data set, ready for training: every split normalised alike, on one device.

    Attributes:
        name: the data set's name in tables.
        class_names: one name per class, by index.
        train: what experts and methods see.
        validation: for choosing checkpoints and settings; possibly carved from train.
        test: for the final report only.
        normalisation: of all three splits.
        fingerprint: SHA-256 over pixels, labels and preprocessing; experts are stored under it.
        zca_inverse: (mean (D,), inverse transform (D, D)) when whitened, else None.
        provenance: JSON values worth storing in a run, such as the file list of a seeded split; ``read`` and
            ``duplicates`` go into the card.
        told: what was done to the data and found in them, in lines for the log; file names stand here alone.
        image_hashes: by split, of each image as it was before preprocessing: the first bytes of its SHA-256, uint8
            (n, 16). Empty where nobody said.
        aside: images that were put aside for an audit; None: none were.
        groups: (n,) int64, to whom each training image belongs, such as a patient; None: to nobody.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    normalisation: Normalisation
    fingerprint: str
    zca_inverse: tuple[Tensor, Tensor] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    image_hashes: Mapping[str, Tensor] = field(default_factory=dict)
    aside: Aside | None = None
    groups: Tensor | None = None

    @property
    def split_sha256(self) -> dict[str, str]:
        """SHA-256 of each split's images and labels, by its name, whatever the preprocessing; empty without hashes."""
        labels = {name: getattr(self, name).labels.cpu().numpy().astype("<i8") for name in self.image_hashes}
        return {
            name: hashlib.sha256(hashes.numpy().tobytes() + labels[name].tobytes()).hexdigest()
            for name, hashes in self.image_hashes.items()
        }

    def made(self, fingerprint: str | None, splits: Mapping[str, str]) -> bool:
        """Tell whether a set that names this fingerprint and these splits was distilled from these images.

        They may have been preprocessed otherwise.
        """
        return fingerprint == self.fingerprint or (bool(splits) and dict(splits) == self.split_sha256)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where the images lie."""
        return self.train.images.device

    def pixels(self, images: Tensor) -> Tensor:
        """Undo whitening or normalisation: pixels, unclamped, shape as ``images`` (n, C, H, W)."""
        if self.zca_inverse is not None:
            mean, inverse = (part.to(images) for part in self.zca_inverse)
            images = (images.flatten(1) @ inverse + mean).view_as(images)
        return self.normalisation.invert(images)
