"""What was measured, as records for JSON and as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import median
from typing import Any

from cases import BASELINE, Settings
from rich import box
from rich.console import Console
from rich.table import Table

FIRST = [("first_seconds", "first s"), ("again_seconds", "first s, code cached")]
MEMORY = [("peak_mib", "peak MiB"), ("extra_mib", "+ MiB"), ("device_mib", "device MiB")]
FIGURES = {
    "iteration": [("seconds", "s/iteration"), ("step_ms", "ms/step"), *FIRST, *MEMORY],
    "experts": [("images_per_s", "images/s"), ("epochs_per_s_each", "epochs/s per network"), *FIRST, *MEMORY],
    "evaluation": [("epochs_per_s", "epochs/s"), ("epochs_per_s_each", "epochs/s per network"), *FIRST, *MEMORY],
    "segments": [("reads_per_s", "reads/s"), *MEMORY[:1]],
    "start_up": [("seconds", "s")],
    "precision": [
        ("gradient", "gradient"),
        ("hessian", "Hv"),
        ("images", "d<g,v>/dX"),
        ("whole", "dL/dX of all steps"),
    ],
}
NOTE = """\
N.NNx: ratio to the variant "classical", the median of the rounds' ratios; below 1 is better for s, ms and MiB, above 1
for what is per second. ±: half the range over the rounds. first: one iteration or epoch with nothing compiled before;
code cached: in a later process. peak: highest resident memory; +: the part above the peak before the first iteration.
Networks trained side by side count together, unless it says per network. Start-up is against a Python process that
imports torch and torchvision. Precision: 1 - cosine to float64, at worst of any step; dL/dX of the whole path."""


@dataclass
class Outcome:
    """All rounds of one variant of one case."""

    suite: str
    case: str
    measure: str
    variant: str
    setting: Settings
    rounds: list[dict[str, float]] = field(default_factory=list)
    failed: bool = False

    def series(self, key: str) -> list[float]:
        """Return a figure of every round; first iterations of later rounds, which find code compiled, are one apart."""
        if key == "again_seconds":
            return [figures["first_seconds"] for figures in self.rounds[1:] if "first_seconds" in figures]
        rounds = self.rounds[:1] if key == "first_seconds" else self.rounds
        return [figures[key] for figures in rounds if key in figures]

    def summary(self, baseline: Outcome | None) -> dict[str, dict[str, float]]:
        """Return median, spread and ratio to the baseline of every figure that there is."""
        summary: dict[str, dict[str, float]] = {}
        for key, _ in FIGURES[self.measure]:
            values = self.series(key)
            if not values:
                continue
            summary[key] = {"median": median(values)}
            if len(values) > 1 and summary[key]["median"]:
                summary[key]["spread"] = (max(values) - min(values)) / 2 / summary[key]["median"]
            # of the same round, measured one after another; a variant that failed has fewer
            pairs = zip(values, baseline.series(key) if baseline else [], strict=False)
            ratios = [value / base for value, base in pairs if base]
            if ratios:
                summary[key]["ratio"] = median(ratios)
        return summary


def baseline_of(outcome: Outcome, outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the classical outcome of the same case, if it was measured."""
    same = (each for each in outcomes if (each.suite, each.case) == (outcome.suite, outcome.case))
    return next((each for each in same if each.variant == BASELINE), None)


def records(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return everything measured; of a failure only that it was one, since messages name paths."""
    return [
        {"suite": each.suite, "case": each.case, "variant": each.variant, "failed": each.failed,
         "setting": each.setting, "summary": each.summary(baseline_of(each, outcomes)), "rounds": each.rounds}
        for each in outcomes
    ]  # fmt: skip


def cell(figure: Mapping[str, float] | None) -> str:
    """Return a figure with its spread and ratio."""
    if figure is None:
        return "-"
    text = f"{figure['median']:.4g}"
    if "spread" in figure:
        text += f" ±{100 * figure['spread']:.0f}%"
    if "ratio" in figure:
        text += f" {figure['ratio']:{'.2f' if figure['ratio'] >= 0.1 else '.2g'}}x"
    return text


def tables(outcomes: Sequence[Outcome]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, headings and rows of a table per suite, or per measurement where a suite has several."""
    found = []
    for (suite, measure), group in groupby(outcomes, lambda each: (each.suite, each.measure)):
        members = list(group)
        summaries = [each.summary(baseline_of(each, outcomes)) for each in members]
        shown = [(key, text) for key, text in FIGURES[measure] if any(key in summary for summary in summaries)]
        rows = [
            [
                each.case,
                each.variant + (" (failed)" if each.failed else ""),
                *(cell(summary.get(key)) for key, _ in shown),
            ]
            for each, summary in zip(members, summaries, strict=True)
        ]
        found.append((suite, ["case", "variant", *(text for _, text in shown)], rows))
    return found


def machine_line(machine: Mapping[str, Any]) -> str:
    """Return the machine in words."""
    software, gpu = machine["software"], f", {machine['gpu']}" if machine["gpu"] else ""
    return (f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads{gpu}; measured on "
            f"{machine['device']}; torch {software['torch']}, commit {software['commit']}")  # fmt: skip


def print_tables(outcomes: Sequence[Outcome], machine: Mapping[str, Any]) -> None:
    """Print all tables."""
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=200)  # a file has no width to fit in
    for title, headings, rows in tables(outcomes):
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
        for at, heading in enumerate(headings):
            table.add_column(heading, justify="left" if at < 2 else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(NOTE, machine_line(machine), sep="\n", markup=False, highlight=False)


def markdown(outcomes: Sequence[Outcome], machine: Mapping[str, Any], date: str) -> str:
    """Return all tables as Markdown."""
    parts = [f"# Speed and memory\n\n{date}. {machine_line(machine)}.\n\n{NOTE}\n"]
    for title, headings, rows in tables(outcomes):
        ruler = ["---", "---", *["---:"] * (len(headings) - 2)]
        lines = [f"| {' | '.join(row)} |" for row in (headings, ruler, *rows)]
        parts.append("\n".join([f"## {title}\n", *lines, ""]))
    return "\n".join(parts)
