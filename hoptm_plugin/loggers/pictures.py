"""What loggers share that show pictures, and that need a package of their own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hoptm_plugin.core.loggers import RunLogger
from hoptm_plugin.storage.paths import without_paths
from hoptm_plugin.storage.run_files import CONFIG, read_config

COLUMNS = 10


class PictureLogger(RunLogger):
    """Shows the first images of the synthetic set from time to time.

    Args:
        images_every: iterations between pictures.
        most_images: the first so many images are shown.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, images_every: int, most_images: int) -> None:
        if min(images_every, most_images) < 1:
            raise ValueError("images_every and most_images must be at least 1")
        self.images_every, self.most_images = images_every, most_images

    def images(self, step: int, pixels: Callable[[], Tensor]) -> None:
        """Show the images where their turn has come, clamped to [0, 1]."""
        if step % self.images_every == 0:
            self.show(step, pixels()[: self.most_images].clamp(0, 1))

    @abstractmethod
    def show(self, step: int, images: Tensor) -> None:
        """Take images (n, C, H, W) in [0, 1]."""


def require_extra(package: str, title: str, extra: str) -> None:
    """Refuse to be built without a package.

    Raises:
        ValueError: it is not installed; with the command that installs it.
    """
    if find_spec(package) is None:
        raise ValueError(f'{title} is not installed; pip install "hoptm-plugin[{extra}]"')


def side_by_side(images: Tensor) -> NDArray[np.float32]:
    """Return images (n, C, H, W) as one picture (H, W, 3)."""
    from torchvision.utils import make_grid  # slow to import

    picture: NDArray[np.float32] = make_grid(images, nrow=COLUMNS).permute(1, 2, 0).numpy()
    return picture


def settings_of(folder: Path) -> Mapping[str, Any]:
    """Return the settings of the run in a folder by dotted path, without paths of the machine; empty without a run."""
    if not (folder / CONFIG).is_file():
        return {}
    import pandas as pd  # slow to import

    flat = pd.json_normalize(without_paths(read_config(folder / CONFIG))).iloc[0].to_dict()
    return {str(key): value for key, value in flat.items()}
