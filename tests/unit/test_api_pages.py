"""The API pages: built without a warning, complete, and the build would notice a fault; code in docstrings is run.

That every public class, method and function has a docstring is held by ruff (rules D).
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
import textwrap
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import hoptm_plugin
import hoptm_plugin.builtin  # registers the library's own parts
from hoptm_plugin.cli.arguments import PLAIN
from hoptm_plugin.cli.help import HELP
from hoptm_plugin.core.interfaces import REGISTRIES
from hoptm_plugin.core.plugins import load_plugins

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PACKAGES = (ROOT / "hoptm_plugin", ROOT / "baselines" / "hoptm_baselines")
BLOCK = re.compile(r"^(?:.*::|[ ]*\.\. code-block:: \w+)\n\n((?:[ ]+.*\n|\n)+)", re.MULTILINE)

needs_sphinx = pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="needs Sphinx: the extra `docs`")


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build as CONTRIBUTING.md says."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-E", "-b", "html"]
    return subprocess.run([*command, str(source), str(out)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    out = tmp_path_factory.mktemp("api")
    done = build(DOCS, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def entries(pages):
    """Return (type, name) of everything that the inventory lists."""
    content = (pages / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(content).decode().splitlines()
    return {(match[2], match[1]) for line in lines if (match := re.match(r"(.+?)\s+(\S+:\S+)\s+-?\d+\s", line))}


@needs_sphinx
@pytest.mark.slow
def test_every_public_name_has_an_entry(entries):
    names = {name for kind, name in entries if kind.startswith("py:")}
    assert {f"hoptm_plugin.{name}" for name in hoptm_plugin.__all__} <= names


@needs_sphinx
@pytest.mark.slow
def test_every_registered_part_has_an_entry_and_its_class_too(entries):
    load_plugins()
    parts = [(registry.kind, name, registry.get(name)) for registry in REGISTRIES for name in registry]
    assert len(parts) > 30
    for kind, name, cls in parts:
        assert ("std:label", f"{kind}-{name}".replace(" ", "-").replace("_", "-")) in entries
        assert ("py:class", f"{cls.__module__}.{cls.__qualname__}") in entries


@needs_sphinx
@pytest.mark.slow
def test_every_command_and_contract_has_an_entry(entries):
    assert {("std:label", f"command-{command}") for command in [*HELP, *PLAIN]} <= entries
    testing = importlib.import_module("hoptm_plugin.testing")
    assert {f"hoptm_plugin.testing.{name}" for name in testing.__all__} <= {name for _, name in entries}


@needs_sphinx
@pytest.mark.slow
def test_no_docstring_turns_into_a_list_or_a_quotation_by_accident(pages):
    """RST takes "K." for the eleventh item of a list, and what is indented by mistake for a quotation."""
    for page in pages.glob("*.html"):
        assert not re.findall(r"<ol\b[^>]*>|<blockquote\b[^>]*>", page.read_text(encoding="utf-8")), page.name


FAULTS = {
    "See :class:`NoSuchThing`.": "reference target not found: NoSuchThing",
    "Raise.\n\n    Raises:\n        NoSuchError: always.\n    ": "reference target not found: NoSuchError",
    "An |absolute| value.": "Undefined substitution referenced",
    "A ``literal without end.": "Inline literal start-string without end-string",
}


@needs_sphinx
@pytest.mark.slow
@pytest.mark.parametrize("faults", [FAULTS, {"Nothing is wrong with ``this``.": ""}], ids=["faulty", "sound"])
def test_faulty_docstrings_fail_the_build(tmp_path, monkeypatch, faults):
    classes = [f'class C{at}:\n    """{docstring}"""\n' for at, docstring in enumerate(faults)]
    (tmp_path / "example.py").write_text("\n".join(classes))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    source = tmp_path / "docs"
    source.mkdir()
    for file in (DOCS / "conf.py", *DOCS.glob("*.md")):
        shutil.copy(file, source)
    shutil.copytree(DOCS / "_static", source / "_static")
    (source / "index.rst").write_text("Title\n=====\n\n.. automodule:: example\n   :members:\n")
    done = build(source, tmp_path / "out")
    assert (done.returncode == 0) == (faults is not FAULTS), done.stderr
    for complaint in faults.values():
        assert complaint in done.stderr


def test_sections_that_the_index_names_exist():
    text = " ".join((DOCS / "index.rst").read_text(encoding="utf-8").split())
    named = re.findall(r"``(\w+\.md)`` \((.*?)\)", text)
    assert len(named) == 1
    for file, sections in named:
        headings = re.findall(r"^#+ (.*)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
        assert set(re.findall(r'"(.*?)"', sections)) <= set(headings), file


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every docstring of both packages."""
    for file in sorted(path for package in PACKAGES for path in package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield f"{file.relative_to(ROOT)}:{getattr(node, 'name', '')}", f"{inspect.cleandoc(text)}\n"


BLOCKS = [
    (place, textwrap.dedent(block))
    for place, text in docstrings()
    for block in BLOCK.findall(text)
    if ">>>" not in block
]


@pytest.mark.parametrize(("place", "code"), BLOCKS, ids=[place for place, _ in BLOCKS])
def test_code_in_docstrings_runs_without_warnings(place, code):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(code, place, "exec"), {"__name__": "example"})


def test_sessions_in_docstrings_show_what_comes_out():
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
    for place, text in docstrings():
        runner.run(parser.get_doctest(text, {}, place, place, 0))
    assert runner.summarize(verbose=False).failed == 0
