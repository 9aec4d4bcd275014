"""Packs a data set into one npz file in MedMNIST layout, so that runs need not decode thousands of pictures each.

    python benchmarks/pack.py FILE.npz dataset=cifar10 dataset.root=FOLDER

The settings are those of ``hoptm-bench run``; the pixels are those that its reader gives, before any preprocessing but
that pictures of different sizes get the image size.
Runs then take ``dataset=npz dataset.root=FILE.npz`` and the class names that are printed: where the source has no
validation split, the one that is carved from the training images depends on them.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from hoptm_plugin import Seeds
from hoptm_plugin.core.errors import HopTMError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.data.loading import read
from hoptm_plugin.runs.composition import as_override, compose
from hoptm_plugin.storage.files import write_atomically


def arrays(raw: RawImages) -> dict[str, np.ndarray]:
    """Return the arrays of MedMNIST's layout: uint8 images (N, H, W) or (N, H, W, 3), labels (N, 1)."""
    packed = {}
    for name, split in (("train", raw.train), ("val", raw.validation), ("test", raw.test)):
        if split is not None:
            images, labels = split
            shown = images[:, 0] if images.shape[1] == 1 else images.permute(0, 2, 3, 1)
            packed |= {f"{name}_images": shown.numpy(), f"{name}_labels": labels.numpy()[:, None]}
    return packed


def main(arguments: Sequence[str] | None = None) -> int:
    """Read what the settings describe and write the file; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE.npz", help="its stem names the data set in tables")
    parser.add_argument("settings", nargs="+", metavar="KEY=VALUE", help="dataset=..., dataset.root=... and so on")
    options = parser.parse_intermixed_args(arguments)
    try:
        settings = compose(*options.settings)
        # as a run's: the split that a source does not fix comes from data_seed
        raw = read(settings.dataset, Seeds(settings.data_seed))
        write_atomically(options.file, partial(_write, arrays(raw)))
    except HopTMError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    again = ["dataset=npz", f"dataset.root={options.file}", f"dataset.class_names={as_override(raw.class_names)}"]
    print(f"{len(raw.train[0]):,} training and {len(raw.test[0]):,} test images; read them with")
    print(shlex.join(again))
    return 0


def _write(packed: dict[str, np.ndarray], path: Path) -> None:
    with path.open("wb") as file:  # np.savez would add .npz to a name
        np.savez_compressed(file, **packed)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
