"""Data that are in memory already: tensors or arrays of a notebook as a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import DatasetReader, RawImages
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.files import check_splits
from hoptm_plugin.data.labels import indexed

Given = tuple[Any, Any]


class Arrays(DatasetReader):
    """Images and labels of a notebook as a data set: ``compose(dataset=Arrays(train=(images, labels), test=...))``.

    Args:
        train: images, uint8 tensor or array (n, H, W), (n, C, H, W) or (n, H, W, C) with 1 or 3 channels, and labels
            (n,): class indices from 0 or from 1, or names.
        test: the same, for the final report.
        validation: the same; None: carved from train.
        class_names: one per class index; None: the names that the labels are, sorted, or the indices.
        name: the data set's name in tables.

    Raises:
        DataError: other types or shapes; floats are not guessed to be pixels.
    """

    def __init__(
        self, train: Given, test: Given, validation: Given | None = None, class_names: Sequence[str] | None = None,
        name: str = "arrays",
    ) -> None:  # fmt: skip
        given = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
        pairs = {split: _labelled(pair, f"Arrays: {split}") for split, pair in given.items()}
        if class_names is not None and (isinstance(class_names, str) or not isinstance(class_names, Sequence)):
            raise DataError(f"Arrays: class_names must be a sequence of names, got {class_names!r}")
        names = None if class_names is None else tuple(map(str, class_names))
        known = indexed({split: labels for split, (_, labels) in pairs.items()}, names, "Arrays")
        self._splits = {split: (images, known.labels[split]) for split, (images, _) in pairs.items()}
        self.class_names, self.name, self._remarks = known.class_names, name, known.remarks
        check_splits(self._splits, len(self.class_names), "Arrays")

    def read(self, seeds: Seeds) -> RawImages:
        """Return the splits as they are; ``seeds`` decides nothing."""
        return RawImages(self.name, self.class_names, self._splits["train"], self._splits["test"],
                         self._splits.get("validation"), remarks=self._remarks)  # fmt: skip

    def described(self) -> dict[str, Any]:
        """Return what a run's stored settings say of the data: their name and the SHA-256 of all of them."""
        return {"name": self.name, "sha256": self._sha256}

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256(repr(self.class_names).encode())
        for split, (images, labels) in self._splits.items():
            digest.update(f"{split} {tuple(images.shape)}".encode())
            digest.update(images.numpy().data)
            digest.update(labels.numpy().data)
        return digest.hexdigest()


@register("arrays")
class GivenArrays(DatasetReader):
    """Tensors or arrays that Python code gives as ``dataset=Arrays(...)``; the command line has none.

    Args:
        data: the arrays.
    """

    def __init__(self, data: Arrays | Mapping[str, Any] | None = None) -> None:
        if not isinstance(data, Arrays):
            which = "" if data is None else f" (those called {data.get('name')!r})"
            raise ValueError(f"the data are arrays in memory{which}, which are not stored: give them again from "
                             f"Python, with dataset=Arrays(train=(images, labels), test=...)")  # fmt: skip
        self.data = data

    def read(self, seeds: Seeds) -> RawImages:
        """Return the arrays' splits."""
        return self.data.read(seeds)


def _labelled(pair: Given, where: str) -> tuple[Tensor, NDArray]:
    try:
        images, labels = pair
        images = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
        labels = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.array(labels)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: must be a pair of images and labels, tensors or arrays ({error})") from None
    if images.is_floating_point():
        raise DataError(f"{where}: images are {images.dtype}; give pixels 0..255 as uint8, such as "
                        f"(images * 255).round().to(torch.uint8) where they lie in [0, 1]")  # fmt: skip
    images = images.detach().cpu()
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if labels.dtype.kind not in "iuU":
        raise DataError(f"{where}: labels are {labels.dtype}; give class indices as integers, or names")
    # copies: what the notebook does to its own later must not change the data of a run
    return images.contiguous().clone(), labels.copy()
