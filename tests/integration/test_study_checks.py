"""What the study's diagnoses are measured from: a whole run, as the suites make it."""

from __future__ import annotations

import json

import pytest
import study_checks
from command_line import TINY_EXPERTS, TINY_LOOP, TINY_NETWORK, TINY_PROTOCOL


@pytest.mark.slow
def test_a_run_s_checks(bench, tmp_path, monkeypatch):
    settings = (*TINY_NETWORK, *TINY_PROTOCOL, *TINY_EXPERTS, *TINY_LOOP, "distillation.log_every=1")
    for number, more in enumerate((['method_title="2. shape term"', "method.schedulers.pace=null"], [])):
        done = bench("run", "method=hoptm", *settings, *more, f"hydra.run.dir=study_x-full/{number}/0-run")
        assert done.code == 0, done.err
    monkeypatch.setattr(study_checks, "STUDY", ("study_x",))
    monkeypatch.setattr(study_checks, "CHECKS", tmp_path / "checks.json")
    assert study_checks.main([str(tmp_path)]) == 0
    found = json.loads((tmp_path / "checks.json").read_text())
    assert [(row["title"], row["ipc"], row["runs"]) for row in found["curves"]] == [
        ("2. shape term", 1, 1), ("HoP-TM", 1, 1)
    ]  # fmt: skip
    unpaced, paced = found["curves"]
    assert "mask" not in unpaced
    assert len(paced["mask"]) == len(study_checks.PARTS)
    assert all(0 <= part <= 1 for part in paced["mask"])
    (experts,) = found["experts"]
    assert experts["experts"] == "gsam"
    assert len(experts["accuracy"]) == 3, "after 0 to 2 epochs"
    (shape,) = found["shape"]
    for when in ("start", "end"):
        assert shape[when]["ratio"] > 0
        assert -1 <= shape[when]["cosine"] <= 1
        assert 0 <= shape[when]["way"][0] <= shape[when]["way"][-1] <= 1


def test_a_folder_without_runs_leaves_what_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study_checks, "CHECKS", tmp_path / "checks.json")
    assert study_checks.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: holds no finished runs of study_bloodcells")
    assert list(tmp_path.iterdir()) == []
