"""The numerics and the compiled path under the oldest torch of pyproject.toml, in an environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command, **more):
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, **more)
    assert done.returncode == 0, (command, done.stdout[-4000:], done.stderr[-4000:])
    return done.stdout


@pytest.mark.campaign
def test_the_numerics_hold_under_the_oldest_torch(tmp_path):
    """Minutes and 3 GB; HOPTM_OLDEST_TORCH names the Python of an environment that is there already."""
    oldest = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    run("git", "clone", "--quiet", ROOT, tmp_path / "clone")
    python = os.environ.get("HOPTM_OLDEST_TORCH")
    if python is None:
        venv.create(tmp_path / "venv", with_pip=True)
        python = tmp_path / "venv" / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", f"torch=={oldest}.*", f"{tmp_path / 'clone'}[dev]")
    version = run(python, "-c", "import torch; print(torch.__version__)")
    assert version.startswith(f"{oldest}."), version
    paths = [tmp_path / "clone", tmp_path / "clone" / "baselines"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    tests = ("tests/numerics", "tests/unit/test_compute.py")
    said = run(python, "-m", "pytest", "-q", "-n", "2", "-m", "not campaign", *tests, cwd=tmp_path / "clone",
               env=environment)  # fmt: skip
    passed = re.search(r"(\d+) passed", said)
    assert passed
    assert int(passed[1]) > 450
