"""Tables of picture files: columns, splits, groups, and what is refused."""

from __future__ import annotations

import re

import pytest
import torch

from hoptm_plugin.core.errors import ConfigurationError, DataError
from hoptm_plugin.core.interfaces import datasets
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import Preprocess, load
from hoptm_plugin.data.geometry import decoded

CPU = torch.device("cpu")
PATIENTS = 12


@pytest.fixture
def scans(tmp_path, image):
    """Pictures of 12 patients, 4 of each, whose grey level is 10 times the patient plus the picture."""
    for patient in range(PATIENTS):
        for index in range(4):
            image(tmp_path / "images" / f"p{patient}" / f"{index}.png", 10 * patient + index)
    return tmp_path


def rows(split=None, group=True):
    """Return a row for each picture: odd patients are ill."""
    for patient in range(PATIENTS):
        for index in range(4):
            cells = {"file": f"images/p{patient}/{index}.png", "label": "ill" if patient % 2 else "healthy"}
            cells |= {"split": split(patient, index)} if split else {}
            yield cells | ({"group": f"p{patient}"} if group else {})


def write(folder, lines, name="scans.csv"):
    lines = list(lines)
    separator = "\t" if name.endswith("tsv") else ","
    text = [separator.join(lines[0]), *(separator.join(line.values()) for line in lines)]
    (folder / name).write_text("\n".join(text) + "\n", encoding="utf-8-sig")
    return folder / name


def build(path, **keywords):
    return datasets.build({"name": "table", "root": path, **keywords}, "dataset")


def read(path, seed=0, **keywords):
    return decoded(build(path, **keywords).read(Seeds(seed)), Preprocess())


def patients(images):
    return {int(value) // 10 for value in images[:, 0, 0, 0]}


def by_patient(patient, index):
    return "Train" if patient < 8 else "valid" if patient < 10 else "TEST"


@pytest.mark.parametrize("name", ["scans.csv", "scans.tsv"])
def test_splits_of_the_table(scans, name):
    raw = read(write(scans, rows(by_patient), name))
    assert (raw.name, raw.class_names, raw.remarks) == ("scans", ("healthy", "ill"), ())
    assert [patients(part[0]) for part in (raw.train, raw.validation, raw.test)] == [{*range(8)}, {8, 9}, {10, 11}]
    assert raw.train[1].tolist() == [patient % 2 for patient in range(8) for _ in range(4)]
    assert "split" not in raw.provenance


def test_a_drawn_split_keeps_patients_whole(scans):
    path = write(scans, rows())
    raw = read(path, test_fraction=0.34)
    train, test = patients(raw.train[0]), patients(raw.test[0])
    assert train | test == set(range(PATIENTS))
    assert not train & test
    assert torch.bincount(raw.test[1]).tolist() == [8, 8], "two patients of each class"
    for name, (images, _) in (("train", raw.train), ("test", raw.test)):
        listed = [file.split("/") for file in raw.provenance["split"][name]]
        assert images[:, 0, 0, 0].tolist() == [10 * int(folder[1:]) + int(file[0]) for _, folder, file in listed]
    assert raw.remarks == (f"no test split there: {len(raw.test[1])} of 48 images were drawn as one, of whole groups",)
    assert read(path, test_fraction=0.34).provenance == raw.provenance
    assert any(read(path, seed, test_fraction=0.34).provenance != raw.provenance for seed in (1, 2, 3))


def test_a_carved_validation_split_keeps_patients_whole(scans):
    path = write(scans, rows())
    spec = {"name": "table", "root": path, "preprocess": {"normalisation": "none", "validation_fraction": 0.2}}
    data = load(spec, Seeds(0), CPU)
    parts = [patients((255 * part.batch(slice(None))).round()) for part in (data.train, data.validation, data.test)]
    assert set.union(*parts) == set(range(PATIENTS))
    assert sum(map(len, parts)) == PATIENTS, "nobody is in two splits"
    for name, part in zip(("train", "validation", "test"), parts, strict=True):
        assert {int(file.split("/")[1][1:]) for file in data.provenance["split"][name]} == part


def test_without_groups_images_are_drawn_one_by_one(scans):
    raw = read(write(scans, rows(group=False)))
    assert torch.bincount(raw.test[1]).tolist() == [5, 5]
    assert raw.groups is None
    assert patients(raw.train[0]) & patients(raw.test[0]), "which is why groups matter"


def test_columns_classes_and_folder_can_be_named(scans):
    lines = [{"Path": line["file"].removeprefix("images/"), "Finding": line["label"], "who": line["group"]}
             for line in rows()]  # fmt: skip
    lines += [{"Path": "none.png", "Finding": "unclear", "who": "p99"}]
    (scans / "tables").mkdir()
    path = write(scans / "tables", lines)
    columns = {"file": "path", "label": "FINDING", "group": "who"}
    raw = read(path, images=scans / "images", columns=columns, classes=["ill", "healthy"])
    assert raw.class_names == ("healthy", "ill")
    assert not patients(raw.train[0]) & patients(raw.test[0])
    alone = read(path, images=scans / "images", columns=columns | {"group": None}, classes=["ill", "healthy"])
    assert alone.groups is None
    with pytest.raises(ConfigurationError, match="no column of a table holds patient "):
        build(path, columns={"patient": "who"})


def test_paths_written_on_windows(scans):
    lines = [line | {"file": line["file"].replace("/", "\\")} for line in rows()]
    assert len(read(write(scans, lines)).train[1]) > 30


def changed(index, **cells):
    return [line | (cells if row == index else {}) for row, line in enumerate(rows(by_patient))]


BAD = {
    "a group in two splits": (changed(47, group="p0"), "group 'p0' is in test and train (1 such groups), so test"),
    "a path that leads out": (changed(3, file="../x.png"), "'../x.png' leads out of "),
    "a path that leads out by a detour": (changed(3, file="images/../../x.png"), "leads out of "),
    "an absolute path": (changed(3, file="/etc/hostname"), "'/etc/hostname' leads out of "),
    "the folder itself": (changed(3, file="images/.."), "leads out of "),
    "a name that is too long": (changed(3, file="x" * 5000), "1 of 48 files are missing ("),
    "missing files": (changed(3, file="images/no.png"), "1 of 48 files are missing ("),
    "a file twice": (changed(3, file="images/p0/0.png"), "1 files are listed more than once ("),
    "the same file by another path": (changed(3, file="images//p1/../p0/0.png"), "1 files are listed more than once ("),
    "an empty label": (changed(3, label=" "), "column label is empty in row 4 (1 such)"),
    "an empty group": (changed(0, group=""), "column group is empty in row 1 (1 such)"),
    "an unknown split": (changed(3, split="holdout"), "'holdout' is no split (1 such rows); write train, validation, "),
    "no test rows": ([line | {"split": "train"} for line in rows(by_patient)], "no row is of the split test"),
    "one class": ([line | {"label": "ill"} for line in rows(by_patient)], "all labels are 'ill'; at least two"),
    "a class that train lacks": (changed(47, label="rare"), "no training row has the label rare"),
    "no label column": ([{"file": line["file"]} for line in rows()], "no column is called label (found: file)"),
    "nothing but a header": (None, "holds no rows"),
}


@pytest.mark.parametrize(("lines", "message"), BAD.values(), ids=BAD)
def test_what_is_refused(scans, lines, message):
    path = scans / "scans.csv"
    if lines is None:
        path.write_text("file,label\n")
    else:
        write(scans, lines)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a table"),
        (b"file,label\na,b,c\n", "cannot be read as a table (Error tokenizing data"),
        (b"file,label\n\xff\xfe,x\n", "cannot be read as a table"),
        (b"file,label,Label\na,b,c\n", "more than one column is called label"),
        (b"file;label\na;b\n", "no column is called file, label (found: file;label)"),
    ],
)
def test_texts_that_are_no_tables(tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)):
        read(path)


def test_a_column_that_was_named_must_be_there(scans):
    with pytest.raises(DataError, match="no column is called patient"):
        read(write(scans, rows()), columns={"group": "patient"})


def test_a_spreadsheet_is_no_table(tmp_path):
    (tmp_path / "scans.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=re.escape("is no .csv or .tsv file")):
        build(tmp_path / "scans.xlsx").locate()
    with pytest.raises(DataError, match=r"dataset.root is missing: give a table"):
        build(None).locate()
    write(tmp_path, rows())
    with pytest.raises(DataError, match=re.escape("set dataset.images to the folder of the pictures")):
        build(tmp_path / "scans.csv", images=tmp_path / "nowhere").locate()


def test_groups_that_cannot_be_divided(scans):
    lines = [line | {"group": "one" if line["label"] == "ill" else line["group"]} for line in rows()]
    raw = read(write(scans, lines))
    assert torch.bincount(raw.test[1], minlength=2).tolist()[1] == 0, "the one ill patient stays in train"
    assert "no test images of ill" in raw.remarks
    with pytest.raises(DataError, match="all training images belong to one group"):
        read(write(scans, [line | {"group": "one"} for line in rows()]))


def test_columns_that_are_not_heeded_are_said(scans):
    path = write(scans, ({**row, "patient_id": "p"} for row in rows(group=False)))
    said = "columns not heeded: patient_id; where one says whose picture it is: dataset.columns.group=NAME"
    assert said in build(path).read(Seeds(0)).remarks


def test_labels_that_differ_in_capitals_are_refused(scans):
    first, *others = rows()
    path = write(scans, [{**first, "label": first["label"].upper()}, *others])
    with pytest.raises(DataError, match="'HEALTHY' and 'healthy' would be two classes; write them alike"):
        read(path)
