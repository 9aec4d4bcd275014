"""RDED's crops (docs/methods.md 21) against a selection written by hand in numpy, and against what must hold of any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hoptm_baselines.crops import InitialSet, ScoredCrops, draw_boxes, tiled
from torch.nn.utils import vector_to_parameters
from torch.testing import assert_close

from hoptm_plugin import class_major
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.testing import example_data, example_task
from hoptm_plugin.trajectory import HardLabels, SoftLabels

EPOCH, CROPS = 3, 4


@pytest.fixture
def task():
    """A float64 task of 14 images per class, of 8x8 pixels."""
    return example_task(ipc=2, experts=2, dtype=torch.float64, data=example_data(per_class=14, dtype=torch.float64))


def losses_of(task, images, label, expert=0):
    """Return each image's cross-entropy for a class, by an expert's network without the library's flat vectors."""
    network = task.network(torch.Generator().manual_seed(0)).eval()
    vector_to_parameters(task.experts(EPOCH).parameters[expert, EPOCH], network.parameters())
    with torch.no_grad():
        return -torch.log_softmax(network(torch.as_tensor(images)), dim=1)[:, label].numpy()


def resizing(old, new):
    """Return the matrix (new, old) of a triangle of the width of a pixel of the coarser of two grids."""
    scale = old / new
    width = max(scale, 1)
    centres = (np.arange(new)[:, None] + 0.5) * scale
    weights = np.clip(1 - np.abs(np.arange(old)[None] + 0.5 - centres) / width, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def resized(image, size):
    """Return an image (C, H, W) resized to (C, *size)."""
    rows, columns = (resizing(old, new) for old, new in zip(image.shape[1:], size, strict=True))
    return np.einsum("ih,chw,jw->cij", rows, image, columns)


def by_hand(task, label, part):
    """Return the patches (factor^2 * ipc, C, h, w) that RDED takes of a class, and their losses, image by image."""
    generator = task.seeds.generator("scored crops", label)
    members = np.flatnonzero(task.train.labels.numpy() == label)
    chosen = members[torch.randperm(len(members), generator=generator).numpy()][: part.candidates]
    boxes = draw_boxes(len(chosen), part.crops, part.area, (8, 8), generator).numpy()
    small, found = 8 // part.factor, []
    for row, own in zip(chosen, boxes, strict=True):
        image = task.train.images[row].numpy()
        patches = [resized(image[:, y : y + h, x : x + w], (small, small)) for y, x, h, w in own]
        shown = np.zeros((len(patches), 2, 8, 8))
        edge = (8 - small) // 2
        shown[:, :, edge : edge + small, edge : edge + small] = patches
        losses = np.mean([losses_of(task, shown, label, k) for k in range(part.observers)], axis=0)
        found.append((losses.min(), patches[losses.argmin()]))
    found.sort(key=lambda each: each[0])
    best = found[: part.factor**2 * task.ipc]
    return np.stack([patch for _, patch in best]), np.array([loss for loss, _ in best])


@pytest.mark.parametrize("settings", [{}, {"factor": 2}, {"candidates": 9, "observers": 2}, {"area": (0.3, 0.5)}])
def test_the_selection_is_that_by_hand(task, settings):
    part = ScoredCrops(**({"crops": CROPS, "teacher_epoch": EPOCH} | settings))
    images = part.images(task)
    for label in range(3):
        patches, losses = by_hand(task, label, part)
        assert (np.diff(losses) >= 0).all()
        side, found = 8 // part.factor, images[2 * label : 2 * label + 2].numpy()
        for k in range(part.factor**2):
            top, left = side * (k // part.factor), side * (k % part.factor)
            for j in range(2):  # tile k of image j = patch k * ipc + j
                tile = found[j, :, top : top + side, left : left + side]
                np.testing.assert_allclose(tile, patches[2 * k + j], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("ipc", [1, 5, 14])
def test_one_crop_of_the_full_area_takes_the_images_of_lowest_loss_ascending(task, ipc):
    part = ScoredCrops(crops=1, area=(1, 1), teacher_epoch=EPOCH)
    images = part.images(replace(task, ipc=ipc))
    for label in range(3):
        members = task.train.images[task.train.labels == label]
        order = losses_of(task, members, label).argsort()[:ipc]
        assert torch.equal(images[label * ipc : (label + 1) * ipc], members[order])
    assert part.images_are == "real"


@pytest.mark.parametrize("settings", [{"area": (0.5, 1)}, {"area": (1, 1), "factor": 2}])
def test_what_is_cropped_or_shrunk_is_not_called_real(settings):
    assert ScoredCrops(**settings).images_are == "from_real"


def test_scores_ascend_and_more_crops_never_score_worse(task):
    many, few = (ScoredCrops(crops=crops, teacher_epoch=EPOCH).images(replace(task, ipc=6)) for crops in (20, 1))
    for label in range(3):
        one, other = (losses_of(task, each[6 * label : 6 * label + 6], label) for each in (many, few))
        assert (np.diff(one) > 0).all()
        assert (np.diff(other) > 0).all()
        assert one.sum() < other.sum()


def test_a_smaller_number_takes_the_first_of_a_larger(task):
    part = ScoredCrops(teacher_epoch=EPOCH)
    two, five = (part.images(replace(task, ipc=ipc)).unflatten(0, (3, ipc)) for ipc in (2, 5))
    assert torch.equal(two, five[:, :2])


def test_enlarged_tiles_are_scored_at_full_size(task):
    """The best of the only candidates by each way of showing them is that way's own minimum."""
    padded, enlarged = (ScoredCrops(teacher_epoch=EPOCH, factor=2, fit=fit, crops=30).images(task).unflatten(0, (3, 2))
                        for fit in ("pad", "enlarge"))  # fmt: skip
    assert not torch.equal(padded, enlarged)
    for label in range(3):
        scores = []
        for images in (enlarged, padded):
            tiles = images[label, 0, :, :4, :4][None]
            shown = torch.nn.functional.interpolate(tiles, scale_factor=2, mode="bilinear")
            scores.append(float(losses_of(task, shown, label)[0]))
        assert scores[0] <= scores[1]


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_tiles_lie_in_reading_order(factor):
    patches = torch.arange(factor**2 * 5.0).view(-1, 1, 1, 1).expand(-1, 2, 4, 3)
    images = tiled(patches, factor)
    assert images.shape == (5, 2, 4 * factor, 3 * factor)
    for k in range(factor**2):
        row, column = divmod(k, factor)
        tile = images[:, :, 4 * row : 4 * row + 4, 3 * column : 3 * column + 3]
        assert torch.equal(tile, (5 * k + torch.arange(5.0)).view(-1, 1, 1, 1).expand_as(tile))


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.2, 0.4), (1.0, 1.0)])
@pytest.mark.parametrize("size", [(32, 32), (28, 20)])
def test_boxes_lie_inside_take_their_share_and_reach_every_edge(area, size):
    boxes = draw_boxes(400, 5, area, size, torch.Generator().manual_seed(0)).flatten(0, 1)
    places, sides, whole = boxes[:, :2], boxes[:, 2:], torch.tensor(size)
    assert bool((places >= 0).all() & (sides >= 1).all() & (places + sides <= whole).all())
    low, high = ((whole * share**0.5).round() for share in area)
    assert bool((sides >= low).all() & (sides <= high).all())
    assert torch.equal(sides.amin(dim=0), low.long())
    assert torch.equal(sides.amax(dim=0), high.long())
    for edge in (places, whole - places - sides):
        assert bool((edge.amin(dim=0) == 0).all())
    share = (sides.double() / whole).prod(dim=1).mean()
    assert_close(float(share), sum(area) / 2, rtol=0, atol=0.02)


def test_places_are_uniform():
    boxes = draw_boxes(4000, 5, (0.25, 0.25), (8, 8), torch.Generator().manual_seed(1)).flatten(0, 1)
    for axis in (0, 1):  # a side of 4 may begin at 0 to 4
        shares = torch.bincount(boxes[:, axis], minlength=5) / len(boxes)
        assert_close(shares, torch.full((5,), 0.2), rtol=0, atol=0.015)
    assert abs(float(torch.corrcoef(boxes[:, :2].T.double())[0, 1])) < 0.02


def test_too_few_images_and_odd_sides_are_told_before(task):
    assert ScoredCrops(teacher_epoch=EPOCH).problems(task) == []
    odd, _ = ScoredCrops(factor=3).problems(task)
    assert odd == "factor: images of 8x8 pixels are no 3x3 equal tiles"
    (line,) = ScoredCrops(factor=2, candidates=6).problems(task)
    assert "factor=2 with ipc=2 takes crops of 8 images of each class, but looks at 6 of 'class 0'" in line


def test_more_observers_than_experts_are_refused(task):
    with pytest.raises(ConfigurationError, match=r"3 experts are to score, but there are 2; set experts\.count=3"):
        ScoredCrops(observers=3, teacher_epoch=EPOCH).images(task)
    (line,) = ScoredCrops(observers=3, teacher_epoch=EPOCH).problems(replace(task, expert_count=2))
    assert line.startswith("observers: 3 experts")
    assert not ScoredCrops(observers=2, teacher_epoch=EPOCH).problems(replace(task, expert_count=2))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"crops": 0}, "at least 1"), ({"area": (0.0, 1.0)}, "area must"), ({"area": (0.9, 0.5)}, "area must"),
     ({"area": (0.5, 1.5)}, "area must")],
)  # fmt: skip
def test_senseless_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        ScoredCrops(**settings)


def test_the_set_is_the_crops_with_the_expert_s_logits(task):
    part, one = ScoredCrops(teacher_epoch=EPOCH), replace(task, experts=lambda epoch: example_experts(task, epoch))
    made = InitialSet(part, SoftLabels(teacher_epoch=EPOCH)).setup(one)
    assert torch.equal(made.images, part.images(one))
    assert (made.step_size, made.mosaic) == (None, 1)
    for label in range(3):
        got = -torch.log_softmax(made.labels, dim=1)[2 * label : 2 * label + 2, label]
        np.testing.assert_allclose(got, losses_of(one, made.images[2 * label : 2 * label + 2], label), rtol=1e-10)
    hard = InitialSet(part, HardLabels()).setup(one)
    assert torch.equal(hard.labels, class_major(one))
    assert list(InitialSet(part, HardLabels()).losses(made, 0)) == []


def example_experts(task, epoch):
    """Return the first of a task's experts alone."""
    return replace(task.experts(epoch), parameters=task.experts(epoch).parameters[:1])
