"""Comparison tables on a terminal, in plain text, or in a file."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hoptm_plugin.cli.console import output_console, text_of
from hoptm_plugin.tables.compare import Comparison, Format, write_beside
from hoptm_plugin.tables.grids import Grid, blocks
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
