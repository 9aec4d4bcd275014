"""How long work reports that it goes on; what becomes of the report is decided by whoever hands in the factory.

Nothing here draws: the terminal's bars and a log file's lines are in :mod:`hoptm_plugin.runtime.bars`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self, TypeAlias

from torch import Tensor

Shown: TypeAlias = float | Tensor | Callable[[], float | Tensor] | None


class Progress:
    """A context manager around a loop; this base reports nothing."""

    def __enter__(self) -> Self:
        """Begin the report."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """End the report; an error is passed on."""

    def advance(self, steps: int = 1, **values: Shown) -> None:
        """Count ``steps`` more as done, and remember ``values`` to show beside the count.

        A value is shown until another of its name is given. Tensors and callables become numbers only when a line is
        drawn, a few times a second at most, so a call costs about a microsecond and never waits for the device; a
        tensor must carry no graph. None is not shown.
        """


class ProgressFactory(Protocol):
    """Begins a report: ``with progress("experts", total=10) as bar: ... bar.advance(1, loss=loss)``."""

    def __call__(self, title: str, total: int, done: int = 0) -> Progress:
        """Return the report on ``total`` steps called ``title``, of which ``done`` were done by an earlier process.

        Of no steps it is a line that is said: what is done to the data, before the work.
        """


def silent(title: str, total: int, done: int = 0) -> Progress:
    """Return a report that nobody sees: the factory for library use and tests."""
    return Progress()
