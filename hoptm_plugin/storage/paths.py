"""Settings made fit to be shared: without folders and files of the computer they were made on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

LEFT_OUT: Final = "(path left out)"
NAMED: Final = ("root", "synthetic")  # settings that are paths whatever they look like
MOST_SETTINGS, DEEPEST = 20_000, 40
# at the start or within a text: /a, ~/a, ./a, C:\a, \\a, file:, a/b/c, a/b.npz
_PATH = re.compile(
    r"(?<![^\s=:,;'\"(\[<>|])(?:~|\.{0,2})[/\\]|(?<!\w)[A-Za-z]:[/\\]|\bfile:|[/\\][^/\\]*[/\\]|[/\\][^/\\\s]*\.\w{1,12}\b"
)


def is_path(text: str) -> bool:
    """Tell whether a text is, or holds, what looks like a path; in doubt it is one."""
    return _PATH.search(text) is not None


def without_paths(settings: Any) -> Any:
    """Return settings with ``LEFT_OUT`` in the place of paths, in keys, values and lists.

    Raises:
        ValueError: more settings than a run can have, as aliases in a YAML file can make them.
    """
    left = [MOST_SETTINGS]

    def copied(value: Any, key: str, depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0 or depth > DEEPEST:
            raise ValueError("more settings than a run can have")
        if isinstance(value, Mapping):
            return {
                LEFT_OUT if is_path(str(name)) else name: copied(item, str(name), depth + 1)
                for name, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [copied(item, key, depth + 1) for item in value]
        return LEFT_OUT if isinstance(value, str) and (key in NAMED or is_path(value)) else value

    return copied(settings, "", 0)
