"""Tables of any metric: what is best, what is tested, how rows are sorted and left out, what accuracy hides."""

import json
import math

import pytest
import torch
from test_results_compare import DIGITS, make

from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.engine.metrics import classification_metrics
from hoptm_plugin.engine.significance import paired
from hoptm_plugin.tables.compare import compare
from hoptm_plugin.tables.grids import accuracies, footnotes
from hoptm_plugin.tables.metrics import METRICS

TARGETS = torch.tensor([0] * 8 + [1] * 2)  # uneven


def networks(*predictions, confidence=0.9):
    """Networks that give these classes; None of one that diverged."""
    rows = []
    for predicted in predictions:
        scores = (1 - confidence) + (2 * confidence - 1) * torch.eye(2)[torch.tensor(predicted or [0] * 10)]
        rows.append(classification_metrics(TARGETS, scores if predicted else torch.full((10, 2), math.nan)))
    return Evaluation.from_metrics("convnet", rows)


def right(common, rare):
    """Predictions that are right for so many images of each class."""
    return [0] * common + [1] * (8 - common) + [1] * rare + [0] * (2 - rare)


def cards(method, *seeds, confidence=0.9, **changes):
    made = [networks(*predictions, confidence=confidence) for predictions in seeds]
    return [make(method, seed=seed, evaluations=[each], **changes) for seed, each in enumerate(made)]


ALWAYS = cards("mtt", [right(8, 0)], [right(8, 0), right(7, 0)], [right(7, 0)])
FAIR = cards("hoptm", [right(6, 2)], [right(5, 2), right(6, 2)], [right(5, 1)], confidence=0.6)


def only(*given, **options):
    (table,) = compare(given, **options).tables
    return table


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", {"MTT": [0.8, 0.8, 0.7, 0.7], "HoP-TM": [0.8, 0.7, 0.8, 0.6]}),
        ("balanced_accuracy", {"MTT": [0.5, 0.5, 0.4375, 0.4375], "HoP-TM": [0.875, 0.8125, 0.875, 0.5625]}),
        ("worst_recall", {"MTT": [0, 0, 0, 0], "HoP-TM": [0.75, 0.625, 0.75, 0.5]}),
    ],
)
def test_cells_hold_the_metric_that_is_asked_for(metric, expected):
    table = only(*ALWAYS, *FAIR, metric=metric)
    for row, values in expected.items():
        assert table.cell(row, DIGITS).values == pytest.approx(values)
        seeds = [values[0], (values[1] + values[2]) / 2, values[3]]
        assert list(table.cell(row, DIGITS).by_seed.values()) == pytest.approx(seeds)


def test_best_and_tests_follow_the_metric():
    by_accuracy, by_recall = (only(*ALWAYS, *FAIR, metric=metric) for metric in ("accuracy", "worst_recall"))
    assert by_accuracy.cell("MTT", DIGITS).best
    assert by_recall.cell("HoP-TM", DIGITS).best
    assert not by_recall.cell("MTT", DIGITS).best
    expected = paired({0: 0.0, 1: 0.0, 2: 0.0}, {0: 0.75, 1: 0.6875, 2: 0.5})
    assert by_recall.cell("MTT", DIGITS).difference == expected


def test_the_lowest_calibration_error_is_the_best():
    table = only(*ALWAYS, *FAIR, metric="ece", sort="result")
    low, high = sorted(table.cells, key=lambda cell: cell.mean)
    assert low.best
    assert not high.best
    assert table.rows() == [low.row, high.row]
    notes = footnotes([table])
    assert "lowest mean of a column is bold" in notes[0]
    assert "lower is better" in notes[1]
    assert "expected calibration error" in accuracies(table).title


def test_every_metric_stands_in_csv_and_json_whatever_is_shown():
    comparison = compare([*ALWAYS, *FAIR], metric="macro_f1")
    frame = comparison.table().set_index("method")
    for name in METRICS:
        assert frame.loc["HoP-TM", name] == pytest.approx(only(*ALWAYS, *FAIR, metric=name).cell("HoP-TM", DIGITS).mean)
        assert str(frame[name].dtype) == "float64"
    assert frame.loc["MTT", "mean"] == frame.loc["MTT", "macro_f1"]
    assert set(frame["metric"]) == {"macro_f1"}
    assert json.loads(comparison.text("json"))[0].keys() >= METRICS.keys()


def test_what_is_not_known_of_older_cards_is_a_gap_that_is_named():
    old = [card.model_copy(update={"evaluations": (card.evaluations[0].model_copy(
        update={"confusion": None, "calibration": None, "ece": None}),)}) for card in ALWAYS[1:2]]  # fmt: skip
    for metric in ("ece", "worst_recall"):
        table = only(*old, *FAIR, metric=metric)
        cell = table.cell("MTT", DIGITS)
        assert (cell.mean, cell.best, cell.difference, cell.networks) == (None, False, None, 2)
        assert any("is undefined or not known for some networks of MTT" in note for note in table.notes)
        assert [entries[0].text for row, entries in accuracies(table).rows if row == "MTT"] == ["- (2)"]
    assert compare([*old, *FAIR], metric="ece").table().set_index("method")["mean"].isna()["MTT"]


def test_networks_that_diverged_have_no_area_under_a_curve_and_are_counted():
    table = only(*cards("mtt", [right(8, 1), None]), metric="macro_auroc")
    cell = table.cell("MTT", DIGITS)
    assert (len(cell.values), cell.networks, cell.diverged) == (1, 2, 1)
    assert any("those that diverged" in note for note in table.notes)


def test_what_was_reported_is_of_accuracy_alone():
    card = ALWAYS[0].model_copy(update={"reported": make(reported={"accuracy": 0.9, "source": "T"}).reported})
    assert only(card).cell("MTT", DIGITS).reported.accuracy == 0.9
    assert only(card, metric="macro_f1").cell("MTT", DIGITS).reported is None


def test_rows_are_sorted_by_how_far_they_are_behind_the_best_of_their_columns():
    """One that was run where all do well is no better for it."""
    given = [make("a", (0.5,)), make("b", (0.4,)), make("a", (0.9,), ipc=10), make("c", (0.85,), ipc=10)]
    table = only(*given, sort="result")
    assert table.rows() == ["A", "C", "B"]
    assert table.behind() == {"A": 0, "B": pytest.approx(0.1), "C": pytest.approx(0.05)}


def test_only_the_best_settings_of_each_method_are_shown_and_tests_stay_corrected_over_all():
    def settings(weight):
        return {"settings": {"method": {"weight": weight}}, "distillation_sha256": f"{weight}" * 64}

    given = [make("mtt", (0.3 + weight / 10 + jitter,), seed=seed, **settings(weight))
             for weight in (1, 2, 3) for seed, jitter in enumerate((0, 0.01, 0.03 * weight))]  # fmt: skip
    given += [make("hoptm", (0.5 + seed / 20,), seed=seed) for seed in range(3)]
    every, best = only(*given), only(*given, best=1)
    assert every.rows() == ["HoP-TM", "MTT, weight 1", "MTT, weight 2", "MTT, weight 3"]
    assert best.rows() == ["HoP-TM", "MTT, weight 3"]
    assert best.cell("MTT, weight 3", DIGITS).p_holm == every.cell("MTT, weight 3", DIGITS).p_holm
    assert best.cell("HoP-TM", DIGITS).p_holm == every.cell("HoP-TM", DIGITS).p_holm
    assert "by the test images themselves" in best.notes[-1]
    assert best.notes[-1].endswith('"MTT, weight 1", "MTT, weight 2".')
    assert only(*given, best=2).rows() == ["HoP-TM", "MTT, weight 2", "MTT, weight 3"]
    assert only(*given, best=3).notes == every.notes


def test_a_row_that_others_are_tested_against_is_shown_beside_the_best():
    """Rate 1 is best at IPC 1, rate 2 at IPC 10 and on the whole."""

    def made(weight, ipc, mean):
        settings = {"settings": {"method": {"weight": weight}}, "distillation_sha256": f"{weight}" * 64}
        return [make("mtt", (mean + seed / 100,), seed=seed, ipc=ipc, **settings) for seed in range(3)]

    given = [*made(1, 1, 0.5), *made(2, 1, 0.45), *made(1, 10, 0.5), *made(2, 10, 0.8)]
    given += [make("hoptm", (0.3 + seed / 50,), seed=seed, ipc=ipc) for seed in range(3) for ipc in (1, 10)]
    assert only(*given, best=1).rows() == ["HoP-TM", "MTT, weight 1", "MTT, weight 2"]


def test_a_note_says_what_accuracy_hides_where_classes_are_uneven():
    (note,) = [note for note in only(*ALWAYS, *FAIR).notes if "uneven" in note]
    assert "80.00 percent are of class 0, so answering always that has this accuracy" in note
    assert "20.00 are of class 1" in note
    assert "Recall of it: HoP-TM 83.33; MTT 0.00" in note
    assert not any("uneven" in note for note in only(*ALWAYS, metric="worst_recall").notes)
    assert not any("uneven" in note for note in only(make()).notes), "of even classes"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"metric": "auc"}, r"metric 'auc': no such choice \(known: accuracy, balanced_accuracy, "),
        ({"sort": "size"}, r"sort 'size': no such choice \(known: name, result\)"),
        ({"best": 0}, "best 0: must be how many rows of a method to show"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(options, says):
    with pytest.raises(ConfigurationError, match=says):
        compare([make()], **options)
