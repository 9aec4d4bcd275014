"""What every reader of a card is told in the same words."""

from __future__ import annotations

from hoptm_plugin.cards.card import Card, DistilledFrom, ReportedAccuracy

FRESH = "fresh random subsets"
"""What stands beside a set: random training images, drawn anew for every network, where a method draws them once."""
SELECTIONS = {
    "last": "last iteration",
    "validation": "best on the validation split",
    "test_leaky": "best on the TEST split (leaky: not comparable)",
}


def selected(card: Card) -> str:
    """Say how the iteration of a set was chosen."""
    return "not known, since the set was imported" if card.imported else SELECTIONS[card.selection]


def percent(mean: float | None, std: float | None = None) -> str:
    """Return fractions as "52.31 ± 1.20", mean and population std in percent; "-" where the mean is undefined."""
    if mean is None:
        return "-"
    return f"{100 * mean:.2f}" if std is None else f"{100 * mean:.2f} ± {100 * std:.2f}"


def published(value: ReportedAccuracy) -> str:
    """Return a published accuracy in percent, with its standard deviation where there is one."""
    return percent(value.accuracy, value.std)


def from_other_data(card: Card, other: DistilledFrom) -> str:
    """Say that a set was distilled from other data than it is judged on, and what that may have shown it."""
    seen = "how many of the images that networks were tested on were among them is not known"
    if other.test_images_seen is not None:
        seen = f"{other.test_images_seen:,} of the {card.tested:,} {card.split} images were among them, pixel for pixel"
        if not other.test_images_seen:
            seen += " (re-encoded or resized ones are not recognised)"
    return f"distilled from other data ({other.name}, fingerprint {other.fingerprint[:12]}): {seen}"
