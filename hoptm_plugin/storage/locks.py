"""Locks between processes, freed by the system when their owner ends, however it ends."""

from __future__ import annotations

import errno
import os
import re
import socket
import warnings
from pathlib import Path

from filelock import FileLock, Timeout

from hoptm_plugin.storage.files import storage_error

# how file systems say that they know no locks: most, NFS without its lock daemon, some of user space
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


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
        # a singleton or thread-local lock could be taken twice by one process; a soft one would outlive a killed owner
        self._lock = FileLock(path, thread_local=False, fallback_to_soft=False)

    def acquire(self) -> bool:
        """Take the lock if nobody else holds it, without waiting, and say whether it is held.

        Raises:
            StorageError: the file cannot be made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_symlink():  # what it leads to would be written over
                raise OSError(errno.ELOOP, "is a link; remove it", str(self.path))
            before = self._content()
            self._lock.acquire(blocking=False)
            # whoever lets go removes it, though maybe only after it was read above
            self.left_over = bool(before) and not _lives(before)
            self.path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        except Timeout:
            return False
        except (NotImplementedError, OSError) as error:
            self.close()
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise storage_error(self.path, error) from error
            warnings.warn(f"{self.path.parent}: the file system knows no locks; see that no two processes work on the "
                          "same run, and expect experts to be trained twice", stacklevel=2)  # fmt: skip
        return True

    def close(self) -> None:
        """Let the lock go; without effect where it is not held."""
        if self._lock.is_locked:
            self.path.unlink(missing_ok=True)  # while it is held: who waits for it looks whether it is still there
            self._lock.release(force=True)

    def holder(self) -> str:
        """Return who holds it, in words."""
        return self._content() or "another process"

    def _content(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8").strip() if self.path.is_file() else ""
        except (OSError, ValueError):
            return ""


def held_by(path: Path) -> str | None:
    """Return who is at work by a lock file, in words, None where nobody is; nothing is written or locked.

    Of a process on another machine nothing tells whether it lives, so it counts as at work.
    """
    named = Lock(path).holder() if path.is_file() else ""
    elsewhere = re.fullmatch(r"process \d+ on (.*)", named)
    if elsewhere is None:
        return None
    return named if elsewhere[1] != socket.gethostname() or _lives(named) else None


def _lives(named: str) -> bool:
    """Tell whether a lock file names a process that lives on this machine."""
    found = re.fullmatch(r"process (\d+) on (.*)", named)
    if found is None or found[2] != socket.gethostname():
        return False
    try:
        os.kill(int(found[1]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True
