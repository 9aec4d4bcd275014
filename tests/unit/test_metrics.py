import warnings

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from hoptm_plugin.engine.metrics import calibration, classification_metrics, summarise


def draw(n, k, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.cat([torch.arange(k), torch.randint(k, (n - k,), generator=generator)])
    logits = torch.randn(n, k, generator=generator) + 1.5 * torch.nn.functional.one_hot(targets, k)
    return targets, logits.softmax(dim=1)


@pytest.mark.parametrize("k", [3, 10])
def test_equals_scikit_learn_when_every_class_is_present(k):
    targets, probabilities = draw(300, k)
    found = classification_metrics(targets, probabilities)
    truth, predicted, scores = targets.numpy(), probabilities.argmax(1).numpy(), probabilities.numpy()
    assert found["accuracy"] == pytest.approx((truth == predicted).mean(), abs=1e-12)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-12)
    assert found["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"), abs=1e-12)
    assert found["macro_auroc"] == pytest.approx(
        roc_auc_score(truth, scores, multi_class="ovr", average="macro"), abs=1e-12
    )
    assert found["support"] == torch.bincount(targets).tolist()


def test_two_classes_take_the_auroc_of_class_one():
    targets, probabilities = draw(100, 2)
    expected = roc_auc_score(targets.numpy(), probabilities[:, 1].numpy())
    assert classification_metrics(targets, probabilities)["macro_auroc"] == expected
    assert 0.5 < expected < 1


def test_hand_values():
    # predictions 0 0 1 1 2 1 for truths 0 0 0 1 1 2
    targets = torch.tensor([0, 0, 0, 1, 1, 2])
    probabilities = torch.tensor(
        [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.5, 0.4], [0.1, 0.4, 0.5], [0.0, 0.6, 0.4]]
    )
    found = classification_metrics(targets, probabilities)
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["recall_per_class"] == pytest.approx([2 / 3, 1 / 2, 0])
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 3)
    # F1: class 0 2*2/(2+3), class 1 2*1/(3+2), class 2 0
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 5) / 3)
    # AUROC by pairs: class 0 9/9; class 1 (of 8 pairs, .5 beats .1 .3, .4 beats .1 .3); class 2 (3 + 1 tie + 0)/5
    assert found["macro_auroc"] == pytest.approx((1 + 4 / 8 + (3 + 0.5 + 0) / 5) / 3)
    assert found["support"] == [3, 2, 1]


def test_absent_class_is_left_out_of_every_mean_without_a_warning():
    targets, probabilities = draw(200, 4)
    keep = targets != 2
    targets, probabilities = targets[keep], probabilities[keep]
    assert (probabilities.argmax(1) == 2).any()  # predicted, though absent
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = classification_metrics(targets, probabilities)
    predicted = probabilities.argmax(1)
    recalls = [float((predicted[targets == c] == c).double().mean()) for c in (0, 1, 3)]
    aurocs = [roc_auc_score((targets == c).numpy(), probabilities[:, c].numpy()) for c in (0, 1, 3)]
    assert found["recall_per_class"] == pytest.approx([recalls[0], recalls[1], None, recalls[2]])
    assert found["balanced_accuracy"] == pytest.approx(sum(recalls) / 3)
    assert found["macro_auroc"] == pytest.approx(sum(aurocs) / 3)
    assert found["macro_f1"] == pytest.approx(
        f1_score(targets.numpy(), predicted.numpy(), labels=[0, 1, 3], average="macro")
    )
    assert found["support"][2] == 0


def test_one_class_only_has_no_auroc_and_an_empty_split_has_nothing():
    _, probabilities = draw(20, 3)
    found = classification_metrics(torch.ones(20, dtype=torch.int64), probabilities)
    assert found["macro_auroc"] is None
    assert found["accuracy"] == found["balanced_accuracy"] == found["recall_per_class"][1]
    empty = classification_metrics(torch.empty(0, dtype=torch.int64), torch.empty(0, 2))
    assert empty == {
        "accuracy": None, "balanced_accuracy": None, "macro_auroc": None, "macro_f1": None,
        "recall_per_class": [None, None], "support": [0, 0], "confusion": [[0, 0], [0, 0]], "calibration": None,
    }  # fmt: skip


def test_a_diverged_network_is_wrong_not_class_zero():
    targets = torch.tensor([0, 0, 1, 1])
    probabilities = torch.tensor([[0.9, 0.1], [float("nan")] * 2, [0.2, 0.8], [float("nan")] * 2])
    found = classification_metrics(targets, probabilities)
    assert found["accuracy"] == 0.5
    assert found["recall_per_class"] == [0.5, 0.5]
    assert found["macro_auroc"] is None
    assert found["calibration"] is None
    assert found["confusion"] == [[1, 0], [0, 1]], "an image without a prediction is in no column"


def test_confusion_matrix_counts_truth_by_prediction():
    targets = torch.tensor([0, 0, 0, 2, 2])
    probabilities = torch.eye(3)[torch.tensor([0, 1, 0, 2, 0])]
    assert classification_metrics(targets, probabilities)["confusion"] == [[2, 1, 0], [0, 0, 0], [1, 0, 1]]


def test_calibration_by_hand():
    """Bins (0.6, 0.8] and (0.8, 1] of five: |1 - 0.7| / 2 and |(1 + 0) / 2 - 0.9| * 2 / 4, computed by hand."""
    probabilities = torch.tensor([[0.7, 0.3], [0.3, 0.7], [0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    found = calibration(torch.tensor([0, 1, 0, 0]), probabilities, bins=5)
    assert found["counts"] == [0, 0, 0, 2, 2]
    assert found["confidence"] == [None, None, None, pytest.approx(0.7), pytest.approx(0.9)]
    assert found["accuracy"] == [None, None, None, 1.0, 0.5]
    assert found["ece"] == pytest.approx(0.5 * 0.3 + 0.5 * 0.4)


def test_calibration_against_a_loop_over_bins():
    targets, probabilities = draw(500, 5)
    confidence, predicted = probabilities.double().max(1)
    expected = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            gap = (predicted[inside] == targets[inside]).double().mean() - confidence[inside].mean()
            expected += float(inside.double().mean() * gap.abs())
    assert calibration(targets, probabilities)["ece"] == pytest.approx(expected, abs=1e-12)


def test_a_network_that_is_always_right_and_sure_has_no_calibration_error():
    targets = torch.tensor([0, 1, 1])
    found = calibration(targets, torch.eye(2)[targets])
    assert found["ece"] == 0
    assert found["counts"][-1] == 3


@pytest.mark.parametrize(
    ("targets", "shape", "message"),
    [([0, 1], (3, 2), "need targets"), ([0, 2], (2, 2), r"0\.\.1"), ([-1, 0], (2, 2), r"0\.\.1")],
)
def test_what_does_not_fit_is_refused(targets, shape, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(torch.tensor(targets), torch.full(shape, 0.5))


def test_summarise_uses_the_population_standard_deviation():
    assert summarise([0.25, 0.5, 0.75]) == {
        "mean": 0.5,
        "std": pytest.approx((0.125 / 3) ** 0.5, abs=1e-15),
        "values": [0.25, 0.5, 0.75],
    }
    assert summarise([0.4]) == {"mean": 0.4, "std": 0.0, "values": [0.4]}


def test_summarise_does_not_average_over_what_happens_to_be_defined():
    assert summarise([0.9, None]) == {"mean": None, "std": None, "values": [0.9, None]}
    assert summarise([]) == {"mean": None, "std": None, "values": []}
