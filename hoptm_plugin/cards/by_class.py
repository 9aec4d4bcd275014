"""What a card says of single classes: the rare ones first."""

from __future__ import annotations

from collections.abc import Sequence

from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.engine.metrics import summarise

SHOWN = 10


def rare_first(support: tuple[int, ...]) -> list[int]:
    """Return the classes that have test images, by their number, rarest first."""
    return sorted((label for label, count in enumerate(support) if count), key=lambda label: (support[label], label))


def absent(support: tuple[int, ...]) -> list[int]:
    """Return the classes that have no test images, by their number: means over classes leave them out."""
    return [label for label, count in enumerate(support) if not count]


def over_present(names: Sequence[str], support: tuple[int, ...], split: str) -> str | None:
    """Say over which classes balanced accuracy, F1 and AUROC are means; None where it is all of them."""
    missing = [names[label] for label in absent(support)]
    if not missing:
        return None
    shown = ", ".join(missing[:SHOWN]) + (f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
    return (f"balanced accuracy, macro F1 and AUROC are over {len(support) - len(missing)} of {len(support)} classes: "
            f"no {split} images of {shown}")  # fmt: skip


def recall(evaluation: Evaluation, label: int) -> tuple[float | None, float | None]:
    """Return mean and population std of a class's recall over the networks; no std in cards that lack single ones."""
    recalls = evaluation.recalls()
    if not recalls:
        return evaluation.recall_per_class[label], None
    summary = summarise([each[label] for each in recalls])
    return summary["mean"], summary["std"]
