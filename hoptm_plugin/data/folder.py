"""Any data set as image folders: ``train/CLASS/*`` and ``test/CLASS/*``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.roles import Machine
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.files import FileReader, check_class_list, existing_folder, here_or_below, subfolders
from hoptm_plugin.data.images import decode, images_in

WHAT = "a folder with train/CLASS/ and test/CLASS/ image folders"
VALIDATION = ("val", "validation")


@register("folder")
class Folder(FileReader):
    """Image folders ``train/CLASS/``, ``test/CLASS/`` and optionally ``val/CLASS/`` or ``validation/CLASS/``.

    Classes are numbered in alphabetical order. Folders inside a class folder are refused, so that nothing (such as
    masks) is read or left out unseen.

    Args:
        root: the folder that holds train and test, or its parent; its name stands in tables.
        classes: use these classes only; null uses all.
        channels: decode to RGB (3) or grey (1).
    """

    def __init__(
        self, root: Machine[Path | None] = None, classes: tuple[str, ...] | None = None, channels: Literal[1, 3] = 3
    ) -> None:
        if classes is not None:
            check_class_list(classes)
        self.root, self.classes, self.channels = root, classes, channels

    def locate(self) -> Path:
        """Return the folder that holds ``train`` and ``test``."""
        root = existing_folder(self.root, WHAT)
        found = here_or_below(root, is_image_folder, "train/ and test/")
        if found is None:
            raise DataError(f"{root}: no train/ and test/ folders there; set dataset.root to {WHAT}")
        return found

    def read(self, seeds: Seeds) -> RawImages:
        """Return the folders' splits as they are; ``seeds`` decides nothing."""
        folder = self.locate()
        return read_folders(folder, self.classes, self.channels, folder.resolve().name)


def is_image_folder(path: Path) -> bool:
    """Tell whether ``path`` holds ``train`` and ``test`` folders."""
    return (path / "train").is_dir() and (path / "test").is_dir()


def read_folders(folder: Path, classes: tuple[str, ...] | None, channels: int, name: str) -> RawImages:
    """Read all splits under ``folder``; every split must have the same classes.

    Raises:
        DataError: a class is missing in a split or has no images there, or an image cannot be read.
    """
    found = {"train": folder / "train", "test": folder / "test"}
    validation = [folder / option for option in VALIDATION if (folder / option).is_dir()]
    if len(validation) > 1:
        raise DataError(f"{folder}: has both val/ and validation/; remove one of them")
    if validation:
        found["validation"] = validation[0]
    names = tuple(sorted(classes or {name for path in found.values() for name in subfolders(path)}))
    if len(names) < 2:
        raise DataError(f"{found['train']}: {len(names)} class folders found, at least two are needed; expected {WHAT}")
    files = {split: [_class_files(path, name) for name in names] for split, path in found.items()}
    images, resized = decode([file for groups in files.values() for group in groups for file in group], channels)
    splits: dict[str, tuple[Tensor, Tensor]] = {}
    start = 0
    for split, groups in files.items():
        counts = torch.tensor([len(group) for group in groups])
        labels = torch.arange(len(names)).repeat_interleave(counts)
        splits[split] = (images[start : start + len(labels)], labels)
        start += len(labels)
    return RawImages(name, names, splits["train"], splits["test"], splits.get("validation"),
                     provenance={"resized_while_reading": resized})  # fmt: skip


def _class_files(split: Path, name: str) -> list[Path]:
    folder = split / name
    if not folder.is_dir():
        present = list(subfolders(split))
        raise DataError(f"{split}: class folder {name!r} is missing (found: {', '.join(present) or 'none'}); add it, "
                        f"or choose classes that every split has with \"dataset.classes=[...]\"")  # fmt: skip
    if nested := list(subfolders(folder)):
        raise DataError(f"{folder}: holds folders ({', '.join(nested)}), which are not searched; "
                        f"put the class's images directly into it and move everything else away")  # fmt: skip
    files = images_in(folder)
    if not files:
        raise DataError(f'{folder}: holds no images; add some, or leave the class out with "dataset.classes=[...]"')
    return files
