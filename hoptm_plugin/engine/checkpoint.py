"""Checkpoints of a distillation or of a training: nested state of tensors and plain values in a safetensors file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hoptm_plugin.core.errors import FileFormatError, HopTMError
from hoptm_plugin.core.interfaces import State
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.storage.tensors import read_header, read_tensors, write_tensors

KIND, VERSION, SEPARATOR = "distillation checkpoint", 2, "/"
REMEDY = "restore it, or delete it to begin again what it is of"


def write_checkpoint(path: Path, state: State, kind: str = KIND) -> None:
    """Write nested dicts of tensors, numbers, strings and None, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    _flatten(state, "", tensors, values)
    write_tensors(path, tensors, {"kind": kind, "version": VERSION, "values": values})


def read_checkpoint(path: Path, kind: str = KIND, allow_nan: bool = False) -> State:
    """Return what :func:`write_checkpoint` was given, tensors on the CPU.

    Raises:
        FileFormatError: missing, damaged or another kind of file.
    """
    tensors, metadata = read_tensors(path, kind, REMEDY)
    known = isinstance(metadata, dict) and (metadata.get("kind"), metadata.get("version")) == (kind, VERSION)
    if not known or not isinstance(metadata.get("values"), dict):
        raise FileFormatError(f"{path}: not a {kind} of version {VERSION}; {REMEDY}")
    if not allow_nan and (bad := [name for name, tensor in tensors.items() if bool(tensor.isnan().any())]):
        raise FileFormatError(f"{path}: {', '.join(bad)} hold NaN; {REMEDY}")
    state: State = {}
    for name, value in (metadata["values"] | tensors).items():
        *parents, leaf = name.split(SEPARATOR)
        inner = state
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise FileFormatError(f"{path}: {name} lies within a value; {REMEDY}")
        inner[leaf] = value
    return state


def iterations_done(path: Path) -> int:
    """Return how many iterations a checkpoint of a distillation holds; 0 where there is none that can be read."""
    with suppress(HopTMError, LookupError, TypeError, ValueError):
        return int(read_header(path, KIND, REMEDY)[1]["values"]["done"])
    return 0


def take_back(tensor: Tensor, stored: Tensor) -> Tensor:
    """Copy what was stored of a tensor into it, and return it.

    Raises:
        ValueError: it has another shape or type; copying alone would stretch or round it.
    """
    if (stored.shape, stored.dtype) != (tensor.shape, tensor.dtype):
        raise ValueError(f"stored {stored.dtype} {tuple(stored.shape)}, here {tensor.dtype} {tuple(tensor.shape)}")
    with torch.no_grad():
        return tensor.copy_(stored)


def tensors_of(synthetic: SyntheticSet) -> State:
    """Return a set's tensors by name."""
    parts = {"images": synthetic.images, "labels": synthetic.labels, "step_size": synthetic.step_size}
    return {name: tensor for name, tensor in parts.items() if tensor is not None}


def set_of(like: SyntheticSet, stored: State) -> SyntheticSet:
    """Return the set that :func:`tensors_of` was asked of, in all else as ``like``.

    Raises:
        KeyError, ValueError: what is stored does not fit ``like``.
    """
    made = like.detached()
    for name, tensor in tensors_of(made).items():
        take_back(tensor, stored[name])
    return made


def _flatten(state: State, prefix: str, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    for key, value in state.items():
        if SEPARATOR in key:
            raise ValueError(f"a state's key must not contain {SEPARATOR!r}: {key!r}")
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{key}{SEPARATOR}", tensors, values)
        elif isinstance(value, Tensor):
            tensors[prefix + key] = value
        else:
            values[prefix + key] = value
