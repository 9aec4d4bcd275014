"""CIFAR-10: the official binary version, or image folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import RawImages, datasets
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.files import FileReader, check_split, existing_folder, here_or_below
from hoptm_plugin.data.folder import is_image_folder, read_folders
from hoptm_plugin.data.images import images_in

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RELEASED = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
TRAIN_FILES = tuple(f"data_batch_{index}.bin" for index in range(1, 6))
TEST_FILES = ("test_batch.bin",)
RECORDS = 10_000  # per file
SHAPE = (3, 32, 32)
WHAT = "the unpacked binary version (cifar-10-batches-bin), or image folders train/CLASS/ and test/CLASS/"


@datasets.register("cifar10")
class Cifar10(FileReader):
    """CIFAR-10, 10 classes of 32x32 RGB, from the official binary version or from image folders.

    The official Python version is not read, because it is pickled. Image folders of JPEGs were recompressed, which the
    data set's name in tables says.

    Source: Krizhevsky 2009; the normalisation constants are those of MTT's released code and its successors.

    Args:
        root: the folder that holds ``data_batch_1.bin`` and so on, or ``train`` and ``test``; or its parent.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root

    def locate(self) -> Path:
        """Return the folder that holds the binary files or the image folders."""
        root = existing_folder(self.root, WHAT)
        found = here_or_below(root, lambda path: _is_binary(path) or is_image_folder(path), "CIFAR-10")
        if found is None:
            if here_or_below(root, lambda path: (path / "data_batch_1").is_file(), "CIFAR-10") is not None:
                raise DataError(f"{root}: holds the Python version, which is pickled and could run code when read; "
                                f"fetch cifar-10-binary.tar.gz instead and set dataset.root to {WHAT}")  # fmt: skip
            raise DataError(f"{root}: no CIFAR-10 there; set dataset.root to {WHAT}")
        return found

    def read(self, seeds: Seeds) -> RawImages:
        """Return the official train and test splits; ``seeds`` decides nothing."""
        folder = self.locate()
        return _read_binary(folder) if _is_binary(folder) else _read_images(folder)


def _is_binary(path: Path) -> bool:
    return (path / TRAIN_FILES[0]).is_file()


def _read_binary(folder: Path) -> RawImages:
    parts: list[tuple[Tensor, Tensor]] = []
    for files in (TRAIN_FILES, TEST_FILES):
        batches = [_records(folder / file) for file in files]
        parts.append((torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])))
    return RawImages("cifar10", CLASSES, parts[0], parts[1], released=RELEASED)


def _records(path: Path) -> tuple[Tensor, Tensor]:
    """Read records of one label byte and 3072 pixel bytes (C, H, W)."""
    record = 1 + int(np.prod(SHAPE))
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); unpack cifar-10-binary.tar.gz again") from None
    if content.size != RECORDS * record:
        raise DataError(f"{path}: has {content.size} bytes instead of {RECORDS * record}, so it is truncated or not "
                        f"CIFAR-10; unpack cifar-10-binary.tar.gz again")  # fmt: skip
    table = content.reshape(RECORDS, record)
    images = torch.from_numpy(table[:, 1:].reshape(RECORDS, *SHAPE).copy())
    labels = torch.from_numpy(table[:, 0].astype(np.int64))
    check_split(images, labels, len(CLASSES), str(path))
    return images, labels


def _read_images(folder: Path) -> RawImages:
    raw = read_folders(folder, CLASSES, SHAPE[0], "cifar10")
    if raw.train[0].shape[1:] != SHAPE or raw.provenance["resized_while_reading"]:
        raise DataError(f"{folder}: CIFAR-10 images are 32x32, but these are {tuple(raw.train[0].shape[2:])} or differ"
                        f"; read them with dataset=folder")  # fmt: skip
    first = images_in(folder / "train" / CLASSES[0])[0]
    recompressed = first.suffix.lower() in (".jpg", ".jpeg")
    return replace(raw, name="cifar10 (JPEG)" if recompressed else "cifar10", released=RELEASED)
