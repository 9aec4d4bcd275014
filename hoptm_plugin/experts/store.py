"""The expert store: one folder per recipe, one memory-mapped file per expert, read a segment at a time.

Layout: ``<root>/<recipe digest>/manifest.json`` and ``expert-00000.safetensors`` with one tensor ``parameters``
(epochs+1, P), float32, and a checksum for every row. Files appear whole by renaming. Any number of processes build one
store: each takes the lock ``expert-00000.lock`` of the expert that it trains. What an interrupted one had of an expert
lies in ``expert-00000.begun.safetensors``, and whoever takes the expert next goes on from there, to the same bits, on
CUDA up to rounding. Of a curriculum, ``difficulty.safetensors`` holds the images' scores (:mod:`.difficulty`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hoptm_plugin.core.errors import FileFormatError, StorageError
from hoptm_plugin.experts.recipe import ExpertRecipe
from hoptm_plugin.storage.files import (
    check_checksum,
    read_json,
    remove_leftovers,
    with_checksum,
    write_json,
)
from hoptm_plugin.storage.locks import Lock
from hoptm_plugin.storage.tensors import read_header, read_rows, read_tensors, write_tensors

TENSOR, VELOCITY = "parameters", "velocity"
KIND, BEGUN, VERSION, MANIFEST = "expert", "begun expert", 2, "manifest.json"
AGAIN = "delete it and it is trained again"


@dataclass(frozen=True)
class Begun:
    """An expert that is not finished.

    Attributes:
        trajectory: (epochs so far + 1, P).
        velocity: of SGD with momentum, (P,).
        epoch_losses: mean training loss of each epoch.
        seconds: of training so far.
    """

    trajectory: Tensor
    velocity: Tensor
    epoch_losses: list[float]
    seconds: float

    @property
    def epochs(self) -> int:
        """How many are done."""
        return len(self.trajectory) - 1


class ExpertStore:
    """Experts of one recipe on disk.

    Args:
        root: folder of all stores.
        recipe: identity of the experts.
        num_parameters: P, checked against every file.
    """

    def __init__(self, root: Path, recipe: ExpertRecipe, num_parameters: int) -> None:
        self.folder, self.recipe, self.num_parameters = root / recipe.digest, recipe, num_parameters
        self._sound: set[tuple[int, int, tuple[int, ...] | None]] = set()  # expert, row, state of the file

    def path(self, expert: int) -> Path:
        """Return the file of one expert."""
        return self.folder / f"expert-{expert:05d}.safetensors"

    def begun_path(self, expert: int) -> Path:
        """Return the file of one expert that is not finished."""
        return self.folder / f"expert-{expert:05d}.begun.safetensors"

    def scoring(self) -> ExpertStore:
        """Return the store, beside this one, of the experts that score images for a curriculum."""
        return ExpertStore(self.folder.parent, self.recipe.without_curriculum(), self.num_parameters)

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
        shapes, header = read_header(path, KIND, AGAIN)
        return self._check(path, shapes, header, KIND, {TENSOR}), header

    def tidy(self) -> None:
        """Remove what killed processes left: their locks, temporary files, and copies of experts that are finished."""
        for path in self.folder.glob("*.lock"):
            lock = Lock(path)
            with suppress(StorageError):  # of a store that is only read
                if not lock.acquire():
                    continue
                with closing(lock):
                    remove_leftovers(self.folder, f"{path.stem}*")
                    number = re.fullmatch(r"expert-(\d+)", path.stem)
                    if number and (begun := self.begun(int(number[1]))) and begun.epochs <= self.epochs(int(number[1])):
                        self.begun_path(int(number[1])).unlink()

    def _check(self, path: Path, shapes: dict[str, tuple[int, ...]], header: Any, kind: str, names: set[str]) -> int:
        """Refuse a file that is not of this store; return how many epochs it holds."""
        identity = (kind, VERSION, self.recipe.digest)
        if not isinstance(header, dict) or tuple(map(header.get, ("kind", "version", "recipe"))) != identity:
            raise FileFormatError(f"{path}: not an {kind} of this store (version {VERSION}); delete it")
        if set(shapes) != names:
            raise FileFormatError(f"{path}: damaged: holds {sorted(shapes)}, expected {sorted(names)}; {AGAIN}")
        shape = shapes[TENSOR]
        if len(shape) != 2 or shape[0] < 1 or shape[1] != self.num_parameters:
            raise FileFormatError(f"{path}: shape {list(shape)}, expected (epochs+1, {self.num_parameters}); {AGAIN}")
        losses, seconds = header.get("epoch_losses"), header.get("seconds")
        if not isinstance(losses, list) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
            raise FileFormatError(f"{path}: damaged: its losses or seconds are none; {AGAIN}")
        return int(shape[0]) - 1

    def write(self, expert: int, trajectory: Tensor, epoch_losses: list[float], seconds: float) -> None:
        """Store an expert's trajectory (epochs+1, P), its mean training loss per epoch, and how long it took."""
        self.begin()
        header = self._describe(KIND, epoch_losses, seconds)
        write_tensors(self.path(expert), {TENSOR: trajectory}, header, by_row=True)
        self.begun_path(expert).unlink(missing_ok=True)

    def _describe(self, kind: str, epoch_losses: list[float], seconds: float) -> dict[str, Any]:
        return {"kind": kind, "version": VERSION, "recipe": self.recipe.digest,
                "epoch_losses": epoch_losses, "seconds": seconds}  # fmt: skip

    def write_begun(self, expert: int, begun: Begun) -> None:
        """Store what there is of an expert; call it only while its lock is held."""
        self.begin()
        header = self._describe(BEGUN, begun.epoch_losses, begun.seconds)
        write_tensors(self.begun_path(expert), {TENSOR: begun.trajectory, VELOCITY: begun.velocity}, header)

    def begun(self, expert: int) -> Begun | None:
        """Return what an interrupted process had of an expert, or None.

        Raises:
            FileFormatError: the file is damaged.
        """
        path = self.begun_path(expert)
        if not path.exists():
            return None
        tensors, header = read_tensors(path, BEGUN, AGAIN)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self._check(path, shapes, header, BEGUN, {TENSOR, VELOCITY})
        for name, tensor in tensors.items():
            _check_values(path, name, tensor)
        if shapes[VELOCITY] != (self.num_parameters,):
            raise FileFormatError(f"{path}: {VELOCITY} is not of {self.num_parameters} parameters; {AGAIN}")
        return Begun(tensors[TENSOR], tensors[VELOCITY], list(header["epoch_losses"]), float(header["seconds"]))

    def read(self, expert: int, first: int, last: int) -> Tensor:
        """Return the rows ``first`` to ``last``, both included, on the CPU; only these are read from disk.

        Each is checked when it is read first, and again when its file has changed.

        Raises:
            FileFormatError: damaged, or without these rows.
        """
        path = self.path(expert)
        before = _state(path)
        wanted = {(expert, row, before) for row in range(first, last + 1)}
        if wanted <= self._sound:
            rows = read_rows(path, KIND, TENSOR, first, last, AGAIN, checked=False)
            if _state(path) == before:  # it was not replaced in between
                return rows
        rows = read_rows(path, KIND, TENSOR, first, last, AGAIN)
        _check_values(path, TENSOR, rows)
        self._sound |= wanted
        return rows

    def missing(self, count: int, epochs: int) -> list[int]:
        """Return which of the first ``count`` experts do not reach ``epochs``."""
        if (self.folder / MANIFEST).exists():
            self.begin()
        return [expert for expert in range(count) if self.epochs(expert) < epochs]

    @contextmanager
    def claimed(self, wanted: list[int], most: int, epochs: int) -> Iterator[dict[int, Begun | None]]:
        """Hold the locks of up to ``most`` of the wanted experts that nobody else trains, maybe none.

        Yields what is begun of each, or None; equally many epochs, so that they can go on side by side.

        Raises:
            StorageError: the store cannot be written to.
        """
        held: dict[int, Lock] = {}
        found: dict[int, Begun | None] = {}
        done: int | None = None
        try:
            for expert in wanted:
                if len(held) == most:
                    break
                lock = Lock(self.folder / f"expert-{expert:05d}.lock")
                if not lock.acquire():
                    continue
                held[expert] = lock
                remove_leftovers(self.folder, f"expert-{expert:05d}*")
                begun = self.begun(expert)
                so_far = begun.epochs if begun is not None else 0
                # another process may have finished it since it was missed
                if self.epochs(expert) >= epochs or done not in (None, so_far):
                    held.pop(expert).close()
                    continue
                done, found[expert] = so_far, begun
            yield found
        finally:
            for lock in held.values():
                lock.close()

    def begin(self) -> None:
        """Write the manifest where there is none.

        Raises:
            FileFormatError: there is one of another recipe, or a damaged one.
            StorageError: the store cannot be written to.
        """
        path = self.folder / MANIFEST
        content = {"kind": "expert store", "version": VERSION, "parameters": self.num_parameters,
                   "recipe": self.recipe.model_dump(mode="json")}  # fmt: skip
        lock = Lock(path.with_suffix(".lock"))
        while not path.exists():
            if lock.acquire():
                with closing(lock):
                    write_json(path, with_checksum(content))
            else:
                time.sleep(0.05)  # another process writes it
        found = read_json(path, "manifest", "delete it, and it is written again")
        if not isinstance(found, dict):
            raise FileFormatError(f"{path}: not a manifest of experts; delete {self.folder} or choose experts.root")
        check_checksum(found, path, f"delete {path}, and it is written again")
        if found != with_checksum(content):
            raise FileFormatError(f"{path}: belongs to another recipe; delete {self.folder} or choose experts.root")


def _state(path: Path) -> tuple[int, ...] | None:
    """Return what changes with a file's content: its place on the disk, its size and when it was written."""
    try:
        found = path.stat()
    except OSError:
        return None  # reading it says what is wrong
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _check_values(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.dtype != torch.float32:
        raise FileFormatError(f"{path}: {name} are {tensor.dtype}, expected float32; {AGAIN}")
    if not bool(torch.isfinite(tensor).all()):
        raise FileFormatError(f"{path}: {name} hold NaN or infinite values; {AGAIN}")


@dataclass(frozen=True)
class StoredTrajectories:
    """The first ``count`` experts of a store, on a device; before them, images were scored for ``scoring_seconds``."""

    store: ExpertStore
    count: int
    device: torch.device
    scoring_seconds: float = 0.0

    def __len__(self) -> int:
        """Return the number of experts."""
        return self.count

    @property
    def seconds(self) -> float:
        """How long these experts took to train, whenever that was, what scored their images included."""
        return self.scoring_seconds + sum(self.store.seconds(expert) for expert in range(self.count))

    def segment(self, expert: int, first: int, last: int) -> Tensor:
        """Return (last - first + 1, P)."""
        rows = self.store.read(expert, first, last)
        if self.device.type == "cuda":
            return rows.pin_memory().to(self.device, non_blocking=True)
        return rows.clone()  # read now, and not when it is first used
