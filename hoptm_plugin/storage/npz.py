"""Arrays of an npz file, which may be made to mislead: nothing is unpickled, and sizes are known before memory is."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hoptm_plugin.core.errors import HopTMError
from hoptm_plugin.core.text import shortened


class NpzError(ValueError):
    """What is wrong with an npz file, in one line without the file's name."""


@dataclass(frozen=True)
class Header:
    """What is said of an array before its values.

    Attributes:
        name: of the array.
        shape: of it.
        dtype: of its values.
        stored: bytes that follow in the archive.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stored: int

    def size(self) -> int:
        """Return the array's size in bytes.

        Raises:
            NpzError: it holds Python objects, or not as many bytes as its shape and type make.
        """
        if self.dtype.hasobject:
            raise NpzError(f"Object arrays cannot be loaded, and {self.name} is one")
        size = math.prod(self.shape) * self.dtype.itemsize
        if min(self.shape, default=0) < 0 or size != self.stored:
            raise NpzError(f"{self.name} holds another number of bytes than its header says")
        return size


LONGEST_HEADER = 10_000  # characters: numpy's own bound, which it holds against what it has read already


def read_header(stream: IO[bytes], name: str, stored: int) -> Header:
    """Return what is said of an array of ``stored`` bytes, this included, where a stream begins.

    Raises:
        NpzError: at a length that no array needs, which may be any.
    """
    version = np.lib.format.read_magic(stream)
    begins, wide = stream.tell(), version != (1, 0)
    if int.from_bytes(stream.read(4 if wide else 2), "little") > LONGEST_HEADER:
        raise NpzError(f"{name} is described at too great a length")
    stream.seek(begins)
    read = np.lib.format.read_array_header_2_0 if wide else np.lib.format.read_array_header_1_0
    shape, _, dtype = read(stream)
    return Header(name, shape, dtype, stored - stream.tell())


class Npz:
    """An npz file that is open."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    @property
    def names(self) -> list[str]:
        """Names of the arrays."""
        return [name.removesuffix(".npy") for name in self._archive.namelist()]

    def header(self, name: str) -> Header:
        """Return what is said of an array; its values are not read."""
        with self._open(name) as stream:
            return read_header(stream, name, self._archive.getinfo(f"{name}.npy").file_size)

    def array(self, name: str) -> NDArray[Any]:
        """Return an array; as much memory is taken as ``size`` of its header says."""
        self.header(name).size()  # refuses what is not of this size
        with self._open(name) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    def _open(self, name: str) -> IO[bytes]:
        return self._archive.open(f"{name}.npy")


@contextmanager
def open_npz(path: Path) -> Iterator[Npz]:
    """Open an npz file.

    Raises:
        NpzError: also of whatever is wrong with it while it is read.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
                raise NpzError("it is not an npz archive, but a single array; write one with numpy.savez")
        with zipfile.ZipFile(path) as archive:
            yield Npz(archive)
    except HopTMError:
        raise
    except Exception as error:  # a damaged archive has many ways to say so: BadZipFile, zlib's, struct's, MemoryError
        raise NpzError(shortened(error)) from None
