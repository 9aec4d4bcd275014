"""``hoptm-bench list``: what can be chosen, explained by docstrings and YAML headings."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

import hoptm_plugin.builtin  # noqa: F401  registers the library's own parts
from hoptm_plugin.core.interfaces import REGISTRIES
from hoptm_plugin.core.plugins import configuration_packages, load_plugins
from hoptm_plugin.core.references import load_references, short_reference

GROUPS = ("method", "dataset", "network", "augment", "experts", "protocol", "runtime")
_PLURALS = {"label policy": "label-policies", "method": "method-classes"}
_PARTS = {_PLURALS.get(registry.kind, f"{registry.kind}s".replace(" ", "-")): registry for registry in REGISTRIES}
KINDS = ("settings", "methods", *_PARTS, "plugins")


def print_listing(kind: str | None, group_options: Callable[[str], list[str]]) -> None:
    """Print one kind, or everything; ``group_options`` returns the choices of a settings group."""
    plugins = load_plugins()
    console = Console(width=None if Console().is_terminal else 160)
    if kind in (None, "settings"):
        table = _table("settings", "group", "choices")
        for group in GROUPS:
            table.add_row(f"{group}=", ", ".join(group_options(group)))
        console.print(table)
    if kind in (None, "methods"):
        console.print(_methods(group_options("method")))
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


def _methods(names: list[str]) -> Table:
    """Return the compositions that ``method=`` takes, with their papers and the headings of their YAML."""
    references = load_references()
    table = _table("methods", "method=", "title", "paper", "what it is")
    for name in names:
        text = _composition(name)
        settings: dict[str, Any] = yaml.safe_load(text) or {}
        keys = settings.get("method_cites") or ["-"]
        paper = short_reference(references[keys[0]]) if keys[0] in references else keys[0]
        table.add_row(name, str(settings.get("method_title", name)), paper, _heading(text))
    return table


def _heading(text: str) -> str:
    """Return the first comment of a YAML file, up to the first line that ends with a full stop."""
    heading: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#") or (heading and heading[-1].endswith(".")):
            break
        if not line.startswith("# @package"):  # Hydra's
            heading.append(line.lstrip("# "))
    return " ".join(heading)


def _composition(name: str) -> str:
    """Return a method's raw YAML, from the first package of Hydra's search path that has it."""
    packages = ("hoptm_plugin.conf", *(package for _, package in configuration_packages()))
    found = (files(package) / "method" / f"{name}.yaml" for package in packages)
    return next((file.read_text(encoding="utf-8") for file in found if file.is_file()), "")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
