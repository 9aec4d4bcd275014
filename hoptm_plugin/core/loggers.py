"""The extension point for whoever wants to be told how a run goes: TensorBoard, a tracking server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor


class RunLogger(ABC):
    """Is told what a distillation measures, beside ``metrics.jsonl``: begin, then scalars and images, then close.

    It changes nothing that is computed. One that raises is named and left out; the run goes on.

    Attributes:
        cites: BibTeX keys, as of other parts.
    """

    cites: ClassVar[tuple[str, ...]] = ()

    def begin(self, folder: Path, first: int) -> None:
        """Be told the run folder and the first iteration: above 0 where an interrupted run goes on."""
        return None

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of iteration ``step``, by name; after the last one also ``evaluation/...``."""

    def images(self, step: int, pixels: Callable[[], Tensor]) -> None:
        """Be offered the synthetic images: ``pixels()`` gives them, (n, C, H, W) about [0, 1], on the CPU."""
        return None

    def close(self) -> None:
        """Be told that the run is over, finished or not."""
        return None
