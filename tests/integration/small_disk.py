"""A file system of a few pages, to be full or read-only, for tests as root; and what every failing command must say."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = 4096
FULL = "No space left on device"
READ_ONLY = "Read-only file system"


def pages(sizes: Iterable[int]) -> int:
    """Return how many pages files of these sizes take."""
    return sum(-(-size // PAGE) for size in sizes)


class Disk:
    """A tmpfs mounted at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def resize(self, size: int) -> None:
        """Let it hold ``size`` pages, which must be at least what is in use."""
        self._mount("-o", f"remount,size={size * PAGE}")

    def read_only(self) -> None:
        """Refuse all writing from now on."""
        self._mount("-o", "remount,ro")

    def _mount(self, *arguments: str) -> None:
        subprocess.run(["mount", *arguments, str(self.path)], check=True, capture_output=True)

    def files(self) -> dict[str, bytes]:
        """Return what it holds."""
        return contents(self.path)


@contextmanager
def mounted(path: Path, size: int = 256) -> Iterator[Disk]:
    """Mount a disk of ``size`` pages at a new folder ``path``; the test is skipped where that is not permitted."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size * PAGE}", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted: {done.stderr.strip()}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, capture_output=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder by their relative names."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def only_error(result, *parts: object, code: int = 1) -> str:
    """Return the one error of a command that failed without a traceback; it holds all ``parts``."""
    assert result.code == code, (result.out, result.err)
    assert "Traceback" not in result.err, result.err
    assert "Error executing job" not in result.err, result.err
    assert "Exception ignored" not in result.err, result.err
    assert result.err.count("error:") == 1, result.err
    error = result.err[result.err.index("error:") :].strip()
    for part in parts:
        assert str(part) in error, (part, error)
    return error


def nothing_partial(folder: Path) -> None:
    """Check that no temporary file and no lock was left."""
    left = [str(path) for path in folder.rglob("*") if path.name.endswith((".tmp", ".lock"))]
    assert left == []
