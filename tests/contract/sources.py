"""Tiny files in the layout that each reader of a data set takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from hoptm_plugin.data.cifar10 import CLASSES as CIFAR10


def picture(size, *path):
    """Write one RGB image, each of a colour of its own."""
    path = Path(*path)
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = tuple(np.random.default_rng(list(path.name.encode())).integers(0, 256, 3).tolist())
    Image.new("RGB", (size, size), colour).save(path)


def image_folders(root, names, size):
    """Write train/CLASS and test/CLASS."""
    for name in names:
        for split, count in (("train", 2), ("test", 1)):
            for index in range(count):
                picture(size, root, split, name, f"{name}-{index}.png")
    return root


def table(root, names):
    """Write a table of pictures of two sizes and of whom they are, and return it."""
    lines = ["file,label,group"]
    for label, name in enumerate(names):
        for index in range(10):
            picture(16 + 8 * (index % 2), root, "pictures", f"{name}-{index}.png")
            lines.append(f"pictures/{name}-{index}.png,{name},{label}{index // 2}")
    (root / "own.csv").write_text("\n".join(lines))
    return root / "own.csv"


def covid_folders(root, names):
    """Write CLASS/images and CLASS/masks."""
    for name in names:
        for index in range(5):
            picture(16, root, name, "images", f"{name}-{index}.png")
            picture(16, root, name, "masks", f"{name}-{index}.png")
    return root


def tiny_imagenet(root, count, train, test):
    """Write the official layout with few classes and images."""
    wnids = [f"n{index:08}" for index in range(count)]
    lines = []
    for wnid in wnids:
        for index in range(train):
            picture(64, root, "train", wnid, "images", f"{wnid}_{index}.png")
        for index in range(test):
            picture(64, root, "val", "images", f"val_{wnid}_{index}.png")
            lines.append(f"val_{wnid}_{index}.png\t{wnid}\t0\t0\t1\t1\n")
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in wnids))
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def npz(path, size, channels, classes):
    """Write MedMNIST's arrays, and return the file."""
    rng, arrays = np.random.default_rng(0), {}
    for split, per_class in (("train", 3), ("val", 1), ("test", 2)):
        labels = np.tile(np.arange(classes, dtype=np.uint8), per_class)[:, None]
        shape = (len(labels), size, size, *([channels] if channels > 1 else []))
        arrays |= {f"{split}_images": rng.integers(0, 256, shape, dtype=np.uint8), f"{split}_labels": labels}
    np.savez(path, **arrays)
    return path


WRITERS = {
    "cifar10": lambda folder: image_folders(folder, CIFAR10, 32),
    "cifar100": lambda folder: image_folders(folder, [f"class {index:02}" for index in range(100)], 32),
    "covid19cxr": lambda folder: covid_folders(folder, ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")),
    "folder": lambda folder: image_folders(folder, ("disc", "square"), 16),
    "medmnist": lambda folder: npz(folder / "breastmnist.npz", 28, 1, 2).parent,
    "npz": lambda folder: npz(folder / "own.npz", 8, 3, 3),
    "table": lambda folder: table(folder, ("disc", "square")),
    "tinyimagenet": lambda folder: tiny_imagenet(folder, count=3, train=2, test=1),
}
"""By a reader's name, what writes its files into a folder and returns what ``dataset.root`` must be."""
