"""Writing a file whole or not at all, and reading JSON that may be damaged."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hoptm_plugin.core.errors import FileFormatError

METADATA_KEY = "hoptm"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then sync it and rename it into place.

    A reader sees the old file or the new one, never a part; the mode follows the umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON to ``path`` whole or not at all; NaN is refused."""
    text = json.dumps(value, indent=2, allow_nan=False)
    # a list of numbers on one line: a confusion matrix would else take a line per number
    text = re.sub(r"(?<=\[)\n[^\[\]{}\"]*(?=\])", lambda found: re.sub(r"\n\s*", " ", found[0]).strip(), text)
    write_text(path, text + "\n")


def read_json(path: Path, kind: str) -> Any:
    """Read JSON from ``path``; ``kind`` names the file in the error."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileFormatError(f"{path}: no such {kind}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: not a readable {kind}: {error}") from None


def read_bounded(path: Path, largest: int, kind: str) -> bytes:
    """Return a file's bytes; one of more than ``largest`` is refused before it fills the memory.

    Raises:
        FileFormatError: unreadable or too large; ``kind`` names the file.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(largest + 1)
    except OSError as error:
        raise FileFormatError(f"{path}: the {kind} cannot be read: {error.strerror}") from None
    if len(content) > largest:
        raise FileFormatError(f"{path}: larger than {largest // 2**20} MiB, so not a {kind}")
    return content


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Any) -> None:
    """Write tensors and JSON metadata as one safetensors file, whole or not at all.

    Tensors are copied, because safetensors refuses those that share memory. The metadata is one JSON string under one
    key: with several keys safetensors' order, and so the bytes, would vary.
    """
    arrays = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {METADATA_KEY: json.dumps(metadata, sort_keys=True, allow_nan=False)}
    write_atomically(path, lambda temporary: save_file(arrays, temporary, metadata=header))


def read_tensors(path: Path, kind: str) -> tuple[dict[str, torch.Tensor], Any]:
    """Read all tensors and the JSON metadata of a file that :func:`write_tensors` made."""
    if not path.is_file():
        raise FileFormatError(f"{path}: no such {kind}")
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = json.loads((stream.metadata() or {})[METADATA_KEY])
            return {name: stream.get_tensor(name) for name in stream.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        raise FileFormatError(f"{path}: damaged, or not a {kind} written by hoptm-bench ({error!r})") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
