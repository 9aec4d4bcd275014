"""Small image files and archives for the data tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COVID_CLASSES = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")


def write_image(path: Path, value: int, size: tuple[int, int] = (12, 12), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * 3).save(path)
    return path


@pytest.fixture
def image():
    return write_image


@pytest.fixture
def covid_root(tmp_path: Path) -> Path:
    """The archive's layout: 10 images of each class, whose pixels are 10 * class + index; every mask is 255."""
    root = tmp_path / "COVID-19_Radiography_Dataset"
    for label, name in enumerate(COVID_CLASSES):
        for index in range(10):
            write_image(root / name / "images" / f"{name}-{index}.png", 10 * label + index)
            write_image(root / name / "masks" / f"{name}-{index}.png", 255)
        write_image(root / name / "images" / "._hidden.png", 255)
        (root / name / "images" / "Thumbs.db").write_bytes(b"no image")
    (root / "README.md.txt").write_text("text")
    return root


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Arrays in MedMNIST layout: 3 classes, 30 train, 6 val, 9 test RGB images of 8x8."""
    draw = np.random.default_rng(0)
    members = {}
    for split, count in (("train", 30), ("val", 6), ("test", 9)):
        members[f"{split}_images"] = draw.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        members[f"{split}_labels"] = (np.arange(count) % 3).astype(np.uint8)[:, None]
    return members
