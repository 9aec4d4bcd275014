from __future__ import annotations

import re

import pytest

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import datasets
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import Preprocess, check_spec, tinyimagenet
from hoptm_plugin.data.geometry import decoded

WNIDS = ("n01443537", "n01629819", "n02012849", "n03126707")  # alphabetical; wnids.txt lists them otherwise
VALUES = (30, 80, 130, 180)


def read(root):
    return decoded(datasets.build({"name": "tinyimagenet", "root": root}, "dataset").read(Seeds(0)), Preprocess())


@pytest.fixture
def folder(tmp_path, image, monkeypatch):
    """The official layout with 4 classes of 3 training and 2 validation images; the grey level is the class's."""
    for name, count in (("CLASSES", 4), ("TRAIN_IMAGES", 3), ("TEST_IMAGES", 2)):
        monkeypatch.setattr(tinyimagenet, name, count)
    root = tmp_path / "tiny-imagenet-200"
    annotations = []
    for label, (wnid, value) in enumerate(zip(WNIDS, VALUES, strict=True)):
        for index in range(3):
            mode = "L" if index == 1 else "RGB"  # the official archive mixes both
            image(root / "train" / wnid / "images" / f"{wnid}_{index}.JPEG", value + index, size=(64, 64), mode=mode)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("unread\n")
        for index in range(2):
            name = f"val_{4 * index + label}.JPEG"
            image(root / "val" / "images" / name, value + 10 + index, size=(64, 64), mode="RGB")
            annotations.append(f"{name}\t{wnid}\t0\t32\t44\t62")
    image(root / "test" / "images" / "test_0.JPEG", 255, size=(64, 64), mode="RGB")
    (root / "val" / "val_annotations.txt").write_text("\n".join(sorted(annotations)) + "\n")
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    words = ("goldfish, Carassius auratus", "European fire salamander", "crane", "crane")
    lines = [f"{wnid}\t{word}" for wnid, word in zip(WNIDS, words, strict=True)]
    (root / "words.txt").write_text("\n".join(["n00001740\tentity", *lines]) + "\n")
    return root


@pytest.mark.parametrize("level", ["itself", "parent"])
def test_values_labels_and_names(folder, level):
    raw = read(folder if level == "itself" else folder.parent)
    assert raw.name == "tinyimagenet"
    assert raw.class_names == ("goldfish", "European fire salamander", "crane (n02012849)", "crane (n03126707)")
    assert (raw.train[0].shape, raw.test[0].shape, raw.validation) == ((12, 3, 64, 64), (8, 3, 64, 64), None)
    assert raw.train[1].tolist() == [label for label in range(4) for _ in range(3)]
    assert raw.test[1].tolist() == [label for label in range(4) for _ in range(2)]
    assert raw.train[0][:, 2, 30, 30].tolist() == [value + index for value in VALUES for index in range(3)]
    assert raw.test[0][:, 0, 5, 60].tolist() == [value + 10 + index for value in VALUES for index in range(2)]
    assert raw.released == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_identifiers_serve_where_words_are_missing(folder):
    words = folder / "words.txt"
    words.write_text(f"{WNIDS[0]}\tgoldfish\nno tab\n{WNIDS[1]}\t\n")
    assert read(folder).class_names == ("goldfish", *WNIDS[1:])
    words.unlink()
    assert read(folder).class_names == WNIDS


def test_locating_reads_nothing(folder, tmp_path):
    spec = {"name": "tinyimagenet", "root": folder}
    check_spec(spec)
    with pytest.raises(DataError, match=r"no Tiny ImageNet there \(wnids.txt is missing\)"):
        check_spec(spec | {"root": folder / "train"})
    with pytest.raises(DataError, match=r"dataset.root is missing: give the unpacked Tiny ImageNet"):
        check_spec(spec | {"root": None})
    (folder / "val" / "images").rename(folder / "val" / "pictures")
    with pytest.raises(DataError, match=re.escape(f"{folder / 'val' / 'images'}: no such folder; unpack")):
        check_spec(spec)


def refused(folder, message):
    with pytest.raises(DataError, match=message + r".*unpack tiny-imagenet-200\.zip again"):
        read(folder)


def test_incomplete_training_images(folder):
    images = folder / "train" / WNIDS[2] / "images"
    next(images.iterdir()).unlink()
    refused(folder, re.escape(f"{images}: 2 images instead of 3"))
    images.rename(folder / "elsewhere")
    refused(folder, re.escape(f"{images}: no such folder"))


def test_unreadable_image(folder):
    path = folder / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_2.JPEG"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=rf"1 of 20 images cannot be read \({re.escape(str(path))}.*replace or remove"):
        read(folder)


def test_missing_test_image(folder):
    (folder / "val" / "images" / "val_5.JPEG").unlink()
    with pytest.raises(DataError, match=r"1 of 20 images cannot be read .*val_5\.JPEG"):
        read(folder)


@pytest.mark.parametrize("where", ["train", "val"])
def test_images_of_another_size(folder, image, where):
    path = folder / "val" / "images" / "val_0.JPEG" if where == "val" else (
        folder / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_0.JPEG")  # fmt: skip
    image(path, 1, size=(32, 32), mode="RGB")
    refused(folder, re.escape(f"{path}: is 32x32, but Tiny ImageNet images are 64x64"))


@pytest.mark.parametrize(
    ("wnids", "message"), [(WNIDS[:3], "names 3 in 3 lines"), ((*WNIDS[:3], WNIDS[0]), "names 3 in 4 lines")]
)
def test_damaged_class_list(folder, wnids, message):
    (folder / "wnids.txt").write_text("\n".join(wnids))
    refused(folder, message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("val_0.JPEG", r"entry 1 \('val_0.JPEG'\) must start with a file's name, a tab and a class"),
        ("val_0.JPEG\tn99999999\t0", "entry 1 .* must start with"),
        (f"../../train/x.JPEG\t{WNIDS[0]}\t0", "entry 1 .* must start with"),
        (f"val_5.JPEG\t{WNIDS[1]}\t0", r"val_5\.JPEG is listed more than once"),
        ("", f"class {WNIDS[0]}: 1 images instead of 2"),
    ],
)
def test_damaged_annotations(folder, line, message):
    path = folder / "val" / "val_annotations.txt"
    path.write_text("\n".join([line, *path.read_text().splitlines()[1:]]))
    refused(folder, message)


def test_unreadable_lists(folder):
    path = folder / "val" / "val_annotations.txt"
    path.write_bytes(b"\xff\xfe\x00")
    refused(folder, re.escape(f"{path}: is no text"))
    path.unlink()
    refused(folder, re.escape(f"{path}: cannot be read (No such file"))
