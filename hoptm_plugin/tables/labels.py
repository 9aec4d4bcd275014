"""Rows that name themselves: the settings in which runs of one method differ, in few words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

from hoptm_plugin.cards.card import FILE_NAME, Card
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError, PluginError
from hoptm_plugin.core.text import one_line
from hoptm_plugin.settings import RunSettings, symbols
from hoptm_plugin.storage.files import sha256
from hoptm_plugin.storage.paths import without_paths
from hoptm_plugin.storage.run_files import CONFIG, read_config

FoundCard: TypeAlias = tuple[Path | int, Card]
"""A card and its file; of a card that was given as an object, its number among all that were given."""
LONGEST: Final = 40  # characters of a value
NOT_THERE: Final = "none"
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


def settings_of(found: FoundCard) -> dict[str, Any] | None:
    """Return the settings that a card's set was made with; None where nothing tells them for certain.

    Older cards do not hold them, but the ``config.yaml`` beside them that they name may.
    """
    place, card = found
    if card.settings is not None:
        return card.settings
    if not isinstance(place, Path) or place.name != FILE_NAME or CONFIG not in card.artefacts:
        return None
    file = place.with_name(CONFIG)
    try:
        if not file.resolve().is_relative_to(place.parent.resolve()) or sha256(file) != card.artefacts[CONFIG]:
            return None
        settings = RunSettings.of(read_config(file))
        # an evaluation's configuration is not that of the set's making
        known = settings.set_digest() == card.distillation_sha256
        return without_paths(settings.deciding(["result"])) if known else None
    except (ConfigurationError, FileFormatError, ValueError):
        return None


def flat(settings: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return settings by dotted path; a group of none is one value."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        inner = f"{path}{key}"
        found |= flat(value, f"{inner}.") if isinstance(value, Mapping) and value else {inner: value}
    return found


def differing(variants: Sequence[Mapping[str, Any] | None], kinds: Sequence[object]) -> list[str]:
    """Return the paths at which settings of one kind differ, those of parts that are others left out.

    Args:
        variants: settings by dotted path; None where they are not known.
        kinds: of each, such as its IPC; settings of different kinds are not held against each other.
    """
    groups: dict[object, list[Mapping[str, Any]]] = {}
    for kind, variant in zip(kinds, variants, strict=True):
        if variant is not None:
            groups.setdefault(kind, []).append(variant)
    found = dict.fromkeys(path for members in groups.values() for path in _differing(members))
    parts = {path for other in found for path in _above(other)}
    return [path for path in found if path not in parts]  # a part that is none in one has a name in the others


def _differing(members: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    every = dict.fromkeys(path for member in members for path in member)
    changed = [path for path in every if len({repr(member.get(path)) for member in members}) > 1]
    names = {path.removesuffix("name") for path in changed if path.endswith(".name")}
    for path in changed:
        exchanged = [name for name in names if path.startswith(name) and path != f"{name}name"]
        alike: dict[object, set[str]] = {}  # what another part has no keyword for is no difference of its own
        for member in members:
            key = tuple(str(member.get(f"{name}name")) for name in exchanged)
            alike.setdefault(key, set()).add(repr(member.get(path)))
        if not exchanged or any(len(values) > 1 for values in alike.values()):
            yield path


def _above(path: str) -> list[str]:
    keys = path.split(".")
    return [".".join(keys[:count]) for count in range(1, len(keys))]


def names_of(paths: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return short names of settings: their symbols, or as much of their paths as tells them from all others."""
    every = {_named(path) for each in settings for path in flat(each)}
    known = _symbols(settings)
    names = {path: _by_symbol(path, known) or _shortest(_named(path), every) for path in paths}
    taken = Counter(names.values())  # a name that several settings would share tells nothing
    names = {path: name if taken[name] == 1 else _shortest(_named(path), every) for path, name in names.items()}
    # those with a symbol first, as formulas have them; the others in the settings' order
    return dict(sorted(names.items(), key=lambda item: (not _by_symbol(item[0], known), _by_symbol(item[0], known))))


def _symbols(settings: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    try:
        return {path: text for each in settings for path, text in symbols(each).items()}
    except PluginError:  # what is read need not be installed here; the paths name it as well
        return {}


def _by_symbol(path: str, known: Mapping[str, str]) -> str:
    places = [*_above(path), path]
    last = max((number for number, place in enumerate(places) if known.get(place)), default=None)
    if last is None:
        return ""
    below = [known.get(place, place.rpartition(".")[2]) for place in places[last + 1 :]]
    return " ".join([known[places[last]], *(text for text in below if text and text != "name")])


def _named(path: str) -> str:
    """Return the path of a part in the place of that of its name."""
    return path.removesuffix(".name")


def _shortest(path: str, every: set[str]) -> str:
    keys = path.split(".")
    for count in range(1, len(keys)):
        ending = ".".join(keys[-count:])
        if sum(other == ending or other.endswith(f".{ending}") for other in every) <= 1:
            return ending
    return path


def label(variant: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return the named settings of a run in words, as "κ 1e-6, λ 1"."""
    return ", ".join(f"{name} {value_text(found_at(variant, path))}" for path, name in names.items())


def found_at(variant: Mapping[str, Any], path: str) -> Any:
    """Return a setting's value, by its path in other runs: a number may stand where these have a schedule."""
    return variant.get(path, variant.get(_named(path)))


def value_text(value: Any) -> str:
    """Return a setting's value as short as it can be read."""
    if value is None or value == {}:
        return NOT_THERE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return re.sub(r"e([+-])0*", lambda found: "e" + found[1].strip("+"), repr(value).removesuffix(".0"))
    if isinstance(value, list | tuple):
        return _cut("[" + " ".join(map(value_text, value)) + "]")
    return _cut(one_line(str(value)))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


@cache
def natural(text: str) -> tuple[Any, ...]:
    """Return what names are sorted by, so that 1e-10 comes before 1e-9, and 2 before 10."""
    parts = _NUMBER.split(text.casefold())
    return tuple((float(part), "") if number % 2 else (0.0, part) for number, part in enumerate(parts))
