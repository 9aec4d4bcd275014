"""Size and shape: one rule for all images, and the line that says it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from hoptm_plugin import compose
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import Preprocess, load
from hoptm_plugin.data.prepare import prepare
from hoptm_plugin.data.preprocess import BesideReader

CPU = torch.device("cpu")


def raw_images(height, width, channels=3, **fields):
    draw = torch.Generator().manual_seed(0)

    def split(count):
        return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=draw), (
            torch.arange(count) % 2)  # fmt: skip

    return RawImages("toy", ("a", "b"), split(12), split(4), split(4), **fields)


def run(raw, **settings):
    return prepare(raw, BesideReader(preprocess=Preprocess(**settings)), Seeds(0), CPU)


def pixels(data):
    return data.pixels(data.test.batch(slice(None)))


@pytest.mark.parametrize("order", ["after_normalise", "before_normalise"])
@pytest.mark.parametrize("size", [(20, 40), (40, 20), (12, 16), (8, 16)])
def test_padding_fits_the_longer_side_and_fills_with_black(size, order):
    raw = raw_images(*size)
    found = pixels(run(raw, image_size=16, fit="pad", antialias=True, resize_order=order))
    inner = tuple(16 * side // max(size) for side in size)
    top, left = ((16 - side) // 2 for side in inner)
    expected = torch.zeros(4, 3, 16, 16)
    resized = F.interpolate(raw.test[0].float() / 255, size=inner, mode="bicubic", antialias=True, align_corners=False)
    inside = expected[..., top : top + inner[0], left : left + inner[1]]
    inside[:] = resized.clamp(0, 1) if order == "before_normalise" else resized
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_padding_alone_keeps_bits():
    raw = raw_images(32, 20)
    data = run(raw, image_size=32, fit="pad")
    assert data.test.images.dtype == torch.uint8
    assert torch.equal(data.test.images, F.pad(raw.test[0], (6, 6)))


def test_stretching_takes_both_sides():
    raw = raw_images(20, 40)
    found = pixels(run(raw, image_size=16, fit="stretch", antialias=True))
    expected = F.interpolate(raw.test[0].float() / 255, size=(16, 16), mode="bicubic", antialias=True)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_fit_decides_the_fingerprint_and_the_digest_only_where_it_is_not_the_usual_one():
    raw = raw_images(20, 40)
    assert len({run(raw, image_size=16, fit=fit).fingerprint for fit in ("crop", "pad", "stretch")}) == 3
    usual = compose("dataset=npz")
    spec = {key: value for key, value in usual.dataset.items() if key != "duplicates"}
    spec["preprocess"] = {key: value for key, value in spec["preprocess"].items() if key != "fit"}
    assert usual.changed(dataset=spec).digest() == usual.digest(), "runs from before there were these settings"
    assert usual.changed(dataset=spec).set_digest() == usual.set_digest()
    assert compose("dataset=npz", "dataset.duplicates=refuse").digest() == usual.digest()
    for other in ("dataset.duplicates=drop", "dataset.preprocess.fit=pad", "dataset.preprocess.zca=true"):
        assert compose("dataset=npz", other).digest() != usual.digest(), other


def line(raw, **settings):
    return run(raw, **settings).provenance["read"]


def test_the_line_says_what_is_done():
    square = raw_images(28, 28)
    assert line(square) == "20 images of 28x28, RGB -> as they are, 28x28, 3 channels"
    assert line(square, image_size=28) == "20 images of 28x28, RGB -> as they are, 28x28, 3 channels"
    assert line(square, image_size=32) == "20 images of 28x28, RGB -> 32x32, 3 channels; all resized up"
    assert line(square, image_size=16) == "20 images of 28x28, RGB -> 16x16, 3 channels"
    assert (
        line(raw_images(8, 8, 1), image_size=8, channels=3) == "20 images of 8x8, grey -> as they are, 8x8, 3 channels"
    )
    wide = raw_images(20, 40, 1)
    assert line(wide) == "20 images of 40x20, grey -> as they are, 40x20, 1 channel"
    assert line(wide, image_size=16) == (
        "20 images of 40x20, grey -> centre square, 16x16, 1 channel; the crop keeps 50 % of a picture's area"
    )
    assert line(wide, image_size=32, fit="pad") == (
        "20 images of 40x20, grey -> padded with black to a square, 32x32, 1 channel"
    )
    assert line(wide, image_size=32, fit="stretch").endswith("stretched to a square, 32x32, 1 channel; all resized up")


def test_files_are_named_in_the_log_and_counted_in_the_card():
    raw = raw_images(8, 8, remarks=("labels 1..2 taken as 0..1",), left_out=("notes.md", "masks/"))
    data = run(raw)
    assert data.provenance["read"].endswith("; labels 1..2 taken as 0..1; 2 left out that are no picture of a class")
    assert data.told == (f"{data.provenance['read']}: notes.md, masks/",)
    many = run(replace(raw, left_out=tuple(f"{index}.txt" for index in range(12)), remarks=("x" * 600,)))
    assert many.told[0].endswith("9.txt and 2 more")
    assert len(many.provenance["read"]) == 500


def test_a_name_claims_no_size_that_was_not_used():
    raw = raw_images(64, 64, named_size=64)
    assert run(raw, image_size=64).name == run(raw).name == "toy"
    assert run(raw, image_size=32).name == "toy as 32x32"


def test_arrays_cannot_be_resized_while_they_are_read():
    with pytest.raises(ConfigurationError, match=re.escape("resize_order: toy holds arrays, no picture files")):
        run(raw_images(8, 8), image_size=16, resize_order="while_reading")


@pytest.fixture
def mixed(tmp_path):
    """Image folders of pictures of five sizes, grey but for one; the majority is the smallest."""
    draw = np.random.default_rng(0)
    sizes = [(9, 7)] * 8 + [(40, 20), (20, 60), (33, 33), (128, 96)]
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / "mixed" / split / name).mkdir(parents=True)
            for index, (width, height) in enumerate(sizes):
                picture = Image.fromarray(draw.integers(0, 256, (height, width), dtype=np.uint8))
                picture.save(tmp_path / "mixed" / split / name / f"{index:02}.png")
    return tmp_path / "mixed"


def read(root, fit="crop", **preprocess):
    usual = {"image_size": 16, "fit": fit, "normalisation": "none", "resize_order": "while_reading"}
    return load({"name": "folder", "root": root, "preprocess": usual | preprocess}, Seeds(0), CPU)


def framed(picture):
    whole = Image.new("L", (16, 16))
    whole.paste(picture, ((16 - picture.width) // 2, (16 - picture.height) // 2))
    return whole


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_each_picture_goes_to_the_target_by_its_own_resize(mixed, fit):
    data = read(mixed, fit)
    assert data.test.images.dtype == torch.uint8
    assert data.image_shape == (1, 16, 16)
    files = [path for name in "ab" for path in sorted((mixed / "test" / name).iterdir())]
    for path, found in zip(files, data.test.images, strict=True):
        picture = Image.open(path)
        expected = {
            "crop": lambda picture=picture: ImageOps.fit(picture, (16, 16), Image.Resampling.BICUBIC),
            "pad": lambda picture=picture: framed(ImageOps.contain(picture, (16, 16), Image.Resampling.BICUBIC)),
            "stretch": lambda picture=picture: picture.resize((16, 16), Image.Resampling.BICUBIC),
        }[fit]()
        assert np.array_equal(found[0].numpy(), np.asarray(expected)), path


def test_no_majority_decides(mixed):
    """The 33x33 picture keeps its detail, although most pictures are 9x7."""
    before = read(mixed).test.images[10]
    for path in mixed.glob("*/*/0[0-7].png"):
        path.unlink()
    after = read(mixed).test.images[2]
    assert torch.equal(before, after)


def test_the_line_of_pictures(mixed):
    assert read(mixed).provenance["read"] == (
        "48 images of 9x7 to 128x96, PNG grey 8-bit -> centre square, 16x16, 1 channel; 32 resized up; the crop keeps "
        "at least 33 % of a picture's area"
    )
    with pytest.raises(ConfigurationError, match="the pictures of mixed are of 9x7 to 128x96; say what size"):
        read(mixed, image_size=None)


def test_pictures_of_one_size_can_go_the_published_way(mixed):
    for path in mixed.glob("*/*/*.png"):
        if path.stem > "01":
            path.unlink()
    published = read(mixed, resize_order="after_normalise")
    assert published.test.images.dtype == torch.float32
    source = torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in sorted(mixed.glob("test/*/*.png"))]))
    resized = F.interpolate(source[:, None].float() / 255, size=(16, 20), mode="bicubic", align_corners=False)
    torch.testing.assert_close(published.test.images, resized[..., 2:18], atol=1e-5, rtol=0)
    assert read(mixed).test.images.dtype == torch.uint8
