"""Labels as people store them: class indices from 0 or from 1, or names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hoptm_plugin.core.errors import DataError

SHOWN = 10


@dataclass(frozen=True)
class Indexed:
    """Labels as class indices.

    Attributes:
        labels: int64 (n,) by split.
        class_names: one per index.
        remarks: what was done to the labels, in words.
    """

    labels: dict[str, Tensor]
    class_names: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def indexed(labels: Mapping[str, NDArray], class_names: Sequence[str] | None, where: str) -> Indexed:
    """Return labels of all splits as class indices 0..K-1.

    Names are numbered in the order of ``class_names``, or else sorted. Whole numbers 1..K become 0..K-1. A number
    beyond named classes is left for the check of the split, which says where it stands.

    Args:
        labels: (n,) or (n, 1) by split: whole numbers, or texts.
        class_names: one per class; None: the names that are there, or the numbers.
        where: the file.

    Raises:
        DataError: other types or shapes; numbers with gaps, names without a class; a single class.
    """
    flat = {split: _flat(each, f"{where}: {split}") for split, each in labels.items()}
    texts = {each.dtype.kind == "U" for each in flat.values()}
    if len(texts) > 1:
        raise DataError(f"{where}: labels are names in some splits and numbers in others; write one kind")
    found = sorted({value for each in flat.values() for value in np.unique(each).tolist()})
    if texts == {True}:
        return _named(flat, found, class_names, where)
    known = {split: torch.from_numpy(each.astype(np.int64)) for split, each in flat.items()}
    most = found[-1] if found else -1
    count = len(class_names) if class_names is not None else most + 1
    remarks: tuple[str, ...] = ()
    if found and found[0] >= 1 and most == (len(found) if class_names is None else count):
        known = {split: each - 1 for split, each in known.items()}
        remarks, count = (f"labels 1..{most} taken as 0..{most - 1}",), most
    elif class_names is None and found and found[0] >= 0 and len(found) < count:
        there = set(found)
        gaps = list(islice((label for label in range(count) if label not in there), SHOWN + 1))
        shown = f"{', '.join(map(str, gaps[:SHOWN]))}{', ...' if len(gaps) > SHOWN else ''}"
        raise DataError(f"{where}: labels go from {found[0]} to {most}, but no image of any split has label {shown}; "
                        f"number the classes 0..{len(found) - 1}, or name all {count} with class_names")  # fmt: skip
    if class_names is None and count < 2:
        raise DataError(f"{where}: all labels are {most}; at least two classes are needed")
    return Indexed(known, tuple(map(str, range(count) if class_names is None else class_names)), remarks)


def _named(flat: Mapping[str, NDArray], found: list[str], class_names: Sequence[str] | None, where: str) -> Indexed:
    names = tuple(found if class_names is None else class_names)
    if unknown := [name for name in found if name not in names]:
        raise DataError(f"{where}: labels name classes that class_names does not: "
                        f"{', '.join(map(repr, unknown[:SHOWN]))}; name them, or leave it out")  # fmt: skip
    if len(names) < 2:
        raise DataError(f"{where}: all labels are {names[0]!r}; at least two classes are needed")
    number = {name: index for index, name in enumerate(names)}
    known = {
        split: torch.tensor([number[name] for name in each.tolist()], dtype=torch.int64) for split, each in flat.items()
    }
    remarks = () if class_names is not None else (f"{len(names)} classes numbered by their names in sorted order",)
    return Indexed(known, names, remarks)


def _flat(array: NDArray, where: str) -> NDArray:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind not in "iuU" or array.ndim != 1:
        raise DataError(f"{where}_labels: must be integers or names of shape (n,) or (n, 1), one class per image, "
                        f"got {array.dtype} {array.shape}")  # fmt: skip
    return array
