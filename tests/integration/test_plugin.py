"""A third party's package: installed, listed, run by name and by its own YAML, tested by the contracts, gone again."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import TINY_RUN, call, card
from generated import NPZ

PACKAGE = Path(__file__).with_name("plugin_package")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the plug-in package is installed."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PACKAGE, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(folder / "site"), str(folder / "source")], check=True)
    return folder / "site"


@pytest.fixture
def installed(site, tmp_path, experts_root):
    """Run a command with the plug-in on the path."""
    environment = {"PYTHONPATH": str(site), "HOPTM_EXPERTS": str(experts_root)}
    return lambda *arguments: call(*arguments, cwd=tmp_path, environment=environment)


@pytest.mark.slow
def test_is_listed_only_while_installed(installed, bench):
    listed = installed("list", "matchers")
    assert listed.code == 0, listed.err
    assert "direction" in listed.out
    assert "Angle between the student's and the expert's way" in listed.out
    assert "from_the_start" in installed("list", "schedulers").out
    assert "direction" not in bench("list", "matchers").out


@pytest.mark.campaign
def test_takes_another_matcher_s_place(installed, tmp_path, npz_file):
    data = ("dataset=npz", f"dataset.root={npz_file}", *NPZ)
    name = "method.matchers.endpoint.name=direction"
    result = installed("run", "method=mtt", *data, *TINY_RUN, name, "hydra.run.dir=out")
    assert result.code == 0, result.err
    assert card(tmp_path / "out")["method"] == "mtt"


@pytest.mark.slow
def test_brings_yaml_of_its_own(installed, tmp_path, npz_file):
    data = ("dataset=npz", f"dataset.root={npz_file}", *NPZ)
    result = installed("run", "method=direction", *data, *TINY_RUN, "hydra.run.dir=out")
    assert result.code == 0, result.err
    assert card(tmp_path / "out")["title"] == "Direction"


@pytest.mark.slow
def test_its_own_tests_inherit_the_contracts(site):
    source = site.with_name("source")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(source), str(source)]
    done = subprocess.run(
        command, cwd=source, env={"PYTHONPATH": str(site), "PATH": ""}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # seven checks of one matcher, five of two settings of a scheduler
    assert "17 passed" in done.stdout
