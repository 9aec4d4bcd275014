"""When an evaluation that was repeated agrees with its card."""

import pytest

from hoptm_plugin.cards.evaluation import Evaluation, Summary
from hoptm_plugin.engine.metrics import summarise
from hoptm_plugin.runs.verifying import compared


def evaluation(*accuracies):
    metric = Summary(**summarise(accuracies))
    metrics = dict.fromkeys(("accuracy", "balanced_accuracy", "macro_auroc", "macro_f1"), metric)
    return Evaluation(network="convnet", support=[500, 500], recall_per_class=[metric.mean] * 2, **metrics)


def verdict(stored, found, test_images=1000):
    (one,) = compared([("synthetic set", evaluation(*stored), evaluation(*found))], test_images)
    return one.verdict


@pytest.mark.parametrize(
    ("stored", "found", "expected"),
    [
        ((0.5, 0.6, 0.7), (0.5, 0.6, 0.7), "identical"),
        ((0.5, 0.6, 0.7), (0.52, 0.6, 0.69), "within noise"),
        ((0.5, 0.51, 0.52), (0.7, 0.71, 0.72), "DIFFERS"),
        # two networks: the test has no power, ten standard errors do
        ((0.40, 0.41), (1.0, 1.0), "DIFFERS"),
        ((0.40, 0.42), (0.43, 0.45), "within noise"),
        # one network: 2 sqrt(2 p (1 - p) / n) = 0.0447 at p = 0.5, n = 1000
        ((0.5,), (0.544,), "within noise"),
        ((0.5,), (0.546,), "DIFFERS"),
        # certain accuracies: one image of 1000
        ((1.0, 1.0), (0.999, 0.999), "within noise"),
        ((1.0, 1.0), (0.998, 0.998), "DIFFERS"),
    ],
)
def test_verdicts(stored, found, expected):
    assert verdict(stored, found) == expected


def test_many_comparisons_are_corrected_together():
    """p of about 0.004 alone is below 1 %; as one of ten it is not."""
    odd = ("synthetic set", evaluation(0.50, 0.51, 0.52, 0.53), evaluation(0.54, 0.55, 0.56, 0.555))
    alike = ("random subset", evaluation(0.1, 0.2), evaluation(0.11, 0.19))
    (alone,) = compared([odd], 1000)
    assert alone.verdict == "DIFFERS"
    assert 0.001 < alone.p < 0.01
    assert compared([odd, *[alike] * 9], 1000)[0].verdict == "within noise"
