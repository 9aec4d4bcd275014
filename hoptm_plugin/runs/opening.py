"""Finished runs that a command looks at again, on a machine that may be another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hoptm_plugin.cards.card import Card, read_card
from hoptm_plugin.core.errors import ConfigurationError, RunFolderError
from hoptm_plugin.data.in_memory import Arrays
from hoptm_plugin.runs.composition import parsed
from hoptm_plugin.runs.folder import read_settings, trusted
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.run_files import CARD, CONFIG


def asked(overrides: Sequence[str], dataset: Arrays | None) -> dict[str, Any]:
    """Return what is asked to be other than the run has it, by dotted path."""
    return parsed(overrides) | ({} if dataset is None else {"dataset.data": dataset})


def opened(folder: Path, changes: Mapping[str, Any], command: str) -> tuple[Card, RunSettings]:
    """Read card and settings of a finished run.

    Args:
        folder: of the run.
        changes: what is to be other than the run has it.
        command: that asks, for messages.

    Raises:
        RunFolderError: no finished run.
        ConfigurationError: something that would change the result is to be other.
        FileFormatError: a damaged card or configuration.
    """
    if not (folder / CARD).is_file():
        what = "the run in it is not finished" if (folder / CONFIG).is_file() else "holds no run"
        raise RunFolderError(f"{folder}: {what}; name the folder of a finished run, with {CARD}")
    card, stored = read_card(folder / CARD), read_settings(folder / CONFIG)
    if refused := [path for path in changes if path != "dataset.data" and stored.decided_by(path).role != "machine"]:
        raise ConfigurationError(f"{', '.join(refused)}: would make it another run; {command} takes only what changes "
                                 f"no result: where the data are, such as dataset.root, and how it is computed: "
                                 f"runtime, but for its precision")  # fmt: skip
    return card, stored


def on_this_machine(stored: RunSettings, changes: Mapping[str, Any]) -> RunSettings:
    """Return a run's settings with what is to be other, for work that logs nothing.

    Raises:
        ConfigurationError: a path that its settings do not have.
    """
    values = {**stored.plain(), "loggers": [], "given": tuple(changes)}
    for path, value in changes.items():
        group, _, key = path.rpartition(".")
        target = values.get(group) if group else values
        if not isinstance(target, dict):
            raise ConfigurationError(f"{path}: {CONFIG} has no {group}")
        target[key] = value
    return trusted(RunSettings.of(values), None)
