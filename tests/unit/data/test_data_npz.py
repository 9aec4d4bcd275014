from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hoptm_plugin.core.errors import ConfigurationError, DataError
from hoptm_plugin.core.interfaces import datasets
from hoptm_plugin.core.seeding import Seeds


class Bomb:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return Path(self.path).touch, ()


def read(path, **keywords):
    return datasets.build({"name": "npz", "root": str(path), **keywords}, "dataset").read(Seeds(0))


@pytest.fixture
def written(tmp_path, arrays):
    def write(**changes):
        members = {key: value for key, value in {**arrays, **changes}.items() if value is not None}
        np.savez(tmp_path / "cells.npz", **members)
        return tmp_path / "cells.npz"

    return write


def test_values_labels_and_names(written, arrays):
    raw = read(written())
    assert raw.name == "cells"
    assert raw.class_names == ("0", "1", "2")
    for split, (images, labels) in (("train", raw.train), ("val", raw.validation), ("test", raw.test)):
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), arrays[f"{split}_images"])
        assert labels.dtype == torch.int64
        assert labels.tolist() == arrays[f"{split}_labels"][:, 0].tolist()


def test_grey_without_channel_axis_and_flat_labels_and_no_validation(written, arrays):
    grey = {f"{split}_images": arrays[f"{split}_images"][..., 0] for split in ("train", "test")}
    flat = {f"{split}_labels": arrays[f"{split}_labels"][:, 0] for split in ("train", "test")}
    raw = read(written(**grey, **flat, val_images=None, val_labels=None), class_names=["x", "y", "z"])
    assert raw.train[0].shape == (30, 1, 8, 8)
    assert raw.validation is None
    assert raw.class_names == ("x", "y", "z")


def test_arrays_of_other_names_are_named(written, arrays):
    raw = read(written(valid_images=arrays["val_images"], val_images=None, val_labels=None))
    assert (raw.validation, raw.left_out) == (None, ("array valid_images",))


@pytest.mark.parametrize(("dtype", "says"), [(np.uint16, "got uint16"), (np.float32, "got float32")])
def test_deeper_pixels_are_refused_with_the_line_that_mends_them(written, arrays, dtype, says):
    deep = (arrays["train_images"].astype(dtype) * 16).astype(dtype)
    with pytest.raises(DataError, match=says) as caught:
        read(written(train_images=deep))
    line = re.search(r"such as (numpy\.rint.*\.astype\(numpy\.uint8\))", str(caught.value))[1]
    mended = eval(line, {"numpy": np, "images": deep, "low": 0, "high": 255 * 16})
    assert np.array_equal(mended, arrays["train_images"])


BAD = {
    "missing key": ({"test_labels": None}, "arrays missing: test_labels (found: test_images, train_images"),
    "half a validation split": ({"val_labels": None}, "arrays missing: val_labels"),
    "float pixels": ({"train_images": np.zeros((30, 8, 8, 3), np.float32)}, "train_images: must be uint8"),
    "two channels": ({"train_images": np.zeros((30, 8, 8, 2), np.uint8)}, "train_images: must have shape"),
    "other size": ({"test_images": np.zeros((9, 4, 4, 3), np.uint8)}, "test images have shape (C, H, W) (3, 4, 4)"),
    "float labels": ({"train_labels": np.zeros(30)}, "train_labels: must be integers"),
    "multi-label": ({"train_labels": np.zeros((30, 4), np.uint8)}, "one class per image, got uint8 (30, 4)"),
    "lengths": ({"train_labels": np.zeros(29, np.uint8)}, "train: 30 images but 29 labels"),
    "negative label": ({"test_labels": np.full(9, -1)}, "test: label -1 at index 0 lies outside 0..2 (9 such)"),
    "empty split": (
        {"test_images": np.zeros((0, 8, 8, 3), np.uint8), "test_labels": np.zeros((0, 1), np.uint8)},
        "test: holds no images",
    ),
    "one class": (
        {
            f"{split}_labels": np.zeros((count, 1), np.uint8)
            for split, count in (("train", 30), ("val", 6), ("test", 9))
        },
        "all labels are 0",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_arrays_are_named(written, changes, message):
    path = written(**changes)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_label_beyond_named_classes(written):
    with pytest.raises(DataError, match=re.escape("train: label 2 at index 2 lies outside 0..1 (10 such)")):
        read(written(), class_names=["x", "y"])


@pytest.mark.parametrize("part", [0, 1, 100, 0.5, 0.99])
def test_truncated_file(written, part):
    path = written()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part) if part < 1 else part])
    with pytest.raises(DataError, match="damaged, truncated") as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_flipped_bytes(tmp_path, arrays, compressed):
    path = tmp_path / "cells.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged, truncated"):
        read(path)


def test_pickled_arrays_are_refused_and_never_run(tmp_path, written):
    path = written(train_labels=np.array([Bomb(str(tmp_path / "ran"))] * 30, dtype=object))
    with pytest.raises(DataError, match="Object arrays cannot be loaded"):
        read(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("count", [10**12, 29, 31, -1])
def test_a_header_that_promises_another_size_allocates_nothing(written, count):
    path = written()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, 8, 8, 3), }}".ljust(117) + "\n"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    members["train_images.npy"] = start + bytes(30 * 8 * 8 * 3)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(DataError, match="train_images holds another number of bytes than its header says"):
        read(path)


def test_a_single_array_is_no_archive(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(DataError, match="is not an npz archive"):
        read(tmp_path / "a.npy")


def test_missing_root_file_or_folder(tmp_path):
    with pytest.raises(DataError, match=re.escape("dataset.root is missing: give an npz file")):
        datasets.build({"name": "npz"}, "dataset").read(Seeds(0))
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'none.npz'}: no such file")):
        read(tmp_path / "none.npz")
    with pytest.raises(DataError, match=r"is a folder; set dataset.root to the npz file itself"):
        read(tmp_path)


def test_repeated_class_names(written):
    with pytest.raises(ConfigurationError, match="dataset: classes must name at least two different classes"):
        read(written(), class_names=["x", "x"])
