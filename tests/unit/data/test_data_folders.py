from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch

from hoptm_plugin.core.errors import ConfigurationError, DataError
from hoptm_plugin.core.interfaces import datasets
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import Preprocess, cifar10
from hoptm_plugin.data.geometry import decoded


@pytest.fixture
def folders(tmp_path, image):
    root = tmp_path / "cells"
    for split, base in (("train", 0), ("test", 100)):
        for label, name in enumerate("abc"):
            for index in range(label + 1):
                image(root / split / name / f"{index}.png", base + 10 * label + index)
    return root


def read(root, name="folder", **keywords):
    return decoded(datasets.build({"name": name, "root": root, **keywords}, "dataset").read(Seeds(0)), Preprocess())


def test_folder_values_and_labels(folders):
    raw = read(folders)
    assert (raw.name, raw.class_names, raw.validation) == ("cells", ("a", "b", "c"), None)
    assert raw.train[0][:, 0, 0, 0].tolist() == [0, 10, 11, 20, 21, 22]
    assert raw.train[1].tolist() == raw.test[1].tolist() == [0, 1, 1, 2, 2, 2]
    assert raw.test[0].shape[1] == 1, "grey pictures stay grey"
    assert raw.test[0][:, 0, 5, 5].tolist() == [100, 110, 111, 120, 121, 122]
    assert read(folders, channels=3).test[0][:, 2, 5, 5].tolist() == [100, 110, 111, 120, 121, 122]


@pytest.mark.parametrize("name", ["val", "validation", "valid", "Valid", "dev"])
def test_folder_validation_subset_grey_and_parent(folders, image, name):
    for label in "abc":
        image(folders / name / label / "x.png", 77)
    (folders / "train").rename(folders / "Training")
    raw = read(folders.parent, classes=["c", "a"], channels=1)
    assert raw.class_names == ("a", "c")
    assert raw.train[0].shape == (4, 1, 12, 12)
    assert raw.validation[0].unique().tolist() == [77]
    assert raw.validation[1].tolist() == [0, 1]


def test_folder_errors(folders, image):
    with pytest.raises(DataError, match=r"dataset.root is missing"):
        read(None)
    with pytest.raises(DataError, match="train: class folder 'd' is missing"):
        read(folders, classes=["a", "d"])
    image(folders / "test" / "d" / "0.png", 1)
    with pytest.raises(DataError, match=re.escape("train: class folder 'd' is missing (found: a, b, c)")):
        read(folders)
    (folders / "train" / "d").mkdir()
    with pytest.raises(DataError, match=re.escape(f"{folders / 'train' / 'd'}: holds no images")):
        read(folders)
    image(folders / "train" / "d" / "masks" / "0.png", 1)
    with pytest.raises(DataError, match=re.escape("holds folders (masks), which are not searched")):
        read(folders)


def test_train_without_test_is_no_set_of_classes(folders):
    (folders / "test").rename(folders / "val")
    with pytest.raises(DataError, match=re.escape("holds train/, val/, but no folder of test images; if val/ is what")):
        read(folders)


def test_pictures_in_one_folder_are_told_of_tables(folders):
    with pytest.raises(DataError, match=re.escape("no folders there, only files")) as caught:
        read(folders / "train" / "c")
    assert "columns file, label" in str(caught.value)
    assert "dataset=table dataset.root=TABLE.csv" in str(caught.value)


def test_class_folders_without_splits_are_split_by_the_seed(tmp_path, image):
    for label, name in enumerate("ab"):
        for index in range(10):
            image(tmp_path / "scans" / name / f"{index}.png", 100 * label + index)
    raw = read(tmp_path / "scans", test_fraction=0.3)
    assert (raw.name, raw.class_names) == ("scans", ("a", "b"))
    split = raw.provenance["split"]
    assert [len(split["train"]), len(split["test"])] == [14, 6]
    assert sorted(split["train"] + split["test"]) == sorted(f"{name}/{i}.png" for name in "ab" for i in range(10))
    for part, (images, labels) in (("train", raw.train), ("test", raw.test)):
        values = [100 * "ab".index(file[0]) + int(file[2]) for file in split[part]]
        assert images[:, 0, 0, 0].tolist() == values
        assert labels.tolist() == ["ab".index(file[0]) for file in split[part]]
    assert torch.bincount(raw.test[1]).tolist() == [3, 3]
    assert raw.remarks == ("no test split there: 6 of 20 images were drawn as one",)
    spec = {"name": "folder", "root": tmp_path / "scans", "test_fraction": 0.3}
    again, other = (datasets.build(spec, "dataset").read(Seeds(seed)).provenance["split"] for seed in (0, 1))
    assert again == split
    assert other != split


@pytest.mark.parametrize("fraction", [0, 1, -1.0])
def test_a_fraction_that_is_none(fraction):
    with pytest.raises(ConfigurationError, match="test_fraction must lie between 0 and 1"):
        read(None, test_fraction=fraction)


def test_what_lies_beside_the_pictures_is_named(folders, image):
    (folders / "README.txt").write_text("text")
    (folders / "masks").mkdir()
    (folders / "train" / "labels.csv").write_text("a,b")
    (folders / "train" / "a" / "notes.md").write_text("text")
    (folders / "train" / "a" / ".DS_Store").write_text("hidden")
    image(folders / "train" / "a" / ".b.png", 1)
    (folders / "train" / "a" / "._b.png").write_bytes(b"\0\5\26\7 what a Mac leaves there")
    (folders / "test" / "c" / "Thumbs.db").write_text("left behind by Windows")
    raw = read(folders)
    assert sorted(raw.left_out) == ["README.txt", "masks/", "train/a/.b.png", "train/a/notes.md", "train/labels.csv"]
    assert len(raw.train[1]) == 6


def test_a_fraction_that_is_not_used_is_said(folders):
    assert read(folders, test_fraction=0.3).remarks[0] == "dataset.test_fraction not used, since there is a test split"
    assert not any("test_fraction" in remark for remark in read(folders).remarks)


def test_pictures_are_told_by_their_contents(folders, image):
    (folders / "train" / "a" / "0.png").rename(folders / "train" / "a" / "0")
    image(folders / "train" / "b" / "scan.png", 77).rename(folders / "train" / "b" / "scan.jfif")
    raw = read(folders)
    assert raw.train[0][:, 0, 0, 0].tolist() == [0, 10, 11, 77, 20, 21, 22]
    assert raw.left_out == ()


def test_a_class_that_test_lacks_is_said_and_has_no_images(folders):
    shutil.rmtree(folders / "test" / "a")
    raw = read(folders)
    assert raw.class_names == ("a", "b", "c")
    assert torch.bincount(raw.test[1], minlength=3).tolist() == [0, 2, 3]
    assert raw.remarks == ("no test images of a",)
    (folders / "test" / "a").mkdir()
    assert read(folders).remarks == ("no test images of a",)
    for name in "bc":
        shutil.rmtree(folders / "test" / name)
    with pytest.raises(DataError, match="none of its class folders holds pictures"):
        read(folders)


def test_two_validation_folders(folders):
    (folders / "val").mkdir()
    (folders / "validation").mkdir()
    with pytest.raises(DataError, match="has val/ and validation/, which are both validation images"):
        read(folders)


def test_folder_with_one_class(folders, tmp_path, image):
    for split in ("train", "test"):
        image(tmp_path / "one" / split / "a" / "0.png", 1)
    with pytest.raises(DataError, match="1 class folders found, at least two are needed"):
        read(tmp_path / "one")


@pytest.fixture
def binary(tmp_path, monkeypatch):
    for part in ("train_files", "test_files"):
        monkeypatch.setattr(cifar10.Cifar10, part, dict.fromkeys(getattr(cifar10.Cifar10, part), 20))
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name in (*cifar10.Cifar10.train_files, *cifar10.Cifar10.test_files):
        table = draw.integers(0, 256, (20, 3073), dtype=np.uint8)
        table[:, 0] = np.arange(20) % 10
        table.tofile(folder / name)
    return folder


def test_cifar10_binary(binary):
    raw = read(binary.parent, "cifar10")
    table = np.fromfile(binary / "data_batch_2.bin", dtype=np.uint8).reshape(20, 3073)
    assert raw.train[0].shape == (100, 3, 32, 32)
    assert (raw.train[0][23, 1, 4, 7], raw.train[1][23]) == (table[3, 1 + 1024 + 4 * 32 + 7], 3)
    assert raw.test[1].tolist() == list(range(10)) * 2
    assert (raw.name, raw.class_names[1]) == ("cifar10", "automobile")
    assert raw.released == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def test_cifar10_binary_errors(binary, tmp_path):
    path = binary / "data_batch_3.bin"
    content = path.read_bytes()
    path.write_bytes(content[: 19 * 3073])
    with pytest.raises(DataError, match=re.escape(f"{path}: has 58387 bytes instead of 61460")):
        read(binary, "cifar10")
    path.write_bytes(b"\x0c" + content[1:])
    with pytest.raises(DataError, match=re.escape(f"{path}: label 12 at index 0 lies outside 0..9")):
        read(binary, "cifar10")
    path.unlink()
    with pytest.raises(DataError, match=re.escape(f"{path}: cannot be read (No such file")):
        read(binary, "cifar10")


def test_cifar10_pickled_version_is_refused(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"\x80\x02")
    with pytest.raises(DataError, match=r"pickled and could run code when read; fetch cifar-10-binary.tar.gz"):
        read(tmp_path, "cifar10")


def test_cifar10_empty_folder(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: no CIFAR-10 there")):
        read(tmp_path, "cifar10")


@pytest.mark.parametrize(("suffix", "name"), [("png", "cifar10"), ("jpg", "cifar10 (JPEG)")])
def test_cifar10_image_folders(tmp_path, image, suffix, name):
    for split in ("train", "test"):
        for label, cls in enumerate(cifar10.CLASSES):
            image(tmp_path / "cifar10" / split / cls / f"0.{suffix}", 20 * label, size=(32, 32), mode="RGB")
    raw = read(tmp_path, "cifar10")
    assert (raw.name, raw.class_names) == (name, cifar10.CLASSES)
    assert raw.train[0][:, 0, 16, 16].tolist() == [20 * label for label in range(10)]
    image(tmp_path / "cifar10" / "test" / "frog" / f"1.{suffix}", 0, size=(16, 16))
    with pytest.raises(DataError, match="CIFAR-10 images are 32x32"):
        read(tmp_path, "cifar10")


def test_what_lies_beside_the_folder_that_is_found_is_named_or_refused(folders, tmp_path):
    (tmp_path / "outer").mkdir()
    shutil.move(folders, tmp_path / "outer" / "data")
    (tmp_path / "outer" / "notes.txt").write_text("x")
    assert "notes.txt" in " ".join(
        datasets.build({"name": "folder", "root": tmp_path / "outer"}, "d").read(Seeds(0)).left_out
    )
    (tmp_path / "outer" / "valid").mkdir()
    with pytest.raises(DataError, match="the data are in data/, and valid/ lies beside it"):
        read(tmp_path / "outer")


def test_a_class_that_is_a_broken_link_is_named(folders):
    (folders / "train" / "gone").symlink_to(folders / "nowhere")
    with pytest.raises(DataError, match="gone: is neither a file nor a folder, or a link that leads nowhere"):
        read(folders)


def test_pictures_and_masks_are_no_classes(tmp_path, image):
    for name in ("images", "masks"):
        for index in range(3):
            image(tmp_path / "scans" / name / f"{index}.png", 10 * index)
    with pytest.raises(DataError, match="images/ and masks/ are named like parts of a data set"):
        read(tmp_path / "scans")


@pytest.mark.parametrize("root", ["~no-such-user-here/data", "/" + "x" * 300])
def test_roots_that_cannot_be_looked_at(root):
    with pytest.raises(DataError, match="cannot be looked at"):
        read(root)


def test_a_window_that_changes_nothing_is_said(folders):
    raw = datasets.build({"name": "folder", "root": folders, "window": [0, 100]}, "dataset").read(Seeds(0))
    assert any("dataset.window not used" in each for each in raw.remarks)
