"""Weights & Biases, online or offline."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from torch import Tensor

from hoptm_plugin.core.registry import register
from hoptm_plugin.loggers.pictures import PictureLogger, require_extra, settings_of, side_by_side
from hoptm_plugin.storage.files import read_json, write_json

if TYPE_CHECKING:
    import wandb

STATE: Final = "wandb.json"


@register("wandb")
class Wandb(PictureLogger):
    """Sends numbers, pictures and settings to Weights & Biases; its own files go into ``wandb/`` in the run folder.

    What it finds out by itself of the computer, the code and the console is turned off, and settings go without paths.

    Args:
        project: that the run is filed under.
        mode: "online", "offline" (to be sent later by ``wandb sync``), or None for what WANDB_MODE says.
        entity: user or team; None for the usual one.
        images_every: iterations between pictures of the synthetic set.
        most_images: the first so many images are shown.

    Raises:
        ValueError: wandb is not installed, or a number below 1.
    """

    def __init__(
        self, project: str = "hoptm", mode: Literal["online", "offline"] | None = None, entity: str | None = None,
        images_every: int = 500, most_images: int = 100,
    ) -> None:  # fmt: skip
        super().__init__(images_every, most_images)
        require_extra("wandb", "wandb", "wandb")
        self.project, self.mode, self.entity = project, mode, entity
        self._run: wandb.Run | None = None
        self._next = 0

    def begin(self, folder: Path, first: int) -> None:
        """Start the run, or go on with the one that an interrupted process started here."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its makers
        import wandb

        self._file = folder / STATE
        known: dict[str, Any] = read_json(self._file, "note of a wandb run") if self._file.exists() else {}
        self._id = str(known.get("run") or secrets.token_hex(4))
        # a resumed run comes to the same numbers: what was logged already is not logged again
        self._next = int(known.get("next", 0))
        quiet = wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, save_code=False, x_disable_stats=True,
            x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False,
        )  # fmt: skip
        self._run = wandb.init(
            project=self.project, entity=self.entity, name=folder.resolve().name, id=self._id, resume="allow",
            dir=folder, mode=self.mode, config=dict(settings_of(folder)), settings=quiet,
        )  # fmt: skip

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log one row."""
        if step >= self._next:
            self._log(step, values)
            write_json(self._file, {"run": self._id, "next": step + 1})

    def show(self, step: int, images: Tensor) -> None:
        """Log one picture."""
        import wandb

        if step >= self._next:
            self._log(step, {"synthetic": wandb.Image(side_by_side(images))})

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        assert self._run is not None, "begin was not called"
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Send what is left."""
        if self._run is not None:
            self._run.finish()
