"""What readers of picture files share: the names of splits, the pictures of all splits, and splits that are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.files import entries, some
from hoptm_plugin.data.pictures import Pictures, Reading
from hoptm_plugin.data.splits import stratified

SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
TEST_FRACTION = 0.2  # of each class, unless told otherwise
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}


def split_called(name: str) -> str | None:
    """Return the split that a folder or a table calls by this name, in any capitals; None if it is none."""
    return SPLIT_OF.get(name.strip().casefold())


def not_drawn(fraction: float) -> tuple[str, ...]:
    """Return what to say of a fraction that was asked for where the test split is given."""
    return () if fraction == TEST_FRACTION else ("dataset.test_fraction not used, since there is a test split",)


def drawn(
    files: Sequence[Path], labels: Tensor, classes: Sequence[str], fraction: float, seeds: Seeds,
    groups: Tensor | None = None,
) -> tuple[dict[str, Tensor], str]:  # fmt: skip
    """Return which files a seeded stratified split puts into train and test, and what to say of it."""
    train, test = stratified(labels, classes, fraction, seeds.child("test"), groups)
    if not len(test):
        raise DataError("no class has two pictures, so none can be held out for testing; supply a test split")
    whole = "" if groups is None else ", of whole groups"
    said = f"no test split there: {len(test):,} of {len(labels):,} images were drawn as one{whole}"
    return {"train": train, "test": test}, said


def file_lists(files: Sequence[Path], parts: Mapping[str, Tensor], root: Path) -> dict[str, list[str]]:
    """Return the files of each split, relative to ``root``: a split that the source does not fix is stored so."""
    return {name: [named(files[index], root) for index in part.tolist()] for name, part in parts.items()}


def named(path: Path, root: Path) -> str:
    """Return a file's name relative to ``root``; that of another place as it is."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def raw_pictures(
    name: str, classes: tuple[str, ...], parts: Mapping[str, Tensor], files: Sequence[Path], labels: Tensor,
    reading: Reading, root: Path, remarks: tuple[str, ...] = (), **fields: Any,
) -> RawImages:  # fmt: skip
    """Open the pictures of all splits as one set, so that one window and one decision on channels hold for all.

    Args:
        name: of the data set in tables.
        classes: one name per index.
        parts: indices (n,) of the files of "train", "test" and maybe "validation".
        files: of all splits.
        labels: int64 (n,) of all files.
        reading: how files become pixels.
        root: what names of files are relative to.
        remarks: what was done to the data; classes that test or validation lack are added.
        fields: further ones of :class:`RawImages`.
    """
    ordered = torch.cat(list(parts.values()))  # splits are then views of one array instead of copies
    chosen = [files[index] for index in ordered.tolist()]
    rows = torch.arange(len(ordered)).split([len(part) for part in parts.values()])
    splits = {split: (row, labels[part]) for (split, part), row in zip(parts.items(), rows, strict=True)}
    pictures = Pictures(chosen, reading)
    if reading.window is not None and pictures.window is None:
        remarks += ("dataset.window not used, since no picture has more than 8 bits",)
    for split, (_, there) in splits.items():
        counts = torch.bincount(there, minlength=len(classes)).tolist()
        absent = [each for each, count in zip(classes, counts, strict=True) if not count]
        if split != "train" and absent:
            remarks += (f"no {split} images of {some(absent)}",)
    return RawImages(
        name, classes, splits["train"], splits["test"], splits.get("validation"), pictures=pictures,
        files=[named(file, root) for file in chosen], remarks=remarks, **fields,
    )  # fmt: skip


def check_sizes(raw: RawImages, size: tuple[int, ...], rule: str, root: Path) -> None:
    """Refuse pictures that are not all of ``size`` (width, height).

    Raises:
        DataError: the first file, its size and the rule.
    """
    assert raw.pictures is not None
    for file, (width, height) in zip(raw.files, raw.pictures.sizes, strict=True):
        if (width, height) != size:
            raise DataError(f"{root / file}: is {width}x{height}, but {rule}")


def loose(folder: Path, known: set[str]) -> list[Path]:
    """Return what lies in ``folder`` beside the known folders.

    Raises:
        DataError: links that lead nowhere, pipes and the like, which may stand for data.
    """
    found = [path for path in entries(folder) if path.name not in known or not path.is_dir()]
    if broken := [path for path in found if not path.is_dir() and not path.is_file()]:
        raise DataError(f"{broken[0]}: is neither a file nor a folder, or a link that leads nowhere ({len(broken)} "
                        f"such); mend or remove it")  # fmt: skip
    return found


def beside(root: Path, folder: Path) -> list[Path]:
    """Return what lies beside ``folder`` in ``root``, where it was looked for and found below.

    Raises:
        DataError: a folder there is called like a split, so it may belong to the data.
    """
    found = [] if folder == root else loose(root, {folder.name})
    if splits := [path for path in found if path.is_dir() and split_called(path.name)]:
        raise DataError(f"{root}: the data are in {folder.name}/, and {splits[0].name}/ lies beside it; put the splits "
                        f"beside each other, or name {folder} itself with dataset.root")  # fmt: skip
    return found


def entry_names(paths: Iterable[Path], root: Path) -> tuple[str, ...]:
    """Return the names of what was left out, relative to ``root``; those of folders end in a slash."""
    return tuple(f"{named(path, root)}{'/' if path.is_dir() else ''}" for path in paths)
