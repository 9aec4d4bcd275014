"""Sets of other software as runs: from their files to settings of a run whose method reads them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hoptm_plugin.cards.card import Card
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.exchange.imported import read_files
from hoptm_plugin.runs.composition import as_override, compose, parsed
from hoptm_plugin.runs.running import run
from hoptm_plugin.runtime.progress import ProgressFactory
from hoptm_plugin.storage.files import as_path, sha256

OPTIONS: Final = {
    "values": "method.values", "mosaic": "method.mosaic", "experiment": "method.experiment",
    "step_size": "method.step_size", "mean": "dataset.preprocess.mean", "std": "dataset.preprocess.std",
}  # fmt: skip
MARK = " (imported)"


def import_set(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *overrides: str,
    folder: str | Path,
    progress: ProgressFactory | None = None,
    **settings: Any,
) -> Card:
    """Read a set that other software distilled, judge it, and write both into a run folder; return the card.

    Which data it was distilled from is not known, which the card says. docs/import.md says who saves what.

    Args:
        files: ``.pt``, ``.npy``, ``.npz`` or ``.safetensors`` files of its images, its labels and its learning rate, in
            this order, or one that holds several of them.
        overrides: as :func:`compose` takes them, and in short what :class:`hoptm_plugin.exchange.imported.Imported`
            takes: ``name``, ``values``, ``mosaic``, ``experiment``, ``step_size``; ``mean`` and ``std``, where those
            of the data set here are not those that it was distilled with.
        folder: a new one.
        progress: as of :func:`run`.
        settings: the same by keyword.

    Raises:
        ConfigurationError: the set does not fit the data set.
        FileFormatError: a file is missing, damaged, or of another format.
    """
    named = [files] if isinstance(files, str | os.PathLike) else list(files)
    short = [f"{key}={as_override(settings.pop(key))}" for key in ("name", *OPTIONS) if key in settings]
    counted = [f"ipc={settings.pop('ipc')}"] if "ipc" in settings else []
    lines = import_overrides([as_path(file, "files") for file in named], [*overrides, *short, *counted])
    return run(compose(*lines, **settings), folder, progress)


def import_overrides(files: Sequence[Path], given: Sequence[str]) -> list[str]:
    """Return the overrides of a run that imports a set; its images per class are counted.

    Args:
        files: of the set.
        given: overrides, short ones among them.

    Raises:
        ConfigurationError: an override that is malformed; neither labels nor ``ipc``.
        FileFormatError: a file is missing, damaged, or of another format.
    """
    values = {key: parsed([each])[key] for each in given if (key := each.partition("=")[0]) in ("name", *OPTIONS)}
    experiment = values.get("experiment", 0)
    found = read_files(files, experiment if isinstance(experiment, int) and experiment >= 0 else 0)
    made: dict[str, Any] = {
        "method": "imported",
        "method.files": [str(file.absolute()) for file in files],
        "method.sha256": [sha256(file) for file in files],
    }
    if "name" in values:
        made |= {"method_id": str(values["name"]), "method_title": f"{values['name']}{MARK}"}
    if values.get("values") == "whitened":
        made["dataset.preprocess.zca"] = True
    if not any(each.startswith("ipc=") for each in given):
        if (ipc := found.ipc()) is None:
            raise ConfigurationError("ipc: the files hold no labels, which would tell it; give the images per class "
                                     "with ipc=NUMBER")  # fmt: skip
        made["ipc"] = ipc
    keys = {each: each.partition("=")[0] for each in given}
    rest = [f"{OPTIONS[key]}{each.removeprefix(key)}" if key in OPTIONS else each
            for each, key in keys.items() if key != "name"]  # fmt: skip
    return [*(f"{key}={as_override(value)}" for key, value in made.items()), *rest]
