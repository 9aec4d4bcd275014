from __future__ import annotations

import re

import numpy as np
import pytest

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import datasets
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import Preprocess, cifar100
from hoptm_plugin.data.geometry import decoded

RECORD = 2 + 3 * 32 * 32
NAMES = [f"class{index:02d}" for index in range(100)]


def read(root):
    return decoded(datasets.build({"name": "cifar100", "root": root}, "dataset").read(Seeds(0)), Preprocess())


@pytest.fixture
def binary(tmp_path, monkeypatch):
    """Files of the official layout, with 200 and 100 records: coarse byte, fine byte, pixels."""
    monkeypatch.setattr(cifar100.Cifar100, "train_files", {"train.bin": 200})
    monkeypatch.setattr(cifar100.Cifar100, "test_files", {"test.bin": 100})
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for file, count in (("train.bin", 200), ("test.bin", 100)):
        table = draw.integers(0, 256, (count, RECORD), dtype=np.uint8)
        table[:, 0] = 7
        table[:, 1] = np.arange(count)[::-1] % 100
        table.tofile(folder / file)
    (folder / "fine_label_names.txt").write_text("\n".join(NAMES) + "\n\n")
    (folder / "coarse_label_names.txt").write_text("unread\n")
    return folder


def test_binary(binary):
    raw = read(binary.parent)
    table = np.fromfile(binary / "train.bin", dtype=np.uint8).reshape(200, RECORD)
    assert raw.train[0].shape == (200, 3, 32, 32)
    assert raw.train[0][23, 1, 4, 7] == table[23, 2 + 1024 + 4 * 32 + 7]
    assert raw.train[1].tolist() == [*range(99, -1, -1)] * 2, "the fine label, not the coarse one"
    assert raw.test[1].tolist() == [*range(99, -1, -1)]
    assert (raw.name, list(raw.class_names), raw.validation) == ("cifar100", NAMES, None)
    assert raw.released == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def test_damaged_records(binary):
    path = binary / "train.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=re.escape(f"{path}: has {200 * RECORD - 1} bytes instead of {200 * RECORD}")):
        read(binary)
    path.write_bytes(content[:1] + b"\x64" + content[2:])
    with pytest.raises(DataError, match=re.escape(f"{path}: label 100 at index 0 lies outside 0..99")):
        read(binary)
    path.write_bytes(content)
    (binary / "test.bin").unlink()
    with pytest.raises(DataError, match=r"test\.bin: cannot be read \(No such file.*cifar-100-binary\.tar\.gz again"):
        read(binary)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file"),
        (b"\xff\xfe\x00", "is no text"),
        ("\n".join(NAMES[:99]).encode(), "names 99 in 99 lines"),
        ("\n".join([*NAMES[:99], "class00"]).encode(), "names 99 in 100 lines"),
    ],
)
def test_damaged_names(binary, content, message):
    path = binary / "fine_label_names.txt"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(path)) + ".*" + re.escape(message) + ".*unpack .* again"):
        read(binary)


def test_pickled_version_is_refused(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    for file in ("train", "test", "meta"):
        (tmp_path / "cifar-100-python" / file).write_bytes(b"\x80\x02")
    with pytest.raises(DataError, match=r"pickled and could run code when read; fetch cifar-100-binary.tar.gz"):
        read(tmp_path)


def test_no_cifar100(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: no CIFAR-100 there")):
        read(tmp_path)
    with pytest.raises(DataError, match=r"dataset.root is missing: give the unpacked binary version \(cifar-100"):
        read(None)


@pytest.mark.parametrize(("suffix", "name"), [("png", "cifar100"), ("jpg", "cifar100 (JPEG)")])
def test_image_folders(tmp_path, image, suffix, name):
    for split in ("train", "test"):
        for label, cls in enumerate(NAMES):
            image(tmp_path / split / cls / f"0.{suffix}", 2 * label, size=(32, 32), mode="RGB")
    raw = read(tmp_path)
    assert (raw.name, list(raw.class_names)) == (name, NAMES)
    assert raw.train[0][:, 0, 16, 16].tolist() == [2 * label for label in range(100)]
    image(tmp_path / "test" / NAMES[3] / f"1.{suffix}", 0, size=(16, 16))
    with pytest.raises(DataError, match="CIFAR-100 images are 32x32"):
        read(tmp_path)
    image(tmp_path / "train" / "one_more" / "0.png", 0, size=(32, 32))
    with pytest.raises(DataError, match="CIFAR-100 has 100 classes, but 101 class folders are there"):
        read(tmp_path)
