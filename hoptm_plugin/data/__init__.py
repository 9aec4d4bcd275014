"""Data sets: one reader per source, and the preprocessing that makes them ready for training."""

from hoptm_plugin.data import (  # noqa: F401 - importing registers
    cifar10,
    cifar100,
    covid19cxr,
    digits,
    folder,
    in_memory,
    medmnist,
    npz,
    table,
    tinyimagenet,
)
from hoptm_plugin.data.loading import check_ipc, check_spec, load
from hoptm_plugin.data.preprocess import Preprocess

__all__ = ["Preprocess", "check_ipc", "check_spec", "load"]
