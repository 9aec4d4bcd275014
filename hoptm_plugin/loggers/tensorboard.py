"""TensorBoard event files in the run folder."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from hoptm_plugin.core.errors import StorageError
from hoptm_plugin.core.registry import register
from hoptm_plugin.loggers.pictures import PictureLogger, require_extra

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@register("tensorboard")
class TensorBoard(PictureLogger):
    """Writes scalars and images as TensorBoard events into ``tensorboard/`` in the run folder.

    Args:
        images_every: iterations between pictures of the synthetic set.
        most_images: the first so many images are shown.

    Raises:
        ValueError: TensorBoard is not installed, or a number below 1.
    """

    def __init__(self, images_every: int = 500, most_images: int = 100) -> None:
        super().__init__(images_every, most_images)
        require_extra("tensorboard", "TensorBoard", "tensorboard")
        self._writer: SummaryWriter | None = None

    def begin(self, folder: Path, first: int) -> None:
        """Open the event file; events from iteration ``first`` on that an interrupted process wrote are superseded."""
        from torch.utils.tensorboard import SummaryWriter

        events = folder / "tensorboard"
        if events.is_symlink():
            raise StorageError(events, "is a link", "remove it")
        _quiet_writing_thread()
        self._writer = SummaryWriter(events, purge_step=first)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one event per number."""
        assert self._writer is not None, "begin was not called"
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def show(self, step: int, images: Tensor) -> None:
        """Write the images."""
        assert self._writer is not None, "begin was not called"
        self._writer.add_images("synthetic", images, step)

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()


@cache
def _quiet_writing_thread() -> None:
    """Print no traceback where TensorBoard's thread cannot write: whoever calls the writer next gets the error."""
    usual = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        writes = type(failure.thread).__module__.startswith("tensorboard.")
        if not (writes and issubclass(failure.exc_type, OSError)):
            usual(failure)

    threading.excepthook = hook
