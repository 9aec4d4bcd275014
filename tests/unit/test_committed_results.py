"""Tables under benchmarks/results are those that their cards give, and say what the suite says."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from hoptm_plugin.results.card import read_card
from hoptm_plugin.results.compare import compare, find_cards
from hoptm_plugin.results.tables import render

ROOT = Path(__file__).parents[2] / "benchmarks"
FOLDERS = sorted(path.parent for path in (ROOT / "results").glob("*/compare.md"))


def test_there_are_results():
    assert {folder.name for folder in FOLDERS} >= {"bloodcells-full"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_committed_table_is_generated_from_its_cards(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    import suite

    name, _, variant = folder.name.rpartition("-")
    described = suite.load_suite(ROOT / "suites" / f"{name}.yaml").varied(variant)
    assert not described.compare, f"add {shlex.join(described.compare)} here"
    table = (folder / "compare.md").read_text(encoding="utf-8")
    assert table.endswith(render(compare(find_cards([folder])), "markdown")), f"rebuild with {sys.executable}"
    assert table.startswith(f"# {described.title}\n\n{described.note.strip()}\n")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_committed_cards_name_no_place_on_a_machine(folder):
    for path in folder.rglob("result.json"):
        read_card(path)
        text = json.dumps(json.loads(path.read_text(encoding="utf-8"))["protocol"]) + path.read_text(encoding="utf-8")
        assert not any(place in text for place in ('"/', "/home/", "/root/", "file://"))
