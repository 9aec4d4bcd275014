"""Classification metrics by scikit-learn, with classes that the test split lacks treated explicitly."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor


def classification_metrics(targets: Tensor, probabilities: Tensor) -> dict[str, Any]:
    """Return metrics of one network as fractions in [0, 1]; classes absent from ``targets`` are left out of means.

    The prediction is the most probable class, of equal ones the first. A row that is not finite, from a network that
    diverged, is counted as wrong, and AUROC is then undefined. What is undefined is None, never NaN.

    Args:
        targets: (n,) int64 class indices.
        probabilities: (n, K), one row per image.

    Returns:
        ``accuracy``; ``balanced_accuracy`` (mean recall over present classes); ``macro_f1`` (mean over present
        classes); ``macro_auroc`` (mean one-vs-rest over classes with images inside and outside; for K = 2 the AUROC of
        class 1); ``recall_per_class`` (K values, None where absent); ``support`` (K counts); ``confusion`` (K rows of
        truth with K counts of predictions, rows that are not finite in none); ``calibration`` (see :func:`calibration`;
        None if a row is not finite).

    Raises:
        ValueError: shapes that do not fit, or a target outside 0..K-1.
    """
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score  # here, since its import takes seconds

    if targets.ndim != 1 or probabilities.ndim != 2 or len(targets) != len(probabilities):
        raise ValueError(
            f"need targets (n,) and probabilities (n, K), got {(*targets.shape,)}, {(*probabilities.shape,)}"
        )
    count = probabilities.shape[1]
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < count:
        raise ValueError(f"targets must lie in 0..{count - 1}")
    finite = torch.isfinite(probabilities).all(dim=1)
    truth = targets.cpu().numpy()
    predicted = torch.where(finite, probabilities.argmax(dim=1), -1).cpu().numpy()
    support = torch.bincount(targets.cpu(), minlength=count).tolist()
    present = [label for label in range(count) if support[label]]
    confusion = [[0] * count] * count
    if present:
        confusion = confusion_matrix(truth, predicted, labels=list(range(count))).tolist()
    recalls = [confusion[label][label] / images if images else None for label, images in enumerate(support)]
    return {
        "accuracy": float(accuracy_score(truth, predicted)) if present else None,
        "balanced_accuracy": _mean([recalls[label] for label in present]),
        "macro_auroc": _macro_auroc(targets, probabilities) if bool(finite.all()) else None,
        "macro_f1": float(f1_score(truth, predicted, labels=present, average="macro", zero_division=0))
        if present
        else None,
        "recall_per_class": recalls,
        "support": support,
        "confusion": confusion,
        "calibration": calibration(targets, probabilities) if present and bool(finite.all()) else None,
    }


def calibration(targets: Tensor, probabilities: Tensor, bins: int = 15) -> dict[str, Any]:
    """Return the expected calibration error and the bins of a reliability diagram.

    With confidence c_i = max_k p_ik, bins b = ((b-1)/B, b/B] of it:
    ``ECE = sum_b n_b / n |accuracy_b - confidence_b|``.

    Args:
        targets: (n,) int64 class indices, n > 0.
        probabilities: (n, K), finite.
        bins: B, of equal width.

    Returns:
        ``ece``; per bin ``counts``, and mean ``confidence`` and ``accuracy``, None where a bin is empty.

    Source: Guo et al. 2017 (arXiv 1706.04599), Eq. 3, with their 15 bins.
    """
    confidence, predicted = probabilities.double().cpu().max(dim=1)
    confidence = confidence.clamp(0, 1)  # a softmax in float32 may exceed 1 by rounding
    right = (predicted == targets.cpu()).double()
    index = ((confidence * bins).ceil().long() - 1).clamp(min=0)
    counts = torch.bincount(index, minlength=bins)
    sums = [torch.bincount(index, value, minlength=bins) for value in (confidence, right)]
    ece = float((sums[1] - sums[0]).abs().sum() / len(confidence))
    means = [
        [total / n if n else None for total, n in zip(each.tolist(), counts.tolist(), strict=True)] for each in sums
    ]
    return {"ece": ece, "counts": counts.tolist(), "confidence": means[0], "accuracy": means[1]}


def summarise(values: Sequence[float | None]) -> dict[str, Any]:
    """Return mean, population standard deviation (ddof 0) and the values; both None unless every value is defined.

    A mean over the defined values alone would flatter a method whose other networks diverged.
    """
    mean = _mean(values)
    std = None if mean is None else pstdev([value for value in values if value is not None])
    return {"mean": mean, "std": std, "values": list(values)}


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined and len(defined) == len(values) else None


def _macro_auroc(targets: Tensor, probabilities: Tensor) -> float | None:
    from sklearn.metrics import roc_auc_score

    count = probabilities.shape[1]
    areas = []
    for label in [1] if count == 2 else range(count):
        inside = (targets == label).cpu().numpy()
        if 0 < inside.sum() < len(inside):
            areas.append(float(roc_auc_score(inside, probabilities[:, label].cpu().numpy())))
    return _mean(areas)
