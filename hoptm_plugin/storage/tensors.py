"""Tensors and JSON metadata as one safetensors file, with a checksum of everything in it.

The header holds one JSON string (with several metadata keys safetensors' order, and so the bytes, would vary):
``{"content": the caller's metadata, "tensors": {name: {dtype, shape, sha256: [...]}}, "sha256": of these two}``. A
tensor has one checksum, or one for every row, so that a few rows can be read and checked without the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.storage.files import check_checksum, with_checksum, write_bytes

METADATA_KEY = "hoptm"
# what files of this software hold; of others, such as eight-bit floats, torch cannot tell whether they are finite
_DTYPES = {f"torch.{name}" for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")}
_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError, RuntimeError,
               MemoryError)  # fmt: skip


class _Tensor(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    dtype: str
    shape: list[int]
    sha256: list[str]


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    content: JsonValue
    tensors: dict[str, _Tensor]
    sha256: str


def digest(tensor: torch.Tensor) -> str:
    """Return the SHA-256 of a tensor's values as they lie in memory."""
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().data).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Any, by_row: bool = False) -> None:
    """Write tensors and JSON metadata whole or not at all; ``by_row`` allows :func:`read_rows`.

    Raises:
        StorageError: disk full, read-only and the like.
    """
    # copied, because safetensors refuses tensors that share memory
    arrays = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    described = {
        name: {"dtype": str(array.dtype), "shape": list(array.shape),
               "sha256": [digest(row) for row in array] if by_row else [digest(array)]}
        for name, array in arrays.items()
    }  # fmt: skip
    header = json.dumps(with_checksum({"content": metadata, "tensors": described}), sort_keys=True, allow_nan=False)
    # its own writing to a file maps it into memory, where a full disk would end the process by a signal
    write_bytes(path, save(arrays, {METADATA_KEY: header}))


def read_tensors(path: Path, kind: str, remedy: str = "restore it") -> tuple[dict[str, torch.Tensor], Any]:
    """Read all tensors and the metadata of a file that :func:`write_tensors` made.

    Raises:
        FileFormatError: missing, damaged, or another kind of file.
    """
    header = _read_header(path, kind, remedy)
    try:
        with safe_open(path, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in header.tensors}
    except _UNREADABLE as error:
        raise _damaged(path, kind, remedy, repr(error)) from None
    for name, tensor in tensors.items():
        described = header.tensors[name]
        parts = [tensor] if len(described.sha256) == 1 or not tensor.ndim else list(tensor)
        _check(parts, described.dtype, described.sha256, f"{path}: {name}", remedy)
    return tensors, header.content


def read_header(path: Path, kind: str, remedy: str = "restore it") -> tuple[dict[str, tuple[int, ...]], Any]:
    """Return the shapes of the tensors, by name, and the metadata; the tensors themselves are not read.

    Raises:
        FileFormatError: missing, damaged, or another kind of file.
    """
    header = _read_header(path, kind, remedy)
    return {name: tuple(tensor.shape) for name, tensor in header.tensors.items()}, header.content


def read_rows(
    path: Path, kind: str, name: str, first: int, last: int, remedy: str = "restore it", checked: bool = True
) -> torch.Tensor:
    """Return the rows ``first`` to ``last``, both included, of a tensor that was written ``by_row``.

    Only these are read from the disk, and checked unless they are known to be sound.

    Raises:
        FileFormatError: missing, damaged, another kind of file, or without these rows.
    """
    described = _read_header(path, kind, remedy).tensors.get(name)
    if described is None:
        raise FileFormatError(f"{path}: holds no {name}; {remedy}")
    digests = described.sha256[first : last + 1]
    if len(digests) != last - first + 1:  # slicing past the end would make another row the last one, in silence
        raise FileFormatError(f"{path}: does not reach row {last} of {name}; {remedy}")
    try:
        with safe_open(path, framework="pt") as stream:
            rows: torch.Tensor = stream.get_slice(name)[first : last + 1]
    except _UNREADABLE as error:
        raise _damaged(path, kind, remedy, repr(error)) from None
    if checked:
        _check(list(rows), described.dtype, digests, f"{path}: {name}", remedy)
    return rows


def _check(parts: list[torch.Tensor], dtype: str, digests: list[str], what: str, remedy: str) -> None:
    # the type as well: the same bytes are other numbers in another
    if [digest(part) for part in parts] != digests or any(str(part.dtype) != dtype for part in parts):
        raise FileFormatError(f"{what}: damaged: it is not what its checksum says; {remedy}")


def _read_header(path: Path, kind: str, remedy: str) -> _Header:
    if not path.is_file():
        raise FileFormatError(f"{path}: not a file; {remedy}" if path.exists() else f"{path}: no such {kind}")
    try:
        path.open("rb").close()  # safetensors says that what it may not read does not exist
    except OSError as error:
        raise FileFormatError(f"{path}: the {kind} cannot be read: {error.strerror}") from None
    try:
        with safe_open(path, framework="pt") as stream:
            raw = json.loads((stream.metadata() or {})[METADATA_KEY])
            header = _Header.model_validate(raw)
            found = {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
    except ValidationError:
        raise _damaged(path, kind, remedy, "its header is not of this version") from None
    except _UNREADABLE as error:
        raise _damaged(path, kind, remedy, repr(error)) from None
    check_checksum(raw, path, remedy)
    if odd := [name for name, tensor in header.tensors.items() if tensor.dtype not in _DTYPES]:
        raise _damaged(path, kind, remedy, f"{', '.join(odd)}: of a type that it does not write")
    if any(len(each.sha256) not in (1, *each.shape[:1]) for each in header.tensors.values()):
        raise _damaged(path, kind, remedy, "it has neither one checksum nor one a row")
    if found != {name: tuple(tensor.shape) for name, tensor in header.tensors.items()}:
        raise _damaged(path, kind, remedy, "its tensors are not those of its header")
    return header


def _damaged(path: Path, kind: str, remedy: str, reason: str) -> FileFormatError:
    return FileFormatError(f"{path}: damaged, or not a {kind} written by hoptm-bench ({reason}); {remedy}")
