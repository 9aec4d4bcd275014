"""The public names exist, mean the same in any order of imports, and the help does not wait for torch."""

from __future__ import annotations

import subprocess
import sys
from itertools import permutations

import pytest

import hoptm_plugin


def python(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_resolves():
    assert len(hoptm_plugin.__all__) > 20
    for name in hoptm_plugin.__all__:
        assert getattr(hoptm_plugin, name).__doc__ or name.istitle(), name
        assert name in dir(hoptm_plugin)


def test_no_package_has_the_name_of_a_public_one():
    from pathlib import Path

    packages = {path.parent.name for path in Path(hoptm_plugin.__file__).parent.glob("*/__init__.py")}
    assert len(packages) > 15
    assert not packages & set(hoptm_plugin.__all__)


def test_help_does_not_import_torch():
    out = python(
        "import sys\nfrom hoptm_plugin.cli import main\nmain(['--help'])\nmain(['run', '--help'])\n"
        "assert not {'torch', 'hydra', 'kornia'} & set(sys.modules), 'heavy import'"
    )
    assert "hoptm-bench run method=hoptm dataset=digits ipc=1" in out


ORDERS = """
import sys
names = {}
for each in sys.argv[1:]:
    if each.startswith("import "):
        exec(each)
    else:
        exec(f"from hoptm_plugin import {each}", names)
from hoptm_plugin import Matcher, compose, register, registry
import hoptm_plugin.core.interfaces as interfaces
assert names["register"] is register and names["Matcher"] is Matcher and names["compose"] is compose
assert registry(Matcher) is interfaces.matchers

@register("m")
class M(Matcher):
    def loss(self, pair): return 0

assert "m" in registry(Matcher) and "shape_wise_potential" in interfaces.matchers
assert interfaces.matchers.get("m") is M
print(sorted(registry(Matcher)))
"""


@pytest.mark.campaign
def test_any_order_of_imports_gives_the_same_objects():
    printed = {python(ORDERS, *order) for order in permutations(["register", "Matcher", "compose"])} | {
        python(ORDERS, "import hoptm_plugin.matchers", "import hoptm_plugin.loggers", "register", "Matcher", "compose")
    }
    assert len(printed) == 1
