"""docs/methods.md and the map in CONTRIBUTING.md: what they say of sections, settings, files and functions is so."""

from __future__ import annotations

import ast
import inspect
import re
import tokenize
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from hoptm_plugin.matchers import Endpoint

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
CONF = (ROOT / "hoptm_plugin" / "conf", ROOT / "baselines" / "hoptm_baselines" / "conf")
SOURCES = [
    path
    for folder in ("hoptm_plugin", "baselines/hoptm_baselines", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".yaml") and "build" not in path.parts
]
CITATION = re.compile(r"docs/methods\.md\s+(?:#\s+)?(\d+(?:\.\d+)?)(?:\s+(?:to|and)\s+(\d+(?:\.\d+)?)(?![\d.]*\w))?")
HEADING = re.compile(r"^#{2,3} (\d+(?:\.\d+)?)\.? .*?(?:\(`method=(\w+)`\))?$", re.MULTILINE)
SETTING = re.compile(
    r"`((?:method|distillation|experts|protocol|augment|network|dataset|runtime)(?:\.\w+)+)(?:=(\S+?))?`"
)
DEFAULT = re.compile(SETTING.pattern + r"\s\(([^():,;]+)")
CHOICE = re.compile(r"`(method|experts|protocol|augment|network|dataset)=(\w+)`")
CODE = re.compile(r"`((?:hoptm_plugin|baselines)/[\w/]+\.py)`(?:, (`\w+`)|\s\(((?:`\w+`(?:, )?)+)\))?")
EQUATION = re.compile(r"HoP-TM Eq\. (\d)(?: and (\d))?")
KEYWORDS = {"method.matchers.endpoint": Endpoint}  # whose keywords a method's YAML leaves to the code


def sections() -> dict[str, tuple[str, str]]:
    """Return, by number, the method that a section is of (of the heading above it, or HoP-TM) and its text."""
    found, parts = {}, list(HEADING.finditer(PAGE))
    for match, following in zip(parts, [*parts[1:], None], strict=True):
        above = found.get(match[1].rpartition(".")[0])
        method = match[2] or (above[0] if above else "hoptm")
        found[match[1]] = (method, PAGE[match.end() : following.start() if following else None])
    return found


def group_file(group: str, name: str) -> Path:
    """Return the YAML of one choice."""
    (path,) = (path for folder in CONF if (path := folder / group / f"{name}.yaml").exists())
    return path


def merged(below: Any, above: Any) -> Any:
    """Return ``above`` laid over ``below``."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {key: merged(below.get(key), value) for key, value in above.items()}


@cache
def composed(method: str, dataset: str = "pathmnist") -> dict[str, Any]:
    """Return the settings of a method without its recipes, for the few of Hydra's rules that these files use."""
    groups = {"network": "convnet", "augment": "dsa", "experts": "sgd", "protocol": "default", "runtime": "default"}

    def read(name: str) -> dict[str, Any]:
        values = yaml.safe_load(group_file("method", name).read_text(encoding="utf-8"))
        result: dict[str, Any] = {}
        for entry in values.pop("defaults", []):
            if isinstance(entry, dict):
                groups.update({key.removeprefix("override /"): value for key, value in entry.items()})
            elif entry != "_self_":
                result = merged(result, read(entry))
        return merged(result, values)

    own = read(method)
    chosen = {group: yaml.safe_load(group_file(group, name).read_text()) for group, name in groups.items()}
    chosen["dataset"] = yaml.safe_load(group_file("dataset", dataset).read_text())
    chosen["distillation"] = yaml.safe_load((ROOT / "hoptm_plugin/conf/config.yaml").read_text())["distillation"]
    return merged(chosen, own)


def default_of(path: str, method: str) -> Any:
    """Return the default of a setting from the YAML or, where that leaves it out, from the code's keyword.

    Raises:
        LookupError: there is no such setting.
    """
    value: Any = composed(method)
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            break
        value = value[key]
    else:
        return value
    parent, _, key = path.rpartition(".")
    if parent not in KEYWORDS:
        raise LookupError(f"method={method} has no setting {path}")
    return inspect.signature(KEYWORDS[parent]).parameters[key].default


def as_value(text: str) -> Any:
    """Return what a default on the page means; YAML takes 5e-9 for a string."""
    value = yaml.safe_load(text.strip())
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def comments(path: Path) -> list[tuple[int, str]]:
    """Return line number and text of all comments of a module."""
    with tokenize.open(path) as stream:
        return [
            (token.start[0], token.string)
            for token in tokenize.generate_tokens(stream.readline)
            if token.type == tokenize.COMMENT
        ]


def lines_of(path: Path, name: str) -> range:
    """Return the lines of a function or class at the top of a module."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return range(node.lineno, (node.end_lineno or 0) + 1)
    raise LookupError(f"{path} has no {name}")


def test_every_citation_names_a_section_that_is_there():
    known, cited = sections(), {}
    for path in SOURCES:
        for match in CITATION.finditer(path.read_text(encoding="utf-8")):
            for number in filter(None, match.groups()):
                cited.setdefault(number, path)
    assert not {number: path for number, path in cited.items() if number not in known}
    assert len(cited) > 20
    text = {path: path.read_text(encoding="utf-8") for path in SOURCES if path != Path(__file__)}
    assert not [path for path, each in text.items() if re.search(r"(?<!docs/)methods\.md|section \d+\)", each)]


def test_the_page_is_numbered_in_order():
    numbers = [tuple(map(int, number.split("."))) for number in sections()]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("number", sections())
def test_settings_and_defaults_are_those_of_the_method(number):
    method, text = sections()[number]
    for path, _ in SETTING.findall(text):
        default_of(path, method)
    for path, _, stated in DEFAULT.findall(text):
        assert default_of(path, method) == as_value(stated), path


def test_every_method_states_defaults():
    stated = {method for method, text in sections().values() if DEFAULT.search(text)}
    methods = {path.stem for folder in CONF for path in (folder / "method").glob("*.yaml")}
    assert methods - {"random"} <= stated  # which has none
    assert methods == {method for method, _ in sections().values()}


def test_choices_and_code_that_the_page_names_exist():
    for group, name in CHOICE.findall(PAGE):
        group_file(group, name)
    named = CODE.findall(PAGE)
    assert len(named) > 30
    for file, one, several in named:
        for name in re.findall(r"\w+", one or several):
            lines_of(ROOT / file, name)


def test_equations_stand_where_the_page_says_they_are_computed():
    rows = re.findall(r"^\| ([\d, ]+) \| .* \| `(\S+\.py)` \((.+)\) \|$", PAGE, re.MULTILINE)
    assert sorted(number for numbers, _, _ in rows for number in numbers.split(", ")) == list("12345678")
    for numbers, file, names in rows:
        for name in re.findall(r"\w+", names):
            inside = lines_of(ROOT / file, name)
            texts = [text for line, text in comments(ROOT / file) if line in inside]
            found = {number for text in texts for match in EQUATION.finditer(text) for number in match.groups()}
            assert set(numbers.split(", ")) <= found, (file, name)


def test_the_map_names_every_room_and_only_what_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = re.findall(r"`([\w./]+/[\w./]*|\w+\.py)`", text.partition("## Where is what\n")[2].partition("\n## ")[0])
    inside = [path.relative_to(ROOT / "hoptm_plugin").as_posix() for path in (ROOT / "hoptm_plugin").rglob("*.py")]
    for place in places:
        here = (ROOT / place).exists() or (ROOT / "hoptm_plugin" / place).exists()
        assert here or any(path.endswith(f"/{place}") for path in inside), place
    rooms = {path.parent.name for path in (ROOT / "hoptm_plugin").glob("*/__init__.py")}
    assert rooms <= {place.strip("/") for place in places}
