"""Sphinx settings of the API pages, and the directives that read what no page lists by hand."""

from __future__ import annotations

import contextlib
import io
import json
import re
from importlib import import_module
from importlib.metadata import version as version_of
from typing import Any, get_args, get_type_hints
from unittest import mock

from docutils import nodes
from pydantic import BaseModel
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

import hoptm_plugin
from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.record import Record
from hoptm_plugin.cli.arguments import PLAIN
from hoptm_plugin.cli.help import HELP, OVERVIEW, PROGRAM, SETTINGS_HELP
from hoptm_plugin.core import interfaces
from hoptm_plugin.core.roles import Role

project = "hoptm-plugin"
author = "The hoptm-plugin developers"
copyright = author
version = release = version_of("hoptm-plugin")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "alabaster"
html_theme_options = {"description": "Dataset distillation, benchmarked", "page_width": "1100px"}
html_static_path = ["_static"]
html_extra_path = ["methods.md", "import.md", "privacy.md", "scales.md"]  # as it is: Sphinx reads no Markdown by itself
html_css_files = ["narrow.css"]
html_copy_source = False
html_show_sourcelink = False

smartquotes_action = "De"  # dashes and dots; quoted words are values of settings

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = True
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 80  # one parameter a line, so that a phone shows the whole of it
python_use_unqualified_type_names = True

nitpicky = True
# The build reads nothing from a network, so what other projects document stays plain text.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|pandas|pydantic|pytest|_pytest|annotated_types|pathlib|os|collections|datetime)\..*"),
    # what Sphinx makes of bounded numbers within tuples, and of marks within annotations
    ("py:.*", r"(typing\.|types\.|hoptm_plugin\.engine\.settings\.)?(Annotated\b|Literal\[).*"),
    ("py:class", r"PydanticUndefined|hoptm_plugin\.engine\.settings\._switched_off"),
]
nitpick_ignore = [
    ("py:class", "hoptm_plugin.core.registry.T"),  # a type variable has no entry
    ("py:class", "hoptm_plugin.core.registry.C"),
    ("py:class", "hoptm_plugin.core.asking.Answer"),
    *(("py:class", role) for role in get_args(Role)),  # what Sphinx makes of a mark in an annotation
    ("py:class", "JsonValue"),  # pydantic's, as Sphinx 8.1 calls it
    ("py:class", "hoptm_plugin.exchange.manifest.Manifest"),  # export.json, which its own docstring explains
    ("py:class", "hoptm_plugin.exchange.export.HasFolder"),  # anything with a folder
]

ERRORS = "hoptm_plugin.core.errors"


class RegisteredParts(SphinxDirective):
    """Every part of every registry, plug-ins' included: the name that settings give it, and its class."""

    def run(self) -> list[nodes.Node]:
        """Return a section per registry and in it one per part."""
        return self.parse_text_to_nodes("\n".join(self._lines()), allow_section_headings=True)

    def _lines(self) -> list[str]:
        lines: list[str] = []
        for registry in interfaces.REGISTRIES:
            lines += _heading(registry.kind.capitalize(), "=")
            lines += [f"Subclasses of :py:class:`~hoptm_plugin.{registry.base.__name__}`.", ""]
            for part in registry:
                cls = registry.get(part)
                lines += [f".. _{label(registry.kind, part)}:", "", *_heading(f"``{part}``", "-")]
                lines += [f".. autoclass:: {shortest_name(cls)}", ""]
                for group in _groups(cls):
                    entry = f".. autoclass:: {shortest_name(group)}"
                    lines += [] if entry in lines else [entry, ""]
        return lines


class CommandHelp(SphinxDirective):
    """What ``hoptm-bench --help`` and the help of each command print; the settings, common to several, once."""

    def run(self) -> list[nodes.Node]:
        """Return a section per command."""
        lines = [*_help(OVERVIEW), *_heading("Settings", "="), *_help(SETTINGS_HELP)]
        for command in [*HELP, *PLAIN]:
            text = HELP[command].removesuffix(SETTINGS_HELP) if command in HELP else _argparse_help(command)
            lines += [f".. _command-{command}:", "", *_heading(f"{PROGRAM} {command}", "="), *_help(text)]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class CardSchema(SphinxDirective):
    """The JSON schema of ``result.json``, less the prose that the classes have."""

    def run(self) -> list[nodes.Node]:
        """Return a block of JSON."""
        text = json.dumps(_without_prose(Card.model_json_schema(by_alias=True)), indent=2)
        return self.parse_text_to_nodes("\n".join(_literal(text, "json")))


def label(kind: str, part: str) -> str:
    """Return the target of a part on its page: ``segment-sampler-uniform``."""
    return f"{kind}-{part}".replace(" ", "-").replace("_", "-")


def shortest_name(cls: type) -> str:
    """Return the shortest dotted name under which a class can be imported from a package around its module."""
    packages = cls.__module__.split(".")
    for length in range(1, len(packages)):
        package = ".".join(packages[:length])
        if vars(import_module(package)).get(cls.__name__) is cls:
            return f"{package}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def _groups(cls: type) -> list[type]:
    """Return the types of a part's settings that are themselves groups of settings, and no parts."""
    found, todo = [], list(get_type_hints(vars(cls).get("__init__", object)).values())
    while todo:
        hint = todo.pop(0)
        todo += get_args(hint)
        if isinstance(hint, type) and (hasattr(hint, "from_spec") or issubclass(hint, BaseModel)):
            found.append(hint)
    return found


def _heading(text: str, line: str) -> list[str]:
    return [text, line * len(text), ""]


def _literal(text: str, language: str = "none") -> list[str]:
    return [f".. code-block:: {language}", "", *(f"   {line}" for line in text.splitlines()), ""]


def _help(text: str) -> list[str]:
    """Return prose as paragraphs, which a narrow screen wraps, and the rest as it is printed."""
    lines: list[str] = []
    for block in re.split(r"\n{2,}", text.strip("\n")):
        prose = not block.startswith("usage:") and not re.search(r"^ ", block, re.MULTILINE)
        lines += [re.sub(r"([\\*`|_<>])", r"\\\1", block), ""] if prose else _literal(block)
    return lines


def _argparse_help(command: str) -> str:
    width, end = mock.patch.dict("os.environ", COLUMNS="80"), contextlib.suppress(SystemExit)
    with width, contextlib.redirect_stdout(io.StringIO()) as printed, end:
        PLAIN[command](["--help"])
    return printed.getvalue()


def _without_prose(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_prose(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    prose = {key for key in ("description", "title") if isinstance(schema.get(key), str)}
    return {key: _without_prose(value) for key, value in schema.items() if key not in prose}


def mend_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Leave out the signature of the card's records, which repeats the schema; make the others such as Sphinx reads."""
    if isinstance(obj, type) and issubclass(obj, Record):
        return "", ""
    # a dataclass's default factory, at which Sphinx gives up
    return signature and signature.replace("<factory>", "..."), returns


def lay_out(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Begin a paragraph at each note that ends a docstring, and put an attribute's type into its heading."""
    for at in reversed(range(1, len(lines))):
        if lines[at].startswith(("Source: ", "Deviates: ")) and lines[at - 1]:
            lines.insert(at, "")
    heading = 0
    for at in range(len(lines)):
        if lines[at].startswith(".. attribute:: "):
            heading = at
        elif lines[at].startswith("   :type: "):  # Napoleon's, as a paragraph of its own
            lines.insert(heading + 1, lines.pop(at))


def resolve_home(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement) -> Any:
    """Lead a reference to an object's home module to its entry, which has the public name."""
    target = node.get("reftarget", "")
    module, _, name = target.rpartition(".")
    if node.get("refdomain") != "py":
        return None
    entries = env.get_domain("py").data["objects"]
    if node["reftype"] == "exc" and not module:  # "Raises:" has bare names
        homes = [entry for entry in (f"{ERRORS}.{name}",) if entry in entries]
    else:
        homes = [entry for entry in entries if _home(entry) == target]
    if not homes:
        return None
    docname, anchor = entries[homes[0]].docname, entries[homes[0]].node_id
    uri = app.builder.get_relative_uri(node.get("refdoc", ""), docname) + f"#{anchor}"
    return nodes.reference("", "", text, internal=True, refuri=uri)


def _home(entry: str) -> str:
    """Return the name in its home module of an entry called ``hoptm_plugin.X``."""
    top, _, name = entry.partition(".")
    home = hoptm_plugin._HOME_OF.get(name) if top == hoptm_plugin.__name__ else None
    return f"{top}.{home}.{name}" if home else entry


def setup(app: Sphinx) -> None:
    """Register all of it."""
    app.add_directive("registered-parts", RegisteredParts)
    app.add_directive("command-help", CommandHelp)
    app.add_directive("card-schema", CardSchema)
    app.connect("autodoc-process-signature", mend_signature)
    app.connect("autodoc-process-docstring", lay_out)
    app.connect("missing-reference", resolve_home)
