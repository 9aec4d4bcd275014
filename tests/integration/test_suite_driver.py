"""The driver of the suites from its command line, on a tiny budget."""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path

import command_line
import pytest
from command_line import TINY_EXPERTS, TINY_LOOP, TINY_NETWORK, TINY_PROTOCOL

from hoptm_plugin.cards.card import read_card

DRIVER = (sys.executable, str(Path(__file__).parents[2] / "benchmarks" / "suite.py"))
TINY = (*TINY_NETWORK, *TINY_PROTOCOL, *TINY_EXPERTS, *TINY_LOOP)
ROWS = ("1. neither", "2. HO", "3. E2C", "4. HO and E2C (HoP-TM)")


@pytest.fixture
def drive(tmp_path, experts_root):
    """Run the driver in ``tmp_path``."""

    def run(*arguments):
        environment = {"HOPTM_EXPERTS": str(experts_root)}
        return command_line.call(*arguments, cwd=tmp_path, environment=environment, program=DRIVER)

    return run


def written(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/*/*")}


@pytest.mark.campaign
def test_a_suite_runs_once_and_goes_on_where_it_stopped(drive, tmp_path):
    arguments = ("table4_ablation", "--variant", "cpu", *TINY, "ipc=1")
    first = drive(*arguments)
    assert first.code == 0, first.err
    folder = tmp_path / "runs/suites/table4_ablation-cpu"
    cards = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("result.json"))
    assert cards == [f"{sweep}/0-hoptm-digits-ipc1-seed0/result.json" for sweep in range(4)]
    table = (folder / "compare.md").read_text()
    assert all(row in first.out and row in table for row in ROWS)
    assert "Reduced for two CPU cores" in table

    before = written(folder)
    (folder / cards[2]).unlink()
    second = drive(*arguments)
    assert second.code == 0, second.err
    assert (folder / cards[2]).exists()
    changed = {path.relative_to(folder).parts[0] for path, when in written(folder).items() if before[path] != when}
    assert changed <= {"2"}, "only the run without a card may be touched"
    assert all(row in second.out for row in ROWS)


@pytest.mark.campaign
def test_a_failed_run_stops_nothing_and_is_named(drive, tmp_path):
    result = drive("table3_cross_architecture", "--variant", "cpu", *TINY_NETWORK, *TINY_PROTOCOL, "networks=null",
                   "method=random", "ipc=100000,1", "--out", "out")  # fmt: skip
    assert result.code == 1, result.err
    assert "Traceback" not in result.err
    folder = tmp_path / "out/table3_cross_architecture-cpu"
    assert sorted(path.parent.name for path in folder.rglob("result.json")) == ["1-random-digits-ipc1-seed0"] * 3
    failed = [line for line in result.err.splitlines() if line.startswith("error: failed: ")]
    assert [line.split(": ")[2] for line in failed] == ["Real images", "Distribution matching", "Trajectory matching"]
    assert all("IPC 100000" in line for line in failed)


@pytest.mark.campaign
def test_a_stopped_suite_stops_its_run_and_goes_on(drive, tmp_path, experts_root):
    folder = tmp_path / "runs/suites/table4_ablation-cpu"
    endless = ("table4_ablation", "--variant", "cpu", *TINY, "ipc=1", "distillation.iterations=1000000",
               "distillation.checkpoint_every=100000", "runtime.compile=false")  # fmt: skip
    process = command_line.start(*endless, cwd=tmp_path, environment={"HOPTM_EXPERTS": str(experts_root)},
                                 program=DRIVER)  # fmt: skip
    try:
        while not list(folder.glob("*/*/metrics.jsonl")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=command_line.HANG)
    finally:
        process.kill()
    assert process.returncode == 75, err
    assert "error: stopped by SIGTERM; go on with: hoptm-bench run hydra.run.dir=" in err, "the run"
    assert "or with all runs by the same command, hydra.sweep.dir=" in err
    assert err.rstrip().endswith("error: stopped by SIGTERM; the same command goes on")
    assert "Traceback" not in err
    assert len(list(folder.glob("*/*/checkpoint.safetensors"))) == 1, "written because it was stopped"


@pytest.mark.campaign
def test_a_dry_run_names_every_run_and_estimates(drive, tmp_path):
    result = drive("table4_ablation", "--variant", "cpu", "--dry-run", "runtime.device=cpu")
    assert result.code == 0, result.err
    for row in ROWS:
        for ipc in (1, 10):
            assert result.out.count(f"{row}, IPC {ipc}, seed 0") == 2, "in the list and in the table"
    assert result.out.count("hoptm-bench run -m ") == 4
    assert re.search(r"total, \d+ runs ", result.out)
    assert "nothing was started" in result.out
    assert list(tmp_path.iterdir()) == []


SEARCHED = f"""
title: small
data: {{train: 1293, classes: 10, image: [1, 32, 32]}}
against: MTT
settings: [protocol.random_subset=false]
search: [seed=100, protocol.repeats=1]
sweeps:
  - title: MTT
    overrides: [method=mtt, ipc=1, "seed=0,1", {", ".join((*TINY_EXPERTS, *TINY_LOOP))}]
    search: ["distillation.images.learning_rate=1,1000"]
  - title: random
    overrides: [method=random, ipc=1, "seed=0,1"]
  - title: others
    overrides: ["networks=[convnet,{{name: vgg11, width_factor: 0.05}}]"]
    evaluates: [MTT, random]
    seeds: [1]
    tables: [others]
tables: {{others: {{title: Other networks}}}}
"""


@pytest.mark.campaign
def test_a_search_chooses_and_sets_are_judged_again(tmp_path, experts_root, monkeypatch, capfd):
    monkeypatch.syspath_prepend(str(Path(DRIVER[1]).parent))
    import suite

    (tmp_path / "searched.yaml").write_text(SEARCHED)
    monkeypatch.setattr(suite, "SUITES", {"searched": tmp_path / "searched.yaml"})
    monkeypatch.setenv("HOPTM_EXPERTS", str(experts_root))
    monkeypatch.chdir(tmp_path)
    assert suite.main(["searched", "--out", "out", *TINY_NETWORK, *TINY_PROTOCOL]) == 0, capfd.readouterr().err
    searched = [read_card(path) for path in sorted(tmp_path.glob("out/searched-full-search/0/*/result.json"))]
    assert [(card.split, card.seed) for card in searched] == [("validation", 100)] * 2
    best = max(searched, key=lambda card: card.evaluations[0].accuracy.mean)
    runs = [read_card(path) for path in sorted(tmp_path.glob("out/searched-full/0/*/result.json"))]
    assert [(card.split, card.seed) for card in runs] == [("test", 0), ("test", 1)]
    for card in runs:
        accuracies = {each.settings: each.accuracy for each in card.tuning.candidates}
        assert list(accuracies.values()) == [each.evaluations[0].accuracy.mean for each in searched]
        assert accuracies[card.tuning.chosen] == best.evaluations[0].accuracy.mean
    judged = [read_card(path) for path in sorted(tmp_path.glob("out/searched-full/2/*-eval/result.json"))]
    assert [(card.title, card.distillation_seed, len(card.evaluations)) for card in judged] == [
        ("MTT", 1, 2), ("Random subset", 1, 2)
    ]  # fmt: skip
    assert judged[0].distillation_sha256 == runs[1].distillation_sha256
    text = (tmp_path / "out/searched-full/compare.md").read_text()
    assert text.startswith("# small\n")
    assert "# Other networks\n" in text
    assert "t-tests of pairs where both rows have the same seeds" in text
    assert ", 2 pairs" in text
