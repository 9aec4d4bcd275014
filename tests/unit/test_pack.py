"""One npz of a data set holds the same pixels, labels and splits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import pack

from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import load

CPU = torch.device("cpu")


def test_a_packed_data_set_is_the_same(tmp_path, capsys):
    file = tmp_path / "packed.npz"
    assert pack.main([str(file), "dataset=digits"]) == 0
    assert "1,438 training and 359 test images; classes: 0, 1, 2" in capsys.readouterr().out
    preprocess = {"image_size": 32, "normalisation": "measured"}
    packed = load({"name": "npz", "root": file, "preprocess": preprocess}, Seeds(0), CPU)
    original = load({"name": "digits", "preprocess": preprocess}, Seeds(0), CPU)
    for name in ("train", "validation", "test"):
        ours, theirs = getattr(packed, name), getattr(original, name)
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)


def test_colour_images_keep_their_channels():
    from hoptm_plugin.core.interfaces import RawImages

    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    split = (images, torch.tensor([1, 0]))
    packed = pack.arrays(RawImages("x", ("a", "b"), split, split, split))
    assert set(packed) == {f"{name}_{what}" for name in ("train", "val", "test") for what in ("images", "labels")}
    assert packed["train_images"].shape == (2, 4, 5, 3)
    assert packed["train_images"][1, 2, 3, 0] == images[1, 0, 2, 3]
    assert packed["val_labels"].tolist() == [[1], [0]]


@pytest.mark.parametrize(
    ("settings", "named"),
    [(["dataset=cifar10", "dataset.root=/no/such"], "/no/such"), (["dataset=none_such"], "none_such")],
)
def test_what_cannot_be_read_is_one_error(settings, named, tmp_path, capsys):
    assert pack.main([str(tmp_path / "x.npz"), *settings]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert named in err
    assert list(tmp_path.iterdir()) == []
