"""Comparison tables as text: Markdown, LaTeX and HTML for people, one record per cell for programs."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas

from hoptm_plugin.core.text import no_formula
from hoptm_plugin.tables.cells import Cell
from hoptm_plugin.tables.grids import MINUS, Entry, Grid, blocks, said_of_tests
from hoptm_plugin.tables.metrics import METRICS, summary
from hoptm_plugin.tables.table import ComparisonTable

_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$",
    "≈": r"$\approx$", MINUS: "$-$",
    "[": "{[}", "]": "{]}", "*": "{*}",  # at a row's start they would be taken for arguments of the line break
})  # fmt: skip
# what formats, links or ends a cell, and would fetch a picture or run a formula where the text is shown
_MARKDOWN = re.compile(r"[\\`*|$]|~~|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<=\])[(:\[]|(?<!\w)_|_(?!\w)")


def records(tables: Sequence[ComparisonTable]) -> list[dict[str, Any]]:
    """Return one record per cell, upper bounds included; metrics are fractions, None where undefined.

    Scores have keys only where some table shows them.
    """
    found = []
    scores = sorted({name for table in tables for name in table.scores}, reverse=True)
    for table in tables:
        cells = [table.cell(row, column) for column in table.columns() for row in table.rows()]
        found += [_record(table, table.heading, cell, scores) for cell in cells if cell is not None]
        for bound in table.bounds:
            group = "; ".join([table.heading, "upper bound", *bound.remarks])
            found.append(_record(table, group, bound.cell, scores))
    return found


def _record(table: ComparisonTable, group: str, cell: Cell, scores: Sequence[str]) -> dict[str, Any]:
    difference, reported = cell.difference, cell.reported
    return {
        "group": group, "method": cell.row, "settings": dict(cell.settings), "dataset": table.dataset,
        "ipc": cell.ipc, "network": cell.network, "metric": cell.metric, "mean": cell.mean, "std": cell.std,
        "networks": cell.networks, "diverged": cell.diverged,
        "runs": len(cell.runs), "seeds": len(cell.distillations), "values": list(cell.values), "best": cell.best,
        **_metrics(cell),
        "reported": reported and reported.accuracy, "reported_std": reported and reported.std,
        "reported_source": cell.source, "against": cell.against,
        "difference": difference and difference.mean, "ci_low": difference and difference.low,
        "ci_high": difference and difference.high, "pairs": difference and difference.pairs,
        "p": difference and difference.p, "p_holm": cell.p_holm,
        **{name: getattr(cell, name) for name in scores},
        "notes": [*table.notes, *said_of_tests(table)],
    }  # fmt: skip


def _metrics(cell: Cell) -> dict[str, float | None]:
    """Return mean and standard deviation of every metric of a cell, whatever its table shows."""
    found: dict[str, float | None] = {}
    for name in METRICS:
        found[name], found[f"{name}_std"] = summary(cell.values_of(name))
    return found


def csv(frame: pandas.DataFrame) -> str:
    """Return a frame of records as CSV, lists and mappings as JSON; no text is what spreadsheets take for a formula."""

    def shown(value: Any) -> Any:
        if isinstance(value, list | dict):
            return json.dumps(value, ensure_ascii=False)
        return no_formula(value) if isinstance(value, str) else value

    return frame.astype(object).map(shown).to_csv(index=False)


def markdown(tables: Sequence[ComparisonTable]) -> str:
    """Return the tables as Markdown, the best in bold, percent."""
    paragraphs = []
    for grid, lines in blocks(tables):
        frame = _frame(grid, markdown_text, "**{}**")
        rows = [frame.columns, ["---", *("--:" for _ in grid.columns)], *frame.to_numpy()]
        paragraphs += [markdown_text(grid.title), "\n".join(f"| {' | '.join(row)} |" for row in rows)]
        paragraphs += map(markdown_text, lines)
    return "\n\n".join(paragraphs) + "\n"


def latex(tables: Sequence[ComparisonTable]) -> str:
    """Return one table environment per grid, with the lines below it."""
    environments = []
    for grid, lines in blocks(tables):
        style = _frame(grid, latex_text, r"\textbf{{{}}}").style.hide(axis="index")
        environments.append("\n".join([
            "\\begin{table}", "\\centering", f"\\caption{{{latex_text(grid.title)}}}",
            style.to_latex(hrules=True, column_format="l" + "r" * len(grid.columns)).strip(),
            *(f"\\par{{\\footnotesize {latex_text(line)}}}" for line in lines), "\\end{table}\n",
        ]))  # fmt: skip
    return "% needs \\usepackage{booktabs}\n" + "\n".join(environments)


def notebook_html(tables: Sequence[ComparisonTable]) -> str:
    """Return the tables as HTML for a notebook; all text of cards is escaped."""
    parts = []
    for grid, lines in blocks(tables):
        with pandas.option_context("display.max_colwidth", None):  # nothing is cut off, least of all within a tag
            table = _frame(grid, html.escape, "<b>{}</b>").to_html(index=False, escape=False, border=0)
        parts += [f"<p><b>{html.escape(grid.title)}</b></p>", table]
        parts += [f"<p><small>{html.escape(line)}</small></p>" for line in lines]
    return "\n".join(parts)


def _frame(grid: Grid, escaped: Callable[[str], str], bold: str) -> pandas.DataFrame:
    """Return a grid as text in some markup, by how text is ``escaped`` there and what ``bold`` text stands between."""

    def shown(entry: Entry) -> str:
        text = escaped(entry.text)
        return " ".join(filter(None, [bold.format(text) if entry.best and text else text, escaped(entry.aside)]))

    rows = [[escaped(name), *map(shown, entries)] for name, entries in grid.rows]
    return pandas.DataFrame(rows, columns=["method", *(escaped(", ".join(column)) for column in grid.columns)])


def markdown_text(text: str) -> str:
    """Escape what Markdown would take for more than text."""
    return _MARKDOWN.sub(lambda found: "".join(f"\\{char}" for char in found[0]), text)


def latex_text(text: str) -> str:
    """Escape what LaTeX would take for commands."""
    return text.translate(_LATEX)
