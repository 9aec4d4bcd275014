"""What ``metrics.jsonl`` says of a distillation, as curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_BYTES, MOST_KEYS, LONGEST_KEY = 64 * 2**20, 24, 60
TITLES: Final = {
    "loss": "Loss", "shape": "Angle term", "endpoint": "Endpoint term", "mask_fraction": "Mask fraction",
    "kappa": "Threshold kappa", "step_size": "Step size alpha", "regulariser": "Regulariser", "skipped": "Skipped",
    "validation_accuracy": "Validation accuracy", "test_accuracy": "Test accuracy (leaky)",
    "saturation": "Saturated pixel values",
}  # fmt: skip


class Curve(NamedTuple):
    """One quantity over the iterations; a value that is not finite breaks the line."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def read_curves(path: Path) -> tuple[dict[str, Curve], list[str]]:
    """Return the curves by name, and what is to be said of the file in words.

    A line that a kill cut short is left out; so is all that is no number.

    Raises:
        OSError: the file cannot be read.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    damaged, remarks = 0, []
    with path.open("rb") as stream:
        text = stream.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        remarks.append(f"metrics.jsonl: only its first {MOST_BYTES // 2**20} MiB are shown")
    for line in text[:MOST_BYTES].splitlines():
        row = _row(line)
        damaged += row is None
        for key, point in (row or {}).items():
            if key in points or len(points) < MOST_KEYS:
                points.setdefault(key, []).append(point)
    if damaged:
        what = "1 line" if damaged == 1 else f"{damaged} lines"
        remarks.append(f"metrics.jsonl: {what} left out that cannot be read")
    curves = {key: Curve(*np.array(pairs, dtype=np.float64).T) for key, pairs in points.items()}
    return {key: curve for key, curve in curves.items() if np.isfinite(curve.values).any()}, remarks


def _row(line: bytes) -> dict[str, tuple[float, float]] | None:
    """Return (step, value) by name; None of a line that is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, Mapping) or not _number(row.get("step")) or not abs(row["step"]) < 1e15:
        return None
    return {
        key: (float(row["step"]), float(value) if abs(value) < 1e300 else math.nan)
        for key, value in row.items()
        if key != "step" and 0 < len(key) <= LONGEST_KEY and key.isprintable() and _number(value)
    }


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def thinned(curve: Curve, most: int) -> Curve:
    """Return at most ``most`` points: the lowest and the highest of equal stretches, so that no spike is lost."""
    if len(curve.steps) <= most:
        return curve
    kept: list[int] = []
    for stretch in np.array_split(np.arange(len(curve.steps)), most // 2):
        values = curve.values[stretch]
        extremes = {np.nanargmin(values), np.nanargmax(values)} if np.isfinite(values).any() else {0}
        kept += sorted(int(stretch[place]) for place in extremes)
    return Curve(curve.steps[kept], curve.values[kept])


def evened(curve: Curve, most: int) -> Curve:
    """Return the means of at most ``most`` equal stretches, for figures where single spikes would hide the others."""
    stretches = np.array_split(np.arange(len(curve.steps)), min(most, len(curve.steps)))
    values = [curve.values[each][np.isfinite(curve.values[each])] for each in stretches]
    means = [each.mean() if len(each) else np.nan for each in values]
    return Curve(np.array([curve.steps[each].mean() for each in stretches]), np.array(means))
