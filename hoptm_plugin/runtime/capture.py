"""Work on a GPU that is recorded once and launched as a whole from then on: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeAlias

import torch
from torch import Tensor

from hoptm_plugin.core.errors import ConfigurationError, first_line

Work: TypeAlias = Callable[..., tuple[Tensor, ...]]

WARM_UPS = 3  # in which kernels are compiled and chosen, and memory is found
MOST = 8  # recordings, each of which holds the memory of all that it computes


class Captured:
    """Functions of tensors, whose kernels are launched as one where they have been called before.

    What is recorded is what a first call does: values of tensors must not decide what the function does, and what does
    belongs into the key. More than ``MOST`` keys are called without a recording.
    """

    def __init__(self) -> None:
        self._recordings: dict[Hashable, _Recording] = {}

    def __call__(self, key: Hashable, work: Work, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return ``work(*inputs)`` in memory of its own."""
        whole = key, tuple((each.shape, each.dtype, each.device) for each in inputs)
        if whole not in self._recordings:
            if len(self._recordings) >= MOST:
                return work(*inputs)
            self._recordings[whole] = _Recording(work, inputs)
        return self._recordings[whole](inputs)


class _Recording:
    def __init__(self, work: Work, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(each.detach().clone() for each in inputs)
        self._replay, self._outputs = record(work, self._inputs)

    def __call__(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given.detach())
        self._replay()
        return tuple(each.clone() for each in self._outputs)


def record(work: Work, inputs: tuple[Tensor, ...]) -> tuple[Callable[[], object], tuple[Tensor, ...]]:
    """Record ``work(*inputs)``; return what does it again on what the inputs hold by then, and where results lie.

    Raises:
        ConfigurationError: it does what cannot be recorded, such as looking at values.
    """
    current = torch.cuda.current_stream()
    stream = torch.cuda.Stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            work(*inputs)
    current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        # other threads read experts meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = work(*inputs)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        torch.cuda.set_stream(current)
        raise ConfigurationError(
            f"runtime.capture: these student steps cannot be captured ({first_line(error)}); use runtime.capture=false"
        ) from error
    return graph.replay, outputs
