"""Arrays in MedMNIST layout: one npz file with ``{train,val,test}_{images,labels}``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.data.files import check_split
from hoptm_plugin.data.memory import require
from hoptm_plugin.storage.npz import NpzError, open_npz

REQUIRED = ("train_images", "train_labels", "test_images", "test_labels")
VALIDATION = ("val_images", "val_labels")
Arrays = dict[str, tuple[Tensor, Tensor]]


def read_npz(path: Path, num_classes: int | None) -> tuple[Arrays, int]:
    """Return (split -> (uint8 images (n, C, H, W), int64 labels (n,)), number of classes).

    Splits are "train", "test" and, where the file has it, "val". With ``num_classes`` None the highest label decides.
    Object arrays are refused: reading never unpickles.

    Raises:
        DataError: the file is no npz, truncated, has other keys, types or shapes, or labels outside 0..K-1.
    """
    members = _load(path)
    splits: Arrays = {}
    for split in ("train", "val", "test"):
        if f"{split}_images" in members:
            images = _images(members[f"{split}_images"], f"{path}: {split}_images")
            splits[split] = (images, _labels(members[f"{split}_labels"], f"{path}: {split}_labels"))
    if num_classes is None:
        num_classes = max(int(labels.max()) + 1 if len(labels) else 0 for _, labels in splits.values())
    for split, (images, labels) in splits.items():
        check_split(images, labels, num_classes, f"{path}: {split}")
        if images.shape[1:] != splits["train"][0].shape[1:]:
            raise DataError(f"{path}: {split}_images have shape (C, H, W) {tuple(images.shape[1:])}, but train_images "
                            f"{tuple(splits['train'][0].shape[1:])}; all splits need one shape")  # fmt: skip
    return splits, num_classes


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with open_npz(path) as archive:
            wanted = _wanted(path, archive.names)
            require(sum(archive.header(key).size() for key in wanted), torch.device("cpu"), f"{path}: its arrays")
            return {key: archive.array(key) for key in wanted}
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
        raise DataError(f"{where}: must be uint8 pixels 0..255, got {array.dtype}; convert them when writing the file")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise DataError(f"{where}: must have shape (n, H, W) or (n, H, W, 1 or 3), got {array.shape}")
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def _labels(array: np.ndarray, where: str) -> Tensor:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(f"{where}: must be integers of shape (n,) or (n, 1), one class per image, "
                        f"got {array.dtype} {array.shape}")  # fmt: skip
    return torch.from_numpy(array.astype(np.int64))
