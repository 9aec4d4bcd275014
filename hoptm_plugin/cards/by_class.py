"""What a card says of single classes, for the terminal: the rare ones first."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.engine.metrics import summarise

MOST_SHOWN = 10


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


def print_by_class(card: Card, console: Console) -> None:
    """Print recall per class and calibration error of every network, the random subset's beside them, in percent."""
    for evaluation in card.evaluations:
        beside = [each for each in card.random_subset or () if each.network == evaluation.network]
        sets = {card.title: evaluation, **({"random subset": beside[0]} if beside else {})}
        present = rare_first(evaluation.support)
        shown = present[:MOST_SHOWN]
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("class")
        for name in (f"{card.split} images", *sets):
            table.add_column(Text(name), justify="right")
        for label in shown:
            count = str(evaluation.support[label])
            table.add_row(Text(card.dataset.classes[label]), count, *(_recall(each, label) for each in sets.values()))
        if any(each.ece is not None for each in sets.values()):
            table.add_section()
            table.add_row("calibration error (ECE)", "", *(_error(each) for each in sets.values()))
        more = f"; {len(present) - len(shown)} more frequent ones are in the card" if len(present) > len(shown) else ""
        console.print(Text(f"{evaluation.network}: recall per class, rarest first{more}", "bold"), soft_wrap=True)
        console.print(table)


def _recall(evaluation: Evaluation, label: int) -> str:
    return _percent(*recall(evaluation, label))


def _error(evaluation: Evaluation) -> str:
    return "-" if evaluation.ece is None else _percent(evaluation.ece.mean, evaluation.ece.std)


def _percent(mean: float | None, std: float | None) -> str:
    if mean is None:
        return "-"
    return f"{100 * mean:.2f}" if std is None else f"{100 * mean:.2f} ± {100 * std:.2f}"
