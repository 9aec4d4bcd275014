"""The tables of a suite, from the cards of its runs: the one place here that calls ``compare``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from suite_file import Table

from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.tables.compare import Comparison, compare, find_cards
from hoptm_plugin.tables.formats import render


def compared(table: Table, cards: Iterable[Path]) -> list[Comparison]:
    """Return the comparisons that a table consists of; where the row to test against is missing, nothing is tested."""
    found = find_cards(cards)
    try:
        return compare(found, against=table.against, tests="paired" if table.paired else "welch")
    except ConfigurationError:  # no row is called that
        return compare(found, tests=None)


def markdown(table: Table, comparisons: list[Comparison], level: int = 1) -> str:
    """Return a table with its title as a heading, and its note."""
    note = f"{' '.join(table.note.split())}\n\n" if table.note else ""
    return f"{'#' * level} {table.title}\n\n{note}{render(comparisons, 'markdown')}"
