"""Generated data in the layouts that the readers take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 16  # pixels per side of generated images
NPZ = (f"dataset.preprocess.image_size={SIZE}", "scale=published")  # of budgets of their own


def pictures(rng, labels, channels=3):
    """Return uint8 images (n, H, W, C), each class of a brightness of its own."""
    noise = rng.integers(0, 100, (len(labels), SIZE, SIZE, channels))
    return (noise + 50 * np.asarray(labels)[:, None, None, None]).astype(np.uint8)


def write_npz(path, **replaced):
    """Write an npz in MedMNIST layout; ``replaced`` overrides arrays, None drops one."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, per_class in (("train", 8), ("val", 2), ("test", 4)):
        labels = np.tile(np.arange(3, dtype=np.uint8), per_class)[:, None]
        arrays |= {f"{split}_images": pictures(rng, labels[:, 0]), f"{split}_labels": labels}
    np.savez(path, **{key: value for key, value in (arrays | replaced).items() if value is not None})


def write_images(folder: Path, names, count):
    """Write ``count`` grey PNG files into each of the folders ``names`` of ``folder``."""
    rng = np.random.default_rng(len(str(folder.name)))
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index, picture in enumerate(pictures(rng, [label] * count, channels=1)):
            Image.fromarray(picture[..., 0]).save(folder / name / f"{name}-{index}.png")
