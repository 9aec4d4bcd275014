"""Tiny ImageNet: the official folders, with the labelled validation images as the test split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.files import FileReader, existing_folder, here_or_below, listed_classes, read_lines
from hoptm_plugin.data.layout import check_sizes, raw_pictures
from hoptm_plugin.data.pictures import Reading, files_in

CLASSES = 200
TRAIN_IMAGES, TEST_IMAGES = 500, 50  # per class
SHAPE = (3, 64, 64)
RELEASED = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WNIDS, WORDS, ANNOTATIONS = "wnids.txt", "words.txt", "val_annotations.txt"
AGAIN = "unpack tiny-imagenet-200.zip again"
ORIGIN = {
    "source": "Tiny ImageNet, a part of ImageNet (http://cs231n.stanford.edu/tiny-imagenet-200.zip)",
    "licence": "ImageNet's terms of access: non-commercial research and education only",
    "official_images": CLASSES * (TRAIN_IMAGES + TEST_IMAGES),
}
WHAT = f"the unpacked Tiny ImageNet (tiny-imagenet-200, with {WNIDS}, train/ and val/)"


@register("tinyimagenet")
class TinyImageNet(FileReader):
    """Tiny ImageNet, 200 classes of 64x64 RGB: 500 training images of each, 50 test images of each.

    The test split is the official validation split, as in all published results, because labels of the official test
    images are not public; the official test images are never read. Classes are numbered in alphabetical order of their
    WordNet identifiers and named by the first word of ``words.txt``, or by the identifier where that file is missing.

    Source: Le and Yang 2015 (data); the normalisation constants, those of ImageNet, are the ones of all released codes.

    Args:
        root: the folder that holds ``wnids.txt``, ``train`` and ``val``, or its parent.
    """

    cites = ("le2015tinyimagenet",)

    def locate(self) -> Path:
        """Return the folder that holds the class list, ``train`` and ``val``, which must be there."""
        root = existing_folder(self.root, WHAT)
        folder = here_or_below(root, lambda path: (path / WNIDS).is_file(), WNIDS)
        if folder is None:
            raise DataError(f"{root}: no Tiny ImageNet there ({WNIDS} is missing); set dataset.root to {WHAT}")
        for part in (folder / "train", folder / "val" / "images"):
            if not part.is_dir():
                raise DataError(f"{part}: no such folder; {AGAIN} and leave its folders as they are")
        return folder

    def read(self, seeds: Seeds) -> RawImages:
        """Return the official training and validation splits; ``seeds`` decides nothing."""
        folder = self.locate()
        wnids = sorted(listed_classes(folder / WNIDS, CLASSES, AGAIN))
        train = [_training_images(folder / "train" / wnid / "images") for wnid in wnids]
        test = _annotated(folder, wnids)
        names = _class_names(folder / WORDS, wnids)
        files = [path for group in (*train, *test) for path in group]
        labels = torch.tensor([label for part in (train, test) for label, group in enumerate(part) for _ in group])
        trained = CLASSES * TRAIN_IMAGES
        parts = {"train": torch.arange(trained), "test": torch.arange(trained, len(files))}
        raw = raw_pictures("tinyimagenet", names, parts, files, labels, Reading(channels=3), folder, released=RELEASED,
                           provenance=ORIGIN)  # fmt: skip
        check_sizes(raw, SHAPE[1:], f"Tiny ImageNet images are 64x64; {AGAIN}", folder)
        return raw


def _training_images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {AGAIN}")
    images, _ = files_in(folder)
    _check_count(folder, len(images), TRAIN_IMAGES)
    return images


def _annotated(folder: Path, wnids: Sequence[str]) -> list[list[Path]]:
    """Return the validation images of each class."""
    path = folder / "val" / ANNOTATIONS
    groups: dict[str, list[Path]] = {wnid: [] for wnid in wnids}
    for number, line in enumerate(read_lines(path, AGAIN), 1):
        fields = line.split("\t")
        # a name with folders in it would lead out of the data set
        if len(fields) < 2 or fields[1] not in groups or Path(fields[0]).name != fields[0]:
            raise DataError(f"{path}: entry {number} ({line[:60]!r}) must start with a file's name, a tab and a class "
                            f"of {WNIDS}; {AGAIN}")  # fmt: skip
        groups[fields[1]].append(folder / "val" / "images" / fields[0])
    files = [file for group in groups.values() for file in group]
    if len(set(files)) < len(files):
        twice = next(file for file, count in Counter(files).items() if count > 1)
        raise DataError(f"{path}: {twice.name} is listed more than once; {AGAIN}")
    for wnid, group in groups.items():
        _check_count(f"{path}: class {wnid}", len(group), TEST_IMAGES)
    return list(groups.values())


def _class_names(path: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    """Return the first word that WordNet has for each class; with its identifier where two classes share it."""
    if not path.is_file():
        return tuple(wnids)
    words = dict(line.split("\t", 1) for line in read_lines(path, AGAIN) if "\t" in line)
    first = {wnid: words.get(wnid, wnid).split(",")[0].strip() or wnid for wnid in wnids}
    counts = Counter(first.values())
    return tuple(name if counts[name] == 1 else f"{name} ({wnid})" for wnid, name in first.items())


def _check_count(where: Path | str, found: int, expected: int) -> None:
    if found != expected:
        raise DataError(f"{where}: {found} images instead of {expected}; {AGAIN}")
