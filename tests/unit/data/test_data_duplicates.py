"""Leaks: planted ones are found, pictures that merely resemble each other are not taken for them."""

from __future__ import annotations

import io
import os
import re
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import Preprocess, load
from hoptm_plugin.data.duplicates import find
from hoptm_plugin.data.prepare import prepare
from hoptm_plugin.data.preprocess import BesideReader

CPU = torch.device("cpu")


def textured(count, side=32, channels=3, seed=0):
    """Return pictures as varied as photographs: smooth shapes with fine detail on top."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    fine = torch.nn.functional.interpolate(torch.randn(count, channels, side // 2, side // 2, generator=draw),
                                           size=(side, side), mode="bilinear")  # fmt: skip
    return (255 * (0.2 + 0.5 * smooth) + 18 * fine).clamp(0, 255).to(torch.uint8)


def splits(train, test, labels=None):
    marks = [torch.arange(len(part)) % 2 for part in (train, test)] if labels is None else labels
    empty = train[:0], torch.zeros(0, dtype=torch.int64)
    return {"train": (train, marks[0]), "validation": empty, "test": (test, marks[1])}


def reencoded(image, quality=75):
    stream = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, "jpeg", quality=quality)
    return torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1)


def test_equal_images_are_counted_within_and_across():
    images = textured(20)
    train = torch.cat([images[:10], images[:2]])
    test = torch.cat([images[10:14], images[3:4], images[10:11]])
    labels = [torch.zeros(12, dtype=torch.int64), torch.tensor([0, 0, 0, 0, 1, 0])]
    found = find(splits(train, test, labels))
    assert (found.within, found.across, found.conflicting, found.near) == (3, 1, 2, 0)
    assert found.pairs == ((("test", 4), ("train", 3), True),)
    assert found.copies.tolist() == [3]
    assert (found.looked_at, found.of, found.references) == (5, 5, 12)


def test_validation_is_looked_at_as_well():
    images = textured(12)
    parts = splits(images[:6], images[6:10]) | {"validation": (images[[2, 7, 11]], torch.tensor([0, 0, 1]))}
    found = find(parts)
    assert (found.across, found.near) == (2, 0)
    assert {pair[:2] for pair in found.pairs} == {
        (("validation", 0), ("train", 2)), (("test", 1), ("validation", 1))
    }  # fmt: skip
    assert found.copies.tolist() == [2], "what is only in validation and test stays in both"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("down", "right"), [(0, 1), (1, 0), (-1, -1), (2, 0), (-2, 2)])
def test_a_shift_by_up_to_two_pixels_is_found(channels, down, right):
    images = textured(40, channels=channels)
    moved = torch.roll(images[5:6], (down, right), dims=(2, 3))  # what comes in at the border is wrong
    found = find(splits(images[:20], torch.cat([images[20:30], moved])))
    assert (found.across, found.near) == (0, 1)
    assert found.pairs == ((("test", 10), ("train", 5), False),)


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_a_re_encoded_image_is_found(quality):
    images = textured(40)
    found = find(splits(images[:20], torch.cat([images[20:30], reencoded(images[7], quality)[None]])))
    assert found.pairs == ((("test", 10), ("train", 7), False),)


def test_other_pictures_are_not_near():
    images = textured(600, seed=3)
    found = find(splits(images[:400], images[400:]))
    assert (found.within, found.across, found.near) == (0, 0, 0)


def test_images_without_contrast_resemble_nothing_but_their_equals():
    flat = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(-1, 1, 16, 16)
    found = find(splits(flat[:5], flat[4:]))
    assert (found.across, found.near, found.looked_at) == (1, 0, 3)


def test_images_too_small_to_tell_are_compared_for_equality_alone():
    images = textured(20, side=8)
    found = find(splits(images[:10], torch.cat([images[10:], images[3:4], torch.roll(images[4:5], 1, dims=3)])))
    assert (found.across, found.near, found.looked_at, found.of) == (1, 0, 0, 11)


def test_the_search_is_bounded_and_says_so(monkeypatch):
    monkeypatch.setattr("hoptm_plugin.data.duplicates.MOST_QUERIES", 5)
    monkeypatch.setattr("hoptm_plugin.data.duplicates.MOST_REFERENCES", 7)
    images = textured(40)
    parts = splits(images[:20], images[20:])
    found = find(parts)
    assert (found.looked_at, found.of, found.references) == (5, 20, 7)
    assert (lambda whole: (whole.looked_at, whole.references))(find(parts, bounded=False)) == (20, 20)


def raw(train, test, validation=None):
    def labelled(images):
        return images, torch.arange(len(images)) % 2

    return RawImages("toy", ("a", "b"), labelled(train), labelled(test), validation and labelled(validation))


def test_warn_refuse_and_drop():
    images = textured(60)
    leaking = raw(images[:40], torch.cat([images[40:50], images[3:4], torch.roll(images[8:9], 1, dims=3)]))

    def run(then):
        return prepare(
            leaking, BesideReader(preprocess=Preprocess(validation_fraction=0.2), duplicates=then), Seeds(0), CPU
        )

    warned = run("warn")
    (line,) = warned.told[1:]
    assert line.startswith("duplicates: 1 validation and test images equal one of another split and 1 nearly equal "
                           "one (test[10] = train[3], test[11] ~ train[8])")  # fmt: skip
    record = warned.provenance["duplicates"]
    assert record["pairs"] == ["test[10] = train[3]", "test[11] ~ train[8]"]
    assert (record["across"], record["near"], record["dropped"], record["looked_at"]) == (1, 1, 0, 19)
    with pytest.raises(DataError, match=re.escape("data set toy: 1 validation and test images equal one of another")):
        run("refuse")
    dropped = run("drop")
    assert len(dropped.train) == len(warned.train) - 2
    assert torch.equal(dropped.test.images, warned.test.images), "never from the test split"
    assert dropped.told[1].endswith("2 training images that are among them were dropped")
    assert dropped.provenance["duplicates"]["dropped"] == 2
    assert dropped.fingerprint != warned.fingerprint
    assert prepare(raw(images[:40], images[40:50]), BesideReader(duplicates="refuse"), Seeds(0), CPU).told[1:] == ()


def test_rows_are_those_of_the_source_where_validation_was_carved():
    images = textured(40)
    data = prepare(raw(images[:30], torch.cat([images[30:], images[17:18]])), BesideReader(), Seeds(0), CPU)
    assert data.provenance["duplicates"]["pairs"] == ["test[10] = train[17]"]


@pytest.fixture
def folders(tmp_path):
    """Image folders of 40 pictures, of which test holds four that leak."""
    images = textured(60, side=48)
    root = tmp_path / "leaky"
    for split, rows in (("train", range(40)), ("test", range(40, 56))):
        for row in rows:
            save(images[row], root / split / "ab"[row % 2] / f"{row}.png")
    return root, images


def save(image, path, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path, **how)


def turned(image):
    """Return a picture lying on its side, and the tag that rights it."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    return torch.rot90(image, 1, dims=(1, 2)), exif


PLANTED = {
    "exact": lambda image, path: save(image, path.with_suffix(".png")),
    "re-encoded": lambda image, path: save(image, path.with_suffix(".jpg"), quality=80),
    "rotated by its tag": lambda image, path: (lambda pixels, exif: save(
        pixels, path.with_suffix(".jpg"), quality=90, exif=exif))(*turned(image)),
    "shifted by a pixel": lambda image, path: save(torch.roll(image, 1, dims=2), path.with_suffix(".png")),
}  # fmt: skip


@pytest.mark.parametrize("image_size", [None, 32])
@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_a_planted_leak_is_found(folders, plant, image_size):
    root, images = folders
    plant(images[6], root / "test" / "a" / "leak")
    how = {"image_size": image_size, "resize_order": "while_reading"}
    data = load({"name": "folder", "root": root, "preprocess": how}, Seeds(0), CPU)
    record = data.provenance["duplicates"]
    assert record["across"] + record["near"] == 1
    sign = "=" if record["across"] else "~"
    assert re.search(rf"\(test/a/leak\.\w+ {sign} train/a/6\.png\)", data.told[1]), data.told
    assert "leak" not in str(data.provenance["duplicates"]), "the card names rows, and no files"


@pytest.mark.campaign
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "spec", "near"),
    [
        ("bloodcells.npz", {"name": "npz"}, 34),
        ("covid19cxr.zip", {"name": "covid19cxr", "classes": ["COVID", "Normal", "Viral Pneumonia"]}, 1),
        ("cifar10.zip", {"name": "cifar10"}, 15),
    ],
)
def test_the_shared_data_s_own_duplicates(tmp_path, name, spec, near):
    """All but the last few of the pairs were looked at, and show the same: that is where the thresholds come from."""
    root = os.environ.get("HOPTM_DATA_ROOT")
    if not root or not (Path(root) / name).is_file():
        pytest.skip(f"{name} is not under HOPTM_DATA_ROOT ({root or 'unset'})")
    place = Path(root) / name
    if name.endswith("zip"):
        with zipfile.ZipFile(place) as archive:
            archive.extractall(tmp_path)
        place = tmp_path
    data = load({**spec, "root": place, "preprocess": {}}, Seeds(0), CPU)
    record = data.provenance["duplicates"]
    assert [record[key] for key in ("within", "across", "conflicting", "looked_at")] == [0, 0, 0, 2000]
    assert record["near"] == pytest.approx(near, abs=1)  # rounding differs from machine to machine


def test_looking_costs_little():
    spec = {"name": "digits", "preprocess": {}}
    data = load(spec, Seeds(0), CPU)
    parts = {name: (getattr(data, name).images, getattr(data, name).labels) for name in ("train", "validation", "test")}
    find(parts)  # the first call loads code
    began = time.process_time()
    found = find(parts)
    assert time.process_time() - began < 1  # 0.2 s where nothing else runs
    assert (found.across, found.within) == (0, 0)


def test_near_copies_in_a_carved_validation_split_are_found():
    images = textured(60)
    moved = torch.roll(images, 1, dims=3)
    data = prepare(raw(images, moved), BesideReader(preprocess=Preprocess(validation_fraction=0.2)), Seeds(0), CPU)
    assert data.provenance["duplicates"]["near"] == 60
    assert "validation[" not in data.told[1], "a carved image is named by its row in train"


@pytest.mark.parametrize("moved", [0, 1])
def test_dropping_all_of_train_is_refused(moved):
    images = textured(40)
    with pytest.raises(DataError, match="duplicates=drop would leave no training images of"):
        prepare(raw(images, torch.roll(images, moved, dims=3)), BesideReader(duplicates="drop"), Seeds(0), CPU)
