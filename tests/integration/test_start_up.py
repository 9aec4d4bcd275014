"""What the command line must not wait for: torch and Hydra, where nothing needs them."""

import os
import sys
from pathlib import Path

import pytest
from command_line import call

PACKAGE = Path(__file__).with_name("plugin_package") / "src"
TIMED = (sys.executable, "-X", "importtime", "-m", "hoptm_plugin.cli")
HEAVY = {"torch", "torchvision", "kornia", "numpy", "pandas", "pydantic", "hydra", "hoptm_baselines"}
ENTRY_POINTS = """
[hoptm_plugin.plugins]
mine = {module}
[hoptm_plugin.conf]
mine = hoptm_direction.conf
"""


@pytest.fixture
def timed(tmp_path):
    """Run a command with a plug-in, and return its result, with the names of the modules that it imported."""

    def run(*arguments, module="hoptm_direction.start", text=""):
        information = tmp_path / "mine-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(ENTRY_POINTS.format(module=module))
        (tmp_path / "of_mine.py").write_text(text)
        environment = {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, PACKAGE))), "PYTHONDONTWRITEBYTECODE": "1"}
        result = call(*arguments, cwd=tmp_path, environment=environment, program=TIMED)
        rows = [line.rpartition("|") for line in result.err.splitlines() if line.startswith("import time:")]
        return result, {name.strip() for _, _, name in rows}

    return run


@pytest.mark.parametrize("arguments", ["--help", "run --help", "list --help"])
def test_help_does_not_wait_for_torch(arguments, timed):
    result, modules = timed(*arguments.split())
    assert result.code == 0, result.err
    assert "hoptm_plugin.cli.help" in modules
    assert not {*HEAVY, "hoptm_direction"} & modules


@pytest.mark.slow
def test_a_plug_in_is_listed_with_what_it_registers(timed):
    result, modules = timed("list")
    out = result.out
    assert not {"torchvision", "torch._dynamo", "scipy"} & modules, "which take as long to import as half of torch"
    for text in ("hoptm, idm", "direction   ", "direct", "MTT with another matcher", "from_the_start",
                 "Matches only what experts do first", "Angle between", "mine = hoptm_direction.start",
                 "random_subset"):  # fmt: skip
        assert text in out


@pytest.mark.campaign
def test_a_plug_in_may_register_in_a_loop(timed):
    text = "from hoptm_plugin import Matcher, register\nfor name in ('odd_one', 'odd_two'):\n" \
           "    @register(name)\n    class Odd(Matcher):\n        'Odd.'\n        loss = None\n"  # fmt: skip
    result, _ = timed("list", "matchers", module="of_mine", text=text)
    assert result.code == 0, result.err
    assert all(name in result.out for name in ("odd_one", "odd_two", "endpoint"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("methods", "import a_package_that_is_not_there", "No module named 'a_package_that_is_not_there'"),
        *(
            pytest.param(*each, marks=pytest.mark.campaign)
            for each in (
                ("matchers", "def (", "SyntaxError: "),
                ("plugins", "raise RuntimeError('fails when run')", "RuntimeError: fails when run"),
                (None, "from hoptm_plugin import Gone", "ImportError: cannot import name 'Gone'"),
            )
        ),
    ],
)
def test_a_broken_plug_in_is_named(kind, text, says, timed):
    result, _ = timed("list", *filter(None, [kind]), module="of_mine", text=text)
    assert result.code == 2
    assert not result.out
    assert "Traceback" not in result.err
    (message,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert message.startswith("error: plug-in 'mine' (of_mine, from mine 1.0) could not be imported: ")
    assert says in message
