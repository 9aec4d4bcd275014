"""Any data set as image folders: a folder per class, in a folder per split or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.roles import Machine
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.files import (
    FileReader,
    check_class_list,
    check_distinct,
    entries,
    existing_folder,
    here_or_below,
    subfolders,
)
from hoptm_plugin.data.layout import (
    SPLITS,
    TEST_FRACTION,
    beside,
    drawn,
    entry_names,
    file_lists,
    loose,
    not_drawn,
    raw_pictures,
    split_called,
)
from hoptm_plugin.data.pictures import Reading, files_in

ROLES = {"image", "images", "mask", "masks", "label", "labels", "annotation", "annotations"}
WHAT = "a folder with train/CLASS/ and test/CLASS/ image folders, or with one image folder per class"
TABLE = (
    "for pictures in one folder, write a table with the columns file, label and, where there are, split and group "
    "(of one patient, say), and read it with dataset=table dataset.root=TABLE.csv"
)


@register("folder")
class Folder(FileReader):
    """Image folders ``train/CLASS/``, ``test/CLASS/`` and optionally ``val/CLASS/``, or ``CLASS/`` alone.

    Splits are found in any capitals, and as ``training``, ``testing``, ``valid``, ``validation`` or ``dev``. Where
    there are none, a seeded ``test_fraction`` of each class is the test split, and its file list is stored with the
    run. Classes are numbered in alphabetical order; one that the test split lacks has no test images. Folders inside a
    class folder are refused, so that nothing (such as masks) is read or left out unseen.

    Args:
        root: the folder that holds splits or classes, or its parent; its name stands in tables.
        classes: use these classes only; null uses all.
        channels: decode to RGB (3) or grey (1); null leaves pictures grey where all of them are.
        background: what shows through pixels that are not opaque; null refuses such pictures.
        window: stored values that become black and white, of pictures of more than 8 bits; null takes the range of all.
        test_fraction: of each class, where there are no splits.
    """

    def __init__(
        self, root: Machine[Path | None] = None, classes: tuple[str, ...] | None = None,
        channels: Literal[1, 3] | None = None, background: Literal["black", "white"] | None = None,
        window: tuple[float, float] | None = None, test_fraction: float = TEST_FRACTION,
    ) -> None:  # fmt: skip
        if classes is not None:
            check_class_list(classes)
        check_fraction(test_fraction)
        self.root, self.classes, self.test_fraction = root, classes, test_fraction
        self.reading = Reading(channels, background, window)

    def locate(self) -> Path:
        """Return the folder that holds splits or class folders."""
        root = existing_folder(self.root, WHAT)
        found = here_or_below(root, is_image_folder, "train/ and test/")
        if found is None and not _splits(root):  # else train/ alone would be taken for a set of classes
            found = here_or_below(root, _is_class_folder, "class folders")
        if found is None:
            raise DataError(f"{root}: {_why_none(root)}; set dataset.root to {WHAT}; {TABLE}")
        return found

    def read(self, seeds: Seeds) -> RawImages:
        """Return the folders' splits as they are; where there are none, ``seeds`` draws the test split."""
        folder = self.locate()
        left_out = beside(existing_folder(self.root, WHAT), folder)
        name = folder.resolve().name
        if is_image_folder(folder):
            return read_folders(folder, self.classes, self.reading, name, left_out, not_drawn(self.test_fraction))
        classes = tuple(sorted(self.classes or subfolders(folder)))
        check_distinct(classes, folder)
        if {each.casefold() for each in classes} <= ROLES:
            raise DataError(f"{folder}: {' and '.join(f'{each}/' for each in classes)} are named like parts of a data "
                            f"set, not like classes; {TABLE}, or rename them")  # fmt: skip
        left_out += loose(folder, set(subfolders(folder)))
        groups = [_class_files(folder, each, left_out) for each in classes]
        files = [file for group in groups for file in group]
        labels = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]))
        parts, said = drawn(files, labels, classes, self.test_fraction, seeds)
        return raw_pictures(
            name, classes, parts, files, labels, self.reading, folder, remarks=(said,),
            provenance={"split": file_lists(files, parts, folder)}, left_out=entry_names(left_out, folder),
        )  # fmt: skip


def check_fraction(fraction: float) -> None:
    """Refuse a share that is none.

    Raises:
        ValueError: which the registry reports as a configuration error.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1, got {fraction}")


def is_image_folder(path: Path) -> bool:
    """Tell whether ``path`` holds folders of train and test images."""
    return {"train", "test"} <= set(_splits(path))


def _splits(path: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for name, folder in subfolders(path).items():
        if (split := split_called(name)) is not None:
            found.setdefault(split, []).append(folder)
    return found


def _is_class_folder(path: Path) -> bool:
    return len(subfolders(path)) > 1 and not _splits(path)


def _why_none(root: Path) -> str:
    if splits := _splits(root):
        there = ", ".join(f"{folder.name}/" for folders in splits.values() for folder in folders)
        missing = [split for split in ("train", "test") if split not in splits]
        hint = "; if val/ is what is tested on, call it test/" if missing == ["test"] and "validation" in splits else ""
        return f"holds {there}, but no folder of {' and no folder of '.join(missing)} images{hint}"
    if folders := subfolders(root):
        return f"no train/ and test/ folders there, and of class folders only {next(iter(folders))}/"
    return "no folders there, only files" if entries(root) else "is empty"


def read_folders(
    folder: Path, classes: tuple[str, ...] | None, reading: Reading, name: str, others: Sequence[Path] = (),
    remarks: tuple[str, ...] = (),
) -> RawImages:  # fmt: skip
    """Open all splits under ``folder``; ``others`` are left out beside what lies there, ``remarks`` are said.

    Raises:
        DataError: two folders for one split; a class that train lacks; a picture that cannot be read.
    """
    found = {}
    for split, folders in _splits(folder).items():
        if len(folders) > 1:
            both = " and ".join(f"{each.name}/" for each in folders)
            raise DataError(f"{folder}: has {both}, which are both {split} images; remove or rename one of them")
        found[split] = folders[0]
    found = {split: found[split] for split in SPLITS if split in found}
    left_out = [*others, *loose(folder, {path.name for path in found.values()})]
    there = {split: list(subfolders(path)) for split, path in found.items()}
    names = tuple(sorted(classes or {name for each in there.values() for name in each}))
    if len(names) < 2:
        raise DataError(f"{found['train']}: {len(names)} class folders found, at least two are needed; expected {WHAT}"
                        f"; {TABLE}")  # fmt: skip
    check_distinct(names, folder)
    files: list[Path] = []
    labels: list[int] = []
    parts = {}
    for split, path in found.items():
        left_out += loose(path, set(there[split]))
        start = len(files)
        for label, each in enumerate(names):
            group = _class_files(path, each, left_out, split == "train")
            files += group
            labels += [label] * len(group)
        if len(files) == start:
            raise DataError(f"{path}: none of its class folders holds pictures; add some, or remove the folder")
        parts[split] = torch.arange(start, len(files))
    return raw_pictures(name, names, parts, files, torch.tensor(labels), reading, folder, remarks,
                        left_out=entry_names(left_out, folder))  # fmt: skip


def _class_files(split: Path, name: str, left_out: list[Path], needed: bool = True) -> list[Path]:
    """Return the pictures of a class, none where it may lack them; what else lies there is added to ``left_out``."""
    folder = split / name
    if not folder.is_dir():
        if not needed:
            return []
        present = list(subfolders(split))
        raise DataError(f"{split}: class folder {name!r} is missing (found: {', '.join(present) or 'none'}); add it, "
                        f"or choose classes that train has with \"dataset.classes=[...]\"")  # fmt: skip
    if nested := list(subfolders(folder)):
        raise DataError(f"{folder}: holds folders ({', '.join(nested)}), which are not searched; "
                        f"put the class's images directly into it and move everything else away")  # fmt: skip
    files, others = files_in(folder)
    left_out += others
    if not files and needed:
        raise DataError(f'{folder}: holds no images; add some, or leave the class out with "dataset.classes=[...]"')
    return files
