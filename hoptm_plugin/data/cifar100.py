"""CIFAR-100: the official binary version, or image folders."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.registry import register
from hoptm_plugin.data import cifar10
from hoptm_plugin.data.cifar10 import CifarReader
from hoptm_plugin.data.files import listed_classes, subfolders

CLASSES = 100


@register("cifar100")
class Cifar100(CifarReader):
    """CIFAR-100, 100 classes of 32x32 RGB, from the official binary version or from image folders.

    The classes are the 100 fine ones, named by ``fine_label_names.txt``; the 20 coarse ones are passed over. The
    official Python version is not read, because it is pickled. Image folders are numbered in alphabetical order, as the
    fine labels are; JPEGs were recompressed, which the data set's name in tables says.

    Source: Krizhevsky 2009. The normalisation constants are those of MTT's released code and its successors, which
    normalise CIFAR-100 by CIFAR-10's values; DM and IDM used CIFAR-100's own (mean 0.5071, 0.4866, 0.4409; std 0.2673,
    0.2564, 0.2762), which ``preprocess.mean`` and ``preprocess.std`` can give.

    Args:
        root: the folder that holds ``train.bin`` and ``test.bin``, or ``train`` and ``test``; or its parent.
    """

    title, name = "CIFAR-100", "cifar100"
    archive, unpacked, pickled = "cifar-100-binary.tar.gz", "cifar-100-binary", "meta"
    train_files: ClassVar = {"train.bin": 50_000}
    test_files: ClassVar = {"test.bin": 10_000}
    label_bytes = 2
    released = cifar10.RELEASED

    def classes(self, folder: Path) -> tuple[str, ...]:
        """Return the lines of ``fine_label_names.txt``, or the names of the training class folders, 100 of them."""
        if self.is_binary(folder):
            return tuple(listed_classes(folder / "fine_label_names.txt", CLASSES, f"unpack {self.archive} again"))
        names = tuple(subfolders(folder / "train"))
        if len(names) != CLASSES:
            raise DataError(f"{folder / 'train'}: CIFAR-100 has {CLASSES} classes, but {len(names)} class folders are "
                            f"there; add what is missing, or read them with dataset=folder")  # fmt: skip
        return names
