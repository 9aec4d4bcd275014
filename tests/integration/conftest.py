"""Fixtures of the command line's tests: generated data, one store of experts, one finished run."""

from __future__ import annotations

from pathlib import Path

import command_line
import numpy as np
import pytest
from PIL import Image

SIZE = 16  # pixels per side of generated images


@pytest.fixture(scope="session")
def experts_root(tmp_path_factory):
    """A store of experts that all tests of a session share."""
    return tmp_path_factory.mktemp("experts")


@pytest.fixture
def bench(tmp_path, experts_root):
    """Run a command in ``tmp_path``, quickly, with the shared experts."""

    def run(*arguments, cwd=tmp_path, experts=experts_root):
        return command_line.fork(*arguments, cwd=cwd, environment={"HOPTM_EXPERTS": str(experts)})

    return run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, experts_root, npz_file):
    """The folder of a finished run of HoP-TM on the generated npz; read it only."""
    folder = tmp_path_factory.mktemp("finished")
    result = command_line.fork(
        "run", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *command_line.TINY_RUN,
        f"hydra.run.dir={folder / 'run'}", cwd=folder, environment={"HOPTM_EXPERTS": str(experts_root)},
    )  # fmt: skip
    assert result.code == 0, result.err
    return folder / "run"


NPZ = (f"dataset.preprocess.image_size={SIZE}",)


def pictures(rng, labels, channels=3):
    """Return uint8 images (n, H, W, C), each class of a brightness of its own."""
    noise = rng.integers(0, 100, (len(labels), SIZE, SIZE, channels))
    return (noise + 50 * np.asarray(labels)[:, None, None, None]).astype(np.uint8)


@pytest.fixture(scope="session")
def npz_file(tmp_path_factory):
    """An npz in MedMNIST layout: 3 classes, 12/3/6 images."""
    path = tmp_path_factory.mktemp("npz") / "generated.npz"
    write_npz(path)
    return path


def write_npz(path, **replaced):
    """Write an npz in MedMNIST layout; ``replaced`` overrides arrays, None drops one."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, per_class in (("train", 8), ("val", 2), ("test", 4)):
        labels = np.tile(np.arange(3, dtype=np.uint8), per_class)[:, None]
        arrays |= {f"{split}_images": pictures(rng, labels[:, 0]), f"{split}_labels": labels}
    np.savez(path, **{key: value for key, value in (arrays | replaced).items() if value is not None})


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Image folders train/CLASS and test/CLASS with two classes."""
    root = tmp_path_factory.mktemp("folder") / "shapes"
    write_images(root / "train", ("disc", "square"), 6)
    write_images(root / "test", ("disc", "square"), 3)
    return root


@pytest.fixture(scope="session")
def covid_folder(tmp_path_factory):
    """Two classes of the COVID-19 Radiography Database, images/ and masks/ in each."""
    root = tmp_path_factory.mktemp("covid")
    for name in ("COVID", "Viral Pneumonia"):
        write_images(root / name, ("images", "masks"), 10)
    return root


def write_images(folder: Path, names, count):
    """Write ``count`` grey PNG files into each of the folders ``names`` of ``folder``."""
    rng = np.random.default_rng(len(str(folder.name)))
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index, picture in enumerate(pictures(rng, [label] * count, channels=1)):
            Image.fromarray(picture[..., 0]).save(folder / name / f"{name}-{index}.png")
