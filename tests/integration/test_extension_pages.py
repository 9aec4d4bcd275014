"""The pages in docs/extend: their files make one package, installed beside this one, composed, run and contracted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import TINY_RUN, call, card

PAGES = sorted((Path(__file__).parents[2] / "docs/extend").glob("*.md"))
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
KINDS = {"matcher", "scheduler", "schedule", "initialiser", "dataset", "network", "method"}
# one page's run in every gate, the others in the campaigns; the code of all is tried by their own tests
EACH = [
    pytest.param(page, id=page.stem, marks=() if page.stem == "matcher" else pytest.mark.campaign) for page in PAGES
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder on the path with the package of all pages, its entry points, and their tests."""
    folder, modules = tmp_path_factory.mktemp("extended"), []
    for page in PAGES:
        for name, text in FILE.findall(page.read_text(encoding="utf-8")):
            file = folder / name
            assert not file.exists(), f"{page.name} and another page write {name}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            if name.startswith("my_package/") and name.endswith(".py"):
                modules.append(file.stem)
    (folder / "my_package/__init__.py").write_text("".join(f"import my_package.{name}\n" for name in modules))
    (folder / "my_package/conf/__init__.py").touch()
    info = folder / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[hoptm_plugin.plugins]\nmine = my_package\n[hoptm_plugin.conf]\nmine = my_package.conf\n"
    )
    return folder


def environment(site):
    return {"PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])}


def test_there_is_a_page_for_every_kind_of_part():
    assert {page.stem for page in PAGES} == KINDS


def test_the_pages_parts_pass_their_inherited_contracts(site):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(site)]
    command.append(str(site / "tests"))
    done = subprocess.run(command, cwd=site, env=os.environ | environment(site), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= 5 * len(KINDS), done.stdout


@pytest.mark.parametrize("page", EACH)
def test_each_page_s_yaml_runs(page, site, tmp_path):
    """A page's YAML is chosen as its reader would, and the run ends with a card."""
    chosen = [
        f"{Path(name).parent.name}={Path(name).stem}"
        for name, _ in FILE.findall(page.read_text(encoding="utf-8"))
        if name.endswith(".yaml")
    ]
    assert chosen, "the page shows no YAML"
    method = [] if any(each.startswith("method=") for each in chosen) else ["method=mtt"]
    tiny = [
        each for each in TINY_RUN if method or not each.startswith(("method.", "network.")) or "mean" not in chosen[0]
    ]
    if chosen[0].startswith("method=mean_images"):
        tiny = [each for each in tiny if not each.startswith("method.")]
    if chosen[0].startswith("network="):
        tiny = [each for each in tiny if not each.startswith("network.")]
    result = call("run", *method, *chosen, *tiny, "hydra.run.dir=out", cwd=tmp_path, environment=environment(site))
    assert result.code == 0, result.err
    assert card(tmp_path / "out")["evaluations"]
