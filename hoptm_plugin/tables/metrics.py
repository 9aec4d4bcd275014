"""What tables compare networks by: the metrics of a card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Final, Literal, TypeAlias

from hoptm_plugin.cards.evaluation import Evaluation

MetricName: TypeAlias = Literal["accuracy", "balanced_accuracy", "macro_auroc", "macro_f1", "ece", "worst_recall"]
Values: TypeAlias = Sequence[float | None]


@dataclass(frozen=True)
class Metric:
    """A metric of networks, a fraction each.

    Attributes:
        title: in words, as in the caption of a table.
        of: returns the value of every network; None where it is undefined or not known.
        lower_is_better: whether the smallest mean is the best.
        explained: what it is, where its name does not say it.
    """

    title: str
    of: Callable[[Evaluation], Values]
    lower_is_better: bool = False
    explained: str = ""

    def better(self, value: float) -> float:
        """Return a number that is the higher, the better ``value`` is."""
        return -value if self.lower_is_better else value


def _worst_recall(evaluation: Evaluation) -> Values:
    """Return the lowest recall of a class that the split has, for each network."""
    every = evaluation.recalls()
    if not every and len(evaluation.accuracy.values) == 1:
        every = [evaluation.recall_per_class]
    unknown: Values = [None] * len(evaluation.accuracy.values)  # means over networks do not tell it
    return [min(value for value in recalls if value is not None) for recalls in every] or unknown


def _ece(evaluation: Evaluation) -> Values:
    return [None] * len(evaluation.accuracy.values) if evaluation.ece is None else evaluation.ece.values


METRICS: Final[dict[MetricName, Metric]] = {
    "accuracy": Metric("Accuracy", lambda evaluation: evaluation.accuracy.values),
    "balanced_accuracy": Metric(
        "Balanced accuracy", lambda evaluation: evaluation.balanced_accuracy.values,
        explained="Balanced accuracy is the mean recall over classes, each class counting alike.",
    ),
    "macro_auroc": Metric(
        "Macro AUROC", lambda evaluation: evaluation.macro_auroc.values,
        explained="Macro AUROC is the mean over classes of the area under the ROC curve of one class against the rest.",
    ),
    "macro_f1": Metric(
        "Macro F1", lambda evaluation: evaluation.macro_f1.values,
        explained="Macro F1 is the mean over classes of the harmonic mean of precision and recall.",
    ),
    "ece": Metric(
        "Expected calibration error", _ece, lower_is_better=True,
        explained="Expected calibration error (ECE): mean distance between confidence and accuracy; lower is better.",
    ),
    "worst_recall": Metric(
        "Worst recall", _worst_recall,
        explained="Worst recall is each network's lowest recall of any class; it needs the cards' confusion matrices.",
    ),
}  # fmt: skip


def summary(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and population standard deviation; (None, None) of nothing."""
    return (fmean(values), pstdev(values)) if values else (None, None)
