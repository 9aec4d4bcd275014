"""Parts that are exchanged by name alone: what the old one was told and the new one does not know is dropped."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from hoptm_plugin.core.registry import part_classes
from hoptm_plugin.core.roles import of_part, wrapper_of
from hoptm_plugin.settings import RunSettings, described_fields


def loosened(overrides: Sequence[str]) -> list[str]:
    """Return overrides with which keywords may be given that the YAML of an exchanged part does not list.

    Of parts that are described whole or named anew, ``method.sampler={name: mine, rate: 2}``, ``network.name=mine
    network.size=3``: their builders check them, so Hydra need not know them.
    """
    keys = [override.partition("=")[0].strip() for override in overrides]
    named = [f"{key.lstrip('+').removesuffix('name')}" for key in keys if key.endswith(".name")]
    return [
        f"++{override}"
        if key[:1] not in ("+", "~")
        and "." in key
        and not key.startswith("hydra.")
        and (override.partition("=")[2].lstrip().startswith("{") or any(key.startswith(each) for each in named))
        else override
        for override, key in zip(overrides, keys, strict=True)
    ]


def given_leaves(overrides: Mapping[str, Any]) -> set[str]:
    """Return the dotted paths of overrides, and of all that mappings among their values hold."""
    return {path for key, value in overrides.items() for path in _leaves(key.removesuffix("="), value)}


def _leaves(path: str, value: Any) -> Iterator[str]:
    yield path
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)


def drop_leftovers(values: dict[str, Any], given: Collection[str]) -> list[str]:
    """Drop, in place, keywords of parts whose name was given and that these parts do not know; return lines on them.

    What was given by hand itself is kept, so that it is checked. ``given`` names dotted paths.
    """
    lines = []
    for field, described in described_fields(RunSettings).items():
        beside = () if described.beside is None else tuple(described.beside.model_fields)
        if isinstance(values.get(field), Mapping):
            values[field], found = _without_leftovers(values[field], described.kind, beside, field, set(given))
            lines += found
    return lines


def _without_leftovers(
    spec: Mapping[str, Any], kind: type, beside: Collection[str], path: str, given: set[str]
) -> tuple[dict[str, Any], list[str]]:
    kept, lines = dict(spec), list[str]()
    if "name" not in spec:  # parts by names of their own, such as matchers
        for key, inner in spec.items():
            if isinstance(inner, Mapping):
                kept[key], found = _without_leftovers(inner, kind, beside, f"{path}.{key}", given)
                lines += found
        return kept, lines
    cls = part_classes(kind).get(str(spec["name"]))
    if cls is None:  # refused where parts are built
        return kept, lines
    known = {"name", *beside, *inspect.signature(cls).parameters}
    left_over = [key for key in spec if key not in known and f"{path}.{key}" not in given]
    if f"{path}.name" in given and left_over:
        lines.append(f"{path}.name={spec['name']}: dropped what this part does not know: {', '.join(left_over)}")
        kept = {key: value for key, value in spec.items() if key not in left_over}
    hints = of_part(kept, kind)
    for key, inner in kept.items():
        inner_kind = hints[key][1]
        if isinstance(inner, Mapping) and inner_kind is not None:
            wrapped = wrapper_of(cls, key)
            extra = () if wrapped is None else tuple(inspect.signature(wrapped).parameters)
            kept[key], found = _without_leftovers(inner, inner_kind, extra, f"{path}.{key}", given)
            lines += found
    return kept, lines
