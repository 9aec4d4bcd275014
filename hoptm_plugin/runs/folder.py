"""The run folder: when it may be used, and by whom."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hoptm_plugin.cards.card import Card, read_card
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError, HopTMError, RunFolderError
from hoptm_plugin.core.text import one_line, pasted
from hoptm_plugin.engine.distil import CHECKPOINT
from hoptm_plugin.runs.exchanging import drop_leftovers
from hoptm_plugin.runs.finished import BEGUN
from hoptm_plugin.runs.finished import FILE_NAME as EVALUATIONS
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.files import is_leftover, remove_leftovers, sha256, storage_error, write_text
from hoptm_plugin.storage.locks import Lock
from hoptm_plugin.storage.run_files import CARD, CONFIG, FAILURE, LOCK, read_config, write_config

KILLED = (
    "{folder}: the process before this one was killed. If it was for want of memory, runtime.unroll=adjoint, "
    "runtime.memory_budget=0 and runtime.parallel_networks=1 take less."
)
LONGEST_FAILURE = 1000  # characters
STORES = "[0-9a-f]" * 16 + "/manifest.json"  # of experts, by the digests of their recipes


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

    def continued(self, settings: RunSettings) -> RunSettings:
        """Return the settings to run with: where a run is resumed, the stored ones with what was given on top.

        Raises:
            RunFolderError: ``resume`` is true and there is no run.
            FileFormatError: the stored settings are damaged, or none.
        """
        resume = self._is_begun() if settings.resume == "auto" else settings.resume
        if not resume:
            return settings.model_copy(update={"resume": False})
        if not self._is_begun():
            raise RunFolderError(f"{self.path}: holds no run to resume; name its folder with hydra.run.dir=PATH")
        if not settings.given:  # not composed, so all of it is meant; what differs from the run is refused later
            return settings
        stored = trusted(overlaid(read_settings(self / CONFIG).plain(), settings), settings, self / CONFIG)
        return stored.model_copy(update={"resume": True})

    def shorter(self, settings: RunSettings) -> int | None:
        """Return how many iterations the run in here was planned for, where ``settings`` plan more; else None."""
        if settings.resume is False or settings.synthetic is not None or not self._is_begun():
            return None
        planned = read_settings(self / CONFIG).distillation.iterations
        return planned if planned < settings.distillation.iterations else None

    def _is_begun(self) -> bool:
        return (self / CONFIG).exists()

    @contextmanager
    def taken(self, settings: RunSettings) -> Iterator[Card | None]:
        """Hold the folder for a run with these settings; where that is finished, give its card instead.

        Raises:
            RunFolderError: it cannot be used as asked, see :meth:`check`, or another process works in it.
            StorageError: it cannot be written to.
        """
        go_on = self._is_begun() if settings.resume == "auto" else settings.resume
        self.check(settings, go_on)
        if not self._is_finished(settings, go_on):
            try:
                with self.held():
                    self.check(settings, go_on)  # another process may have been at it until now
                    if not self._is_finished(settings, go_on):
                        with self._failure_noted():
                            yield None
                        return
            finally:
                remove_if_empty(self.path)  # where it was refused before anything was written
        yield self.finished()

    def _is_finished(self, settings: RunSettings, go_on: bool) -> bool:
        return go_on and (self / CARD).exists() and self.shorter(settings) is None

    @contextmanager
    def _failure_noted(self) -> Iterator[None]:
        """Write down why the work in the folder failed, for those who look at many; :meth:`begin` takes it away."""
        try:
            yield
        except Exception as error:
            if self._is_begun():
                with suppress(HopTMError):
                    write_text(self / FAILURE, one_line(" ".join(str(error).split()))[:LONGEST_FAILURE] + "\n")
            raise

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
                warnings.warn(KILLED.format(folder=self.path), stacklevel=2)
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

    def check(self, settings: RunSettings, resume: bool) -> None:
        """Refuse a folder that cannot be used as asked; nothing is written.

        Raises:
            RunFolderError: it holds a run and ``resume`` is off; or ``resume`` is on and there is no run in it, or one
                made with other settings; more iterations are none, where it can be made longer.
        """
        if not resume:
            path = self.path
            if path.exists() and (not path.is_dir() or any(map(is_content, path.iterdir()))):
                raise RunFolderError(
                    f"{self.path}: not empty. To continue the run in it add resume=true; "
                    f"for a new run choose another hydra.run.dir."
                )
            return
        if not self._is_begun():
            raise RunFolderError(f"{self.path}: holds no run to resume; name its folder with hydra.run.dir=PATH")
        stored = read_settings(self / CONFIG)
        differing = _differences(stored.deciding(), settings.deciding())
        longer = stored.distillation.iterations < settings.distillation.iterations and settings.synthetic is None
        if longer and len(differing) == 1:
            self._check_can_be_longer(stored)
        elif differing:
            raise RunFolderError(
                f"{self.path}: was made with other settings; give the same ones to resume it:\n  "
                + "\n  ".join(differing)
            )

    def _check_can_be_longer(self, stored: RunSettings) -> None:
        again = "begin a run of so many iterations in another folder"
        if stored.tied:
            raise RunFolderError(
                f"{self.path}: cannot be made longer, since the run was told {', '.join(stored.tied)} as a function of "
                f"distillation.iterations={stored.distillation.iterations}: a longer one does other things from its "
                f"start; {again}"
            )
        if (self / CARD).exists() and not (self / CHECKPOINT).exists():
            raise RunFolderError(f"{self.path}: cannot be made longer without {CHECKPOINT}; restore it, or {again}")

    def begin(self, settings: RunSettings) -> None:
        """Make the folder and store the settings in it; of a run that is made longer, the card goes first."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self / FAILURE).unlink(missing_ok=True)
        if not self._is_begun():
            write_config(settings.plain(), self / CONFIG)
        elif self.shorter(settings) is not None:
            stored, iterations = read_settings(self / CONFIG), settings.distillation.iterations
            try:
                (self / CARD).unlink(missing_ok=True)
            except OSError as error:
                raise storage_error(self / CARD, error) from error
            longer = stored.distillation.model_copy(update={"iterations": iterations})
            write_config(stored.model_copy(update={"distillation": longer}).plain(), self / CONFIG)

    def artefacts(self, *names: str) -> dict[str, str]:
        """Return the SHA-256 of those of the named files that exist."""
        return {name: sha256(self / name) for name in names if (self / name).is_file()}


def is_content(path: Path) -> bool:
    """Tell whether a file is more than what a process leaves that is killed before it has written anything."""
    return path.name != LOCK and not is_leftover(path)


def _differences(stored: Any, given: Any, path: str = "") -> list[str]:
    if isinstance(stored, dict) and isinstance(given, dict):
        lines = []
        for key in sorted({*stored, *given}):
            lines += _differences(stored.get(key), given.get(key), f"{path}.{key}" if path else str(key))
        return lines
    return [] if stored == given else [f"{path}: {stored!r} in the folder, {given!r} now"]


def as_settings(value: Any) -> RunSettings:
    """Return settings.

    Raises:
        ConfigurationError: they are none.
    """
    if not isinstance(value, RunSettings):
        raise ConfigurationError(f"settings: must be what compose() returns, such as compose(\"method=hoptm\", ipc=1), "
                                 f"got {value!r}")  # fmt: skip
    return value


def read_settings(config: Path) -> RunSettings:
    """Read the settings that a run's folder holds.

    Raises:
        FileFormatError: damaged, or no settings of a run.
    """
    values = read_config(config)
    try:
        return RunSettings.of(values)
    except ConfigurationError as error:
        raise FileFormatError(f"{config}: not the settings of a run: {error}") from None


def overlaid(stored: dict[str, Any], settings: RunSettings) -> RunSettings:
    """Return stored settings with what ``settings.given`` names taken from ``settings``.

    Raises:
        ConfigurationError: the stored ones are no settings of a run, or of another scale than was given.
    """
    result, values = dict(stored), settings.values()
    made, asked = (each or "published" for each in (stored.get("scale"), settings.scale))
    if "scale" in settings.given and made != asked:
        raise ConfigurationError(f"scale: the run was made at {made}, not at {asked}; leave it out (to judge its set "
                                 f"otherwise, give settings of protocol)")  # fmt: skip
    for path in settings.given:
        if path == "method=":  # all that a method's YAML chooses of itself
            result |= {key: value for key, value in values.items() if key.partition("_")[0] == "method"}
        else:
            _take(result, values, path.rstrip("=").split("."))
    drop_leftovers(result, settings.given)  # said already where it was composed
    return RunSettings.of({**result, "given": settings.given})


def _take(target: dict[str, Any], source: dict[str, Any], keys: list[str]) -> None:
    """Make ``target`` as ``source`` is at the path ``keys``, absent if it is absent there."""
    key, *inner = keys
    if key not in source:
        target.pop(key, None)
    elif inner and isinstance(source[key], dict) and isinstance(target.get(key), dict):
        target[key] = dict(target[key])
        _take(target[key], source[key], inner)
    else:
        target[key] = source[key]


def trusted(stored: RunSettings, given: RunSettings | None, source: Path | None = None) -> RunSettings:
    """Return settings from a file that may come from elsewhere, which must not say where on this machine to write.

    Args:
        stored: the file's settings, with what was given on top.
        given: what this command would use without the file.
        source: the file, where experts may be trained; None where none are.

    Raises:
        ConfigurationError: experts would be written into a folder that only the file names, and that holds none.
    """
    if stored.dataset.get("download") and "dataset.download" not in stored.given:  # it was downloaded already
        stored = stored.changed(dataset=stored.dataset | {"download": False})
    if source is None or given is None or "experts.root" in stored.given:
        return stored
    root = stored.experts.root
    usual = (Path("experts"), given.experts.root)  # without and with HOPTM_EXPERTS
    if root not in usual and not any(root.glob(STORES)):
        raise ConfigurationError(
            f"experts.root: {source} names {root}, where no experts lie; to train them there give "
            f"{pasted('experts.root', root)}, or name another folder"
        )
    return stored


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
