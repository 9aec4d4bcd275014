"""Writing a file whole or not at all, with a checksum where nothing else holds one, and reading what may be damaged."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from hoptm_plugin.core.errors import ConfigurationError, FileFormatError, StorageError

CHECKSUM: Final = "sha256"
LARGEST_JSON: Final = 64 * 2**20
_REMEDIES = {
    errno.ENOSPC: "free some space there, or choose another folder",
    errno.EDQUOT: "free some of your quota, or choose another folder",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "make the folder writable, or choose another one",
    errno.EPERM: "make the folder writable, or choose another one",
}


def as_path(value: Any, what: str) -> Path:
    """Return a path.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(value, str | os.PathLike):
        raise ConfigurationError(f"{what}: must be a path, got {value!r}")
    return Path(value)


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return the error to raise where ``path`` could not be written."""
    return StorageError(path, error.strerror or str(error), _REMEDIES.get(error.errno or 0, "choose another folder"))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then sync it and rename it into place.

    A reader sees the old file or the new one, never a part; the mode follows the umask.

    Raises:
        StorageError: disk full, read-only and the like; ``path`` is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a folder, or a pipe or device, which would be replaced
            raise StorageError(path, "is no file", "choose another name")
        # named before it exists, so that a signal finds no moment between its making and its removal
        temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
        try:
            temporary.touch(0o600, exist_ok=False)
            write(temporary)
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_leftover(path: Path, name: str = "*") -> bool:
    """Tell whether a file is a temporary one of :func:`write_atomically`."""
    return fnmatch(path.name, f".{name}.????????.tmp")


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove temporary files that killed processes left; call it only while nobody else may write ``name`` there."""
    for path in folder.iterdir():
        if is_leftover(path, name):
            path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON to ``path`` whole or not at all; NaN is refused."""
    text = json.dumps(value, indent=2, allow_nan=False)
    # a list of numbers on one line: a confusion matrix would else take a line per number
    text = re.sub(r"(?<=\[)\n[^\[\]{}\"]*(?=\])", lambda found: re.sub(r"\n\s*", " ", found[0]).strip(), text)
    write_text(path, text + "\n")


def read_json(path: Path, kind: str, remedy: str = "restore it") -> Any:
    """Read JSON from ``path``; ``kind`` names the file in the error.

    Raises:
        FileFormatError: missing, unreadable or no JSON.
    """
    if not path.exists():
        raise FileFormatError(f"{path}: no such {kind}")
    try:
        return json.loads(read_bounded(path, LARGEST_JSON, kind))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: not a readable {kind}: {error}; {remedy}") from None


def content_sha256(value: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a mapping's JSON, whatever its order and layout, without its own checksum."""
    content = {key: item for key, item in value.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def with_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with its :func:`content_sha256` in it, for :func:`check_checksum`."""
    return {**value, CHECKSUM: content_sha256(value)}


def check_checksum(value: Mapping[str, Any], path: Path, remedy: str) -> None:
    """Refuse a mapping that is not what :func:`with_checksum` made.

    Raises:
        FileFormatError: the checksum is missing or another one.
    """
    try:
        found: str | None = content_sha256(value)
    except (RecursionError, ValueError):  # nested more deeply than any file of this software, or half characters
        found = None
    if found is None or value.get(CHECKSUM) != found:
        raise FileFormatError(f"{path}: damaged or edited: its content is not that of its checksum; {remedy}")


def read_bounded(path: Path, largest: int, kind: str) -> bytes:
    """Return a file's bytes; one of more than ``largest`` is refused before it fills the memory.

    Raises:
        FileFormatError: unreadable, too large, or no file but a pipe, a device or a folder; ``kind`` names the file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe that nobody writes to would be waited for
            raise FileFormatError(f"{path}: not a file, so not a {kind}; put the file itself there, or remove it")
        with path.open("rb") as stream:
            # no more than there is: as much as is asked for is reserved
            content = stream.read(min(largest, os.fstat(stream.fileno()).st_size) + 1)
    except OSError as error:
        raise FileFormatError(f"{path}: the {kind} cannot be read: {error.strerror}") from None
    if len(content) > largest:
        raise FileFormatError(f"{path}: larger than {largest // 2**20} MiB, so not a {kind}")
    return content


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal.

    Raises:
        FileFormatError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror}; make it readable") from None
