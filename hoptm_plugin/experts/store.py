"""The expert store: one folder per recipe, one memory-mapped file per expert, read a segment at a time.

Layout: ``<root>/<recipe digest>/manifest.json`` and ``expert-00000.safetensors`` with one tensor ``parameters``
(epochs+1, P), float32. Files appear whole by renaming; processes that build the same store write the
same bits, on CUDA up to rounding.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.core.files import METADATA_KEY, read_json, write_json, write_tensors
from hoptm_plugin.experts.recipe import ExpertRecipe

TENSOR, KIND, VERSION, MANIFEST = "parameters", "expert", 1, "manifest.json"


class ExpertStore:
    """Experts of one recipe on disk.

    Args:
        root: folder of all stores.
        recipe: identity of the experts.
        num_parameters: P, checked against every file.
    """

    def __init__(self, root: Path, recipe: ExpertRecipe, num_parameters: int) -> None:
        self.folder, self.recipe, self.num_parameters = root / recipe.digest, recipe, num_parameters

    def path(self, expert: int) -> Path:
        """Return the file of one expert."""
        return self.folder / f"expert-{expert:05d}.safetensors"

    def epochs(self, expert: int) -> int:
        """Return how many epochs of an expert are stored; -1 if it is missing.

        Raises:
            FileFormatError: the file is damaged or holds another network.
        """
        return self._header(expert)[0] if self.path(expert).exists() else -1

    def seconds(self, expert: int) -> float:
        """Return how long the training of a stored expert took."""
        return float(self._header(expert)[1]["seconds"])

    def _header(self, expert: int) -> tuple[int, dict[str, Any]]:
        path = self.path(expert)
        try:
            with safe_open(path, framework="pt") as stream:
                shape = stream.get_slice(TENSOR).get_shape()
                header = json.loads((stream.metadata() or {})[METADATA_KEY])
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise FileFormatError(f"{path}: damaged ({error!r}); delete it and it is trained again") from None
        identity = (KIND, VERSION, self.recipe.digest)
        if not isinstance(header, dict) or tuple(map(header.get, ("kind", "version", "recipe"))) != identity:
            raise FileFormatError(f"{path}: not an expert of this store (version {VERSION}); delete it")
        if len(shape) != 2 or shape[0] < 1 or shape[1] != self.num_parameters:
            raise FileFormatError(f"{path}: shape {shape}, expected (epochs+1, {self.num_parameters}); delete it")
        return int(shape[0]) - 1, header

    def write(self, expert: int, trajectory: Tensor, epoch_losses: list[float], seconds: float) -> None:
        """Store an expert's trajectory (epochs+1, P), its mean training loss per epoch, and how long it took."""
        self._agree_on_manifest()
        metadata = {"kind": KIND, "version": VERSION, "recipe": self.recipe.digest,
                    "epoch_losses": epoch_losses, "seconds": seconds}  # fmt: skip
        write_tensors(self.path(expert), {TENSOR: trajectory}, metadata)

    def read(self, expert: int, first: int, last: int) -> Tensor:
        """Return the rows ``first`` to ``last``, both included, on the CPU; only these are read from disk."""
        with safe_open(self.path(expert), framework="pt") as stream:
            rows: Tensor = stream.get_slice(TENSOR)[first : last + 1]
        if len(rows) != last - first + 1:  # slicing past the end would make another epoch the target, in silence
            raise FileFormatError(
                f"{self.path(expert)}: does not reach epoch {last}; delete it and it is trained again"
            )
        return rows

    def missing(self, count: int, epochs: int) -> list[int]:
        """Return which of the first ``count`` experts do not reach ``epochs``."""
        if (self.folder / MANIFEST).exists():
            self._agree_on_manifest()
        return [expert for expert in range(count) if self.epochs(expert) < epochs]

    def _agree_on_manifest(self) -> None:
        path = self.folder / MANIFEST
        content = {"kind": "expert store", "version": VERSION, "parameters": self.num_parameters,
                   "recipe": self.recipe.model_dump(mode="json")}  # fmt: skip
        if not path.exists():
            write_json(path, content)
        elif read_json(path, "manifest") != content:
            raise FileFormatError(f"{path}: belongs to another recipe; delete {self.folder} or choose experts.root")


@dataclass(frozen=True)
class StoredTrajectories:
    """The first ``count`` experts of a store, on a device."""

    store: ExpertStore
    count: int
    device: torch.device

    def __len__(self) -> int:
        """Return the number of experts."""
        return self.count

    @property
    def seconds(self) -> float:
        """How long these experts took to train, whenever that was."""
        return sum(self.store.seconds(expert) for expert in range(self.count))

    def segment(self, expert: int, first: int, last: int) -> Tensor:
        """Return (last - first + 1, P)."""
        rows = self.store.read(expert, first, last)
        if self.device.type == "cuda":
            return rows.pin_memory().to(self.device, non_blocking=True)
        return rows.clone()  # read now, and not when it is first used
