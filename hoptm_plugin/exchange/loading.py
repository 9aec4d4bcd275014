"""Reading distilled sets back, from run folders, native files and exported folders; nothing read is ever executed."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hoptm_plugin.cards.card import Card, read_card
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.core.text import shortened
from hoptm_plugin.data.memory import require
from hoptm_plugin.exchange.formats import LABELS, NPZ, csv_header, label_type
from hoptm_plugin.exchange.manifest import FILE_NAME, MOST_VALUES, Manifest, read_manifest
from hoptm_plugin.storage.files import as_path, sha256
from hoptm_plugin.storage.npz import NpzError, open_npz
from hoptm_plugin.storage.run_files import CARD, SYNTHETIC
from hoptm_plugin.storage.sets import read_set

AGAIN = "export it again"
BYTES_PER_VALUE: Final = 13  # as it is stored, as float32, and while that is normalised
LARGEST_BYTES: Final = 4 * MOST_VALUES + 2**20  # of one file


def why_no_set(folder: Path) -> str:
    """Say why a folder with a card holds no synthetic set; "" where it has no card."""
    if not (folder / CARD).exists():
        return ""
    if read_card(folder / CARD).ipc is None:
        return ", since its method trained on all images and distils nothing"
    return ", since the folder is of an evaluation, not of a run"


def check_against_card(file: Path, remedy: str) -> Card | None:
    """Return the card beside a set, None where there is none.

    Raises:
        FileFormatError: the card judges another set.
    """
    if not (file.parent / CARD).exists():
        return None
    card = read_card(file.parent / CARD)
    if card.artefacts.get(file.name) != sha256(file):
        raise FileFormatError(f"{file}: is not the set that {CARD} beside it judges (their SHA-256 differ); restore "
                              f"it, or {remedy}")  # fmt: skip
    return card


def load_distilled(path: str | os.PathLike[str]) -> SyntheticSet:
    """Read a distilled set: an ordinary torch data set of (normalised image, target).

    8-bit pixels x of an exported set are normalised, z = (x / 255 - mean) / std; soft labels become logits, log p.

    Args:
        path: a run folder, a native ``.safetensors`` file, or a folder that ``hoptm-bench export`` wrote with format
            medmnist, folder or safetensors.

    Returns:
        The set with its ``step_size``, the learning rate to train on it with (None where none was learned).

    Raises:
        FileFormatError: missing, damaged, changed since it was exported, of a format that is not read, without as many
            images of every class as it says, or another one than the card beside it judges.
        DataError: it does not fit into memory.
    """
    path = as_path(path, "path")
    try:
        is_folder = path.is_dir()
    except OSError as error:  # such as a name that is too long
        raise FileFormatError(f"{path}: {error.strerror}") from None
    if not is_folder:
        return read_set(path)
    if is_export(path):
        return _load_export(path)
    if not (path / SYNTHETIC).is_file():
        raise FileFormatError(f"{path}: holds neither {SYNTHETIC} nor {FILE_NAME}, so it is no run folder with a "
                              f"synthetic set and no exported set")  # fmt: skip
    check_against_card(path / SYNTHETIC, f"read the file itself, by naming {path / SYNTHETIC}")
    return read_set(path / SYNTHETIC)


def is_export(path: Path) -> bool:
    """Tell whether ``path`` is a folder that ``hoptm-bench export`` wrote."""
    return (path / FILE_NAME).is_file()


def _load_export(folder: Path) -> SyntheticSet:
    manifest = read_manifest(folder)
    readers = {"medmnist": _read_medmnist, "folder": _read_folder, "safetensors": _read_safetensors}
    if manifest.format not in readers:
        raise FileFormatError(f"{folder}: holds tensors for DD-Ranking, which are pickles and are not read here; "
                              f"use an export of another format, such as safetensors")  # fmt: skip
    for name, digest in manifest.files.items():
        _check(folder, name, digest)
    values = manifest.images * (math.prod(manifest.image_shape) + len(manifest.class_names) * manifest.soft)
    require(BYTES_PER_VALUE * values, torch.device("cpu"), f"{folder}: its {manifest.images} images")
    return readers[manifest.format](folder, manifest)


def _check(folder: Path, name: str, digest: str) -> None:
    """Refuse a file that is missing, leads elsewhere or has changed."""
    file = folder / name
    if not file.is_file():
        raise FileFormatError(f"{file}: no such file, but {FILE_NAME} lists it; {AGAIN}")
    if not file.resolve().is_relative_to(folder.resolve()):
        raise FileFormatError(f"{file}: is a link that leads out of the exported folder; replace it by the file itself")
    if file.stat().st_size > LARGEST_BYTES:
        raise FileFormatError(f"{file}: larger than {LARGEST_BYTES // 2**20} MiB")
    if sha256(file) != digest:
        raise FileFormatError(f"{file}: has changed since it was exported (its SHA-256 is not that of {FILE_NAME}); "
                              f"{AGAIN}")  # fmt: skip


def _listed(folder: Path, manifest: Manifest, name: str) -> Path:
    if name not in manifest.files:
        raise FileFormatError(f"{folder / FILE_NAME}: lists no {name}, which format {manifest.format} needs; {AGAIN}")
    return folder / name


def _read_safetensors(folder: Path, manifest: Manifest) -> SyntheticSet:
    file = _listed(folder, manifest, SYNTHETIC)
    synthetic = read_set(file)
    step_size = None if synthetic.step_size is None else float(synthetic.step_size)
    found = (synthetic.class_names, synthetic.normalisation, tuple(synthetic.images.shape[1:]), len(synthetic),
             synthetic.soft, synthetic.mosaic, step_size)  # fmt: skip
    if found != (manifest.class_names, manifest.normaliser(), manifest.image_shape, manifest.images, manifest.soft,
                 manifest.mosaic, manifest.step_size):  # fmt: skip
        raise FileFormatError(f"{file}: its classes, normalisation, images, labels or step size are not those of "
                              f"{FILE_NAME}; {AGAIN}")  # fmt: skip
    return synthetic


def _read_medmnist(folder: Path, manifest: Manifest) -> SyntheticSet:
    file = _listed(folder, manifest, NPZ)
    channels, height, width = manifest.image_shape
    count, classes = manifest.images, len(manifest.class_names)
    shape = (count, height, width) if channels == 1 else (count, height, width, channels)
    expected: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
        "train_images": (shape, np.dtype(np.uint8)),
        "train_labels": ((count, 1), np.dtype(label_type(classes))),
    }
    if manifest.soft:
        expected["train_soft_labels"] = (count, classes), np.dtype(np.float32)
    arrays = {}
    try:
        with open_npz(file) as archive:
            for name, wanted in expected.items():
                header = archive.header(name)
                if (header.shape, header.dtype) != wanted:
                    raise NpzError(f"{name} is {header.dtype} {header.shape}, expected {wanted[1]} {wanted[0]}")
                arrays[name] = torch.from_numpy(archive.array(name))
    except NpzError as error:
        raise FileFormatError(f"{file}: not the npz of an exported set ({error}); {AGAIN}") from None
    pixels = arrays["train_images"].reshape(count, height, width, channels).permute(0, 3, 1, 2)
    return _synthetic(pixels, arrays["train_labels"][:, 0].long(), arrays.get("train_soft_labels"), manifest, file)


def _read_folder(folder: Path, manifest: Manifest) -> SyntheticSet:
    file = _listed(folder, manifest, LABELS)
    channels, height, width = manifest.image_shape
    names, hard, soft = _labels(file, manifest)
    if sorted([LABELS, *names]) != sorted(manifest.files):
        raise FileFormatError(f"{file}: does not list each picture of {FILE_NAME} once; {AGAIN}")
    pixels = torch.empty((len(names), height, width, channels), dtype=torch.uint8)
    for index, name in enumerate(names):
        try:
            with Image.open(folder / name, formats=["PNG"]) as picture:
                expected = ("L" if channels == 1 else "RGB", (width, height))
                if (picture.mode, picture.size) != expected:
                    raise ValueError(f"{picture.mode} {picture.size}, expected {expected[0]} {expected[1]}")
                pixels[index] = torch.from_numpy(np.array(picture)).view(height, width, channels)
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
            raise FileFormatError(
                f"{folder / name}: not a PNG of an exported set ({shortened(error)}); {AGAIN}"
            ) from None
    return _synthetic(pixels.permute(0, 3, 1, 2), hard, soft, manifest, file)


def _labels(file: Path, manifest: Manifest) -> tuple[list[str], Tensor, Tensor | None]:
    """Return the pictures' paths, their labels, and probabilities where labels are soft."""
    classes = len(manifest.class_names)
    header = csv_header(classes if manifest.soft else 0)
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream, strict=True))
        if not rows or rows[0] != header or any(len(row) != len(header) for row in rows):
            raise ValueError(f"its columns must be {', '.join(header[:4])}{' ...' if len(header) > 4 else ''}")
        rows = rows[1:]
        if len(rows) != manifest.images:
            raise ValueError(f"{len(rows)} images, but {FILE_NAME} says {manifest.images}")
        hard = torch.tensor([int(row[1]) for row in rows])
        soft = [[float(value) for value in row[3:]] for row in rows] if manifest.soft else None
        return [row[0] for row in rows], hard, None if soft is None else torch.tensor(soft, dtype=torch.float64)
    except (OSError, ValueError, csv.Error, RuntimeError, OverflowError) as error:
        raise FileFormatError(f"{file}: not the labels of an exported set ({shortened(error)}); {AGAIN}") from None


def _synthetic(pixels: Tensor, hard: Tensor, soft: Tensor | None, manifest: Manifest, file: Path) -> SyntheticSet:
    """Return the set that uint8 pixels (n, C, H, W), classes (n,) and probabilities (n, K) describe."""
    normalisation = manifest.normaliser()
    images = normalisation.apply(pixels.float() / 255).contiguous()
    step_size = None if manifest.step_size is None else torch.tensor(manifest.step_size)
    try:
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (images, step_size) if tensor is not None):
            raise ValueError("its normalisation or step size makes numbers that are not finite")
        labels = hard if soft is None else logits(soft)
        info: dict[str, Any] = manifest.info | ({"taken_apart": manifest.mosaic} if manifest.mosaic > 1 else {})
        made = SyntheticSet(images, labels, step_size, manifest.class_names, normalisation, info)
        if "ipc" in info:
            made.check_ipc(info["ipc"])
        return made
    except ValueError as error:
        raise FileFormatError(f"{file}: not a valid exported set: {error}; {AGAIN}") from None


def logits(probabilities: Tensor) -> Tensor:
    """Return log p, whose softmax gives the probabilities back; the smallest that float32 holds stands for 0.

    Raises:
        ValueError: they are no probabilities.
    """
    finite = bool(torch.isfinite(probabilities).all())
    if not finite or bool((probabilities < 0).any()) or bool(((probabilities.sum(dim=1) - 1).abs() > 1e-3).any()):
        raise ValueError("soft labels must be probabilities that sum to 1")
    return probabilities.double().clamp_min(torch.finfo(torch.float32).tiny).log().float()
