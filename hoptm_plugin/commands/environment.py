"""What torch reads from the environment when it is imported, set beforehand."""

from __future__ import annotations

import os
from pathlib import Path

COMPILED_CODE = "TORCHINDUCTOR_CACHE_DIR"


def prepare() -> None:
    """Set what nobody has set yet; call it before torch is imported."""
    # threads that spin while they wait stall small networks on a machine that others use too
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if COMPILED_CODE not in os.environ and (folder := _private_folder()) is not None:
        os.environ[COMPILED_CODE] = str(folder)


def _private_folder() -> Path | None:
    """Return the folder of compiled code in the user's own cache, or None where that is not to be had.

    What lies there is executed. Torch's default is a folder of a predictable name in the system's temporary folder,
    which on a shared machine another user may have made first.
    """
    try:
        own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hoptm-bench"
        folder = own / "compiled"
        for part in (own, folder):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.name == "posix" and (part.stat().st_uid != os.getuid() or part.stat().st_mode & 0o022):
                return None
    except (OSError, RuntimeError):  # a home that cannot be written to, or none
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None
