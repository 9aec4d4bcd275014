"""COVID19-CXR: the public COVID-19 Radiography Database."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.roles import Machine
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.files import FileReader, check_class_list, existing_folder, here_or_below, subfolders
from hoptm_plugin.data.layout import TEST_FRACTION, beside, drawn, entry_names, file_lists, loose, raw_pictures
from hoptm_plugin.data.pictures import Reading, files_in

CLASSES = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
RELEASED = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ORIGIN = {
    "source": "COVID-19 Radiography Database (https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database)",
    "licence": "see the database's terms; its authors collected the images from several sources and ask to be cited",
    "official_images": 3_616 + 6_012 + 10_192 + 1_345,  # by class, in its latest version
}
WHAT = f"the unpacked COVID-19 Radiography Database (class folders {', '.join(CLASSES)})"


@register("covid19cxr")
class Covid19Cxr(FileReader):
    """Chest X-rays of the COVID-19 Radiography Database, 4 classes, with a seeded stratified 8:2 split.

    Of each class folder ``images/`` is read and ``masks/`` never; a class folder without ``images/`` is read as a plain
    folder of images. Classes are numbered in alphabetical order. HoP-TM's paper names an 8:2 split without supplying
    one; ours draws each class's test images from the sorted file list; both lists go to ``provenance["split"]``.

    Source: Rahman et al. 2021 (data); HoP-TM's released code (normalisation constants, those of ImageNet).

    Args:
        root: the folder that holds the class folders, or its parent.
        classes: use these classes only, which the data set's name in tables then says; null requires all four.
        channels: decode to RGB (3, as published) or grey (1, for which no constants were released).
    """

    cites = ("chowdhury2020covid", "rahman2021covid")

    def __init__(
        self, root: Machine[Path | None] = None, classes: tuple[str, ...] | None = None, channels: Literal[1, 3] = 3
    ) -> None:
        if classes is not None:
            check_class_list(classes)
            if unknown := [name for name in classes if name not in CLASSES]:
                raise ValueError(
                    f"covid19cxr has no class {', '.join(map(repr, unknown))} (known: {', '.join(CLASSES)})"
                )
        self.root, self.channels = root, channels
        self.classes = CLASSES if classes is None else tuple(sorted(classes))

    def locate(self) -> Path:
        """Return the folder that holds the class folders, all of which must be there."""
        root = existing_folder(self.root, WHAT)
        folder = here_or_below(root, lambda path: any((path / name).is_dir() for name in CLASSES), "class folders")
        if folder is None:
            raise DataError(f"{root}: none of the class folders {', '.join(CLASSES)} is there; "
                            f"set dataset.root to {WHAT} or its parent")  # fmt: skip
        present = subfolders(folder)
        if missing := [name for name in self.classes if name not in present]:
            usable = [name for name in CLASSES if name in present]
            raise DataError(
                f"{folder}: class folders missing: {', '.join(missing)} (found: {', '.join(usable)}); unpack the whole "
                f'archive, or use fewer classes with "dataset.classes=[{",".join(usable)}]"'
            )
        return folder

    def read(self, seeds: Seeds) -> RawImages:
        """Return the images, split by ``seeds``."""
        folder = self.locate()
        left_out = beside(existing_folder(self.root, WHAT), folder) + loose(folder, set(CLASSES))
        groups = [_class_files(folder / name, left_out) for name in self.classes]
        files = [file for group in groups for file in group]
        labels = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]))
        parts, said = drawn(files, labels, self.classes, TEST_FRACTION, seeds)
        name = "covid19cxr" if self.classes == CLASSES else f"covid19cxr ({', '.join(self.classes)})"
        return raw_pictures(
            name, self.classes, parts, files, labels, Reading(self.channels), folder,
            released=RELEASED if self.channels == 3 else None, remarks=(said,),
            provenance={"split": file_lists(files, parts, folder), **ORIGIN}, left_out=entry_names(left_out, folder),
        )  # fmt: skip


def _class_files(folder: Path, left_out: list[Path]) -> list[Path]:
    images = folder / "images" if (folder / "images").is_dir() else folder
    left_out += [path for path in loose(folder, {"images", "masks"}) if images != folder or path.is_dir()]
    files, others = files_in(images)
    left_out += others
    if not files:
        raise DataError(f"{images}: holds no images; unpack the whole archive, or leave the class out with "
                        f"\"dataset.classes=[...]\"")  # fmt: skip
    return files
