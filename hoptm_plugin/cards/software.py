"""The software a run used, as the card records it."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import hoptm_plugin
from hoptm_plugin.cards.record import Line, Record


class Software(Record):
    """Versions; None where not installed. ``commit`` is None outside a source checkout."""

    python: Line
    torch: Line | None
    torchvision: Line | None
    kornia: Line | None
    numpy: Line | None
    hoptm_plugin: Line | None
    commit: Line | None


def software_versions() -> dict[str, str | None]:
    """Return the fields of :class:`Software`; what cannot be found out is None."""
    names = ("torch", "torchvision", "kornia", "numpy", "hoptm_plugin")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}, "commit": _commit()}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the checkout this package is imported from, "-dirty" if tracked files were edited."""
    root = Path(hoptm_plugin.__file__).resolve().parents[1]
    if not (root / ".git").exists():  # installed as a wheel; a repository further up is not this package's
        return None
    command = ["git", "-C", str(root), "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
