"""What is to be said of single classes: recall of the rare ones first, confusion, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hoptm_plugin.cards.by_class import absent, over_present, rare_first, recall
from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.evaluation import Calibration, Evaluation
from hoptm_plugin.cards.words import FRESH, percent
from hoptm_plugin.pages import figures
from hoptm_plugin.pages.reading import Run

MOST_CLASSES, MOST_CONFUSIONS = 20, 15


def class_part(run: Run) -> dict[str, Any]:
    """Return what the section on single classes shows of a run, network by network."""
    networks = [
        {
            "network": evaluation.network, "count": len(evaluation.accuracy.values), "diverged": _diverged(evaluation),
            "over": over_present(run.card.dataset.classes, evaluation.support, run.card.split),
            "overview": _overview(run.card, evaluation), "recalls": _recalls(run.card, evaluation),
            "confusion": _confusion(run.card.dataset.classes, evaluation),
        }
        for evaluation in run.card.evaluations
    ]  # fmt: skip
    drawn = [figure for evaluation in run.card.evaluations for figure in _reliability(run, evaluation)]
    return {"name": run.name, "key": f"classes-{run.key}", "networks": networks, "figures": drawn}


def _diverged(evaluation: Evaluation) -> str:
    count = evaluation.diverged
    return f"; {count} of {len(evaluation.accuracy.values)} networks diverged" if count else ""


def _overview(card: Card, evaluation: Evaluation) -> list[str]:
    present = rare_first(evaluation.support)
    lowest = min(present, key=lambda label: (evaluation.recall_per_class[label] or 0, label))
    recalls = [
        f"{percent(*recall(evaluation, label))}\nclass {card.dataset.classes[label]}; "
        f"{evaluation.support[label]:,} images"
        for label in (present[0], lowest)
    ]
    metrics = (evaluation.balanced_accuracy, evaluation.macro_f1, evaluation.macro_auroc)
    return [*recalls, *(percent(each.mean, each.std) for each in metrics), _error(evaluation)]


def _error(evaluation: Evaluation) -> str:
    return "-" if evaluation.ece is None else percent(evaluation.ece.mean, evaluation.ece.std)


def _recalls(card: Card, evaluation: Evaluation) -> dict[str, Any]:
    """Return a table of recall: a column for the set, and for others that the same run evaluated."""
    beside = ((f"{card.title}, EMA", card.averaged), (FRESH.capitalize(), card.random_subset))
    sets = [(card.title, evaluation)]  # by no key: a method may be called what stands beside it
    sets += [(name, each) for name, others in beside for each in others or () if each.network == evaluation.network]
    rows = [
        (card.dataset.classes[label],
         [f"{evaluation.support[label]:,}", *(percent(*recall(each, label)) for _, each in sets)])
        for label in [*rare_first(evaluation.support), *absent(evaluation.support)]
    ]  # fmt: skip
    rows.append(("Calibration error (ECE)", ["-", *(_error(each) for _, each in sets)]))
    return {"columns": [f"{card.split.capitalize()} images", *(name for name, _ in sets)], "rows": rows}


def _confusion(classes: Sequence[str], evaluation: Evaluation) -> dict[str, Any] | None:
    """Return the mean confusion matrix as fractions of the true class; of many classes the most frequent confusions.

    None where the card holds no matrices.
    """
    if evaluation.confusion is None:
        return None
    present = [label for label, count in enumerate(evaluation.support) if count]
    mean = np.array(evaluation.confusion, dtype=np.float64).mean(axis=0)[present]
    shares = mean / np.array(evaluation.support)[present, None]
    if len(classes) > MOST_CLASSES:
        shares[np.arange(len(present)), present] = 0
        worst = [divmod(int(place), len(classes)) for place in np.argsort(-shares, axis=None, kind="stable")]
        return {"worst": [(classes[present[truth]], classes[predicted], shares[truth, predicted])
                          for truth, predicted in worst[:MOST_CONFUSIONS] if shares[truth, predicted]]}  # fmt: skip
    columns, lost = list(classes), 1 - shares.sum(axis=1, keepdims=True)
    if (lost > 1e-9).any():
        columns, shares = [*columns, "no prediction"], np.hstack([shares, lost])
    return {"columns": columns, "rows": [(classes[label], row) for label, row in zip(present, shares, strict=True)]}


def _reliability(run: Run, evaluation: Evaluation) -> list[tuple[Any, str]]:
    measured = [each for each in evaluation.calibration or () if each is not None]
    if not measured or evaluation.ece is None:
        return []
    if len({len(each.counts) for each in measured}) > 1:
        measured = measured[:1]  # bins of different widths cannot be put together
    error = f"ECE {_error(evaluation)} percent"
    name = f"Reliability diagram of {run.name} on {evaluation.network}: {error}"
    drawn = figures.reliability(name, [_points([each]) for each in measured], _points(measured))
    caption = f"Reliability on {evaluation.network}: light lines are single networks, the strong one all together; "
    return [(drawn, f"{caption}{error}.")]


def _points(measured: Sequence[Calibration]) -> NDArray[np.float64]:
    """Return (confidence, accuracy) of every bin that is not empty, over all networks' images together."""
    counts = np.array([each.counts for each in measured])
    means = np.array([(each.confidence, each.accuracy) for each in measured], dtype=np.float64)  # (networks, 2, bins)
    sums = np.nansum(counts[:, None] * means, axis=0)
    filled = counts.sum(axis=0) > 0
    return (sums[:, filled] / counts.sum(axis=0)[filled]).T
