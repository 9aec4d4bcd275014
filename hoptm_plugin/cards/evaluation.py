"""What networks of one architecture achieved, as the card records it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Annotated, Any, Final, TypeAlias

from pydantic import Field, field_validator, model_validator

from hoptm_plugin.cards.record import Count, Fraction, Line, Record
from hoptm_plugin.engine.metrics import summarise

MOST_COUNTS: Final = 250_000
"""Of all confusion matrices of one architecture: more, and they would outgrow the card."""

Confusion: TypeAlias = tuple[tuple[Count, ...], ...]
ROUNDING: Final = 1e-6  # of what is computed from other figures of a card


class Summary(Record):
    """One metric over several networks: mean, population std (ddof 0) and values; None where undefined."""

    mean: Fraction | None
    std: Annotated[float, Field(ge=0, le=0.5)] | None
    values: Annotated[tuple[Fraction | None, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _agrees(self) -> Summary:
        expected = summarise(self.values)
        for name, given in (("mean", self.mean), ("std", self.std)):
            wanted = expected[name]
            if (given is None) != (wanted is None) or abs((given or 0) - (wanted or 0)) > 1e-9:
                raise ValueError(f"{name} is {given}, but the values give {wanted}")
        return self


class Calibration(Record):
    """How far a network's confidence can be believed, in bins of equal width over [0, 1].

    Attributes:
        ece: expected calibration error, ``sum_b n_b / n |accuracy_b - confidence_b|``.
        counts: tested images per bin, by the probability of the predicted class.
        confidence: mean of that probability in each bin; None where it is empty.
        accuracy: fraction of the bin's images classified rightly; None where it is empty.
    """

    ece: Fraction
    counts: tuple[Count, ...]
    confidence: tuple[Fraction | None, ...]
    accuracy: tuple[Fraction | None, ...]

    @model_validator(mode="after")
    def _fits(self) -> Calibration:
        if not len(self.counts) == len(self.confidence) == len(self.accuracy):
            raise ValueError("counts, confidence and accuracy are of different numbers of bins")
        for count, *means in zip(self.counts, self.confidence, self.accuracy, strict=True):
            if any((mean is None) != (count == 0) for mean in means):
                raise ValueError("an empty bin has no mean, and every other one has")
        gaps = (count * abs(accuracy - confidence) for count, confidence, accuracy in self._filled())
        _agree("ece", self.ece, sum(gaps) / max(1, sum(self.counts)), "what its bins hold")
        return self

    def _filled(self) -> Iterator[tuple[int, float, float]]:
        for count, confidence, accuracy in zip(self.counts, self.confidence, self.accuracy, strict=True):
            if confidence is not None and accuracy is not None:
                yield count, confidence, accuracy

    @property
    def right(self) -> float:
        """Number of images classified rightly."""
        return sum(count * accuracy for count, _, accuracy in self._filled())


class Evaluation(Record):
    """Networks of one architecture trained on one set and tested on the protocol's split.

    Attributes:
        network: the architecture.
        accuracy: fraction of tested images classified rightly.
        balanced_accuracy: mean recall over classes that the split has.
        macro_auroc: mean one-vs-rest AUROC.
        macro_f1: mean F1 over classes that the split has.
        support: tested images per class.
        recall_per_class: mean over the networks; None for a class that the split lacks.
        ece: expected calibration error; None in cards from before it was measured.
        calibration: of each network; None for one that diverged.
        confusion: of each network, [truth][predicted] tested images; an image for which a diverged network gave no
            prediction is in no column. None in older cards, and where they are too large.
    """

    network: Line
    accuracy: Summary
    balanced_accuracy: Summary
    macro_auroc: Summary
    macro_f1: Summary
    support: tuple[Count, ...]
    recall_per_class: tuple[Fraction | None, ...]
    ece: Summary | None = None
    calibration: tuple[Calibration | None, ...] | None = None
    confusion: tuple[Confusion, ...] | None = None

    @field_validator("accuracy")
    @classmethod
    def _defined(cls, accuracy: Summary) -> Summary:
        if accuracy.mean is None:
            raise ValueError("accuracy must be defined")
        return accuracy

    @model_validator(mode="after")
    def _fits(self) -> Evaluation:
        metrics = (self.accuracy, self.balanced_accuracy, self.macro_auroc, self.macro_f1)
        if len({len(metric.values) for metric in metrics}) > 1:
            raise ValueError("the metrics are of different numbers of networks")
        if len(self.support) != len(self.recall_per_class):
            raise ValueError("support and recall_per_class are of different numbers of classes")
        networks, classes = len(self.accuracy.values), len(self.support)
        given = {"ece": self.ece and self.ece.values, "calibration": self.calibration, "confusion": self.confusion}
        for name, each in given.items():
            if isinstance(each, tuple) and len(each) != networks:
                raise ValueError(f"{name} is not of {networks} networks")
        for matrix in self.confusion or ():
            if len(matrix) != classes or any(len(row) != classes for row in matrix):
                raise ValueError(f"a confusion matrix is not of {classes} x {classes} classes")
            if any(sum(row) > count for row, count in zip(matrix, self.support, strict=True)):
                raise ValueError("a confusion matrix counts more images of a class than there are")
        return self

    @model_validator(mode="after")
    def _agrees(self) -> Evaluation:
        """Refuse figures that contradict each other."""
        if any((each is None) != (n == 0) for n, each in zip(self.support, self.recall_per_class, strict=True)):
            raise ValueError("a class that the split lacks has no recall, and every other one has")
        tested, recalls = sum(self.support), [self.recall_per_class[label] or 0 for label in self.present]
        if not tested:
            raise ValueError("support counts no image")
        right = sum(self.support[label] * each for label, each in zip(self.present, recalls, strict=True))
        _agree("accuracy", self.accuracy.mean, right / tested, "recall_per_class")
        _agree("balanced_accuracy", self.balanced_accuracy.mean, fmean(recalls), "recall_per_class")
        for label, values in enumerate(zip(*self.recalls(), strict=True)):
            _agree(f"recall of class {label}", self.recall_per_class[label], summarise(values)["mean"], "confusion")
        for network in range(len(self.accuracy.values)):
            self._check_confusion(network)
            self._check_calibration(network)
            if len({each[network] for each in self._gone()}) > 1:
                raise ValueError(f"network {network} diverged by one of its figures, and not by another")
        return self

    def _check_confusion(self, network: int) -> None:
        if self.confusion is None:
            return
        matrix, source = self.confusion[network], f"confusion of network {network}"
        right = {label: matrix[label][label] for label in self.present}
        predicted = {label: sum(row[label] for row in matrix) for label in self.present}
        recalls = (right[label] / self.support[label] for label in self.present)
        f1 = (2 * right[label] / (self.support[label] + predicted[label]) for label in self.present)
        _agree("accuracy", self.accuracy.values[network], sum(right.values()) / sum(self.support), source)
        _agree("balanced_accuracy", self.balanced_accuracy.values[network], fmean(recalls), source)
        _agree("macro_f1", self.macro_f1.values[network], fmean(f1), source)

    def _check_calibration(self, network: int) -> None:
        if self.calibration is None:
            return
        each, source = self.calibration[network], f"calibration of network {network}"
        ece = None if self.ece is None else self.ece.values[network]
        _agree("ece", ece, None if each is None else each.ece, source)
        if each is not None:
            _agree("the number of images", sum(self.support), sum(each.counts), source)
            _agree("accuracy", self.accuracy.values[network], each.right / sum(self.support), source)

    def _gone(self) -> Iterator[list[bool]]:
        """Yield which networks diverged, by each figure that tells."""
        if len(self.present) > 1:  # of one class there is no AUROC
            yield [each is None for each in self.macro_auroc.values]
        if self.calibration is not None:
            yield [each is None for each in self.calibration]
        if self.confusion is not None:
            yield [sum(map(sum, matrix)) < sum(self.support) for matrix in self.confusion]

    @property
    def present(self) -> list[int]:
        """The classes that the split has."""
        return [label for label, images in enumerate(self.support) if images]

    @property
    def diverged(self) -> int | None:
        """How many networks diverged, which gave no number for some image; None where the card cannot tell."""
        told = next(self._gone(), None)
        return None if told is None else sum(told)

    def recalls(self) -> list[tuple[float | None, ...]]:
        """Return the recall per class of each network; none where confusion matrices are not recorded."""
        recalls = []
        for matrix in self.confusion or ():
            rows = zip(matrix, self.support, strict=True)
            recalls.append(tuple(row[label] / n if n else None for label, (row, n) in enumerate(rows)))
        return recalls

    @classmethod
    def from_metrics(cls, network: str, runs: Sequence[Mapping[str, Any]]) -> Evaluation:
        """Summarise what :func:`hoptm_plugin.engine.metrics.classification_metrics` gave for each network."""
        names = ("accuracy", "balanced_accuracy", "macro_auroc", "macro_f1")
        summaries = {name: Summary(**summarise([run[name] for run in runs])) for name in names}
        recalls = zip(*(run["recall_per_class"] for run in runs), strict=True)
        recall_per_class = tuple(summarise(recall)["mean"] for recall in recalls)
        small = len(runs) * len(runs[0]["support"]) ** 2 <= MOST_COUNTS
        return cls(
            network=network,
            support=runs[0]["support"],
            recall_per_class=recall_per_class,
            ece=Summary(**summarise([run["calibration"] and run["calibration"]["ece"] for run in runs])),
            calibration=tuple(run["calibration"] for run in runs),
            confusion=tuple(run["confusion"] for run in runs) if small else None,
            **summaries,
        )


def _agree(what: str, given: float | None, expected: float | None, source: str) -> None:
    if (given is None) != (expected is None) or abs((given or 0) - (expected or 0)) > ROUNDING:
        raise ValueError(f"{what} is {given}, but {source} says {expected}")
