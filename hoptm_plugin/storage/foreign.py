"""Tensors in files of other software: torch's, numpy's and safetensors.

No code in them is run, no program is started, and what they hold is known before memory is taken for it.
"""

from __future__ import annotations

import codecs
import pickletools
import re
import stat
import zipfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from hoptm_plugin.core.errors import FileFormatError, HopTMError
from hoptm_plugin.core.text import shortened
from hoptm_plugin.storage.npz import NpzError, open_npz, read_header

LARGEST_PICKLE: Final = 2**20  # how a torch file describes its tensors, whose values lie beside that
LONGEST_TEXT: Final = 256
SAVE_AGAIN = "save the tensors alone, with torch.save([images, labels], 'set.pt')"
# numbers of numpy's that stand beside tensors, such as accuracies: they are passed over, numpy makes none of them
_PASSED_OVER = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_KNOWN = re.compile(
    r"torch._utils _rebuild_(tensor_v2|parameter)|torch(\.cuda)? \w+Storage|torch.storage UntypedStorage"
    r"|collections OrderedDict|_codecs encode|numpy dtype|numpy\._?core\.multiarray scalar"
)


def read_foreign(path: Path, largest: int, claim: Callable[[int], None]) -> Any:
    """Return what a file holds: a tensor, a number, or lists and mappings by name of these.

    Args:
        path: of a ``.pt`` file that torch 1.6 or newer saved, an ``.npy``, ``.npz`` or ``.safetensors`` file, which its
            first bytes tell apart. Tensors of torch's and of safetensors stay on the disk until they are used.
        largest: bytes that it may hold.
        claim: is told the bytes that are about to be read, and may raise.

    Raises:
        FileFormatError: missing, damaged, too large, or of another format, such as a plain pickle.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise FileFormatError(f"{path}: is no file; name the file itself")
        if path.stat().st_size > largest:
            raise FileFormatError(f"{path}: larger than {largest // 2**20} MiB, which no distilled set is")
        with path.open("rb") as stream:
            first = stream.read(8)
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror}; name the file of the set") from None
    try:
        if first.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            return _npz(path, largest, claim) if any(name.endswith(".npy") for name in names) else _torch(path)
        if first.startswith(np.lib.format.MAGIC_PREFIX):
            return _npy(path, claim)
        if first.startswith(b"\x80"):
            raise FileFormatError(
                f"{path}: is a plain pickle, or of torch before 1.6; reading one runs whatever code is in it. Where "
                f"you trust it, load it where it was made, and {SAVE_AGAIN}"
            )
        return _safetensors(path)
    except HopTMError:
        raise
    except Exception as error:  # damaged files have many ways to say so
        raise FileFormatError(f"{path}: not a readable .pt, .npy, .npz or .safetensors file ({shortened(error)}); "
                              f"fetch it again, or {SAVE_AGAIN}") from None  # fmt: skip


class _PassedOver:
    """Stands for what is not needed."""

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _torch(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, which torch's files are not")
        described = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(described) != 1 or described[0].file_size > LARGEST_PICKLE:
            raise ValueError("it does not describe its tensors, or at too great a length")
        operations = list(pickletools.genops(archive.read(described[0])))
    encodes = any(operation.name == "GLOBAL" and argument == "_codecs encode" for operation, argument, _ in operations)
    for operation, argument, _ in operations:
        if operation.name == "GLOBAL" and not _KNOWN.fullmatch(str(argument)):
            name = str(argument).replace(" ", ".")
            raise FileFormatError(f"{path}: holds {shortened(ValueError(name))}, more than tensors and numbers, which "
                                  f"is not read; {SAVE_AGAIN}")  # fmt: skip
        if isinstance(argument, str | bytes) and len(argument) > LONGEST_TEXT:
            raise ValueError("it holds long texts")
        if encodes and operation.name != "GLOBAL" and isinstance(argument, str) and _is_other_codec(argument):
            raise ValueError("it names a codec")
    with torch.serialization.safe_globals([(_PassedOver, name) for name in _PASSED_OVER]):
        # mapped: a tensor that claims more than the file holds is refused, and nothing is read
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _is_other_codec(text: str) -> bool:
    """Tell whether a text names a codec other than that of numpy's numbers: some make any size of nothing."""
    try:
        return codecs.lookup(text).name != "iso8859-1"
    except (LookupError, ValueError):
        return False


def _npz(path: Path, largest: int, claim: Callable[[int], None]) -> dict[str, Tensor]:
    with open_npz(path) as archive:
        sizes = {name: archive.header(name).size() for name in archive.names}
        if sum(sizes.values()) > largest:
            raise NpzError(f"its arrays take more than {largest // 2**20} MiB")
        claim(sum(sizes.values()))
        return {name: _tensor(archive.array(name), name) for name in sizes}


def _npy(path: Path, claim: Callable[[int], None]) -> Tensor:
    with path.open("rb") as stream:
        claim(read_header(stream, "the array", path.stat().st_size).size())
        stream.seek(0)
        return _tensor(np.lib.format.read_array(stream, allow_pickle=False), "the array")


def _tensor(array: NDArray[Any], name: str) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise NpzError(f"{name} holds {array.dtype}, no numbers")
    # torch knows one order of bytes, and no negative strides
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(
        array.shape))  # fmt: skip


def _safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as stream:
        shapes = {name: stream.get_slice(name).get_shape() for name in stream.keys()}  # noqa: SIM118
        if any(prod(shape) > path.stat().st_size for shape in shapes.values()):
            raise ValueError("a tensor has more values than the file has bytes")
        return {name: stream.get_tensor(name) for name in shapes}
