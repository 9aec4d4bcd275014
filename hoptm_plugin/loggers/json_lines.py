"""``metrics.jsonl``: one JSON object a line."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.core.loggers import RunLogger
from hoptm_plugin.storage.files import read_bounded, storage_error, write_bytes
from hoptm_plugin.storage.run_files import METRICS

LARGEST_BYTES = 2**30


@dataclass(frozen=True)
class Mark:
    """How far the file had been written at a checkpoint: its bytes, and their SHA-256."""

    length: int
    sha256: str


class JsonLines(RunLogger):
    """Appends ``{"step": ..., name: value, ...}`` to ``metrics.jsonl`` in the run folder, and flushes it.

    Args:
        mark: of the checkpoint that is gone on from; what was written after it is dropped.
    """

    def __init__(self, mark: Mark | None = None) -> None:
        self._mark, self._digest, self._length = mark, hashlib.sha256(), 0
        self._stream: BinaryIO | None = None

    def begin(self, folder: Path, first: int) -> None:
        """Drop what an interrupted process wrote after its last checkpoint, and open the file.

        Raises:
            FileFormatError: what it wrote before is damaged.
            StorageError: disk full, read-only and the like.
        """
        self._path = path = folder / METRICS
        kept = b""
        if self._mark is not None and path.exists():
            kept = read_bounded(path, LARGEST_BYTES, "log of the distillation")[: self._mark.length]
            if hashlib.sha256(kept).hexdigest() != self._mark.sha256:
                raise FileFormatError(f"{path}: damaged: not what it was at the last checkpoint; restore it, or "
                                      "delete it to go on without what it held")  # fmt: skip
        write_bytes(path, kept)
        self._add(kept)
        self._stream = path.open("ab")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line."""
        assert self._stream is not None, "begin was not called"
        line = (json.dumps({"step": step, **values}) + "\n").encode()
        try:
            self._stream.write(line)
            self._stream.flush()
        except OSError as error:
            raise storage_error(self._path, error) from error
        self._add(line)

    def mark(self) -> Mark:
        """Bring what was written to the disk, and return how far that is."""
        assert self._stream is not None, "begin was not called"
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise storage_error(self._path, error) from error
        return Mark(self._length, self._digest.hexdigest())

    def _add(self, content: bytes) -> None:
        self._digest.update(content)
        self._length += len(content)

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            try:
                stream.close()
            except OSError as error:  # what is still in its buffer does not fit on the disk
                raise storage_error(self._path, error) from error
