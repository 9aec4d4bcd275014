"""A synthetic set as one safetensors file with JSON metadata: written whole or not at all, read with distrust."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hoptm_plugin.core.dataset import Normalisation
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.storage.tensors import read_tensors, write_tensors

KIND, VERSION = "synthetic set", 2
TRAINED_ON_KIND = "hashes of training images"


class _Metadata(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: str
    version: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalisation: str
    mosaic: int = Field(1, ge=1)
    info: dict[str, Any]


def write_set(synthetic: SyntheticSet, path: Path) -> None:
    """Write a set to ``path`` whole or not at all."""
    tensors = {"images": synthetic.images, "labels": synthetic.labels}
    if synthetic.step_size is not None:
        tensors["step_size"] = synthetic.step_size
    normalisation = synthetic.normalisation
    metadata = _Metadata(kind=KIND, version=VERSION, class_names=synthetic.class_names, mean=normalisation.mean,
                         std=normalisation.std, normalisation=normalisation.kind, mosaic=synthetic.mosaic,
                         info=synthetic.info)  # fmt: skip
    write_tensors(path, tensors, metadata.model_dump(mode="json"))


def read_set(path: Path) -> SyntheticSet:
    """Read a stored set; refuse anything that is not one.

    Raises:
        FileFormatError: missing, damaged, another kind of file, or values that do not fit together.
    """
    tensors, raw = read_tensors(path, KIND)
    try:
        metadata = _Metadata.model_validate(raw)
        if (metadata.kind, metadata.version) != (KIND, VERSION):
            raise ValueError(f"it is a {metadata.kind} of version {metadata.version}")
        if unknown := set(tensors) - {"images", "labels", "step_size"}:
            raise ValueError(f"unknown tensors {sorted(unknown)}")
        normalisation = Normalisation(metadata.mean, metadata.std, metadata.normalisation)
        loaded = SyntheticSet(tensors["images"], tensors["labels"], tensors.get("step_size"), metadata.class_names,
                              normalisation, metadata.info, metadata.mosaic)  # fmt: skip
        check_set(loaded)
        return loaded
    except ValidationError as error:
        fault = error.errors()[0]
        raise FileFormatError(f"{path}: not a {KIND}: metadata {fault['loc']}: {fault['msg']}") from None
    except (ValueError, KeyError) as error:
        raise FileFormatError(f"{path}: not a valid {KIND} of version {VERSION}: {error}") from None


def check_set(synthetic: SyntheticSet) -> None:
    """Refuse what can be written down, but not be trained on.

    Raises:
        ValueError: saying what.
    """
    if not synthetic.class_names:
        raise ValueError("it names no classes")
    tensors = {name: getattr(synthetic, name) for name in ("images", "labels", "step_size")}
    if bad := [name for name, tensor in tensors.items() if tensor is not None and not torch.isfinite(tensor).all()]:
        raise ValueError(f"{', '.join(bad)} hold NaN or infinite values")
    if synthetic.images.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"images are {synthetic.images.dtype}, expected float32")
    mean, std = synthetic.normalisation.mean, synthetic.normalisation.std
    if not all(map(math.isfinite, (*mean, *std))) or any(value <= 0 for value in std):
        raise ValueError("its normalisation is not of finite means and positive deviations")
    if "ipc" in synthetic.info:
        synthetic.check_ipc(synthetic.info["ipc"])


def write_trained_on(hashes: torch.Tensor, train_sha256: str, path: Path) -> None:
    """Write which images a set was distilled from: their hashes (n, 16), sorted, and the SHA-256 of their split.

    It stays in the run's folder: whoever has an image can tell by it whether that was among them.
    """
    kept = torch.from_numpy(np.unique(hashes.cpu().numpy(), axis=0))
    write_tensors(path, {"hashes": kept}, {"kind": TRAINED_ON_KIND, "version": 1, "train": train_sha256})


def read_trained_on(path: Path) -> tuple[torch.Tensor, str]:
    """Read what :func:`write_trained_on` wrote.

    Raises:
        FileFormatError: missing, damaged or another kind of file.
    """
    tensors, said = read_tensors(path, TRAINED_ON_KIND)
    hashes, train = tensors.get("hashes"), said.get("train") if isinstance(said, dict) else None
    if hashes is None or hashes.dtype != torch.uint8 or hashes.ndim != 2 or not isinstance(train, str):
        raise FileFormatError(f"{path}: not a file of {TRAINED_ON_KIND}; restore it")
    return hashes, train
