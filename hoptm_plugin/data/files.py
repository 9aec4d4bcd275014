"""What all readers of files share: the root that the user gives, and checks of what was read."""

from __future__ import annotations

import unicodedata
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import DatasetReader
from hoptm_plugin.core.roles import Machine
from hoptm_plugin.core.text import shortened

LEFT_BEHIND = {"__macosx", "thumbs.db", "desktop.ini"}


class FileReader(DatasetReader):
    """A reader whose source lies at ``root``, which the user gives as ``dataset.root``."""

    def __init__(self, root: Machine[Path | None] = None) -> None:
        self.root = root

    @abstractmethod
    def locate(self) -> Path | None:
        """Return where the source lies, from file names alone; None where reading will fetch it.

        Raises:
            DataError: the root is missing, or does not hold what this reader expects.
        """


def existing_root(root: Path | None, what: str, setting: str = "root") -> Path:
    """Return ``root`` with ``~`` expanded; ``what`` says in an error what it should be."""
    if root is None:
        raise DataError(f"dataset.{setting} is missing: give {what} with dataset.{setting}=PATH")
    try:
        root = root.expanduser()
        there = root.exists()
    except (OSError, RuntimeError) as error:  # no such user; a name that is too long; a folder that cannot be entered
        raise DataError(f"{root}: cannot be looked at ({shortened(error)}); set dataset.{setting} to {what}") from None
    if not there:
        raise DataError(f"{root}: no such file or folder; set dataset.{setting} to {what}")
    return root


def existing_folder(root: Path | None, what: str, setting: str = "root") -> Path:
    """Return ``root`` as :func:`existing_root` does, and refuse a file."""
    root = existing_root(root, what, setting)
    if not root.is_dir():
        raise DataError(
            f"{root}: is a file, not a folder; unpack it if it is an archive and set dataset.{setting} to {what}"
        )
    return root


def entries(folder: Path, hidden: bool = False) -> list[Path]:
    """Return what lies in ``folder``, sorted by name, without what operating systems leave behind.

    Args:
        folder: to be listed.
        hidden: return those whose names begin with a dot instead of the others.
    """
    try:
        found = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); make it readable") from None
    return [path for path in found if path.name.startswith(".") is hidden and path.name.casefold() not in LEFT_BEHIND]


def subfolders(folder: Path) -> dict[str, Path]:
    """Return the folders in ``folder`` by name, sorted."""
    return {path.name: path for path in entries(folder) if path.is_dir()}


def check_distinct(names: Iterable[str], where: Path | str) -> None:
    """Refuse names of classes that differ in capitals or in how accents are written alone.

    Raises:
        DataError: naming two of them.
    """
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise DataError(f"{where}: {other!r} and {name!r} would be two classes; write them alike, or rename one")


def read_lines(path: Path, remedy: str) -> list[str]:
    """Return the lines of a text without the white space around them, and without empty ones."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is no text; {remedy}") from None


def listed_classes(path: Path, count: int, remedy: str) -> list[str]:
    """Return the classes that a text names, one a line, of which there must be ``count``."""
    names = read_lines(path, remedy)
    if len(names) != count or len(set(names)) != count:
        raise DataError(f"{path}: must name {count} different classes, one a line, but names {len(set(names))} "
                        f"in {len(names)} lines; {remedy}")  # fmt: skip
    return names


def here_or_below(root: Path, fits: Callable[[Path], bool], what: str) -> Path | None:
    """Return ``root``, or else the one folder directly in it, that ``fits``; None if none does.

    Raises:
        DataError: several folders in ``root`` fit.
    """
    if fits(root):
        return root
    found = [path for path in subfolders(root).values() if fits(path)]
    if len(found) > 1:
        raise DataError(f"{root}: holds several folders with {what} ({', '.join(path.name for path in found)}); "
                        f"set dataset.root to one of them")  # fmt: skip
    return found[0] if found else None


def check_split(images: Tensor, labels: Tensor, num_classes: int, where: str) -> None:
    """Refuse a split that is empty, of other types than uint8 (n, C, H, W) and int64 (n,), or has impossible labels.

    Raises:
        DataError: starting with ``where`` (the file and split).
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(f"{where}: images must be uint8 (n, C, H, W) with 1 or 3 channels, "
                        f"got {images.dtype} {tuple(images.shape)}")  # fmt: skip
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise DataError(f"{where}: labels must be int64 (n,), got {labels.dtype} {tuple(labels.shape)}")
    if len(images) != len(labels):
        raise DataError(f"{where}: {len(images)} images but {len(labels)} labels; each image needs one label")
    if not images.numel():
        raise DataError(f"{where}: holds no images")
    wrong = torch.nonzero((labels < 0) | (labels >= num_classes)).flatten()
    if len(wrong):
        first = int(wrong[0])
        raise DataError(f"{where}: label {int(labels[first])} at index {first} lies outside 0..{num_classes - 1} "
                        f"({len(wrong)} such); mend the labels or name all classes")  # fmt: skip


def check_splits(splits: Mapping[str, tuple[Tensor, Tensor]], num_classes: int, where: str) -> None:
    """Refuse splits as :func:`check_split` does each, and those whose images have another shape than train's.

    Raises:
        DataError: starting with ``where`` and the split.
    """
    for split, (images, labels) in splits.items():
        check_split(images, labels, num_classes, f"{where}: {split}")
        if images.shape[1:] != splits["train"][0].shape[1:]:
            raise DataError(f"{where}: {split} images have shape (C, H, W) {tuple(images.shape[1:])}, but train images "
                            f"{tuple(splits['train'][0].shape[1:])}; all splits need one shape")  # fmt: skip


def check_class_list(classes: tuple[str, ...]) -> None:
    """Refuse a class list with fewer than two names or with repeated ones.

    Raises:
        ValueError: which the registry reports as a configuration error.
    """
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f"classes must name at least two different classes, got {list(classes)}")


def some(names: Sequence[str], most: int = 10) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
