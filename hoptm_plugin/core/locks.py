"""Locks between processes, freed by the system when their owner ends, however it ends."""

from __future__ import annotations

import errno
import os
import socket
import warnings
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from hoptm_plugin.core.files import storage_error


class Lock:
    """A lock file that one process at a time holds; it names its holder, and is removed when it is let go.

    A file that nobody holds was left by a process that was killed, and hinders no one. Where the file system knows no
    locks, a warning is given and everybody gets the lock.

    Args:
        path: the lock file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_over = False
        """Whether the file was left by a process that was killed; known once the lock is held."""
        # a singleton or thread-local lock could be taken twice by one process
        self._lock = FileLock(path, thread_local=False)

    def acquire(self) -> bool:
        """Take the lock if nobody else holds it, without waiting, and say whether it is held.

        Raises:
            StorageError: the file cannot be made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_symlink():  # what it leads to would be written over
                raise OSError(errno.ELOOP, "is a link; remove it", str(self.path))
            there = self.path.exists()
            self._lock.acquire(blocking=False)
            if isinstance(self._lock, SoftFileLock):  # it would outlive a killed owner
                self._lock.release(force=True)
                raise NotImplementedError
            self.left_over = there
            self.path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        except Timeout:
            return False
        except NotImplementedError:
            warnings.warn(f"{self.path.parent}: the file system knows no locks; see that no two processes work on the "
                          "same run, and expect experts to be trained twice", stacklevel=2)  # fmt: skip
        except OSError as error:
            self.close()
            raise storage_error(self.path, error) from error
        return True

    def close(self) -> None:
        """Let the lock go; without effect where it is not held."""
        if self._lock.is_locked:
            self.path.unlink(missing_ok=True)  # while it is held: who waits for it looks whether it is still there
            self._lock.release(force=True)

    def holder(self) -> str:
        """Return who holds it, in words."""
        try:
            return self.path.read_text(encoding="utf-8").strip() or "another process"
        except (OSError, ValueError):
            return "another process"
