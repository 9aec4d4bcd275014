"""One npz of a data set holds the same pixels, labels and splits."""

from __future__ import annotations

import shlex

import numpy as np
import pack
import pytest
import torch
from PIL import Image

from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import load
from hoptm_plugin.runs.composition import compose

CPU = torch.device("cpu")


def test_a_packed_data_set_is_the_same(tmp_path, capsys, image_folder):
    """Read as was printed; the validation split that is carved depends on the names of the classes."""
    file, preprocess = tmp_path / "packed.npz", {"image_size": 32, "normalisation": "measured"}
    assert pack.main([str(file), "dataset=folder", f"dataset.root={image_folder}"]) == 0
    _, printed = capsys.readouterr().out.splitlines()
    spec = compose("method=random", "ipc=1", *shlex.split(printed)).dataset
    original = load({"name": "folder", "root": image_folder, "preprocess": preprocess}, Seeds(0), CPU)
    packed = load(spec | {"preprocess": preprocess}, Seeds(0), CPU)
    assert packed.class_names == original.class_names
    assert not all(name.isdigit() for name in original.class_names)
    for name in ("train", "validation", "test"):
        ours, theirs = getattr(packed, name), getattr(original, name)
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)


@pytest.fixture
def image_folder(tmp_path):
    """Two classes in train/ and test/, forty pictures each in train/."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 5)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "pictures"


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
