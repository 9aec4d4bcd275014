"""What every reader of a card is told in the same words."""

from __future__ import annotations

from hoptm_plugin.cards.card import ReportedAccuracy

SELECTIONS = {
    "last": "last iteration",
    "validation": "best on the validation split",
    "test_leaky": "best on the TEST split (leaky: not comparable)",
}


def percent(mean: float | None, std: float | None = None) -> str:
    """Return fractions as "52.31 ± 1.20", mean and population std in percent; "-" where the mean is undefined."""
    if mean is None:
        return "-"
    return f"{100 * mean:.2f}" if std is None else f"{100 * mean:.2f} ± {100 * std:.2f}"


def published(value: ReportedAccuracy) -> str:
    """Return a published accuracy in percent, with its standard deviation where there is one."""
    return percent(value.accuracy, value.std)
