"""The tables of a suite, from the cards of its runs: the one place here that calls ``compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from suite_file import Table

from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.tables import formats
from hoptm_plugin.tables.compare import compare
from hoptm_plugin.tables.table import ComparisonTable


def compared(table: Table, cards: Sequence[Path]) -> tuple[ComparisonTable, ...]:
    """Return the comparisons that a table consists of; where the row to test against is missing, nothing is tested."""
    try:
        return compare(cards, against=table.against).tables
    except ConfigurationError:  # no row is called that
        return compare(cards, tests=None).tables


def markdown(table: Table, comparisons: Sequence[ComparisonTable], level: int = 1) -> str:
    """Return a table with its title as a heading, and its note."""
    note = f"{' '.join(table.note.split())}\n\n" if table.note else ""
    return f"{'#' * level} {table.title}\n\n{note}{formats.markdown(comparisons)}"
