"""Folders of a sweep's jobs, named by what is swept over."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from hoptm_plugin.cli.listing import choices

NAMED: Final = ("method", "dataset", "ipc", "seed")  # which config.yaml's names have already
SUBDIR: Final = "hydra.sweep.subdir"
LONGEST: Final = 120  # characters that are added to a name
_SAFE = re.compile(r"[\w.+-]{1,24}", re.ASCII)


def with_named_folders(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a sweep, with one more that names its jobs' folders by what differs between them.

    A value that is no plain word or number, such as a path, is left out of the name, as is what would make it too long:
    the job's number tells these apart. Nothing is added where the folders are named by hand, or by Hydra alone.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        swept = [each for each in parsed if each.key_or_group not in NAMED and _is_plain(each)]
    except HydraException:  # it will say so itself
        return list(overrides)
    if not swept or any(each.key_or_group == SUBDIR for each in parsed):
        return list(overrides)
    added, length = "", 0
    names = _short([each.key_or_group for each in swept])
    for each, name in zip(swept, names, strict=True):
        key = each.key_or_group
        value = f"${{hydra:runtime.choices.{key}}}" if choices(key) else f"${{{key}}}"
        longest = len(name) + 2 + max(map(len, each.sweep_string_iterator()))
        if length + longest <= LONGEST:
            added, length = f"{added}-{name}_{value}", length + longest
    parts = ("job.num", "runtime.choices.method", "runtime.choices.dataset")
    usual = "-".join([*(f"${{hydra:{part}}}" for part in parts), "ipc${ipc}", "seed${seed}"])
    return [*overrides, f"{SUBDIR}='{usual}{added}'"]


def _is_plain(override: Override) -> bool:
    """Tell whether an override is swept over words and numbers that may stand in a folder's name."""
    if not override.is_sweep_override() or not override.is_discrete_sweep() or override.package is not None:
        return False
    return all(_SAFE.fullmatch(text) for text in override.sweep_string_iterator())


def _short(keys: Sequence[str]) -> list[str]:
    """Return the last two words of each dotted path, or more where these are alike."""
    names = [key.split(".")[-2:] for key in keys]
    alike = Counter(map(tuple, names))
    return [key if alike[tuple(name)] > 1 else ".".join(name) for key, name in zip(keys, names, strict=True)]
