from __future__ import annotations

import io
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from hoptm_plugin.core.errors import ConfigurationError, DataError
from hoptm_plugin.core.interfaces import datasets
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import Preprocess, load
from hoptm_plugin.data.covid19cxr import CLASSES
from hoptm_plugin.data.geometry import decoded

CPU = torch.device("cpu")


def build(root, **keywords):
    return datasets.build({"name": "covid19cxr", "root": str(root), **keywords}, "dataset")


def read(root, seed=0, **keywords):
    return decoded(build(root, **keywords).read(Seeds(seed)), Preprocess())


def test_split_is_stratified_and_its_files_hold_these_pixels(covid_root):
    raw = read(covid_root)
    assert raw.class_names == ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
    assert torch.bincount(raw.train[1]).tolist() == [8] * 4
    assert torch.bincount(raw.test[1]).tolist() == [2] * 4
    split = raw.provenance["split"]
    for name, (images, labels) in (("train", raw.train), ("test", raw.test)):
        assert len(split[name]) == len(images)
        for file, image, label in zip(split[name], images, labels.tolist(), strict=True):
            assert file.split("/")[:2] == [raw.class_names[label], "images"]
            assert image.unique().tolist() == [10 * label + int(file[-5])]
    assert not set(split["train"]) & set(split["test"])
    assert raw.train[0].shape[1:] == (3, 12, 12)


def test_masks_and_hidden_files_are_never_read(covid_root):
    for mask in covid_root.rglob("masks/*"):
        mask.write_bytes(b"reading this would fail")
    raw = read(covid_root)
    assert len(raw.train[0]) + len(raw.test[0]) == 40
    assert max(int(raw.train[0].max()), int(raw.test[0].max())) < 255


def test_seed_decides_the_split_and_leaves_global_generators_alone(covid_root):
    state = torch.get_rng_state()
    first, again, other = (read(covid_root, seed).provenance["split"] for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert torch.equal(torch.get_rng_state(), state)


def test_parent_folder_serves_as_root(covid_root):
    assert read(covid_root.parent).provenance == read(covid_root).provenance


def test_class_folder_without_images_folder_is_read_plain(covid_root):
    expected = read(covid_root)
    for folder in covid_root.iterdir():
        if folder.is_dir():
            for file in (folder / "images").iterdir():
                shutil.move(file, folder / file.name)
            (folder / "images").rmdir()
    raw = read(covid_root)
    assert torch.equal(raw.train[0], expected.train[0])
    assert raw.provenance["split"]["test"] == [
        file.replace("images/", "") for file in expected.provenance["split"]["test"]
    ]


def test_missing_class_is_refused_unless_left_out(covid_root):
    shutil.rmtree(covid_root / "Lung_Opacity")
    with pytest.raises(DataError) as caught:
        build(covid_root).locate()
    text = str(caught.value)
    assert str(covid_root) in text
    assert "missing: Lung_Opacity (found: COVID, Normal, Viral Pneumonia)" in text
    assert '"dataset.classes=[COVID,Normal,Viral Pneumonia]"' in text
    raw = read(covid_root, classes=["Viral Pneumonia", "Normal", "COVID"])
    assert raw.class_names == ("COVID", "Normal", "Viral Pneumonia")
    assert raw.name == "covid19cxr (COVID, Normal, Viral Pneumonia)"
    assert raw.train[0][raw.train[1] == 1].min() == 20


def test_subset_keeps_each_class_split(covid_root):
    full = [file for file in read(covid_root).provenance["split"]["test"] if "Normal" in file]
    part = [f for f in read(covid_root, classes=["COVID", "Normal"]).provenance["split"]["test"] if "Normal" in f]
    assert full == part


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["COVID", "Covid"], "no class 'Covid'"),
        (["COVID"], "at least two different classes"),
        (["COVID", "COVID"], "at least two different classes"),
        ("COVID", "dataset.classes: Input should be a valid tuple"),
    ],
)
def test_bad_class_lists(covid_root, classes, message):
    with pytest.raises(ConfigurationError, match=message):
        build(covid_root, classes=classes)


def test_wrong_roots(covid_root, tmp_path):
    with pytest.raises(DataError, match=r"dataset.root is missing"):
        datasets.build({"name": "covid19cxr"}, "dataset").read(Seeds(0))
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'no'}: no such file or folder")):
        read(tmp_path / "no")
    with pytest.raises(DataError, match="is a file, not a folder; unpack it"):
        read(covid_root / "README.md.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="none of the class folders COVID"):
        read(tmp_path / "empty")
    shutil.copytree(covid_root, tmp_path / "copy")
    with pytest.raises(
        DataError, match=re.escape("several folders with class folders (COVID-19_Radiography_Dataset, ")
    ):
        read(tmp_path)


def test_class_without_images(covid_root):
    shutil.rmtree(covid_root / "Normal" / "images")
    (covid_root / "Normal" / "images").mkdir()
    with pytest.raises(DataError, match=re.escape(f"{covid_root / 'Normal' / 'images'}: holds no images")):
        read(covid_root)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_image_is_named(covid_root, suffix):
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "png" if suffix == "png" else "jpeg")
    path = covid_root / "Normal" / "images" / f"cut.{suffix}"
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) * 2 // 3])
    with pytest.raises(DataError, match="1 of 41 images cannot be read") as caught:
        load({"name": "covid19cxr", "root": covid_root, "preprocess": {"image_size": 16}}, Seeds(0), CPU)
    assert str(path) in str(caught.value)


def test_many_unreadable_images_are_counted_and_the_first_named(covid_root):
    for index in range(10):
        (covid_root / "Normal" / "images" / f"Normal-{index}.png").write_bytes(b"junk" * index)
    with pytest.raises(DataError, match="10 of 40 images cannot be read") as caught:
        read(covid_root)
    text = str(caught.value)
    assert "Normal-1.png, " in text
    assert "Normal-3.png and 6 more: is of no format that is read" in text
    assert "Normal-0.png: is empty" in text


def test_sixteen_bit_image_beside_eight_bits_is_refused(covid_root):
    path = covid_root / "COVID" / "images" / "deep.png"
    Image.fromarray(np.full((12, 12), 40000, dtype=np.uint16)).save(path)
    with pytest.raises(DataError, match=r"no common scale: 40 of 8 bits .*, 1 of more than 8 bits"):
        read(covid_root)


def test_colour_and_grey_files_mix_and_decode_to_grey(covid_root, image):
    Image.new("RGB", (12, 12), (255, 0, 0)).save(covid_root / "COVID" / "images" / "COVID-0.png")
    rgb, grey = read(covid_root), read(covid_root, channels=1)
    assert grey.train[0].shape[1] == 1
    assert grey.released is None
    red = torch.cat([rgb.train[0], rgb.test[0]])[:, :, 0, 0].tolist().index([255, 0, 0])
    assert torch.cat([grey.train[0], grey.test[0]])[red].unique().tolist() == [76]  # 255 * 0.299


def test_pictures_of_other_sizes_are_each_resized_by_themselves(covid_root, image):
    image(covid_root / "Normal" / "images" / "Normal-0.png", 20, size=(48, 24))
    with pytest.raises(ConfigurationError, match="image_size: the pictures of covid19cxr are of 12x12 to 48x24; say"):
        read(covid_root)
    spec = {"name": "covid19cxr", "root": covid_root, "preprocess": {"image_size": 16, "normalisation": "released"}}
    data = load(spec, Seeds(0), CPU)
    assert data.image_shape == (3, 16, 16)
    assert data.provenance["read"].startswith(
        "40 images of 12x12 to 48x24, PNG grey 8-bit -> centre square, 16x16, 3 channels; 39 resized up; the crop "
        "keeps at least 50 % of a picture's area; resized while they were read, since sizes differ; no test split "
        "there: 8 of 40 images were drawn as one"
    )  # fmt: skip
    hidden = ", ".join(f"{name}/images/._hidden.png" for name in sorted(CLASSES))
    assert data.told[0].endswith(f"5 left out that are no picture of a class: README.md.txt, {hidden}")
    pixels = data.pixels(torch.cat([part.batch(slice(None)) for part in (data.train, data.validation, data.test)]))
    values = (255 * pixels).round().flatten(1)
    assert torch.equal(values.min(dim=1).values, values.max(dim=1).values), "even pictures stay even"
    assert sorted(values[:, 0].int().tolist()) == list(range(40))


def test_load_carves_validation_from_the_listed_train_files(covid_root):
    spec = {"name": "covid19cxr", "root": covid_root,
            "preprocess": {"normalisation": "released", "validation_fraction": 0.25}}  # fmt: skip
    data = load(spec, Seeds(0), CPU)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [24, 8, 8]
    split = data.provenance["split"]
    assert {name: len(files) for name, files in split.items()} == {"train": 24, "validation": 8, "test": 8}
    assert len(set().union(*split.values())) == 40
    for name, part in (("train", data.train), ("validation", data.validation)):
        values = (data.pixels(part.batch(slice(None)))[:, 0, 0, 0] * 255).round().int().tolist()
        assert [value % 10 for value in values] == [int(file[-5]) for file in split[name]]
    assert data.normalisation.mean == (0.485, 0.456, 0.406)
    assert data.normalisation.kind == "released"


def test_released_constants_need_colour(covid_root):
    spec = {"name": "covid19cxr", "root": covid_root, "channels": 1, "preprocess": {"normalisation": "released"}}
    with pytest.raises(ConfigurationError, match=r"use dataset.preprocess.normalisation=measured"):
        load(spec, Seeds(0), CPU)
