"""BibTeX of what parts implement: ``references.bib`` of this package and of every plug-in."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.util import find_spec

from hoptm_plugin.core.errors import PluginError
from hoptm_plugin.core.plugins import MODULES

FILE_NAME = "references.bib"


def load_references() -> dict[str, str]:
    """Return every BibTeX entry by its key.

    Raises:
        PluginError: an entry without a key, or two different entries under one key.
    """
    plugins = sorted({point.module.partition(".")[0] for point in entry_points(group=MODULES)})
    found: dict[str, tuple[str, str]] = {}
    for package in ("hoptm_plugin", *plugins):
        for key, entry in _entries(package).items():
            other, text = found.setdefault(key, (package, entry))
            if text != entry:
                raise PluginError(
                    f"{FILE_NAME} of {package} and of {other} hold different entries called {key!r}; rename one of them"
                )
    return {key: entry for key, (_, entry) in found.items()}


def _entries(package: str) -> dict[str, str]:
    spec = find_spec(package)
    if spec is None or spec.submodule_search_locations is None:  # a plug-in of a single file has no files beside it
        return {}
    file = files(package) / FILE_NAME
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return split_entries(text, f"{FILE_NAME} of {package}")


def split_entries(text: str, where: str) -> dict[str, str]:
    """Return the entries of a BibTeX file by key; each begins with "@" at the start of a line, others are comments."""
    entries: dict[str, str] = {}
    for chunk in re.split(r"^(?=@)", text, flags=re.MULTILINE)[1:]:
        match = re.match(r"@\w+\s*\{\s*([^\s,{}]+)\s*,", chunk)
        end = chunk.rfind("}")
        if match is None or end < 0:
            raise PluginError(f"{where}: not an entry of the form @type{{key, ...}}: {chunk.splitlines()[0]}")
        entry, key = chunk[: end + 1], match[1]
        if entries.setdefault(key, entry) != entry:
            raise PluginError(f"{where}: holds different entries called {key!r}; rename one of them")
    return entries


def short_reference(entry: str) -> str:
    """Return an entry in words: "Cazenavette et al. 2022, arXiv 2203.11932"."""
    fields = dict(re.findall(r"^\s*(\w+)\s*=\s*[{\"](.*)[}\"],?\s*$", entry, re.MULTILINE))
    names = [author.partition(",")[0].strip() for author in fields.get("author", "").split(" and ")]
    authors = f"{names[0]} et al." if len(names) > 2 else " & ".join(names)
    text = f"{authors} {fields.get('year', '')}".strip()
    return f"{text}, arXiv {fields['eprint']}" if "eprint" in fields else text
