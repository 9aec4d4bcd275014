"""CIFAR-10: the official binary version, or image folders; and what CIFAR-100 shares with it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.files import FileReader, check_split, existing_folder, here_or_below
from hoptm_plugin.data.folder import is_image_folder, read_folders
from hoptm_plugin.data.layout import check_sizes
from hoptm_plugin.data.pictures import Reading

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RELEASED = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
SHAPE = (3, 32, 32)
HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


class CifarReader(FileReader):
    """A data set of CIFAR's kind: files of equal records, each some label bytes and 3072 pixel bytes (C, H, W).

    The last label byte is the class. Subclasses say what their files are called and hold.

    Args:
        root: the folder that holds the binary files, or ``train`` and ``test``; or its parent.
    """

    cites = ("krizhevsky2009cifar",)

    title: str  # as its authors write it
    name: str  # in tables
    archive: str  # that holds the binary version
    unpacked: str  # its folder
    pickled: str  # a file of the Python version
    train_files: ClassVar[Mapping[str, int]]  # images by file
    test_files: ClassVar[Mapping[str, int]]
    label_bytes: int
    released: tuple[tuple[float, ...], tuple[float, ...]]

    @abstractmethod
    def classes(self, folder: Path) -> tuple[str, ...]:
        """Return the class names of the binary version, or of the image folders, in ``folder``."""

    def locate(self) -> Path:
        """Return the folder that holds the binary files or the image folders."""
        what = f"the unpacked binary version ({self.unpacked}), or image folders train/CLASS/ and test/CLASS/"
        root = existing_folder(self.root, what)
        found = here_or_below(root, lambda path: self.is_binary(path) or is_image_folder(path), self.title)
        if found is None:
            if here_or_below(root, lambda path: (path / self.pickled).is_file(), self.title) is not None:
                raise DataError(f"{root}: holds the Python version, which is pickled and could run code when read; "
                                f"fetch {self.archive} instead and set dataset.root to {what}")  # fmt: skip
            raise DataError(f"{root}: no {self.title} there; set dataset.root to {what}")
        return found

    def read(self, seeds: Seeds) -> RawImages:
        """Return the official train and test splits; ``seeds`` decides nothing."""
        folder = self.locate()
        classes = self.classes(folder)
        images = sum((*self.train_files.values(), *self.test_files.values()))
        origin = {"source": f"{self.title} ({HOMEPAGE})", "licence": "none stated by its authors",
                  "official_images": images}  # fmt: skip
        if not self.is_binary(folder):
            return self._read_images(folder, classes, origin)
        parts: list[tuple[Tensor, Tensor]] = []
        for files in (self.train_files, self.test_files):
            batches = [self._read_records(folder / file, number, len(classes)) for file, number in files.items()]
            parts.append((torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])))
        return RawImages(self.name, classes, parts[0], parts[1], released=self.released, provenance=origin)

    def is_binary(self, path: Path) -> bool:
        """Tell whether a folder holds the binary version."""
        return (path / next(iter(self.train_files))).is_file()

    def _read_records(self, path: Path, records: int, num_classes: int) -> tuple[Tensor, Tensor]:
        size = self.label_bytes + int(np.prod(SHAPE))
        try:
            content = np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); unpack {self.archive} again") from None
        if content.size != records * size:
            raise DataError(f"{path}: has {content.size} bytes instead of {records * size}, so it is truncated or not "
                            f"{self.title}; unpack {self.archive} again")  # fmt: skip
        table = content.reshape(records, size)
        images = torch.from_numpy(table[:, self.label_bytes :].reshape(records, *SHAPE).copy())
        labels = torch.from_numpy(table[:, self.label_bytes - 1].astype(np.int64))
        check_split(images, labels, num_classes, str(path))
        return images, labels

    def _read_images(self, folder: Path, classes: tuple[str, ...], origin: dict[str, Any]) -> RawImages:
        raw = read_folders(folder, classes, Reading(channels=3), self.name)
        check_sizes(raw, SHAPE[1:], f"{self.title} images are 32x32; read them with dataset=folder", folder)
        recompressed = Path(raw.files[0]).suffix.lower() in (".jpg", ".jpeg", ".jfif")
        return replace(raw, name=f"{self.name} (JPEG)" if recompressed else self.name, released=self.released,
                       provenance={**raw.provenance, **origin, "official_file": not recompressed})  # fmt: skip


@register("cifar10")
class Cifar10(CifarReader):
    """CIFAR-10, 10 classes of 32x32 RGB, from the official binary version or from image folders.

    The official Python version is not read, because it is pickled. Image folders of JPEGs were recompressed, which the
    data set's name in tables says.

    Source: Krizhevsky 2009; the normalisation constants are those of MTT's released code and its successors.

    Args:
        root: the folder that holds ``data_batch_1.bin`` and so on, or ``train`` and ``test``; or its parent.
    """

    title, name = "CIFAR-10", "cifar10"
    archive, unpacked, pickled = "cifar-10-binary.tar.gz", "cifar-10-batches-bin", "data_batch_1"
    train_files: ClassVar = {f"data_batch_{index}.bin": 10_000 for index in range(1, 6)}
    test_files: ClassVar = {"test_batch.bin": 10_000}
    label_bytes = 1
    released = RELEASED

    def classes(self, folder: Path) -> tuple[str, ...]:
        """Return the official names, which class folders must have as well."""
        return CLASSES
