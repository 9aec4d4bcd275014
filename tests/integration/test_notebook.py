"""The notebook: every cell runs in a kernel of its own, in at most forty lines of code, and shows what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = Path(__file__).parents[2] / "docs/notebook.ipynb"


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
def test_the_notebook_runs_from_the_first_cell_to_the_last(tmp_path, monkeypatch):
    monkeypatch.setenv("HOPTM_EXPERTS", str(tmp_path / "experts"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = ["".join(str(output.get("data", output)) for output in cell.outputs) for cell in code_of(notebook)]
    assert all(shown), "every cell shows something"
    assert "HoP-TM" in shown[2]
    assert "convnet(width=16,depth=2)" in shown[3]
    assert {folder.name for folder in (tmp_path / "runs").iterdir()} == {"hoptm", "random", "direction", "squares"}
    # of the third-party matcher: a run that ended has a card
    assert (tmp_path / "runs/direction/result.json").is_file()


def test_it_is_short_and_holds_no_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    lines = [line for cell in code_of(notebook) for line in cell.source.splitlines() if line.strip()]
    assert 20 < len(lines) <= 40
    assert not any(cell.outputs or cell.execution_count for cell in code_of(notebook)), "outputs are not committed"
