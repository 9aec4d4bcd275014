"""Reading what is registered from sources: the same as importing says, and no guess where sources do not tell."""

import importlib
from importlib.metadata import EntryPoint, entry_points

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins

import hoptm_plugin.builtin  # noqa: F401  registers the library's own parts
from hoptm_plugin.cli.listing import GROUPS, choices
from hoptm_plugin.core.discovery import registered, registries
from hoptm_plugin.core.interfaces import REGISTRIES
from hoptm_plugin.core.plugins import MODULES, load_plugins
from hoptm_plugin.core.sources import UnresolvedError
from hoptm_plugin.runs.search_path import PluginSearchPath

PART = '''class Mine(Base):
    """
    What it does:
    with details.
    """
'''


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Write a plug-in's files, the first of which its entry point names, and return what is registered with it."""
    monkeypatch.syspath_prepend(tmp_path)

    def read(files, value=None):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        importlib.invalidate_caches()
        module = next(iter(files)).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return registered([EntryPoint("mine", value or module, MODULES)])

    return read


def test_registries_are_read_as_they_are():
    assert list(registries().values()) == [registry.kind for registry in REGISTRIES]


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind.replace(" ", "-"))
def test_reading_equals_importing(registry):
    load_plugins()
    assert registered(entry_points(group=MODULES))[registry.kind] == registry.describe()


def test_baselines_are_read():
    methods = {name for name, _ in registered(entry_points(group=MODULES))["method"]}
    assert {"random_subset", "trajectory_matching"} <= methods
    assert "random_subset" not in {name for name, _ in registered([])["method"]}


DECORATORS = {
    "public name": ("from hoptm_plugin import matchers", "matchers.register"),
    "another name": ("from hoptm_plugin import matchers as m, Matcher as matchers", "m.register"),
    "the package": ("import hoptm_plugin", "hoptm_plugin.matchers.register"),
    "the package by another name": ("import hoptm_plugin as h", "h.matchers.register"),
    "a module": ("import hoptm_plugin.core.interfaces", "hoptm_plugin.core.interfaces.matchers.register"),
    "the function": ("from hoptm_plugin.matchers import register", "register"),
    "the function by another name": ("from hoptm_plugin.matchers import register as r", "r"),
    "assigned": ("from hoptm_plugin import matchers\nm, n = matchers, len\nr = m.register", "r"),
    "all names": ("from hoptm_plugin.matchers import *", "register"),
    "imported for types as well": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from hoptm_plugin import matchers\n"
        "from hoptm_plugin import matchers", "matchers.register"),
    "beside another decorator": ("import dataclasses\nimport hoptm_plugin",
                                 "hoptm_plugin.matchers.register('other')\n@dataclasses.dataclass\n"
                                 "@hoptm_plugin.matchers.register"),
    "beside a register of another kind": ("import atexit\nfrom hoptm_plugin import matchers\natexit.register(print)",
                                          "matchers.register"),
}  # fmt: skip


@pytest.mark.parametrize("case", DECORATORS)
def test_what_a_name_stands_for_is_followed(case, read):
    imports, decorator = DECORATORS[case]
    found = read({"mine_plain.py": f'{imports}\n\n\n@{decorator}("mine")\n{PART}'})
    assert ("mine", "What it does:") in found["matcher"]
    assert all(("mine", "What it does:") not in entries for kind, entries in found.items() if kind != "matcher")


def test_a_package_is_read_as_far_as_it_imports_itself(read):
    found = read({
        "mine_package/parts/__init__.py": "from . import one\nfrom .. import names\nimport mine_package.two\n",
        "mine_package/parts/one.py": f"from ..names import *\n@again.register('one')\n{PART}",
        "mine_package/names.py": "from hoptm_plugin import matchers\nagain = matchers\n",
        "mine_package/two.py": f"from mine_package import here\n@here.again.register('two')\n{PART}",
        "mine_package/__init__.py": "from mine_package import names as here\nfrom . import three\n",
        "mine_package/three.py": f"from hoptm_plugin import schedules\n@schedules.register('three')\n{PART}",
        "mine_package/unused.py": "from hoptm_plugin import matchers\n",
    })  # fmt: skip
    assert {"one", "two"} <= {name for name, _ in found["matcher"]}
    assert "three" in {name for name, _ in found["schedule"]}


IMPORT = "from hoptm_plugin import matchers\n"
MINE = f"{IMPORT}@matchers.register('mine')\n{PART}"
UNTOLD = {
    "name that is not literal": ({"mine.py": f"{IMPORT}NAME = 'mine'\n@matchers.register(NAME)\n{PART}"}, "line 3"),
    "name by keyword": ({"mine.py": f"{IMPORT}@matchers.register(name='mine')\n{PART}"}, "line 2: may register"),
    "call": ({"mine.py": f"{IMPORT}{PART}matchers.register('mine')(Mine)\n"}, "may register"),
    "in a function": ({"mine.py": f"{IMPORT}def add(name):\n    return matchers.register(name)\n"}, "may register"),
    "under a condition": ({"mine.py": f"{IMPORT}if 0:\n    @matchers.register('x')\n    class A: 'Text.'\n"}, "line 3"),
    "handed on": ({"mine.py": f"{IMPORT}import torch\ntorch.add_to(matchers, 'mine')\n"}, "line 3"),
    "out of a container": ({"mine.py": f"{IMPORT}things[0].register('mine')\n"}, "may register"),
    "bound twice": ({"mine.py": f"{IMPORT}matchers = None\n@matchers.register('mine')\n{PART}"}, "may register"),
    "names nobody knows": ({"mine.py": f"from torch import *\n@matchers.register('mine')\n{PART}"}, "may register"),
    "circle": ({"mine/__init__.py": "from mine.a import b", "mine/a.py": "from mine import b"}, "stands for itself"),
    "of itself": ({"mine.py": f"from mine import matchers\n@matchers.register('mine')\n{PART}"}, "'matchers'"),
    "no docstring": ({"mine.py": f"{IMPORT}@matchers.register('mine')\nclass A: pass\n"}, "'mine' has no docstring"),
    "taken name": ({"mine.py": f"{IMPORT}@matchers.register('endpoint')\n{PART}"}, "registered twice"),
    "syntax error": ({"mine.py": f"{MINE}def ("}, "invalid syntax"),
    "binary": ({"mine.py": b"\0"}, "null bytes"),
    "no source": ({"mine/__init__.py": "from mine import compiled\n", "mine/compiled.so": b""}, "called 'compiled'"),
    "missing package": ({"mine.py": "import a_package_that_is_not_there\n"}, "a_package_that_is_not_there"),
    "missing module": ({"mine/__init__.py": "import mine.gone\n"}, "mine.gone: no such module"),
    "missing name": ({"mine.py": "from hoptm_plugin import Gone\n"}, "nothing is called 'Gone'"),
    "beyond a module": ({"mine.py": "from . import gone\n"}, "not found"),
    "beyond the package": ({"mine/__init__.py": "from ... import gone\n"}, "beyond the top-level package"),
    "module that nothing imports": ({"mine/__init__.py": "", "mine/more.py": MINE}, "mine.more: may be imported"),
    "module under a condition": (
        {"mine/__init__.py": "try:\n    from . import more\nexcept ImportError: pass\n", "mine/more.py": MINE},
        "mine.more: may be imported"),
    "library that registers": ({"mine.py": "import mine_helpers.parts", "mine_helpers/parts.py": MINE}, "mine_helpers"),
    "library under a condition": (
        {"mine.py": "try:\n    import mine_helpers\nexcept ImportError: pass\n", "mine_helpers.py": MINE},
        "mine_helpers: imported by mine, and may register"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNTOLD)
def test_what_sources_do_not_tell_is_not_guessed(case, read):
    files, says = UNTOLD[case]
    with pytest.raises(UnresolvedError, match=says):
        read(files)


@pytest.mark.parametrize("value", ["mine:matchers", "mine.gone", "not_there", "mine [extra]", "not a module"])
def test_entry_points_that_are_no_module(value, read):
    with pytest.raises(UnresolvedError):
        read({"mine.py": MINE}, value)


def test_what_is_missing_under_a_condition_does_not_matter(read):
    optional = "try:\n    import a_package_that_is_not_there\nexcept ImportError:\n    pass\n"
    assert ("mine", "What it does:") in read({"mine.py": optional + MINE})["matcher"]


def test_choices_of_settings_are_hydra_s(tmp_path, monkeypatch):
    package, information = tmp_path / "yaml_plugin", tmp_path / "yaml_plugin-1.0.dist-info"
    for path in ("__init__.py", "conf/method/mine.yaml", "conf/method/notes.txt", "conf/method/mtt.yaml",
                 "conf/method/folder/inner.yaml", "conf/network/mine_too.yaml"):  # fmt: skip
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).touch()
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: yaml_plugin\nVersion: 1.0\n")
    points = "[hoptm_plugin.conf]\nmine = yaml_plugin.conf\nmissing = yaml_plugin.gone\nabsent = not_there.conf\n"
    (information / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    Plugins.instance().register(PluginSearchPath)
    with hydra.initialize_config_module("hoptm_plugin.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        ours = [group for group in GROUPS if group != "hydra/launcher"]  # Hydra has those of its plug-ins too
        assert set(choices("hydra/launcher")) <= set(loader.get_group_options("hydra/launcher"))
        assert {group: choices(group) for group in ours} == {group: loader.get_group_options(group) for group in ours}
    assert "mine" in choices("method")
    assert "mine_too" in choices("network")
