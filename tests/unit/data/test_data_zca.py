from __future__ import annotations

import numpy as np
import pytest
import torch

from hoptm_plugin.core.errors import ConfigurationError, DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import Preprocess, memory
from hoptm_plugin.data.prepare import prepare
from hoptm_plugin.data.preprocess import BesideReader

CPU = torch.device("cpu")


def correlated(count: int, seed: int, size: int = 6) -> torch.Tensor:
    """Smooth images, so that the covariance is far from diagonal."""
    noise = torch.rand(count, 3, size + 2, size + 2, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.avg_pool2d(noise, 3, stride=1) * 255).round().to(torch.uint8)


@pytest.fixture
def raw():
    splits = [(correlated(count, seed), torch.arange(count) % 2) for seed, count in enumerate((200, 30, 20))]
    return RawImages("toy", ("a", "b"), *splits)


def test_equals_the_formula_in_float64(raw):
    eps = 0.1
    data = prepare(
        raw, BesideReader(preprocess=Preprocess(zca=True, zca_eps=eps, normalisation="released")), Seeds(0), CPU
    )
    train = raw.train[0].flatten(1).double().numpy() / 255
    mean = train.mean(0)
    values, vectors = np.linalg.eigh(np.cov(train, rowvar=False, ddof=1))
    transform = vectors @ np.diag((values + eps) ** -0.5) @ vectors.T
    inverse = vectors @ np.diag((values + eps) ** 0.5) @ vectors.T
    for split, (pixels, _) in ((data.train, raw.train), (data.validation, raw.validation), (data.test, raw.test)):
        expected = (pixels.flatten(1).double().numpy() / 255 - mean) @ transform
        np.testing.assert_allclose(split.batch(slice(None)).flatten(1).numpy(), expected, atol=2e-5)
    stored_mean, stored_inverse = data.zca_inverse
    np.testing.assert_allclose(stored_mean.numpy(), mean, atol=1e-6)
    np.testing.assert_allclose(stored_inverse.numpy(), inverse, atol=1e-5)
    assert (data.normalisation.kind, data.normalisation.mean, data.normalisation.std) == ("zca", (0.0,) * 3, (1.0,) * 3)


def test_small_eps_gives_unit_covariance(raw):
    data = prepare(raw, BesideReader(preprocess=Preprocess(zca=True, zca_eps=1e-6)), Seeds(0), CPU)
    covariance = torch.cov(data.train.images.flatten(1).double().T)
    torch.testing.assert_close(covariance, torch.eye(108, dtype=torch.float64), atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [None, 8])
def test_pixels_undo_the_whitening(raw, size):
    data = prepare(raw, BesideReader(preprocess=Preprocess(zca=True, image_size=size)), Seeds(0), CPU)
    plain = prepare(raw, BesideReader(preprocess=Preprocess(normalisation="none", image_size=size)), Seeds(0), CPU)
    pixels = data.pixels(data.test.batch(slice(None)))
    torch.testing.assert_close(pixels, plain.test.batch(slice(None)), atol=1e-5, rtol=0)
    assert (data.test.images - plain.test.batch(slice(None))).abs().max() > 0.1


def test_blocks_do_not_change_values(raw, monkeypatch):
    whole = prepare(raw, BesideReader(preprocess=Preprocess(zca=True)), Seeds(0), CPU)
    monkeypatch.setattr("hoptm_plugin.data.whitening.BLOCK", 7)
    pieces = prepare(raw, BesideReader(preprocess=Preprocess(zca=True)), Seeds(0), CPU)
    torch.testing.assert_close(whole.train.images, pieces.train.images)


def test_settings_enter_the_fingerprint(raw):
    prints = {prepare(raw, BesideReader(preprocess=Preprocess(**settings)), Seeds(0), CPU).fingerprint
              for settings in ({}, {"zca": True}, {"zca": True, "zca_eps": 0.2})}  # fmt: skip
    assert len(prints) == 3


def test_infeasible_size_is_refused(raw):
    with pytest.raises(ConfigurationError, match="ZCA whitening of 3x112x112 images would decompose a 37632x37632"):
        prepare(raw, BesideReader(preprocess=Preprocess(zca=True, image_size=112)), Seeds(0), CPU)


def test_matrices_are_counted_before_fitting(raw, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 250 * 108 * 4)
    with pytest.raises(DataError, match="ZCA whitening's matrices need"):
        prepare(raw, BesideReader(preprocess=Preprocess(zca=True)), Seeds(0), CPU)
