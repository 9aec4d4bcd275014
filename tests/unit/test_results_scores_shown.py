"""How label-robust and augmentation-robust scores are shown, and refused where runs are missing."""

from __future__ import annotations

import json

import pytest
from scored_cards import ONE, OTHER, found, make, whole

from hoptm_plugin.cards.card import write_card
from hoptm_plugin.cli.entry import main
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.tables.asked import compare_with_scores
from hoptm_plugin.tables.cells import with_best
from hoptm_plugin.tables.compare import compare, find_cards
from hoptm_plugin.tables.formats import render
from hoptm_plugin.tables.grids import accuracies, footnotes
from hoptm_plugin.tables.robust import label_robust_score
from hoptm_plugin.tables.scores import scored, tabled


def shown():
    cards = found(**whole())
    return scored(compare(tabled(cards), tests=None), cards, ["lrs", "ars"])[0]


def test_columns_of_scores_in_every_format():
    lrs = f"{label_robust_score(0.8, 0.8, 0.5, 0.95):.3f}"
    comparisons = shown()
    text = render(comparisons, "markdown")
    assert "| method | IPC 1, convnet | IPC 1, convnet, LRS | IPC 1, convnet, ARS |" in text
    assert f"| MTT | **80.00 ± 10.00 (2)** | **{lrs}** | **0.363** |" in text
    assert "| RANDOM | 50.00 (1) | - | - |" in text
    assert rf"MTT & \textbf{{80.00 $\pm$ 10.00 (2)}} & \textbf{{{lrs}}} & \textbf{{0.363}} \\" in render(
        comparisons, "latex"
    )
    assert any(line.split() == ["MTT", "80.00", "±", "10.00", "(2)", "^", lrs, "^", "0.363", "^"]
               for line in render(comparisons, "terminal").splitlines())  # fmt: skip
    rows = {row["method"]: row for row in json.loads(render(comparisons, "json"))}
    assert list(rows["MTT"])[-3:] == ["p_holm", "lrs", "ars"]
    assert rows["MTT"]["ars"] == pytest.approx(0.3631393)
    assert rows["RANDOM"]["lrs"] is rows["FULL"]["ars"] is None
    assert render(comparisons, "csv").splitlines()[0].endswith(",p_holm,lrs,ars")


def test_footnotes_explain_the_scores_that_are_shown_and_state_the_level_of_chance_rightly():
    comparisons = shown()
    notes = [note for note in footnotes(comparisons) if "robust score" in note]
    assert [note[:3] for note in notes] == ["LRS", "ARS"]
    assert all(f"{label_robust_score(0.6, 0.6, 0.6, 0.6):.3f}" in note for note in notes)


def test_without_scores_nothing_changes():
    cards = found(**whole())
    comparisons = compare(cards, tests=None)
    assert len(comparisons) == 2, "what was judged without augmentation is a table of its own"
    assert all(len(accuracies(each).columns) == len(each.columns()) for each in comparisons)
    assert "lrs" not in json.loads(render(comparisons, "json"))[0]
    assert not any("robust score" in note for note in footnotes(comparisons))


def test_scores_leave_the_best_and_the_tests_as_they_are():
    cards = found(**whole())
    with_scores = compare_with_scores(cards, "all", against=None, tests="welch")[0]
    without = compare(tabled(cards), tests="welch")[0]
    assert [(c.row, c.best, c.difference) for c in with_scores.cells] == [
        (c.row, c.best, c.difference) for c in without.cells
    ]
    assert list(with_best(with_scores.cells)) == list(with_scores.cells)


def test_nothing_to_score_is_said():
    cards = found(random=make("random", 0.5), full=make("full", 0.9, ipc=None))
    with pytest.raises(ConfigurationError, match="only distilled sets have scores"):
        compare_with_scores(cards, "all", against=None, tests="welch")


def test_a_refusal_lists_every_run_and_writes_nothing(tmp_path, capsys):
    for name, card in {"mtt": make("mtt", 0.8, digest=ONE), "dm": make("dm", 0.5, digest=OTHER)}.items():
        write_card(card, tmp_path / "runs" / name / "result.json")
    output = tmp_path / "t.md"
    with pytest.raises(SystemExit) as caught:
        main(["compare", str(tmp_path / "runs"), "--scores", "all", "--format", "markdown", "--output", str(output)])
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert not output.exists()
    first, *lines = printed.err.splitlines()
    assert first == (
        "error: --scores all: 4 runs are missing; make what follows, and compare again with the new folders as well"
    )
    # no config.yaml lies beside these cards, so that only what is known of the commands can be given
    assert [line.split("  #")[0].strip() for line in lines[:2]] == ["hoptm-bench eval synthetic=RUN augment=none"] * 2
    assert f"RUN: where the set of {tmp_path}/runs/dm/result.json is" in lines[0]
    assert lines[2].strip().startswith("hoptm-bench run method=random with data, network and protocol of")
    assert lines[3].strip().startswith("hoptm-bench run method=full with data, network and protocol of")


def test_cards_are_found_as_ever(tmp_path):
    for name, card in whole().items():
        write_card(card, tmp_path / name / "result.json")
    (comparison,) = compare_with_scores(find_cards([tmp_path]), "all", against=None, tests=None)
    assert comparison.scores == ("lrs", "ars")
