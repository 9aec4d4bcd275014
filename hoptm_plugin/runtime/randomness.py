"""The global random generators of torch, numpy and Python, which layers such as dropout draw from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let whatever draws from the global generators, ``device``'s included, draw from ``seed`` on; put them back."""
    python, array = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            reseed(seed, device)
            yield
    finally:
        random.setstate(python)
        numpy.random.set_state(array)


def reseed(seed: int, device: torch.device) -> None:
    """Let the global generators go on from ``seed``; within :func:`seeded`, which puts them back."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


def generator_states(device: torch.device) -> tuple[object, ...]:
    """Return something that is equal as long as nobody draws from a global generator."""
    array = numpy.random.get_state(legacy=False)["state"]
    states = torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])
    return *(bytes(state.numpy()) for state in states), bytes(array["key"]), array["pos"], random.getstate()
