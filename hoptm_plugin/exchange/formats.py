"""The files of each format of an exported set."""

from __future__ import annotations

import csv
import re
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.core.text import no_formula
from hoptm_plugin.exchange.pixels import PixelLoss, to_pixels
from hoptm_plugin.storage.run_files import SYNTHETIC
from hoptm_plugin.storage.sets import write_set

NPZ, LABELS = "distilled.npz", "labels.csv"
HEADER: Final = ("file", "label", "class")
Written: TypeAlias = tuple[list[str], PixelLoss | None]


def taken_apart(synthetic: SyntheticSet) -> SyntheticSet:
    """Return the set without mosaics, the tiles of each one after the other, so that class-major sets stay so."""
    if synthetic.mosaic == 1:
        return synthetic
    tiles = torch.arange(len(synthetic)).view(-1, len(synthetic.images))
    return reordered(synthetic.expanded(), tiles.T.flatten())


def reordered(synthetic: SyntheticSet, order: Tensor) -> SyntheticSet:
    """Return the set with its images and labels in another order."""
    return replace(synthetic, images=synthetic.images[order], labels=synthetic.labels[order])


def classes_of(synthetic: SyntheticSet) -> Tensor:
    """Return the class (n,) of each stored image; of soft labels the likeliest."""
    return synthetic.labels.argmax(dim=1) if synthetic.soft else synthetic.labels


def write_medmnist(synthetic: SyntheticSet, folder: Path) -> Written:
    """Write one npz in MedMNIST's layout: uint8 images, labels (n, 1), and val and test splits without images."""
    synthetic = taken_apart(synthetic).detached()
    pixels, loss = to_pixels(synthetic)
    images = pixels.permute(0, 2, 3, 1).numpy()
    images = images[..., 0] if images.shape[-1] == 1 else images
    labels = classes_of(synthetic).cpu().numpy().astype(label_type(len(synthetic.class_names)))[:, None]
    arrays: dict[str, NDArray[Any]] = {"train_images": images, "train_labels": labels}
    if synthetic.soft:
        arrays["train_soft_labels"] = synthetic.targets.float().cpu().numpy()
    for split in ("val", "test"):
        arrays |= {f"{split}_images": images[:0], f"{split}_labels": labels[:0]}
    arrays["mean"] = np.array(synthetic.normalisation.mean)
    arrays["std"] = np.array(synthetic.normalisation.std)
    if synthetic.step_size is not None:
        arrays["step_size"] = np.array(float(synthetic.step_size))
    np.savez_compressed(folder / NPZ, **arrays)  # type: ignore[arg-type]
    return [NPZ], loss


def label_type(classes: int) -> type[np.unsignedinteger[Any]] | type[np.signedinteger[Any]]:
    """Return the type of stored class indices: MedMNIST's uint8, or int64 where that is too small."""
    return np.uint8 if classes <= 256 else np.int64


def write_folder(synthetic: SyntheticSet, folder: Path) -> Written:
    """Write PNG files ``train/INDEX_CLASS/NUMBER.png``, and ``labels.csv`` with a row per image in path order.

    Alphabetical order of the class folders is that of class indices, which ``torchvision.datasets.ImageFolder`` needs.
    """
    synthetic = taken_apart(synthetic).detached()
    synthetic = reordered(synthetic, classes_of(synthetic).argsort(stable=True))
    pixels, loss = to_pixels(synthetic)
    names = folder_names(synthetic.class_names)
    for name in names:
        (folder / "train" / name).mkdir(parents=True)
    digits = max(4, len(str(len(pixels) - 1)))
    targets = synthetic.targets.double().tolist() if synthetic.soft else None
    files, rows, counts = [], [], [0] * len(names)
    for index, label in enumerate(classes_of(synthetic).tolist()):
        files.append(f"train/{names[label]}/{counts[label]:0{digits}}.png")
        counts[label] += 1
        picture = pixels[index].permute(1, 2, 0).numpy()
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(folder / files[-1], format="png")
        probabilities = [] if targets is None else [f"{value:.9g}" for value in targets[index]]
        rows.append([files[-1], label, no_formula(synthetic.class_names[label]), *probabilities])
    with (folder / LABELS).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(csv_header(len(names) if synthetic.soft else 0))
        writer.writerows(rows)
    return [LABELS, *files], loss


def csv_header(probabilities: int) -> list[str]:
    """Return the columns of ``labels.csv``."""
    return [*HEADER, *(f"p{index}" for index in range(probabilities))]


def folder_names(class_names: Sequence[str]) -> list[str]:
    """Return a folder's name per class: its index, padded so that names sort as indices do, and a safe form of it."""
    digits = len(str(len(class_names) - 1))
    return [f"{index:0{digits}}_{_safe(name)}" for index, name in enumerate(class_names)]


def _safe(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-")[:40] or "class"


def write_safetensors(synthetic: SyntheticSet, stored: Path | None, folder: Path) -> Written:
    """Copy the native file byte for byte, or write one where there is none."""
    if stored is None:
        write_set(synthetic, folder / SYNTHETIC)
    else:
        shutil.copyfile(stored, folder / SYNTHETIC)
    return [SYNTHETIC], None
