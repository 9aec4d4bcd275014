"""Errors a user can meet, each with the exit code the command line gives for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class HopTMError(Exception):
    """Base of every error this package raises on purpose; its text is meant for the user."""

    exit_code = 1


class UserError(HopTMError):
    """Something the user can mend before any work is done: a setting, a path, a file's contents."""

    exit_code = 2


class ConfigurationError(UserError):
    """Settings that are unknown, malformed or do not fit together; one line per problem."""

    def __init__(self, problems: str | list[str]) -> None:
        """Take one problem or the list of all problems found."""
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class UnknownNameError(ConfigurationError):
    """A name that no registry entry carries."""


class PluginError(UserError):
    """A third-party plug-in that cannot be imported or registers something unfit."""


class DataError(UserError):
    """Data that is missing, unreadable or not what its reader expects; names file and remedy."""


class FileFormatError(UserError):
    """A stored file (synthetic set, expert, checkpoint, card) that is damaged or of another kind."""


class RunFolderError(UserError):
    """A run folder that cannot be used as asked: occupied, empty, or made with other settings."""


class StorageError(HopTMError):
    """A file that cannot be written: disk full, read-only, no permission; what was there before is intact.

    Attributes:
        reason: as the system gives it.
    """

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        """Take the file, the reason and what to do."""
        self.path, self.reason, self.remedy = path, reason, remedy
        super().__init__(f"{path}: cannot be written: {reason}; {remedy}. What was stored before is intact")

    def __reduce__(self) -> tuple[type[StorageError], tuple[Path, str, str]]:
        """Let it travel between the processes of a launcher."""
        return type(self), (self.path, self.reason, self.remedy)


class OutOfMemoryError(HopTMError):
    """Memory that is exhausted, of the CPU or of CUDA; names the settings that need less."""


class DivergedError(HopTMError):
    """A distillation that comes to nothing, stopped; what was best of it is kept."""


class NonFiniteLossError(DivergedError):
    """A loss that became NaN or infinite; the synthetic set is left as it was before that step."""


class StepSizeError(DivergedError):
    """A step size alpha that would no longer be positive; the synthetic set is left as it was before that step."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its kind where it has none."""
    return (str(error).strip() or repr(error)).splitlines()[0]


class Problems:
    """Collects what is wrong, so that the user hears of all of it at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def attempt(self, make: Callable[[], T]) -> T | None:
        """Return what ``make`` gives, or None after noting why it could not."""
        try:
            return make()
        except ConfigurationError as error:
            self.found += error.problems
        except DataError as error:
            self.found.append(str(error))
        return None

    def raise_if_any(self) -> None:
        """Raise ConfigurationError with everything found."""
        if self.found:
            raise ConfigurationError(list(dict.fromkeys(self.found)))
