"""DSA against direct per-image loops written from the formulas of docs/methods.md 1.4, in float64."""

from __future__ import annotations

import math
from importlib.resources import files

import pytest
import torch
import yaml
from torch.nn.functional import affine_grid, grid_sample

from hoptm_plugin.augment import DSA, DSAParameters, NoAugmentation
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.interfaces import Augmentation, augmentations
from hoptm_plugin.core.seeding import Seeds

GROUPS = ("color", "crop", "cutout", "flip", "scale", "rotate")
SEEDS = Seeds(7)


def images_of(batch, channels=3, height=32, width=32, dtype=torch.float64):
    return torch.randn(batch, channels, height, width, generator=SEEDS.generator("images"), dtype=dtype)


def draw(group, batch=8, shape=(3, 32, 32), seed=0, siamese=False, **options):
    return DSA(strategy=(group,), **options).draw(batch, shape, SEEDS.generator(group, seed), siamese)


# --- the reference: one image, one pixel at a time ------------------------------------------------------------------


def at(image, channel, row, column):
    inside = 0 <= row < image.shape[1] and 0 <= column < image.shape[2]
    return float(image[channel, row, column]) if inside else 0.0


def bilinear(image, matrix, align_corners):
    """out(i, j) = image at matrix @ (x, y, 1), zeros outside; (x, y) in [-1, 1]."""
    channels, height, width = image.shape
    out = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            if align_corners:
                x, y = -1 + 2 * j / (width - 1), -1 + 2 * i / (height - 1)
            else:
                x, y = (2 * j + 1) / width - 1, (2 * i + 1) / height - 1
            u, v = (row[0] * x + row[1] * y for row in matrix)
            if align_corners:
                column, row = (u + 1) / 2 * (width - 1), (v + 1) / 2 * (height - 1)
            else:
                column, row = ((u + 1) * width - 1) / 2, ((v + 1) * height - 1) / 2
            left, top = math.floor(column), math.floor(row)
            a, b = column - left, row - top
            for c in range(channels):
                out[c, i, j] = (
                    (1 - b) * ((1 - a) * at(image, c, top, left) + a * at(image, c, top, left + 1))
                    + b * ((1 - a) * at(image, c, top + 1, left) + a * at(image, c, top + 1, left + 1))
                )  # fmt: skip
    return out


def reference(image, group, numbers, align_corners=True):
    channels, height, width = image.shape
    if group == "color":
        offset, saturation, contrast = numbers
        out = image + offset
        pixel_mean = sum(out[c] for c in range(channels)) / channels
        out = torch.stack([(out[c] - pixel_mean) * saturation + pixel_mean for c in range(channels)])
        mean = float(out.sum()) / out.numel()
        return (out - mean) * contrast + mean
    if group == "crop":
        out = torch.zeros_like(image)
        for c in range(channels):
            for i in range(height):
                for j in range(width):
                    out[c, i, j] = at(image, c, i + numbers[0], j + numbers[1])
        return out
    if group == "cutout":
        out = image.clone()
        sizes = int(0.5 * height + 0.5), int(0.5 * width + 0.5)
        spans = [
            sorted({min(max(o - k // 2 + n, 0), side - 1) for n in range(k)})
            for o, k, side in zip(numbers, sizes, (height, width), strict=True)
        ]
        for i in spans[0]:
            for j in spans[1]:
                out[:, i, j] = 0
        return out
    if group == "flip":
        return torch.stack([image[:, :, width - 1 - j] for j in range(width)], dim=2) if numbers[0] else image
    if group == "scale":
        return bilinear(image, ((numbers[0], 0), (0, numbers[1])), align_corners)
    cos, sin = math.cos(numbers[0]), math.sin(numbers[0])
    return bilinear(image, ((cos, -sin), (sin, cos)), align_corners)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 32, 32), (2, 11, 17)], ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_each_group_equals_its_formula(group, shape):
    batch = 2 if shape[1] == 32 else 5
    images, parameters = images_of(batch, *shape), draw(group, batch, shape)
    found = DSA().apply(images, parameters)
    rows = parameters.values.tolist()
    expected = torch.stack([reference(image, group, row) for image, row in zip(images, rows, strict=True)])
    assert found.dtype == torch.float64
    if group in ("crop", "cutout", "flip"):
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert not torch.equal(found, images)


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 9, 14)], ids=str)
@pytest.mark.parametrize("group", ["scale", "rotate"])
def test_align_corners_matters_for_rotation_of_images_that_are_not_square(group, shape):
    images, parameters = images_of(2, *shape), draw(group, 2, shape)
    found = DSA(align_corners=False).apply(images, parameters)
    rows = parameters.values.tolist()
    expected = [reference(image, group, row, align_corners=False) for image, row in zip(images, rows, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-12)
    difference = float((found - DSA().apply(images, parameters)).abs().max())
    assert difference > 1e-3 if (group, shape) == ("rotate", (3, 9, 14)) else difference < 1e-12


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 3e-5)])
@pytest.mark.parametrize("group", ["scale", "rotate"])
def test_kornia_equals_torchs_grid_sample(group, dtype, tolerance, align_corners):
    images, parameters = images_of(64, dtype=dtype), draw(group, 64)
    values = parameters.values.to(dtype)
    theta = torch.zeros(64, 2, 3, dtype=dtype)
    if group == "scale":
        theta[:, 0, 0], theta[:, 1, 1] = values.unbind(1)
    else:
        cos, sin = values[:, 0].cos(), values[:, 0].sin()
        theta[:, 0, 0], theta[:, 0, 1], theta[:, 1, 0], theta[:, 1, 1] = cos, -sin, sin, cos
    grid = affine_grid(theta, list(images.shape), align_corners=align_corners)
    expected = grid_sample(images, grid, align_corners=align_corners)
    found = DSA(align_corners=align_corners).apply(images, parameters)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


# --- what is drawn --------------------------------------------------------------------------------------------------


def test_every_group_is_drawn_equally_often():
    generator, dsa = SEEDS.generator("groups"), DSA()
    names = [dsa.draw(1, (3, 8, 8), generator).group for _ in range(3000)]
    counts = [names.count(group) for group in GROUPS]
    assert sum(counts) == 3000
    chi_squared = sum((count - 500) ** 2 / 500 for count in counts)
    assert chi_squared < 20.5  # 5 degrees of freedom, p = 0.001


def uniform_check(values, low, high):
    assert low <= float(values.min()) < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < float(values.max()) <= high
    assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.01 * (high - low))
    assert float(values.std()) == pytest.approx((high - low) / 12**0.5, rel=0.02)


def test_ranges_of_the_drawn_numbers():
    n = 20_000
    b, s, c = draw("color", n).values.double().unbind(1)
    for values, low, high in ((b, -0.5, 0.5), (s, 0, 2), (c, 0.5, 1.5)):
        uniform_check(values, low, high)
    for column in draw("scale", n).values.double().unbind(1):
        uniform_check(column, 1 / 1.2, 1.2)
    uniform_check(draw("rotate", n).values.double(), -math.radians(15), math.radians(15))
    assert float(draw("flip", n).values.double().mean()) == pytest.approx(0.5, abs=0.015)
    assert float(draw("flip", n, prob_flip=0.1).values.double().mean()) == pytest.approx(0.1, abs=0.01)
    for values in (b, s, c):
        assert abs(float(torch.corrcoef(torch.stack([values[:-1], values[1:]]))[0, 1])) < 0.03


@pytest.mark.parametrize(("side", "shift"), [(28, 4), (32, 4), (64, 8), (112, 14)])
def test_crop_shifts_reach_an_eighth(side, shift):
    values = draw("crop", 4000, (3, side, side)).values
    assert values.dtype == torch.int64
    for column in values.unbind(1):
        assert column.unique().tolist() == list(range(-shift, shift + 1))


def test_cutout_centres_depend_on_the_box_being_odd_or_even():
    # 32 -> k = 16, even: 0..32; 30 -> k = 15, odd: 0..29
    rows, columns = draw("cutout", 4000, (3, 32, 30)).values.unbind(1)
    assert rows.unique().tolist() == list(range(33))
    assert columns.unique().tolist() == list(range(30))


def test_cutout_area_at_32():
    parameters = draw("cutout", 20_000, (1, 32, 32))
    erased = (DSA().apply(torch.ones(20_000, 1, 32, 32), parameters) == 0).sum((1, 2, 3))
    assert int(erased.min()) == 64
    assert int(erased.max()) == 256
    assert float(erased.float().mean()) == pytest.approx(190, abs=3)


def test_constants_are_the_arguments():
    values = draw("color", 500, brightness=0.2, saturation=4.0, contrast=0.9).values
    assert float(values[:, 0].abs().max()) <= 0.1
    assert 3.5 < float(values[:, 1].max()) <= 4
    assert 0.9 <= float(values[:, 2].min()) < float(values[:, 2].max()) <= 1.9
    assert float(draw("rotate", 500, rotate_degrees=90).values.abs().max()) > 1
    assert float(draw("scale", 500, scale_ratio=2.0).values.max()) > 1.8
    assert int(draw("crop", 500, crop_ratio=0.25).values.max()) == 8
    ones = torch.ones(50, 1, 32, 32)
    dsa = DSA(strategy=("cutout",), cutout_ratio=0.25)
    erased = (dsa.apply(ones, dsa.draw(50, (1, 32, 32), SEEDS.generator("box"))) == 0).sum((1, 2, 3))
    assert int(erased.max()) == 64


# --- identities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS)
def test_replay_and_independence_of_the_global_generator(group):
    before = torch.get_rng_state()
    images, dsa = images_of(6), DSA(strategy=(group,))
    first, again, other = (dsa.draw(6, (3, 32, 32), SEEDS.generator("replay", seed)) for seed in (1, 1, 2))
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, other.values)
    assert torch.equal(dsa.apply(images, first), dsa.apply(images, again))
    assert torch.equal(dsa(images, SEEDS.generator("replay", 1)), dsa.apply(images, first))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", range(12))
def test_siamese_draws_are_the_same_for_any_batch_size(seed):
    dsa, images = DSA(), images_of(20)
    small = dsa.draw(7, (3, 32, 32), SEEDS.generator(seed), siamese=True)
    large = dsa.draw(20, (3, 32, 32), SEEDS.generator(seed), siamese=True)
    assert small.group == large.group
    assert len(small.values) == 1
    assert torch.equal(small.values, large.values)
    for_twenty = dsa.apply(images, small)
    torch.testing.assert_close(dsa.apply(images[:7], small), for_twenty[:7], rtol=0, atol=1e-13)
    same = dsa.apply(images[:1].expand(5, -1, -1, -1), small)
    torch.testing.assert_close(same, same[:1].expand_as(same), rtol=0, atol=0)


@pytest.mark.parametrize("group", ["color", "crop", "cutout", "scale", "rotate"])
def test_images_of_a_batch_differ_without_siamese(group):
    out = DSA().apply(images_of(1).expand(4, -1, -1, -1), draw(group, 4))
    assert not torch.equal(out[0], out[1])


def test_crop_is_zero_padding_and_a_shift():
    images, parameters = images_of(30), draw("crop", 30)
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    for image, (rows, columns), found in zip(
        padded, parameters.values.tolist(), DSA().apply(images, parameters), strict=True
    ):
        assert torch.equal(found, image[:, 4 + rows : 36 + rows, 4 + columns : 36 + columns])


def test_positive_angles_turn_anticlockwise():
    image = torch.zeros(1, 1, 33, 33, dtype=torch.float64)
    image[0, 0, 16, 30] = 1  # right of the centre
    turned = DSA().apply(image, DSAParameters("rotate", torch.tensor([[math.pi / 2]])))
    assert float(turned[0, 0, 2, 16]) == pytest.approx(1, abs=1e-5)  # is now above it
    turned = DSA().apply(image, DSAParameters("rotate", torch.tensor([[math.radians(15)]])))
    assert int(turned[0, 0].argmax()) // 33 < 16


def test_scale_above_one_shrinks():
    image = torch.ones(1, 1, 32, 32, dtype=torch.float64)
    shrunk = DSA().apply(image, DSAParameters("scale", torch.tensor([[1.2, 1.0]])))[0, 0]
    assert float(shrunk[16, 0]) == 0  # zeros come in left and right
    assert float(shrunk[0, 16]) == pytest.approx(1)  # but not above: y keeps its size
    grown = DSA().apply(image, DSAParameters("scale", torch.tensor([[1 / 1.2, 1 / 1.2]])))
    assert float(grown.min()) == pytest.approx(1)


def test_nothing_is_clamped():
    images = 10 * images_of(16)
    for group in GROUPS:
        assert float(DSA().apply(images, draw(group, 16)).abs().max()) > 10


@pytest.mark.parametrize("group", GROUPS)
def test_gradient_in_the_images(group):
    images = images_of(3, 2, 6, 5).requires_grad_()
    parameters = draw(group, 3, (2, 6, 5))
    dsa = DSA()
    assert torch.autograd.gradcheck(lambda x: dsa.apply(x, parameters), (images,))


# --- many draws at once ---------------------------------------------------------------------------------------------


def counting(dsa):
    """Return the list that records the group of every call of ``apply``."""
    calls, apply = [], dsa.apply
    dsa.apply = lambda images, parameters: (calls.append(parameters.group), apply(images, parameters))[1]
    return calls


@pytest.mark.parametrize("siamese", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_apply_many_equals_piecewise_apply(channels, siamese):
    sizes = [3, 1, 4, 4, 2, 4] * 4
    images, dsa, generator = images_of(sum(sizes), channels), DSA(), SEEDS.generator("many")
    parameters = [dsa.draw(size, (channels, 32, 32), generator, siamese) for size in sizes]
    assert len({draw.group for draw in parameters}) == 6
    x, y = images.clone().requires_grad_(), images.clone().requires_grad_()
    expected = Augmentation.apply_many(dsa, x, parameters, sizes)
    calls = counting(dsa)
    found = dsa.apply_many(y, parameters, sizes)
    assert sorted(calls) == sorted(GROUPS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    start = 0
    for size, one in zip(sizes, parameters, strict=True):
        if one.group in ("crop", "cutout", "flip"):
            assert torch.equal(found[start : start + size], expected[start : start + size])
        start += size
    weights = images_of(sum(sizes), channels).flip(0)
    (gx,), (gy,) = torch.autograd.grad((expected * weights).sum(), x), torch.autograd.grad((found * weights).sum(), y)
    torch.testing.assert_close(gy, gx, rtol=0, atol=1e-12)


def test_apply_many_refuses_the_wrong_number_of_draws():
    with pytest.raises(ValueError, match="zip"):
        DSA().apply_many(images_of(6), [draw("flip", 3)], [3, 3])


def test_no_augmentation_is_the_identity_and_draws_nothing():
    none, generator, images = NoAugmentation(), SEEDS.generator("none"), images_of(4)
    state = generator.get_state()
    assert none(images, generator) is images
    assert none.apply_many(images, [None, None], [2, 2]) is images
    assert torch.equal(generator.get_state(), state)


# --- configuration --------------------------------------------------------------------------------------------------


def test_yaml_builds_what_it_names():
    folder = files("hoptm_plugin.conf") / "augment"
    built = {
        name: augmentations.build(yaml.safe_load((folder / f"{name}.yaml").read_text()), "augment")
        for name in ("dsa", "dsa_noflip", "none")
    }
    assert vars(built["dsa"]) == vars(DSA())
    assert vars(built["dsa_noflip"]) == vars(DSA(strategy=("color", "crop", "cutout", "scale", "rotate")))
    assert isinstance(built["none"], NoAugmentation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": []}, "augment: strategy must name at least one group"),
        ({"strategy": ["flip", "flip"]}, "none twice"),
        ({"strategy": ["colour"]}, r"augment\.strategy\.0: Input should be 'color'"),
        ({"scale_ratio": 0.5}, "scale_ratio must be at least 1, got 0.5"),
        ({"prob_flip": 2}, r"prob_flip must lie in \[0, 1\], got 2"),
        ({"noise": 0.05}, r"augment\.noise: unknown setting"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        augmentations.build({"name": "dsa", **options}, "augment")
