"""Comparison tables as a terminal, Markdown, LaTeX, CSV or JSON shows them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pandas
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hoptm_plugin.cli.console import output_console
from hoptm_plugin.core.errors import StorageError, UserError
from hoptm_plugin.storage.files import write_text
from hoptm_plugin.tables.cells import Cell
from hoptm_plugin.tables.compare import Comparison
from hoptm_plugin.tables.grids import MINUS, Entry, Grid, accuracies, bound_line, differences, footnotes

Format: TypeAlias = Literal["terminal", "markdown", "latex", "csv", "json"]

_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$",
    "≈": r"$\approx$", MINUS: "$-$",
    "[": "{[}", "]": "{]}", "*": "{*}",  # at a row's start they would be taken for arguments of the line break
})  # fmt: skip


PLAIN_BEST = "^"  # of the best, where nothing can be bold


def publish(comparisons: Sequence[Comparison], form: Format, output: Path | None) -> None:
    """Print the tables, or write them to the file ``output``, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    if output is not None:
        try:
            write_text(output, render(comparisons, form))
        except StorageError as error:
            raise UserError(f"{output}: {error.reason}; name another file with --output FILE") from None
    elif form == "terminal":
        print_comparison(output_console(), comparisons)
    else:
        sys.stdout.write(render(comparisons, form))


def render(comparisons: Sequence[Comparison], form: Format) -> str:
    """Return the tables as text: percent for people and papers, fractions and one record per cell in CSV and JSON."""
    if form == "terminal":
        stream = io.StringIO()
        print_comparison(output_console(stream), comparisons)
        return stream.getvalue()
    if form == "markdown":
        return _markdown(comparisons)
    if form == "latex":
        return _latex(comparisons)
    rows = records(comparisons)
    if form == "csv":
        values = [row | {"values": json.dumps(row["values"])} for row in rows]
        return pandas.DataFrame(values, dtype=object).to_csv(index=False)
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def records(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return one record per cell, upper bounds included; accuracies are fractions, None where undefined.

    Scores have keys only where some table shows them.
    """
    found = []
    scores = sorted({name for comparison in comparisons for name in comparison.scores}, reverse=True)
    for comparison in comparisons:
        for column in comparison.columns():
            cells = [comparison.cell(row, column) for row in comparison.rows()]
            found += [_record(comparison, comparison.heading, cell, scores) for cell in cells if cell is not None]
        for bound in comparison.bounds:
            group = "; ".join([comparison.heading, "upper bound", *bound.remarks])
            found.append(_record(comparison, group, bound.cell, scores))
    return found


def _record(comparison: Comparison, group: str, cell: Cell, scores: Sequence[str]) -> dict[str, Any]:
    difference, reported = cell.difference, cell.reported
    return {
        "group": group, "method": cell.row, "dataset": comparison.dataset, "ipc": cell.ipc, "network": cell.network,
        "mean": cell.mean, "std": cell.std, "networks": len(cell.values), "runs": cell.runs,
        "values": list(cell.values), "best": cell.best,
        "reported": reported and reported.accuracy, "reported_std": reported and reported.std,
        "reported_source": cell.source, "against": cell.against,
        "difference": difference and difference.mean, "ci_low": difference and difference.low,
        "ci_high": difference and difference.high, "p": difference and difference.p, "p_holm": cell.p_holm,
        **{name: getattr(cell, name) for name in scores},
    }  # fmt: skip


def print_comparison(console: Console, comparisons: Sequence[Comparison]) -> None:
    """Print every table with its heading; each column's best is bold on a terminal."""
    for comparison in comparisons:
        _print_grid(console, accuracies(comparison))
        _print_lines(console, _lines_below(comparison))
        tests = differences(comparison)
        if tests is not None:
            _print_grid(console, tests)
    _print_lines(console, footnotes(comparisons, "bold" if console.color_system else f"marked {PLAIN_BEST}"))


def _lines_below(comparison: Comparison) -> list[str]:
    return [*map(bound_line, comparison.bounds), *comparison.notes]


def _print_grid(console: Console, grid: Grid) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("method")
    for lines in grid.columns:
        table.add_column(Text("\n".join(lines)), justify="right")
    for name, entries in grid.rows:
        mark = "" if console.color_system else f" {PLAIN_BEST}"
        texts = [Text(entry.text + mark * entry.best, "bold" if entry.best else "") for entry in entries]
        for text, entry in zip(texts, entries, strict=True):
            text.append(f"\n{entry.aside}" if entry.aside else "", "not bold")
        table.add_row(Text(name), *texts)
    console.print(Text(grid.title, "bold"), soft_wrap=True)
    console.print(table)


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _markdown(comparisons: Sequence[Comparison]) -> str:
    blocks = []
    for comparison in comparisons:
        blocks += [_markdown_grid(accuracies(comparison)), *map(_markdown_text, _lines_below(comparison))]
        tests = differences(comparison)
        blocks += [] if tests is None else [_markdown_grid(tests)]
    return "\n\n".join([*blocks, *map(_markdown_text, footnotes(comparisons))]) + "\n"


def _markdown_grid(grid: Grid) -> str:
    lines = [["method", *(_markdown_text(", ".join(column)) for column in grid.columns)]]
    lines.append(["---", *("--:" for _ in grid.columns)])
    for name, entries in grid.rows:
        texts = [(f"**{entry.text}**" if entry.best else entry.text, entry.aside) for entry in entries]
        lines.append([_markdown_text(name), *(" ".join(filter(None, pair)) for pair in texts)])
    return f"{_markdown_text(grid.title)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown_text(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*")


def _latex(comparisons: Sequence[Comparison]) -> str:
    """Return one table environment per comparison, and its tests as another, with the footnotes below the last one."""
    tables: list[tuple[Grid, list[str]]] = []
    for comparison in comparisons:
        tables.append((accuracies(comparison), _lines_below(comparison)))
        tests = differences(comparison)
        tables += [] if tests is None else [(tests, [])]
    tables[-1][1].extend(footnotes(comparisons))
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex_table(grid, notes) for grid, notes in tables)


def _latex_table(grid: Grid, notes: Sequence[str]) -> str:
    rows = [[latex_text(name), *(map(_latex_entry, entries))] for name, entries in grid.rows]
    columns = ["method", *(latex_text(", ".join(column)) for column in grid.columns)]
    tabular = (
        pandas.DataFrame(rows, columns=columns)
        .style.hide(axis="index")
        .to_latex(hrules=True, column_format="l" + "r" * len(grid.columns))
    )
    lines = ["\\begin{table}", "\\centering", f"\\caption{{{latex_text(grid.title)}}}", tabular.strip()]
    lines += [f"\\par{{\\footnotesize {latex_text(note)}}}" for note in notes]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def _latex_entry(entry: Entry) -> str:
    text = latex_text(entry.text)
    return " ".join(filter(None, [f"\\textbf{{{text}}}" if entry.best and text else text, latex_text(entry.aside)]))


def latex_text(text: str) -> str:
    """Escape what LaTeX would take for commands."""
    return text.translate(_LATEX)
