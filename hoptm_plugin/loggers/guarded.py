"""Loggers that a run can do without."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from hoptm_plugin.core.loggers import RunLogger


class GuardedLoggers(RunLogger):
    """Passes everything on to several loggers; one that fails is named once and left out from then on.

    A server that cannot be reached, or another's bug, must not end a night's distillation.

    Args:
        loggers: by the name they are called in the warning.
    """

    def __init__(self, loggers: Sequence[tuple[str, RunLogger]] = ()) -> None:
        self._loggers = list(loggers)

    def begin(self, folder: Path, first: int) -> None:
        """Begin them all."""
        self._tell(lambda logger: logger.begin(folder, first))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Pass numbers on."""
        self._tell(lambda logger: logger.scalars(step, values))

    def images(self, step: int, pixels: Callable[[], Tensor]) -> None:
        """Offer images."""
        self._tell(lambda logger: logger.images(step, pixels))

    def close(self) -> None:
        """Close them all."""
        self._tell(lambda logger: logger.close())

    def _tell(self, call: Callable[[RunLogger], None]) -> None:
        for name, logger in list(self._loggers):
            try:
                call(logger)
            except Exception as error:
                self._loggers.remove((name, logger))
                reason = f"{type(error).__name__}: {error}"
                warnings.warn(f"logger {name} failed and is left out from here on ({reason})", stacklevel=2)
