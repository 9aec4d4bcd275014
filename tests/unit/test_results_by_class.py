"""The view by class on a terminal: rarest class first, with the random subset beside it."""

import pytest
import torch
from rich.console import Console

from hoptm_plugin.cards.by_class import rare_first, recall
from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.cli.console import print_by_class
from hoptm_plugin.engine.metrics import classification_metrics

SUPPORT = (6, 2, 0, 4)


def evaluation(*wrong):
    """Networks that take the first so many images of each class for class 3 (class 3 itself for class 0)."""
    targets = torch.arange(4).repeat_interleave(torch.tensor(SUPPORT))
    rows = []
    for count in wrong:
        predicted = targets.clone()
        for label in (0, 1, 3):
            predicted[(targets == label).nonzero()[:count]] = 0 if label == 3 else 3
        rows.append(classification_metrics(targets, torch.eye(4)[predicted]))
    return Evaluation.from_metrics("convnet", rows)


def test_recall_by_hand():
    found = evaluation(1, 2)
    assert rare_first(found.support) == [1, 3, 0]
    assert recall(found, 1) == (pytest.approx(0.25), pytest.approx(0.25))  # 1/2 and 0/2
    assert recall(found, 3) == (pytest.approx(0.625), pytest.approx(0.125))  # 3/4 and 2/4
    assert recall(found, 2) == (None, None)


def test_older_cards_have_a_mean_without_scatter():
    old = evaluation(1, 2).model_copy(update={"confusion": None})
    assert recall(old, 1) == (pytest.approx(0.25), None)


class Card:
    split = "test"
    title = "HoP-TM"
    evaluations = (evaluation(1, 1),)
    random_subset = (evaluation(2, 2),)

    class dataset:  # noqa: N801
        classes = ("common", "rare", "absent", "[bold]other")


def test_the_rarest_class_comes_first_beside_the_random_subset():
    console = Console(record=True, width=100)
    print_by_class(Card, console)
    lines = [" ".join(line.split()) for line in console.export_text().splitlines() if line.strip()]
    assert lines[0] == "convnet: recall per class, rarest first"
    assert lines[3:6] == [
        "rare 2 50.00 ± 0.00 0.00 ± 0.00",
        "[bold]other 4 75.00 ± 0.00 50.00 ± 0.00",
        "common 6 83.33 ± 0.00 66.67 ± 0.00",
    ]
    assert lines[6] == "absent 0 - -", "a class without test images is a row, and no missing one"
    assert lines[7].startswith("calibration error (ECE) 25.00 ± 0.00 50.00 ± 0.00")
    assert lines[8] == "balanced accuracy, macro F1 and AUROC are over 3 of 4 classes: no test images of absent"
