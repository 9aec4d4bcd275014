"""What a run's folder holds: the files' names, and its configuration, plain YAML below its own checksum."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.storage.files import read_bounded, write_text
from hoptm_plugin.storage.paths import without_paths
from hoptm_plugin.storage.plain_yaml import load_plain

CONFIG: Final = "config.yaml"
CARD: Final = "result.json"
SYNTHETIC: Final = "synthetic.safetensors"
AVERAGE: Final = "synthetic_average.safetensors"
GRID: Final = "synthetic.png"
INITIAL_GRID: Final = "initial.png"
METRICS: Final = "metrics.jsonl"
SPLIT: Final = "split.json"
TRAINED_ON: Final = "trained_on.safetensors"
LOCK: Final = ".lock"
FAILURE: Final = "failure.txt"
LARGEST_CONFIG: Final = 2**20
_CHECKSUM = re.compile(rb"# SHA-256 of all below: ([0-9a-f]{64})\n")


def write_config(values: Mapping[str, Any], path: Path) -> None:
    """Write settings, plain values all of them, whole or not at all."""
    text = yaml.safe_dump(dict(values), sort_keys=False)
    write_text(path, f"# SHA-256 of all below: {hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def is_config(path: Path) -> bool:
    """Tell whether a file begins as the configuration of a run does."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as stream:
            return _CHECKSUM.match(stream.read(128)) is not None
    except OSError:
        return False


def read_config(path: Path) -> dict[str, Any]:
    """Read a stored configuration; plain YAML, nothing in it is ever instantiated.

    Raises:
        FileFormatError: missing, damaged or edited, or no configuration.
    """
    remedy = "restore it, or start the run again in another folder"
    content = read_bounded(path, LARGEST_CONFIG, "configuration of a run")
    first = _CHECKSUM.match(content)
    if first is None or hashlib.sha256(content[first.end() :]).hexdigest() != first[1].decode():
        raise FileFormatError(
            f"{path}: damaged or edited: its content is not that of its checksum; settings are changed on the command "
            f"line; {remedy}"
        )
    try:
        values = load_plain(content.decode())
        without_paths(values)  # more settings than a run can have
    except RecursionError:
        raise FileFormatError(f"{path}: not a configuration of a run: nested too deeply; {remedy}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise FileFormatError(f"{path}: not a readable configuration ({reason}); {remedy}") from None
    if not isinstance(values, dict):
        raise FileFormatError(f"{path}: not a configuration of a run; {remedy}")
    return values
