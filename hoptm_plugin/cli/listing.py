"""``hoptm-bench list``: what can be chosen, explained by docstrings and YAML headings."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from hoptm_plugin.cards.references import load_references, short_reference
from hoptm_plugin.core.plugins import configuration_packages, load_parts, load_plugins

GROUPS = ("method", "dataset", "network", "augment", "experts", "protocol", "runtime", "hydra/launcher")
# what an argument may name, and the kinds of parts as the registries call them: torch is imported only to list them
_PARTS = {
    "method-classes": "method", "matchers": "matcher", "feature-matchers": "feature matcher",
    "gradient-matchers": "gradient matcher", "schedulers": "scheduler", "schedules": "schedule",
    "segment-samplers": "segment sampler", "trajectory-views": "trajectory view", "label-policies": "label policy",
    "initialisers": "initialiser", "networks": "network", "dataset-readers": "dataset reader",
    "augmentations": "augmentation", "loggers": "logger",
}  # fmt: skip
KINDS = ("settings", "methods", *_PARTS, "plugins")


def print_listing(kind: str | None) -> None:
    """Print one kind, or everything.

    Raises:
        PluginError: naming a plug-in that cannot be imported.
    """
    from hoptm_plugin.core.interfaces import REGISTRIES

    load_parts()  # whatever the kind: a plug-in that cannot be imported spoils every listing
    plugins = load_plugins()
    parts = {registry.kind: registry for registry in REGISTRIES}
    console = Console(width=None if Console().is_terminal else 160, markup=False)
    if kind in (None, "settings"):
        table = _table("settings", "group", "choices")
        for group in GROUPS:
            table.add_row(f"{group}=", ", ".join(choices(group)))
        table.add_row("scale=", ", ".join(_scales()))
        console.print(table)
    if kind in (None, "methods"):
        console.print(_methods(choices("method")))
    for name, part in _PARTS.items():
        if kind in (None, name):
            table = _table(name, "name", "what it does")
            for entry, text in parts[part].describe():
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


def choices(group: str) -> list[str]:
    """Return the names of a settings group's YAML, plug-ins' included."""
    groups = [folder / group for folder in _configuration() if (folder / group).is_dir()]
    names = {file.name for folder in groups for file in folder.iterdir() if file.is_file()}
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _scales() -> list[str]:
    """Return the names that ``scale=`` takes."""
    texts = [file.read_text(encoding="utf-8") for folder in _configuration() if (folder / "scales").is_dir()
             for file in (folder / "scales").iterdir() if file.is_file() and file.name.endswith(".yaml")]  # fmt: skip
    return sorted({"auto", *(name for text in texts for name in yaml.safe_load(text) if name != "defaults")})


def _composition(name: str) -> str:
    """Return a method's raw YAML, from the first package of Hydra's search path that has it."""
    found = (folder / "method" / f"{name}.yaml" for folder in _configuration())
    return next((file.read_text(encoding="utf-8") for file in found if file.is_file()), "")


def _configuration() -> list[Traversable]:
    """Return the packages of YAML, in the order of Hydra's search path."""
    found = []
    for package in ("hoptm_plugin.conf", *(package for _, package in configuration_packages())):
        try:
            found.append(files(package))
        except (ValueError, ModuleNotFoundError, TypeError):  # passed over by Hydra as well
            continue
    return found


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
