"""How label-robust and augmentation-robust scores are shown, and refused where runs are missing."""

from __future__ import annotations

import json

import pytest
from scored_cards import ONE, OTHER, found, make, read, whole

from hoptm_plugin.cards.card import write_card
from hoptm_plugin.cli import main
from hoptm_plugin.cli.tables import show_comparison
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.tables.compare import compare
from hoptm_plugin.tables.grids import accuracies, footnotes
from hoptm_plugin.tables.robust import label_robust_score
from hoptm_plugin.tables.scores import tabled


def shown():
    return compare(read(found(**whole())), tests=None, scores="all")


def test_columns_of_scores_in_every_format(capsys):
    lrs = f"{label_robust_score(0.8, 0.8, 0.5, 0.95):.3f}"
    comparison = shown()
    text = comparison.text()
    assert "| method | IPC 1, convnet | IPC 1, convnet, LRS | IPC 1, convnet, ARS |" in text
    assert f"| MTT | 80.00 ± 10.00 (2) | {lrs} | 0.363 |" in text, "nothing is marked that was not tested"
    assert "| RANDOM | 50.00 (1) | - | - |" in text
    assert rf"MTT & 80.00 $\pm$ 10.00 (2) & {lrs} & 0.363 \\" in comparison.text("latex")
    show_comparison(comparison, "terminal", None)
    assert any(line.split() == ["MTT", "80.00", "±", "10.00", "(2)", lrs, "0.363"]
               for line in capsys.readouterr().out.splitlines())  # fmt: skip
    rows = {row["method"]: row for row in json.loads(comparison.text("json"))}
    assert list(rows["MTT"])[-3:] == ["lrs", "ars", "notes"]
    assert rows["MTT"]["ars"] == pytest.approx(0.3631393)
    assert rows["RANDOM"]["lrs"] is rows["FULL"]["ars"] is None
    assert comparison.text("csv").splitlines()[0].endswith(",p_holm,lrs,ars,notes")


def test_footnotes_explain_the_scores_that_are_shown_and_state_the_level_of_chance_rightly():
    notes = [note for note in footnotes(shown().tables) if "robust score" in note]
    assert [note[:3] for note in notes] == ["LRS", "ARS"]
    assert all(f"{label_robust_score(0.6, 0.6, 0.6, 0.6):.3f}" in note for note in notes)


def test_without_scores_nothing_changes():
    comparison = compare(read(found(**whole())), tests=None)
    assert len(comparison.tables) == 2, "what was judged without augmentation is a table of its own"
    assert all(len(accuracies(each).columns) == len(each.columns()) for each in comparison.tables)
    assert "lrs" not in json.loads(comparison.text("json"))[0]
    assert not any("robust score" in note for note in footnotes(comparison.tables))


def test_scores_leave_the_best_and_the_tests_as_they_are():
    cards = found(**whole())
    with_scores = compare(read(cards), scores="all").tables[0]
    without = compare(read(tabled(cards))).tables[0]
    assert [(c.row, c.best, c.difference) for c in with_scores.cells] == [
        (c.row, c.best, c.difference) for c in without.cells
    ]


def test_nothing_to_score_is_said():
    cards = found(random=make("random", 0.5), full=make("full", 0.9, ipc=None))
    with pytest.raises(ConfigurationError, match="only distilled sets have scores"):
        compare(read(cards), scores="all")


def test_a_refusal_lists_every_run_and_writes_nothing(tmp_path, capsys):
    runs = tmp_path / "runs"
    for name, card in {"mtt": make("mtt", 0.8, digest=ONE), "dm": make("dm", 0.5, digest=OTHER)}.items():
        write_card(card, runs / name / "result.json")
    output = tmp_path / "t.md"
    with pytest.raises(SystemExit) as caught:
        main(["compare", str(runs), "--scores", "all", "--format", "markdown", "--output", str(output)])
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert not output.exists()
    lines = [line.strip() for line in printed.err.splitlines()]
    assert lines[:5] == [
        "error: scores all: 4 runs are missing",
        f"DM, seed 0, IPC 1, blood: judged without augmentation on convnet, else as {runs}/dm/result.json, for ARS",
        f"MTT, seed 0, IPC 1, blood: judged without augmentation on convnet, else as {runs}/mtt/result.json, for ARS",
        f"random subset, IPC 1, blood: judged on convnet, else as {runs}/dm/result.json, for LRS and ARS",
        f"all images, blood: judged on convnet, else as {runs}/dm/result.json, for LRS",
    ]
    assert len(lines) == 6
    assert "`hoptm-bench eval synthetic=RUN augment=none`" in lines[5]


def test_a_refusal_names_labels_and_cards_without_files():
    card = make("mtt", 0.8, digest=ONE, seed=2, labels="soft")
    with pytest.raises(ConfigurationError) as caught:
        compare(card, scores="lrs")
    assert [line.strip() for line in caught.value.problems[1:3]] == [
        "MTT, seed 2, IPC 1, blood: judged under hard labels on convnet, else as card 1, for LRS",
        "all images, blood: judged on convnet, else as card 1, for LRS",
    ]


def test_cards_are_found_as_ever(tmp_path):
    for name, card in whole().items():
        write_card(card, tmp_path / name / "result.json")
    (comparison,) = compare(tmp_path, scores="all", tests=None).tables
    assert comparison.scores == ("lrs", "ars")
