"""Imports run one way, from the first of these layers to the last: none imports from one that stands below it."""

import ast
from pathlib import Path

import pytest

import hoptm_plugin

ROOT = Path(hoptm_plugin.__file__).parent
BASELINES = ROOT.parent / "baselines/hoptm_baselines"
LAYERS = [
    {"core"},
    {"storage", "privacy"},
    {"runtime"},
    {"matchers", "schedulers", "augment", "networks", "data", "loggers"},
    {"trajectory", "experts"},
    {"engine"},
    {"cards"},
    {"settings"},
    {"exchange"},
    {"runs"},
    {"builtin", "testing"},
    {"tables"},
    {"pages"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
HYDRA_USERS = {"composition.py", "hydra_errors.py", "search_path.py", "jobs.py", "sweeps.py"}


def imports(path):
    """Yield the full names that a module imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)


MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if layer == "conf":
        return
    for name in imports(path):
        package, _, rest = name.partition(".")
        assert package not in ("hoptm_baselines", "baselines", "benchmarks"), name
        assert package not in ("hydra", "omegaconf") or path.name in HYDRA_USERS, name
        if package == "hoptm_plugin" and rest:
            other = rest.partition(".")[0]
            assert other == layer or LEVEL[other] < LEVEL[layer], f"{layer} imports {other}"


def test_core_knows_few_libraries():
    allowed = {"torch", "pydantic", "safetensors", "filelock", "yaml", "hoptm_plugin"}
    import sys

    for path in (ROOT / "core").glob("*.py"):
        for name in imports(path):
            package = name.partition(".")[0]
            assert package in allowed | sys.stdlib_module_names, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sorted(BASELINES.rglob("*.py")), ids=lambda path: path.name)
def test_baselines_use_the_public_api_only(path):
    for name in imports(path):
        assert not name.startswith("hoptm_plugin."), f"{name}: import it from hoptm_plugin itself"
