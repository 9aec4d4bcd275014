"""IDM's expansion against interpolation written out by hand, and sets that store mosaics; in float64."""

from __future__ import annotations

import pytest
import torch

from hoptm_plugin import SyntheticSet, expand_mosaic
from hoptm_plugin.core.dataset import Normalisation
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.storage.sets import read_set, write_set

SIDE = 8


def pooled(image):
    """Mean of 2x2 pixels, by slicing."""
    return (image[..., ::2, ::2] + image[..., 1::2, ::2] + image[..., ::2, 1::2] + image[..., 1::2, 1::2]) / 4


def enlarged_row(row):
    """Twice as long, bilinear with half-pixel centres: output 2i and 2i+1 lie a quarter left and right of input i."""
    values = row.tolist()
    result = []
    for i, value in enumerate(values):
        left, right = values[max(i - 1, 0)], values[min(i + 1, len(values) - 1)]
        result += [0.75 * value + 0.25 * left, 0.75 * value + 0.25 * right]
    return torch.tensor(result, dtype=row.dtype)


def enlarged(image):
    rows = torch.stack([enlarged_row(row) for row in image])
    return torch.stack([enlarged_row(column) for column in rows.T]).T


def images(count, channels=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, SIDE, SIDE, generator=generator, dtype=torch.float64)


def test_a_mosaic_of_four_gives_back_each_pooled_and_enlarged():
    top_left, bottom_left, top_right, bottom_right = (images(3, seed=k) for k in range(4))
    left = torch.cat([pooled(top_left), pooled(bottom_left)], dim=2)
    right = torch.cat([pooled(top_right), pooled(bottom_right)], dim=2)
    expanded = expand_mosaic(torch.cat([left, right], dim=3), 2)
    assert expanded.shape == (12, 2, SIDE, SIDE)
    for at, tile in enumerate((top_left, bottom_left, top_right, bottom_right)):
        for image in range(3):
            for channel in range(2):
                wanted = enlarged(pooled(tile[image, channel]))
                torch.testing.assert_close(expanded[3 * at + image, channel], wanted, rtol=1e-13, atol=1e-13)


def test_factor_one_is_the_identity_and_odd_sides_are_refused():
    stored = images(2)
    assert expand_mosaic(stored, 1) is stored
    with pytest.raises(ValueError, match="8x8 pixels cannot be cut into 3x3"):
        expand_mosaic(stored, 3)


def test_expansion_is_differentiable_and_keeps_constants():
    stored = torch.ones(1, 1, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    expanded = expand_mosaic(stored, 2)
    torch.testing.assert_close(expanded, torch.ones_like(expanded))
    (gradient,) = torch.autograd.grad(expanded.sum(), stored)
    assert float(gradient.sum()) == pytest.approx(4 * SIDE * SIDE)
    assert bool((gradient > 0).all())


def make_set(mosaic=2, soft=False):
    labels = torch.randn(3, 4, dtype=torch.float64) if soft else torch.tensor([0, 1, 3])
    return SyntheticSet(images(3), labels, None, tuple("abcd"), Normalisation((0.0, 0.0), (1.0, 1.0), "none"), {"x": 1},
                        mosaic)  # fmt: skip


@pytest.mark.parametrize("soft", [False, True])
def test_the_set_to_train_on_repeats_labels_four_times(soft):
    stored = make_set(soft=soft)
    whole = stored.expanded()
    assert (len(stored), len(stored.images), len(whole), whole.mosaic) == (12, 3, 12, 1)
    assert torch.equal(whole.labels, torch.cat([stored.labels] * 4))
    assert torch.equal(whole.images, expand_mosaic(stored.images, 2))
    for index in (0, 4, 11, -1):
        image, target = stored[index]
        assert torch.equal(image, whole.images[index])
        assert torch.equal(target, whole.targets[index])
    with pytest.raises(IndexError):
        stored[12]
    plain = make_set(mosaic=1)
    assert plain.expanded() is plain


def test_a_file_says_that_it_holds_mosaics(tmp_path):
    write_set(make_set(), tmp_path / "set.safetensors")
    loaded = read_set(tmp_path / "set.safetensors")
    assert (loaded.mosaic, len(loaded)) == (2, 12)
    assert loaded.detached().mosaic == loaded.to(torch.device("cpu")).mosaic == 2


def test_a_mosaic_that_does_not_divide_the_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no mosaics of 3x3"):
        make_set(mosaic=3)
    whole = make_set()
    whole.mosaic = 5  # as a damaged file would say
    write_set(whole, tmp_path / "set.safetensors")
    with pytest.raises(FileFormatError, match="no mosaics of 5x5"):
        read_set(tmp_path / "set.safetensors")
