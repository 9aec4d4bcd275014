"""Comparison tables on a terminal, in plain text, or in a file."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hoptm_plugin.cli.console import output_console, text_of
from hoptm_plugin.cli.streams import tell
from hoptm_plugin.tables.compare import Comparison, Format, write_beside
from hoptm_plugin.tables.formats import csv
from hoptm_plugin.tables.grids import Grid, blocks
from hoptm_plugin.tables.states import ListedRun
from hoptm_plugin.tables.table import ComparisonTable

PLAIN_BEST = "^"  # of the best, where nothing can be bold


def show_comparison(comparison: Comparison, form: Format | Literal["terminal"], output: Path | None) -> None:
    """Print tables, or write them to the file ``output``, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    text = io.StringIO()
    stream = sys.stdout if output is None else text
    if form == "terminal":
        print_tables(comparison.tables, output_console(stream))
    else:
        stream.write(comparison.text(form))
    if output is not None:
        write_beside(comparison.cards, output, text.getvalue())


def show_runs(runs: Sequence[ListedRun], form: Literal["json", "csv"] | None) -> None:
    """Print a list of runs: as a table, or one record each."""
    records = [run.record() for run in runs]
    if form == "json":
        sys.stdout.write(json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    elif form == "csv":
        sys.stdout.write(csv(pandas.DataFrame(records, columns=list(ListedRun(Path(), "finished", "").record()))))
    elif not runs:
        tell("no such run")
    else:
        _print_runs(runs, output_console())


def _print_runs(runs: Sequence[ListedRun], console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("folder", "state", "method", "data set", "IPC", "seed", "settings", "accuracy, %", "worked on"):
        table.add_column(name, overflow="fold", justify="right" if name in ("IPC", "seed", "accuracy, %") else "left")
    for run in runs:
        settings = ", ".join(f"{name} {value}" for name, value in run.settings.items())
        size = "all" if run.ipc is None and run.card is not None else "" if run.ipc is None else str(run.ipc)
        worked = "" if run.changed is None else f"{run.changed:%Y-%m-%d %H:%M}"
        state = f"{run.state} {run.told}" if run.state in ("interrupted", "running") else run.state
        texts = (str(run.folder), state, run.method, run.dataset, size, "" if run.seed is None else str(run.seed),
                 settings, run.result, worked)  # fmt: skip
        table.add_row(*map(text_of, texts))
    console.print(table)
    for run in runs:
        if run.state in ("failed", "damaged"):
            console.print(text_of(f"{run.folder}: {run.state} {run.told}"), soft_wrap=True)


def print_tables(tables: Sequence[ComparisonTable], console: Console | None = None) -> None:
    """Print every table with its heading; each column's best is bold on a terminal."""
    console = console or output_console()
    for grid, lines in blocks(tables, "bold" if console.color_system else f"marked {PLAIN_BEST}"):
        _print_grid(grid, console)
        for line in lines:
            console.print(text_of(line), soft_wrap=True)


def _print_grid(grid: Grid, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("method")
    for lines in grid.columns:
        table.add_column(Text("\n").join(map(text_of, lines)), justify="right")
    for name, entries in grid.rows:
        mark = "" if console.color_system else f" {PLAIN_BEST}"
        texts = [text_of(entry.text + mark * entry.best, "bold" if entry.best else "") for entry in entries]
        for text, entry in zip(texts, entries, strict=True):
            text.append(f"\n{entry.aside}" if entry.aside else "", "not bold")
        table.add_row(text_of(name), *texts)
    console.print(text_of(grid.title, "bold"), soft_wrap=True)
    console.print(table)
