"""``hoptm-bench list``: what can be chosen, explained by docstrings and YAML headings."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

import hoptm_plugin.builtin  # noqa: F401  registers the library's own parts
from hoptm_plugin.core.interfaces import REGISTRIES
from hoptm_plugin.core.plugins import load_plugins

GROUPS = ("method", "dataset", "network", "augment", "experts", "protocol", "runtime")
_PLURALS = {"label policy": "label-policies"}
_PARTS = {_PLURALS.get(registry.kind, f"{registry.kind}s".replace(" ", "-")): registry for registry in REGISTRIES}
KINDS = ("settings", *_PARTS, "plugins")


def print_listing(kind: str | None, group_options: Callable[[str], list[str]]) -> None:
    """Print one kind, or everything; ``group_options`` returns the choices of a settings group."""
    plugins = load_plugins()
    console = Console(width=None if Console().is_terminal else 160)
    if kind in (None, "settings"):
        table = _table("settings", "group", "choices")
        for group in GROUPS:
            table.add_row(f"{group}=", ", ".join(group_options(group)))
        console.print(table)
    for name, registry in _PARTS.items():
        if kind in (None, name):
            table = _table(name, "name", "what it does")
            for entry, text in registry.describe():
                table.add_row(entry, text)
            console.print(table)
    if kind in (None, "plugins"):
        table = _table("plugins", "entry point")
        for plugin in plugins:
            table.add_row(plugin)
        console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
