"""The run folder: what a run writes, and when a folder may be used."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from hoptm_plugin.cards.card import Card, read_card
from hoptm_plugin.cli.streams import say
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError, HopTMError, RunFolderError
from hoptm_plugin.runs.finished import BEGUN
from hoptm_plugin.runs.finished import FILE_NAME as EVALUATIONS
from hoptm_plugin.runs.paths import without_paths
from hoptm_plugin.storage.files import is_leftover, read_bounded, remove_leftovers, sha256, write_text
from hoptm_plugin.storage.locks import Lock
from hoptm_plugin.storage.plain_yaml import load_plain

CONFIG, CARD, SYNTHETIC, AVERAGE, GRID, INITIAL_GRID, SPLIT = (
    "config.yaml",
    "result.json",
    "synthetic.safetensors",
    "synthetic_average.safetensors",
    "synthetic.png",
    "initial.png",
    "split.json",
)
LOCK: Final = ".lock"
LARGEST_CONFIG: Final = 2**20
# the first line of a stored configuration; older ones have none
_CHECKSUM = re.compile(rb"# SHA-256 of all below: ([0-9a-f]{64})\n")
_DIGITS = re.compile(rb"[0-9a-f]{30}")  # what is left of that line where it is damaged
KILLED = (
    "{folder}: the process before this one was killed. If it was for want of memory, runtime.unroll=adjoint, "
    "runtime.memory_budget=0 and runtime.parallel_networks=1 take less."
)
# settings that do not determine the synthetic set, or only by chance
NOT_OF_THE_SET = ("seed", "networks", "protocol", "reported", "synthetic", "method_title", "method_cites")
# how a run is computed; lower precision is more than that
FREE_RUNTIME = tuple(
    f"runtime.{name}" for name in ("device", "unroll", "compile", "memory_budget", "parallel_networks", "threads")
)
# what may differ between a run and its continuation: it changes nothing that is computed, but for rounding
FREE_TO_CHANGE = (
    "resume", "worker", "loggers", "tuning", "note", *FREE_RUNTIME, "experts.root", "dataset.root", "dataset.download",
)  # fmt: skip
# left out at their defaults, so that runs and cards from before they existed still count as made alike
ADDED_LATER = {
    "runtime.precision": "float32", "experts.training.precision": "float32", "protocol.precision": "float32",
    "protocol.labels": "stored", "protocol.split": "test", "network.width_factor": 1.0,
    "method.schedulers.pace.quantile": None,
}  # fmt: skip


class RunFolder:
    """One run's folder.

    Args:
        path: where it is, or will be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        """Return the path of a file in it."""
        return self.path / name

    @contextmanager
    def taken(self, settings: dict[str, Any], resume: bool | Literal["auto"]) -> Iterator[Card | None]:
        """Hold the folder for a run with these settings; where that is finished, give its card instead.

        Raises:
            RunFolderError: it cannot be used as asked, see :meth:`check`, or another process works in it.
            StorageError: it cannot be written to.
        """
        go_on = (self / CONFIG).exists() if resume == "auto" else resume
        self.check(settings, go_on)
        if not (go_on and (self / CARD).exists()):
            with self.held():
                self.check(settings, go_on)  # another process may have been at it until now
                if not (go_on and (self / CARD).exists()):
                    yield None
                    return
        yield self.finished()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no other process work in the folder during the block, and clean up after one that was killed.

        Raises:
            RunFolderError: another process works in it.
            StorageError: it cannot be written to.
        """
        lock = Lock(self / LOCK)
        if not lock.acquire():
            raise RunFolderError(f"{self.path}: {lock.holder()} works in it; wait for it, or choose another folder "
                                 f"with hydra.run.dir=PATH")  # fmt: skip
        try:
            if lock.left_over and not (self / CARD).exists():
                say(KILLED.format(folder=self.path))
            remove_leftovers(self.path)
            yield
        finally:
            lock.close()

    def finished(self) -> Card:
        """Return the card of a finished run, and remove what a process left that was killed right after writing it."""
        card = read_card(self / CARD)
        left = [self / name for name in (EVALUATIONS, BEGUN)]
        if any(path.exists() for path in (*left, self / LOCK)):
            with suppress(HopTMError), self.held():  # of a folder that is only read
                for path in left:
                    path.unlink(missing_ok=True)
        return card

    def check(self, settings: dict[str, Any], resume: bool) -> None:
        """Refuse a folder that cannot be used as asked; nothing is written.

        Raises:
            RunFolderError: it holds a run and ``resume`` is off; or ``resume`` is on and there is no run in it, or one
                made with other settings.
        """
        config = self / CONFIG
        if not resume:
            path = self.path
            if path.exists() and (not path.is_dir() or any(map(_is_content, path.iterdir()))):
                raise RunFolderError(
                    f"{self.path}: not empty. To continue the run in it add resume=true; "
                    f"for a new run choose another hydra.run.dir."
                )
            return
        if not config.exists():
            raise RunFolderError(f"{self.path}: holds no run to resume; name its folder with hydra.run.dir=PATH")
        stored = read_config(config)
        differing = _differences(_decisive(stored), _decisive(plain(settings)))
        if differing:
            raise RunFolderError(
                f"{self.path}: was made with other settings; give the same ones to resume it:\n  "
                + "\n  ".join(differing)
            )

    def begin(self, settings: dict[str, Any]) -> None:
        """Make the folder and store the composed settings in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self / CONFIG).exists():
            text = yaml.safe_dump(plain(settings), sort_keys=False)
            digest = hashlib.sha256(text.encode()).hexdigest()
            write_text(self / CONFIG, f"# SHA-256 of all below: {digest}\n{text}")

    def artefacts(self, *names: str) -> dict[str, str]:
        """Return the SHA-256 of those of the named files that exist."""
        return {name: sha256(self / name) for name in names if (self / name).is_file()}


def _is_content(path: Path) -> bool:
    """Tell whether a file is more than what a process leaves that is killed before it has written anything."""
    return path.name != LOCK and not is_leftover(path)


def read_config(path: Path) -> dict[str, Any]:
    """Read a stored configuration; plain YAML, nothing in it is ever instantiated.

    Raises:
        FileFormatError: missing, damaged or edited, or no configuration.
    """
    remedy = "restore it, or start the run again in another folder"
    content = read_bounded(path, LARGEST_CONFIG, "configuration of a run")
    if content.startswith(b"#") or _DIGITS.search(content.partition(b"\n")[0]):
        first = _CHECKSUM.match(content)
        if first is None or hashlib.sha256(content[first.end() :]).hexdigest() != first[1].decode():
            raise FileFormatError(
                f"{path}: damaged or edited: its content is not that of its checksum; settings are changed on the "
                f"command line; {remedy}"
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


def config_sha256(settings: dict[str, Any]) -> str:
    """Return the SHA-256 of what determines a run's result."""
    return hashlib.sha256(yaml.safe_dump(_decisive(plain(settings)), sort_keys=True).encode()).hexdigest()


def distillation_sha256(settings: dict[str, Any]) -> str:
    """Return the SHA-256 of what determines a synthetic set, its seed left out: seeds of one setting share it."""
    decisive = {key: value for key, value in _decisive(plain(settings)).items() if key not in NOT_OF_THE_SET}
    return hashlib.sha256(yaml.safe_dump(decisive, sort_keys=True).encode()).hexdigest()


def _decisive(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    decisive: dict[str, Any] = {}
    for key, value in settings.items():
        path = f"{prefix}{key}"
        if path in FREE_TO_CHANGE or (path in ADDED_LATER and value == ADDED_LATER[path]):
            continue
        decisive[key] = _decisive(value, f"{path}.") if isinstance(value, dict) else value
    if decisive.get("runtime") == {}:
        del decisive["runtime"]
    return decisive


def plain(value: Any) -> Any:
    """Return values as YAML can hold them: paths as text, tuples as lists."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise ConfigurationError(f"a setting of type {type(value).__name__} cannot be stored: {value!r}")


def _differences(stored: Any, given: Any, path: str = "") -> list[str]:
    if isinstance(stored, dict) and isinstance(given, dict):
        lines = []
        for key in sorted({*stored, *given}):
            lines += _differences(stored.get(key), given.get(key), f"{path}.{key}" if path else str(key))
        return lines
    return [] if stored == given else [f"{path}: {stored!r} in the folder, {given!r} now"]


def remove_if_empty(path: Path) -> None:
    """Remove an empty folder and, where it lies below the working folder, the empty folders between the two."""
    here = Path.cwd()
    for folder in (path, *path.parents) if path.is_relative_to(here) else (path,):
        if here.is_relative_to(folder) or not folder.is_dir() or any(folder.iterdir()):
            return
        try:
            folder.rmdir()
        except OSError:  # a mount point, or not ours to remove
            return
