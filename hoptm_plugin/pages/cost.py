"""What runs took: time and memory of every method at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from markupsafe import Markup

from hoptm_plugin.pages import figures
from hoptm_plugin.pages.reading import Run, size_of

SHORTEST = 0.001


def cost_figures(runs: Sequence[Run]) -> list[tuple[Markup, str]]:
    """Return bars of seconds and memory for every data set and device, mean over a method's runs; and captions."""
    drawn = []
    for dataset, device in sorted({(run.card.dataset.name, run.card.cost.device) for run in runs}):
        here = [run.card for run in runs if (run.card.dataset.name, run.card.cost.device) == (dataset, device)]
        seconds = [(card, card.cost.distill_s) for card in here]
        memory = [(card, (card.cost.peak_memory_bytes or 0) / 2**30) for card in here]
        for title, unit, values in (("Distillation", "seconds", seconds), ("Peak memory", "GiB", memory)):
            found: dict[str, list[float]] = {}
            for card, value in values:
                if value is not None and value >= SHORTEST:
                    found.setdefault(f"{card.title}, {size_of(card)}", []).append(value)
            if found:
                means = [(name, fmean(numbers)) for name, numbers in found.items()]
                most = max(means, key=lambda each: each[1])
                where = f"{title} of each method on {dataset}, {device}"
                name = f"{where}: most {most[0]}, {most[1]:.3g} {unit}; the table of cost has every value"
                drawn.append((figures.bars(name, title, means, unit), f"{where}, mean over runs."))
    return drawn


def number(value: float | None) -> str:
    """Return seconds or GiB as a table has them."""
    if value is None:
        return "-"
    if 0 < value < SHORTEST:
        return f"< {SHORTEST:g}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
