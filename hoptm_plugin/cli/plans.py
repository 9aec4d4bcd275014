"""What runs are going to do, and about how long that takes: as a line, and for a sweep as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hoptm_plugin.cli.console import output_console, text_of
from hoptm_plugin.runs.composition import compose
from hoptm_plugin.runs.planning import Plan, about, plan, shown_bytes
from hoptm_plugin.runtime.progress import silent

LONG = 4 * 3600  # seconds, from which on something smaller is named


def lines(found: Plan, overrides: Sequence[str]) -> list[str]:
    """Return a plan in words and, where it takes hours, what a smaller scale would take with the same settings."""
    said = [str(found)]
    if (found.seconds or 0) < LONG or any(each.lstrip("+").startswith("scale=") for each in overrides):
        return said
    scale = "laptop" if found.device.startswith("CPU") else "workstation"
    try:
        smaller = plan(compose(*overrides, f"scale={scale}"), silent)
    except Exception:  # no such scale for these settings, or no memory to try it: this is a hint, and ends no run
        return said
    if smaller.seconds is not None and smaller.seconds < (found.seconds or 0):
        said.append(f"scale={scale} would take {about(smaller.seconds)} instead")
    return said


def print_plans(names: Sequence[str], plans: Sequence[Plan], console: Console | None = None) -> None:
    """Print a table with a line for each run and a total; experts count where they are first trained."""
    console = console or output_console()
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("run")
    for name in ("experts", "distillation", "evaluation", "in all", "memory", "disk"):
        table.add_column(name, justify="right")
    rows = [_seconds(each) for each in plans]
    for name, each, stages in zip(names, plans, rows, strict=True):
        table.add_row(text_of(name), *_cells(stages, each.memory_bytes, each.disk_bytes))
    sums = [None if None in column else sum(filter(None, column)) for column in zip(*rows, strict=True)]
    most, written = max(each.memory_bytes for each in plans), sum(each.disk_bytes for each in plans)
    table.add_row(f"total, {len(plans)} runs", *_cells(sums, most, written), style="bold")
    console.print(table)
    console.print(text_of(f"one after the other, on {plans[0].device}, each part tried for a moment; nothing was "
                          f"started"), soft_wrap=True)  # fmt: skip


def _seconds(plan: Plan) -> list[float | None]:
    return [plan.experts.seconds, plan.distillation.seconds, plan.evaluation.seconds, plan.seconds]


def _cells(stages: Sequence[float | None], memory: int, disk: int) -> list[Text]:
    durations = ["?" if each is None else about(each).removeprefix("about ") if each else "-" for each in stages]
    return [Text(text) for text in (*durations, shown_bytes(memory), shown_bytes(disk))]
