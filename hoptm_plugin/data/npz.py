"""Any npz file in MedMNIST layout: ``{train,val,test}_{images,labels}``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.roles import Machine
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.files import FileReader, check_class_list, check_splits, existing_root
from hoptm_plugin.data.labels import Indexed, indexed
from hoptm_plugin.data.memory import require
from hoptm_plugin.storage.npz import NpzError, open_npz

REQUIRED = ("train_images", "train_labels", "test_images", "test_labels")
VALIDATION = ("val_images", "val_labels")
Arrays = dict[str, tuple[Tensor, Tensor]]


@register("npz")
class Npz(FileReader):
    """One npz file in MedMNIST layout: train, test and optionally val arrays of uint8 images and labels.

    Labels are class indices from 0 or from 1, or names.

    Args:
        root: the file. Its stem names the data set in tables.
        class_names: one per class index; null takes the names that the labels are, sorted, or the indices.
    """

    def __init__(self, root: Machine[Path | None] = None, class_names: tuple[str, ...] | None = None) -> None:
        if class_names is not None:
            check_class_list(class_names)
        self.root, self.class_names = root, class_names

    def locate(self) -> Path:
        """Return the file's path."""
        path = existing_root(self.root, "an npz file in MedMNIST layout")
        if not path.is_file():
            raise DataError(f"{path}: is a folder; set dataset.root to the npz file itself")
        return path

    def read(self, seeds: Seeds) -> RawImages:
        """Return the file's splits as they are; ``seeds`` decides nothing."""
        path = self.locate()
        splits, known, others = read_npz(path, self.class_names)
        return RawImages(path.stem, known.class_names, splits["train"], splits["test"], splits.get("val"),
                         remarks=known.remarks, left_out=others)  # fmt: skip


def read_npz(path: Path, class_names: Sequence[str] | None) -> tuple[Arrays, Indexed, tuple[str, ...]]:
    """Return split -> (uint8 images (n, C, H, W), int64 labels (n,)), how labels were understood, and other arrays.

    Splits are "train", "test" and, where the file has it, "val". Object arrays are refused: reading never unpickles.

    Raises:
        DataError: the file is no npz, truncated, has other keys, types or shapes, or labels outside 0..K-1.
    """
    members, others = _load(path)
    found = [split for split in ("train", "val", "test") if f"{split}_images" in members]
    images = {split: _images(members[f"{split}_images"], f"{path}: {split}_images") for split in found}
    labels = indexed({split: members[f"{split}_labels"] for split in found}, class_names, f"{path}")
    splits = {split: (images[split], labels.labels[split]) for split in found}
    check_splits(splits, len(labels.class_names), f"{path}")
    return splits, labels, others


def _load(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    try:
        with open_npz(path) as archive:
            wanted = _wanted(path, archive.names)
            require(sum(archive.header(key).size() for key in wanted), torch.device("cpu"), f"{path}: its arrays")
            others = tuple(f"array {name}" for name in archive.names if name not in wanted)
            return {key: archive.array(key) for key in wanted}, others
    except NpzError as error:
        raise DataError(f"{path}: cannot be read as npz, it is damaged, truncated or holds Python objects ({error}); "
                        f"delete it and fetch it again, or write it again with plain arrays") from None  # fmt: skip


def _wanted(path: Path, found: Iterable[str]) -> list[str]:
    wanted = [*REQUIRED, *(VALIDATION if set(VALIDATION) & set(found) else ())]
    if missing := [key for key in wanted if key not in set(found)]:
        raise DataError(
            f"{path}: arrays missing: {', '.join(missing)} (found: {', '.join(sorted(found)) or 'none'}); the MedMNIST "
            f"layout needs {', '.join(REQUIRED)}; {' and '.join(VALIDATION)} are optional, but go together"
        )
    return wanted


def _images(array: np.ndarray, where: str) -> Tensor:
    if array.dtype != np.uint8:
        raise DataError(f"{where}: must be uint8 pixels 0..255, got {array.dtype}; scale images of all splits alike "
                        f"when writing the file, such as numpy.rint((images.clip(low, high) - low) / "
                        f"(high - low) * 255).astype(numpy.uint8) for the values from low to high")  # fmt: skip
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise DataError(f"{where}: must have shape (n, H, W) or (n, H, W, 1 or 3), got {array.shape}")
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
