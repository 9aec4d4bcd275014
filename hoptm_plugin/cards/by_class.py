"""What a card says of single classes: the rare ones first."""

from __future__ import annotations

from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.engine.metrics import summarise


def rare_first(support: tuple[int, ...]) -> list[int]:
    """Return the classes that have test images, by their number, rarest first."""
    return sorted((label for label, count in enumerate(support) if count), key=lambda label: (support[label], label))


def recall(evaluation: Evaluation, label: int) -> tuple[float | None, float | None]:
    """Return mean and population std of a class's recall over the networks; no std in cards that lack single ones."""
    recalls = evaluation.recalls()
    if not recalls:
        return evaluation.recall_per_class[label], None
    summary = summarise([each[label] for each in recalls])
    return summary["mean"], summary["std"]
