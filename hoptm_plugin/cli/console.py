"""What a person reads on stdout: drawn on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean, pstdev
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hoptm_plugin.cards.by_class import absent, over_present, rare_first, recall
from hoptm_plugin.cards.card import Card, Cost
from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.cards.words import FRESH, from_other_data, percent, published, selected
from hoptm_plugin.core.text import one_line, pasted
from hoptm_plugin.exchange.manifest import FILE_NAME as MANIFEST
from hoptm_plugin.runs.verifying import Verification
from hoptm_plugin.runtime.bars import is_terminal

PLAIN_WIDTH = 1000  # of a log file or pipe: nothing is wrapped
MOST_CLASSES = 10
NOTABLE_SATURATION = 0.5


def output_console(stream: TextIO | None = None) -> Console:
    """Return a console on ``stream`` (stdout): colours on a terminal; else plain text, unwrapped, without colours."""
    stream = sys.stdout if stream is None else stream
    if is_terminal(stream):
        return Console(file=stream, highlight=False)
    return Console(file=stream, force_terminal=False, color_system=None, highlight=False, width=PLAIN_WIDTH)


def text_of(text: str, style: str = "") -> Text:
    """Return text as it is, without markup, and without what a terminal would obey instead of show."""
    return Text(one_line(text), style)


def print_card(card: Card, folder: Path | None = None, console: Console | None = None) -> None:
    """Print a card: per network the method's metrics in percent, below them the random subset's; then by class."""
    console = console or output_console()
    table = Table(box=box.SIMPLE_HEAD)
    networks = len(card.evaluations[0].accuracy.values)
    title = (
        f"{card.title} on {card.dataset.name}, {_trained_on(card)}, seed {card.seed}"
        f" (percent; mean ± std, networks per line: {networks})"
    )
    for name in ("network", "set"):
        table.add_column(name)
    for name in ("accuracy", "balanced\naccuracy", "macro\nAUROC", "macro\nF1"):
        table.add_column(name, justify="right", no_wrap=True)  # 80 columns suffice
    beside = ((f"{card.title}, EMA", card.averaged), (FRESH, card.random_subset))
    for evaluation in card.evaluations:
        table.add_row(*_cells(evaluation, card.title), style="bold")
        for name, evaluations in beside:
            for other in evaluations or ():
                if other.network == evaluation.network:
                    table.add_row(*_cells(other, name))
    console.print(text_of(title, "bold"), soft_wrap=True)
    console.print(table)
    print_by_class(card, console)
    lines = []
    if card.reported is not None:
        others = [f"{network} {published(value)}" for network, value in card.reported.networks.items()]
        lines.append(f"reported: {', '.join([published(card.reported), *others])} ({card.reported.source})")
    for kind, evaluations in ((card.title, card.evaluations), *beside):
        lines += [f"{kind}, {each.network}: {each.diverged} of {len(each.accuracy.values)} networks diverged"
                  for each in evaluations or () if each.diverged]  # fmt: skip
    if card.imported is not None:
        lines.append(f"imported: {card.imported}")
    if card.distilled_from is not None:
        lines.append(from_other_data(card, card.distilled_from))
    if card.split == "validation":
        lines.append(f"tested on the {card.tested:,} validation images: for choosing settings, not a result")
    if card.scale is not None:
        lines.append(f"scale: {card.scale}")
    if card.note is not None:
        lines.append(f"note: {card.note}")
    if card.tuning is not None:
        tried = card.tuning
        of = "" if tried.reused is None else f" in the search of {tried.reused}"
        lines.append(f"settings: {tried.chosen}, the best of {len(tried.candidates)} on the validation split{of} "
                     f"(seed {tried.seed}, networks for each: {tried.networks})")  # fmt: skip
    lines += [f"chosen: {selected(card)}{_chosen(card)}", f"cost: {_cost(card.cost)}"]
    if (found := card.saturation) is not None and found.end - found.start > NOTABLE_SATURATION:
        lines.append(f"saturated: {found.end:.0%} of the pixel values lie far outside the range of pictures "
                     f"({found.start:.0%} at the start); lower distillation.images.learning_rate?")  # fmt: skip
    if folder is not None:
        lines.append(f"folder: {folder}")
    for line in lines:
        console.print(text_of(line), soft_wrap=True)


def _chosen(card: Card) -> str:
    """Return which iteration was chosen by score, out of how many, and what the last one came to."""
    said = []
    for name, chosen in (("", card.selected), ("of the moving average ", card.averaged_selected)):
        if chosen is not None:
            best, last = max(chosen.accuracies), chosen.accuracies[-1]
            said.append(f"{name}iteration {chosen.iteration:,} of {chosen.iterations[-1]:,} ({100 * best:.2f} %, the "
                        f"last {100 * last:.2f} %, {len(chosen.iterations)} scored)")  # fmt: skip
    return f": {'; '.join(said)}" if said else ""


def _trained_on(card: Card) -> str:
    if card.ipc is None:
        return f"all {card.dataset.train:,} training images"
    count, trained = card.ipc * len(card.dataset.classes), card.images_trained_on
    more = "" if trained in (None, count) else f" (networks are trained on {trained:,} images, not {count:,})"
    return f"{card.ipc} image{'s' if card.ipc > 1 else ''} per class{more}"


def _cells(evaluation: Evaluation, trained_on: str) -> list[Text]:
    metrics = (evaluation.accuracy, evaluation.balanced_accuracy, evaluation.macro_auroc, evaluation.macro_f1)
    percents = [percent(metric.mean, metric.std) for metric in metrics]
    return [text_of(text) for text in (evaluation.network, trained_on, *percents)]


def _cost(cost: Cost) -> str:
    stages = {"experts": cost.experts_s, "distillation": cost.distill_s, "evaluation": cost.evaluate_s}
    parts = [f"{name} {seconds:.1f} s" for name, seconds in stages.items() if seconds is not None]
    if cost.reused_s is not None:
        parts[-1] += f" (of these {cost.reused_s:.1f} s by an earlier run, whose figures of real images are reused)"
    if cost.seconds_per_iteration is not None:
        parts.append(f"{cost.seconds_per_iteration:.3g} s per iteration")
    if cost.peak_memory_bytes is not None:
        parts.append(f"peak memory {cost.peak_memory_bytes / 2**30:.2f} GiB")
    return ", ".join([*parts, cost.device])


def print_verification(found: Verification) -> None:
    """Print what became of a run's files and of its networks' accuracies, and the verdict."""
    console = output_console()
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("file", "SHA-256"):
        table.add_column(column)
    for file in found.files:
        table.add_row(text_of(file.name), file.state)
    console.print(table)
    if found.exported:
        console.print(text_of(f"{found.folder}: an exported set; its {len(found.files)} files were compared with "
                           f"{MANIFEST}; to judge it, use hoptm-bench eval {pasted('synthetic', found.folder)}"),
                      soft_wrap=True)  # fmt: skip
    if found.networks:
        _print_networks(found, console)
    good = "verified" if found.trained else "checksums verified"
    good += "" if found.trained or found.exported else ", nothing was trained"
    text = good if found.verified else f"NOT verified: {'; '.join(found.problems)}"
    console.print(text_of(text, "bold green" if found.verified else "bold red"), soft_wrap=True)


def _print_networks(found: Verification, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("trained on", "network", "card, %", "now, %", "difference", "verdict"):
        table.add_column(column, justify="left" if column in ("trained on", "network", "verdict") else "right")
    for each in found.networks:
        p = "" if each.p is None or each.verdict == "identical" else f" (p = {each.p:.2g})"
        means = (percent(fmean(values), pstdev(values)) for values in (each.stored, each.found))
        table.add_row(each.kind, text_of(each.network), *means, f"{100 * each.difference:+.2f}", each.verdict + p)
    console.print(table)
    if found.changed and any(each.verdict != "identical" for each in found.networks):
        console.print(text_of(f"made with other software or hardware: {'; '.join(found.changed)}"), soft_wrap=True)


def print_by_class(card: Card, console: Console) -> None:
    """Print recall per class and calibration error of every network, the random subset's beside them, in percent."""
    for evaluation in card.evaluations:
        beside = [each for each in card.random_subset or () if each.network == evaluation.network]
        sets = [(card.title, evaluation), *((FRESH, each) for each in beside[:1])]
        present = rare_first(evaluation.support)
        shown = present[:MOST_CLASSES]
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("class")
        for name in (f"{card.split} images", *(name for name, _ in sets)):
            table.add_column(text_of(name), justify="right")
        for label in [*shown, *absent(evaluation.support)[:MOST_CLASSES]]:
            recalls = [_by_class(*recall(each, label)) for _, each in sets]
            table.add_row(text_of(card.dataset.classes[label]), str(evaluation.support[label]), *recalls)
        errors = [each.ece for _, each in sets]
        if any(error is not None for error in errors):
            table.add_section()
            shown_errors = ["-" if error is None else _by_class(error.mean, error.std) for error in errors]
            table.add_row("calibration error (ECE)", "", *shown_errors)
        more = f"; {len(present) - len(shown)} more frequent ones are in the card" if len(present) > len(shown) else ""
        console.print(text_of(f"{evaluation.network}: recall per class, rarest first{more}", "bold"), soft_wrap=True)
        console.print(table)
        if (over := over_present(card.dataset.classes, evaluation.support, card.split)) is not None:
            console.print(text_of(over), soft_wrap=True)


def _by_class(mean: float | None, std: float | None) -> str:
    """Return a figure in percent; of older cards only the mean is known."""
    return percent(mean, std) if mean is None or std is not None else f"{100 * mean:.2f}"
