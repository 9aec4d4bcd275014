"""What torch and Ray read from the environment when they are imported, set beforehand."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

# of libgomp: how often a thread looks whether it may go on before it lets the core go. On a quiet machine as fast as
# to look for longer, and a core that others use too is given to them soon (benchmarks/speed, suite "waiting")
WAITING = {"GOMP_SPINCOUNT": "10000"}
COMPILED_CODE = "TORCHINDUCTOR_CACHE_DIR"


def prepare() -> None:
    """Set what nobody has set yet; call it before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        for name, value in WAITING.items():
            os.environ.setdefault(name, value)
    # Ray would write a token into the home folder, or else let anybody on the network run code: one for this process
    if not any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if COMPILED_CODE not in os.environ and (folder := private_folder("compiled")) is not None:
        os.environ[COMPILED_CODE] = str(folder)


def private_folder(name: str) -> Path | None:
    """Return a folder in the user's own cache that no other user can write to, or None where that is not to be had.

    Compiled code lies there, which is executed. Torch's default is a folder of a predictable name in the system's
    temporary folder, which on a shared machine another user may have made first.
    """
    try:
        own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hoptm-bench"
        folder = own / name
        for part in (own, folder):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.name == "posix" and (part.stat().st_uid != os.getuid() or part.stat().st_mode & 0o022):
                return None
    except (OSError, RuntimeError):  # a home that cannot be written to, or none
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None
