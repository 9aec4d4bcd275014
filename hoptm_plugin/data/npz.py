"""Any npz file in MedMNIST layout."""

from __future__ import annotations

from pathlib import Path

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.roles import Machine
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.arrays import read_npz
from hoptm_plugin.data.files import FileReader, check_class_list, existing_root


@register("npz")
class Npz(FileReader):
    """One npz file in MedMNIST layout: train, test and optionally val arrays of uint8 images and integer labels.

    Args:
        root: the file. Its stem names the data set in tables.
        class_names: one per class index; null numbers the classes 0..K-1 up to the highest label.
    """

    def __init__(self, root: Machine[Path | None] = None, class_names: tuple[str, ...] | None = None) -> None:
        if class_names is not None:
            check_class_list(class_names)
        self.root, self.class_names = root, class_names

    def locate(self) -> Path:
        """Return the file's path."""
        path = existing_root(self.root, "an npz file in MedMNIST layout")
        if not path.is_file():
            raise DataError(f"{path}: is a folder; set dataset.root to the npz file itself")
        return path

    def read(self, seeds: Seeds) -> RawImages:
        """Return the file's splits as they are; ``seeds`` decides nothing."""
        path = self.locate()
        splits, num_classes = read_npz(path, None if self.class_names is None else len(self.class_names))
        if num_classes < 2:
            raise DataError(f"{path}: all labels are 0; at least two classes are needed")
        names = self.class_names or tuple(str(label) for label in range(num_classes))
        return RawImages(path.stem, names, splits["train"], splits["test"], splits.get("val"))
