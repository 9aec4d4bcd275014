"""YAML that may come from elsewhere: plain values alone, and never more of them than the text is long."""

from __future__ import annotations

from typing import Any

import yaml

LARGEST_NUMBER = 2**63


class _Loader(yaml.SafeLoader):
    """Refuses aliases: merged into one another (``<<``), a few lines of them fill any memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it refers back to itself by an alias")
        return super().compose_node(parent, index)


def load_plain(text: str) -> Any:
    """Return what YAML holds: None, truth values, numbers, text, lists, and mappings by text; nothing else is made.

    Raises:
        ValueError: a date, bytes or a set; a key that is no text; text with NUL; a number beyond 64 bits.
        yaml.YAMLError: not YAML, a tag of any class, or an alias.
        RecursionError: nested too deeply.
    """
    values = yaml.load(text, _Loader)
    _check(values, "")
    return values


def _check(value: Any, place: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{place or 'at the top'}: the key {key!r} is no text")
            _check(key, place)
            _check(item, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, f"{place}[{index}]")
    elif isinstance(value, str):
        if "\0" in value:
            raise ValueError(f"{place}: text with a NUL character")
    elif isinstance(value, int):
        if abs(value) >= LARGEST_NUMBER:
            raise ValueError(f"{place}: a number beyond 64 bits")
    elif value is not None and not isinstance(value, float):
        raise ValueError(f"{place}: a {type(value).__name__}, which no setting is")
