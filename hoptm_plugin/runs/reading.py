"""A run from its folder: settings, card, curves, synthetic set; nothing is trained or written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from hoptm_plugin.cards.card import Card, read_card
from hoptm_plugin.core.errors import FileFormatError, RunFolderError
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.exchange.loading import check_against_card, load_distilled
from hoptm_plugin.runs.folder import read_settings
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.files import as_path, read_bounded
from hoptm_plugin.storage.run_files import AVERAGE, CARD, CONFIG, METRICS, SYNTHETIC
from hoptm_plugin.storage.sets import read_set

LARGEST_METRICS = 2**30


@dataclass(frozen=True)
class Run:
    """What a run's folder holds; large parts are read when first asked for.

    Attributes:
        folder: of the run.
        settings: it was made with.
        card: its result; None where it is not finished.
    """

    folder: Path
    settings: RunSettings
    card: Card | None

    @cached_property
    def synthetic(self) -> SyntheticSet:
        """The distilled set.

        Raises:
            FileFormatError: there is none, or it is damaged, or not the one that the card judges.
        """
        return load_distilled(self.folder)

    @cached_property
    def average(self) -> SyntheticSet | None:
        """The moving average of the set, where the method keeps one."""
        if not (self.folder / AVERAGE).exists():
            return None
        check_against_card(self.folder / AVERAGE, "move it into a folder of its own")
        return read_set(self.folder / AVERAGE)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """What the distillation logged, a column for each quantity, indexed by iteration; empty where there is none."""
        path = self.folder / METRICS
        content = read_bounded(path, LARGEST_METRICS, "log of a run") if path.is_file() else b""
        rows = []
        for line in content.splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):  # cut short by a kill
                continue
            if isinstance(row, dict) and "step" in row:
                rows.append(row)
        # what the last iteration adds off the beat is a line of its own
        return pd.DataFrame(rows).groupby("step", sort=False).first() if rows else pd.DataFrame()

    def pixels(self) -> Tensor:
        """Return the distilled images as one would look at them, (n, C, H, W) in [0, 1].

        Raises:
            FileFormatError: there is no set; or it was distilled in whitened space, which only the data can undo.
        """
        if self.synthetic.normalisation.kind == "zca":
            raise FileFormatError(f"{self.folder / SYNTHETIC}: its images are whitened, which only the data can undo")
        return self.synthetic.normalisation.invert(self.synthetic.images).clamp(0, 1).to(torch.float32)

    def _repr_html_(self) -> str:
        """Return the card for notebooks."""
        import html

        text = repr(self.card) if self.card is not None else f"{self.folder}: not finished"
        return f"<pre>{html.escape(text)}</pre>"


def read_run(folder: str | Path) -> Run:
    """Read a run from its folder.

    Raises:
        RunFolderError: no run lies there.
        FileFormatError: its settings or its card are damaged.
    """
    folder = as_path(folder, "folder")
    if not (folder / CONFIG).is_file():
        raise RunFolderError(f"{folder}: holds no run: no {CONFIG}; name the folder of a run")
    return Run(folder, read_settings(folder / CONFIG), read_card(folder / CARD) if (folder / CARD).exists() else None)
