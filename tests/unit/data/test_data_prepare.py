from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torchvision.transforms import v2

from hoptm_plugin.core.errors import ConfigurationError, DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import Preprocess, check_ipc, memory
from hoptm_plugin.data.prepare import channel_statistics, prepare
from hoptm_plugin.data.preprocess import BesideReader

CPU = torch.device("cpu")
RELEASED = ((0.741, 0.533, 0.706), (0.402, 0.821, 0.407))


def raw_images(size=(28, 28), channels=3, per_class=10, validation=True) -> RawImages:
    draw = torch.Generator().manual_seed(0)

    def split(count):
        shape = (3 * count, channels, *size)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw), torch.arange(3).repeat(count)

    return RawImages("toy", ("a", "b", "c"), split(per_class), split(4), split(2) if validation else None, RELEASED)


def run(raw, seed=0, **settings):
    return prepare(raw, BesideReader(preprocess=Preprocess(**settings)), Seeds(seed), CPU)


def torchvision_resize(images, size, antialias):
    return v2.functional.center_crop(
        v2.functional.resize(images, [size], v2.InterpolationMode.BICUBIC, antialias=antialias), [size, size]
    )


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(28, 28), (40, 50), (64, 48)])
def test_after_normalise_equals_torchvision_pipeline(size, antialias):
    raw = raw_images(size)
    data = run(raw, image_size=32, normalisation="released", antialias=antialias)
    normalised = v2.functional.normalize(raw.test[0].float() / 255, *map(list, RELEASED))
    assert data.test.images.dtype == torch.float32
    torch.testing.assert_close(data.test.batch(slice(None)), torchvision_resize(normalised, 32, antialias))


@pytest.mark.parametrize("antialias", [False, True])
def test_before_normalise_resizes_and_clamps_pixels_first(antialias):
    raw = raw_images((40, 50))
    data = run(raw, image_size=32, normalisation="released", antialias=antialias, resize_order="before_normalise")
    resized = torchvision_resize(raw.test[0].float() / 255, 32, antialias)
    assert resized.max() > 1
    expected = v2.functional.normalize(resized.clamp(0, 1), *map(list, RELEASED))
    torch.testing.assert_close(data.test.images, expected)


def test_antialias_matters_both_ways():
    for size in ((28, 28), (64, 64)):
        with_it, without = (run(raw_images(size), image_size=32, antialias=flag).test.images for flag in (True, False))
        assert (with_it - without).abs().max() > 0.05


def test_stays_uint8_where_nothing_is_interpolated():
    raw = raw_images((32, 32))
    for settings in ({}, {"image_size": 32}):
        data = run(raw, normalisation="released", **settings)
        assert data.test.images.dtype == torch.uint8
        expected = v2.functional.normalize(raw.test[0].float() / 255, *map(list, RELEASED))
        torch.testing.assert_close(data.test.batch(slice(None)), expected)
        torch.testing.assert_close(data.pixels(data.test.batch(slice(None))), raw.test[0].float() / 255)


def test_only_a_crop_keeps_uint8():
    raw = raw_images((32, 40))
    data = run(raw, image_size=32)
    assert torch.equal(data.test.images, raw.test[0][..., 4:36])


def test_size_none_keeps_shape_as_read():
    assert run(raw_images((20, 30))).image_shape == (3, 20, 30)


def test_blocks_do_not_change_values_or_fingerprint(monkeypatch):
    raw = raw_images()
    whole = run(raw, image_size=32)
    monkeypatch.setattr("hoptm_plugin.data.prepare.BLOCK_BYTES", 1)
    pieces = run(raw, image_size=32)
    assert torch.equal(whole.train.images, pieces.train.images)
    assert whole.fingerprint == pieces.fingerprint
    assert whole.normalisation == pieces.normalisation


def test_measured_is_the_true_mean_and_std_of_train_after_carving():
    raw = raw_images(validation=False)
    data = run(raw, validation_fraction=0.3)
    pixels = data.train.images.double() / 255
    assert len(data.train) == 21
    assert data.normalisation.kind == "measured"
    assert data.normalisation.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert data.normalisation.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), rel=1e-10)
    normalised = data.train.batch(slice(None))
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.std((0, 2, 3), correction=0), torch.ones(3))


def test_statistics_of_known_pixels():
    images = torch.tensor([0, 0, 255, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    assert channel_statistics(images) == ((0.5,), (0.5,))


def test_none_and_given_constants():
    raw = raw_images((32, 32))
    plain = run(raw, normalisation="none")
    torch.testing.assert_close(plain.train.batch(slice(None)), raw.train[0].float() / 255)
    given = run(raw, normalisation="none", mean=(0.1, 0.2, 0.3), std=(1, 2, 4))
    assert given.normalisation.mean == (0.1, 0.2, 0.3)
    assert given.normalisation.kind == "given"


@pytest.mark.parametrize("size", [None, 16])
def test_grey_is_repeated_to_three_channels(size):
    data = run(raw_images((32, 32), channels=1), channels=3, image_size=size)
    images = data.test.batch(slice(None))
    assert images.shape[1] == 3
    assert torch.equal(images[:, 0], images[:, 2])
    assert len(set(data.normalisation.mean)) == 1
    assert data.test.images.is_contiguous()


def test_colour_is_not_reduced():
    with pytest.raises(ConfigurationError, match=r"dataset.preprocess.channels: toy has 3 channels"):
        run(raw_images(), channels=1)


def test_validation_is_the_sources_or_carved_by_seed():
    raw = raw_images()
    own = run(raw)
    assert torch.equal(own.validation.images, raw.validation[0])
    assert "validation_carved" not in own.provenance
    raw = raw_images(validation=False)
    first, again, other = run(raw), run(raw), run(raw, seed=1)
    assert torch.bincount(first.validation.labels).tolist() == [1, 1, 1]
    assert torch.bincount(first.train.labels).tolist() == [9, 9, 9]
    together = torch.cat([first.train.images, first.validation.images]).flatten(1).tolist()
    assert sorted(together) == sorted(raw.train[0].flatten(1).tolist())
    assert torch.equal(first.validation.images, again.validation.images)
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
    assert first.provenance["validation_carved"] == {"fraction": 0.1, "images": 3}


def test_global_generator_is_left_alone():
    state = torch.get_rng_state()
    run(raw_images(validation=False), image_size=32)
    assert torch.equal(torch.get_rng_state(), state)


def test_fingerprint_tells_contents_and_settings_apart():
    raw = raw_images()
    prints = [run(raw).fingerprint]
    pixels = raw.train[0].clone()
    pixels[3, 1, 4, 1] ^= 1
    prints.append(run(replace(raw, train=(pixels, raw.train[1])), normalisation="measured").fingerprint)
    labels = raw.test[1].clone()
    labels[0] = 2
    prints.append(run(replace(raw, test=(raw.test[0], labels))).fingerprint)
    prints.append(run(replace(raw, class_names=("a", "b", "d"))).fingerprint)
    prints += [run(raw, **settings).fingerprint for settings in
               ({"image_size": 32}, {"image_size": 32, "antialias": True}, {"normalisation": "released"},
                {"normalisation": "none"}, {"channels": 3})]  # fmt: skip
    assert len(set(prints)) == len(prints)
    assert run(replace(raw, name="other", provenance={"x": 1})).fingerprint == prints[0]
    assert run(raw, validation_fraction=0.5).fingerprint == prints[0]


def test_fingerprint_is_pinned():
    """Experts are stored under it: a change here makes every stored expert useless, so make it on purpose."""
    images = torch.arange(48, dtype=torch.uint8).view(4, 1, 3, 4)
    labelled = (images, torch.tensor([0, 1, 0, 1]))
    data = run(RawImages("x", ("a", "b"), labelled, labelled, labelled))
    assert data.fingerprint == "d3d7aa00f3fe98367d3899b00fdd96fbfc4ca26bf640bce7d17fef8dc1da371f"


@pytest.mark.parametrize(
    ("changes", "settings", "error", "message"),
    [
        (
            {"released": None},
            {"normalisation": "released"},
            ConfigurationError,
            "use dataset.preprocess.normalisation=m",
        ),
        (
            {"released": ((0.5,), (0.5,))},
            {"normalisation": "released"},
            ConfigurationError,
            "1 constants (released) for",
        ),
        ({}, {"mean": (0.5,), "std": (0.5,)}, ConfigurationError, "dataset.preprocess.mean: 1 constants (given) for"),
        ({"class_names": ("a", "b")}, {}, DataError, "data set toy: train: label 2 at index 2 lies outside 0..1"),
        ({"test": (torch.zeros(2, 3, 28, 28), torch.zeros(2).long())}, {}, DataError, "images must be uint8"),
        ({"test": (torch.zeros(2, 3, 4, 4).byte(), torch.zeros(2))}, {}, DataError, "labels must be int64 (n,)"),
        (
            {"train": (torch.full((9, 3, 28, 28), 7).byte(), torch.arange(3).repeat(3))},
            {"normalisation": "measured"},
            DataError,
            "its measured standard deviation is 0",
        ),
        (
            {"train": (torch.zeros(3, 3, 28, 28).byte(), torch.arange(3)), "validation": None},
            {},
            DataError,
            "none can be held out for validation",
        ),
    ],
)
def test_unfit_images_and_settings(changes, settings, error, message):
    with pytest.raises(error, match=re.escape(message)):
        run(replace(raw_images(), **changes), **settings)


def test_too_little_memory_is_refused_before_allocating(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**20)
    message = "48 images of 3x64x64 as float32 need 0.0 GiB of memory on cpu"
    with pytest.raises(DataError, match=message):
        run(raw_images(), image_size=64)
    run(raw_images())  # 48 * 3 * 28 * 28 bytes of uint8 fit


def test_available_memory_without_proc(monkeypatch, tmp_path):
    assert 2**20 < memory.available_bytes(CPU) < 2**50
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    assert 2**20 < memory.available_bytes(CPU) < 2**50
    assert memory.available_bytes(torch.device("meta")) is None


def test_check_ipc_names_each_short_class():
    raw = raw_images()
    keep = torch.cat([torch.nonzero(raw.train[1] == 0).flatten(), torch.nonzero(raw.train[1] == 2).flatten()[:4]])
    data = run(replace(raw, train=(raw.train[0][keep], raw.train[1][keep])))
    assert check_ipc(data, 5) == [
        "ipc=5: class 'b' of toy has only 0 training images; add images or leave the class out",
        "ipc=5: class 'c' of toy has only 4 training images; use ipc=4 or fewer, or add images",
    ]
    assert len(check_ipc(data, 11)) == 3
    assert check_ipc(run(raw), 10) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("settings", [{}, {"image_size": 32}, {"image_size": 32, "zca": True}])
def test_cuda_equals_cpu(settings):
    raw = raw_images()
    there = prepare(raw, BesideReader(preprocess=Preprocess(**settings)), Seeds(0), torch.device("cuda"))
    here = run(raw, **settings)
    assert there.device.type == there.test.labels.device.type == "cuda"
    assert there.fingerprint == here.fingerprint
    torch.testing.assert_close(there.test.batch(slice(None)).cpu(), here.test.batch(slice(None)), atol=1e-3, rtol=1e-3)
