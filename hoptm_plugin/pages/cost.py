"""What runs took: time and memory of every method at a glance."""

from __future__ import annotations

from collections.abc import Sequence

import pandas
from markupsafe import Markup

from hoptm_plugin.pages import figures
from hoptm_plugin.pages.reading import Run, size_of

SHORTEST = 0.001


def cost_figures(runs: Sequence[Run]) -> list[tuple[Markup, str]]:
    """Return bars of seconds and memory for every data set and device, mean over a method's runs; and captions."""
    columns = ["dataset", "device", "method", "Distillation", "Peak memory"]
    rows = [
        (card.dataset.name, card.cost.device, f"{run.title}, {size_of(card)}", card.cost.distill_s or 0,
         (card.cost.peak_memory_bytes or 0) / 2**30)
        for run, card in ((run, run.card) for run in runs)
    ]  # fmt: skip
    drawn = []
    for (dataset, device), here in pandas.DataFrame(rows, columns=columns).groupby(["dataset", "device"]):
        for title, unit in (("Distillation", "seconds"), ("Peak memory", "GiB")):
            means = here[here[title] >= SHORTEST].groupby("method", sort=False)[title].mean()
            if len(means):
                where = f"{title} of each method on {dataset}, {device}"
                most = f"{means.idxmax()}, {means.max():.3g} {unit}"
                name = f"{where}: most {most}; the table of cost has every value"
                values = [(str(method), float(mean)) for method, mean in means.items()]
                drawn.append((figures.bars(name, title, values, unit), f"{where}, mean over runs."))
    return drawn


def duration(seconds: float) -> str:
    """Return seconds as one says them."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def number(value: float | None) -> str:
    """Return seconds or GiB as a table has them."""
    if value is None:
        return "-"
    if 0 < value < SHORTEST:
        return f"< {SHORTEST:g}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
