"""Picture files that a table lists, with their labels and, where there are, splits and groups."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.roles import Machine
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.text import shortened
from hoptm_plugin.data.files import FileReader, check_class_list, check_distinct, existing_folder, existing_root, some
from hoptm_plugin.data.folder import check_fraction
from hoptm_plugin.data.layout import SPLITS, TEST_FRACTION, drawn, file_lists, not_drawn, raw_pictures, split_called
from hoptm_plugin.data.memory import require
from hoptm_plugin.data.pictures import Reading

if TYPE_CHECKING:
    from pandas import DataFrame, Series

WHAT = "a table (.csv or .tsv) with the columns file and label, and maybe split and group"
SEPARATORS = {".csv": ",", ".tsv": "\t"}
COLUMNS = {"file": "file", "label": "label", "split": "split", "group": "group"}
NEEDED = ("file", "label")
MEMORY = 20  # bytes that a byte of a table takes in pandas


@register("table")
class Table(FileReader):
    """Picture files listed in a csv or tsv table: ``file``, ``label``, and optionally ``split`` and ``group``.

    Paths are relative to the table's folder and do not lead out of it. Classes are the labels in alphabetical order. A
    group, such as a patient, never straddles splits, neither in the table's, which are refused then, nor in those drawn
    here. Without a ``split`` column a seeded ``test_fraction`` of each class is the test split, and its file list is
    stored with the run.

    Source: scikit-learn's ``StratifiedGroupKFold`` divides groups.

    Args:
        root: the table. Its stem names the data set in tables.
        images: the folder that paths are relative to; null is the table's own.
        columns: names of the columns, by what they hold: file, label, split, group; null where one is not to be heeded.
        classes: use these classes only; null uses all.
        channels: decode to RGB (3) or grey (1); null leaves pictures grey where all of them are.
        background: what shows through pixels that are not opaque; null refuses such pictures.
        window: stored values that become black and white, of pictures of more than 8 bits; null takes the range of all.
        test_fraction: of each class, where there is no split column.
    """

    def __init__(
        self, root: Machine[Path | None] = None, images: Machine[Path | None] = None,
        columns: dict[str, str | None] | None = None, classes: tuple[str, ...] | None = None,
        channels: Literal[1, 3] | None = None, background: Literal["black", "white"] | None = None,
        window: tuple[float, float] | None = None, test_fraction: float = TEST_FRACTION,
    ) -> None:  # fmt: skip
        if classes is not None:
            check_class_list(classes)
        check_fraction(test_fraction)
        if unknown := set(columns or {}) - set(COLUMNS):
            raise ValueError(f"columns: no column of a table holds {', '.join(sorted(unknown))} "
                             f"(known: {', '.join(COLUMNS)})")  # fmt: skip
        self.root, self.images, self.classes, self.test_fraction = root, images, classes, test_fraction
        self.columns: dict[str, str | None] = {**COLUMNS, **(columns or {})}
        self.reading = Reading(channels, background, window)

    def locate(self) -> Path:
        """Return the table's path; the folder of its pictures must be there as well."""
        path = existing_root(self.root, WHAT)
        if not path.is_file() or path.suffix.lower() not in SEPARATORS:
            raise DataError(f"{path}: is no .csv or .tsv file; set dataset.root to {WHAT}, saved as text from a "
                            f"spreadsheet, say")  # fmt: skip
        self._folder(path)
        return path

    def read(self, seeds: Seeds) -> RawImages:
        """Return the table's splits; where it has none, ``seeds`` draws the test split."""
        path = self.locate()
        folder = self._folder(path)
        table, unheeded = self._table(path)
        check_distinct(sorted(set(table["label"])), path)
        classes = tuple(sorted(self.classes or set(table["label"])))
        if absent := [name for name in classes if name not in set(table["label"])]:
            raise DataError(f"{path}: no row has the label {some(absent)}; choose among "
                            f"{some(sorted(set(table['label'])))} with \"dataset.classes=[...]\"")  # fmt: skip
        if len(classes) < 2:
            raise DataError(f"{path}: all labels are {classes[0]!r}; at least two classes are needed")
        table = table[table["label"].isin(classes)]
        files = _files(table["file"], folder, path)
        number = {name: index for index, name in enumerate(classes)}
        labels = torch.tensor([number[label] for label in table["label"]])
        groups = torch.tensor(table["group"].factorize(sort=True)[0]) if "group" in table else None
        remarks: tuple[str, ...] = ()
        provenance: dict[str, Any] = {}
        if "split" in table:
            parts, remarks = _given(table, path), not_drawn(self.test_fraction)
        else:
            parts, said = drawn(files, labels, classes, self.test_fraction, seeds, groups)
            remarks, provenance = (said,), {"split": file_lists(files, parts, folder)}
        if unheeded:
            whose = "" if groups is not None else "; where one says whose picture it is: dataset.columns.group=NAME"
            remarks += (f"columns not heeded: {some(unheeded)}{whose}",)
        if lost := [name for name in classes if number[name] not in set(labels[parts["train"]].tolist())]:
            raise DataError(f"{path}: no training row has the label {some(lost)}; add some, or leave the class out "
                            f"with \"dataset.classes=[...]\"")  # fmt: skip
        return raw_pictures(
            path.stem, classes, parts, files, labels, self.reading, folder, remarks, provenance=provenance,
            groups=None if groups is None else groups[parts["train"]],
        )  # fmt: skip

    def _folder(self, path: Path) -> Path:
        return (
            path.parent if self.images is None else existing_folder(self.images, "the folder of the pictures", "images")
        )

    def _table(self, path: Path) -> tuple[DataFrame, list[str]]:
        """Return the columns file, label, and split and group if there, as texts; and the names of the others."""
        import pandas as pd

        require(MEMORY * path.stat().st_size, torch.device("cpu"), f"{path}: its rows")
        try:
            # without a header for pandas: it would take a column too many for an index, and rename repeated columns
            rows = pd.read_csv(path, sep=SEPARATORS[path.suffix.lower()], header=None, dtype=str,
                               keep_default_na=False, encoding="utf-8-sig")  # fmt: skip
        except (OSError, ValueError) as error:  # pandas's own are ValueErrors, of encodings as well
            raise DataError(f"{path}: cannot be read as a table ({shortened(error)}); write it as UTF-8 text, one "
                            f"picture a line, below a line with the columns' names") from None  # fmt: skip
        rows = rows.fillna("").apply(lambda column: column.str.strip())
        names = list(rows.iloc[0])
        known = _columns(names, self.columns, path)
        table = pd.DataFrame({key: rows.iloc[1:, column] for key, column in known.items()})
        if not len(table):
            raise DataError(f"{path}: holds no rows; write one for each picture")
        for key in known:
            if len(empty := table.index[table[key] == ""]):
                raise DataError(f"{path}: column {self.columns[key]} is empty in row {empty[0]} ({len(empty)} such); "
                                f"fill it in, or delete the row")  # fmt: skip
        return table, [name for column, name in enumerate(names) if column not in known.values()]


def _columns(names: list[str], columns: Mapping[str, str | None], path: Path) -> dict[str, int]:
    """Return the places of the columns by what they hold, found in any capitals."""
    wanted = {key: name for key in COLUMNS if (name := columns[key] or (key if key in NEEDED else None)) is not None}
    there = [name.casefold() for name in names]
    known = {key: there.index(name.casefold()) for key, name in wanted.items() if name.casefold() in there}
    if twice := [names[column] for column in known.values() if there.count(there[column]) > 1]:
        raise DataError(f"{path}: more than one column is called {some(twice)}; rename the others")
    # one that was named must be there, and so must files and labels
    if missing := [name for key, name in wanted.items() if key not in known and (key in NEEDED or name != key)]:
        raise DataError(f"{path}: no column is called {', '.join(missing)} (found: {some(names)}); name the columns "
                        f"with dataset.columns.file=NAME and so on")  # fmt: skip
    return known


def _files(names: Series, folder: Path, path: Path) -> list[Path]:
    """Return the paths of files that are all there, within ``folder``, and none of them twice."""
    files = []
    for name in names:
        # tables written on Windows separate folders so
        name = name if os.sep == "\\" or _exists(folder / name) else name.replace("\\", "/")
        inside = Path(os.path.normpath(name))  # of the text alone: links within the folder are the user's own
        if inside.is_absolute() or inside.parts[:1] in ((), ("..",)):
            raise DataError(f"{path}: {name!r} leads out of {folder}, or names none of its files; write paths relative "
                            f"to it, or name the pictures' folder with dataset.images=FOLDER")  # fmt: skip
        files.append(folder / inside)
    if missing := [file for file in files if not _exists(file)]:
        raise DataError(f"{path}: {len(missing)} of {len(files)} files are missing ({some([*map(str, missing)], 3)}); "
                        f"paths are relative to {folder}; name another folder with dataset.images=FOLDER")  # fmt: skip
    if len(set(files)) < len(files):
        twice = [str(file) for file, count in Counter(files).items() if count > 1]
        raise DataError(f"{path}: {len(twice)} files are listed more than once ({some(twice, 3)}); give each picture "
                        f"one row")  # fmt: skip
    return files


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a folder that may not be looked into
        return False


def _given(table: DataFrame, path: Path) -> dict[str, torch.Tensor]:
    """Return the rows of each split that the table names; none is empty, and no group is in two."""
    splits = table["split"].map(split_called)
    if len(unknown := table["split"][splits.isna()]):
        raise DataError(f"{path}: {unknown.iloc[0]!r} is no split ({len(unknown)} such rows); write "
                        f"{', '.join(SPLITS)}")  # fmt: skip
    if missing := [split for split in ("train", "test") if split not in set(splits)]:
        raise DataError(f"{path}: no row is of the split {' or '.join(missing)}; name some, or leave the column out")
    if "group" in table:
        spread = splits.groupby(table["group"]).nunique()
        if len(straddling := spread.index[spread > 1]):
            first = straddling[0]
            within = " and ".join(sorted(set(splits[table["group"] == first])))
            raise DataError(f"{path}: group {first!r} is in {within} ({len(straddling)} such groups), so test images "
                            f"would be of whom the training images are; put each group into one split")  # fmt: skip
    rows = torch.arange(len(table))
    return {split: rows[torch.tensor((splits == split).to_numpy())] for split in SPLITS if split in set(splits)}
