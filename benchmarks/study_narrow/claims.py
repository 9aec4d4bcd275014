"""What the paper claims, tested on the study's cards: ``claims.yaml`` says which rows, this says what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter
from suite_file import MAIN

from hoptm_plugin.engine.significance import LEVEL, Difference
from hoptm_plugin.tables.cells import Column, with_tests
from hoptm_plugin.tables.grids import difference_text, p_value
from hoptm_plugin.tables.table import ComparisonTable as Comparison

CLAIMS = Path(__file__).parent / "claims.yaml"


class Claim(BaseModel):
    """That one row of a table is better than another.

    Attributes:
        says: in words.
        suite: whose table it is.
        table: its name.
        row: said to be better.
        than: the other row.
        without: a network that it is not about.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    says: str
    suite: str
    table: str = MAIN
    row: str
    than: str
    without: str | None = None


@dataclass(frozen=True)
class Outcome:
    """A claim in one column of its table, and the difference there; p is corrected over the table's tests.

    The difference is None where a row is missing.
    """

    claim: Claim
    ipc: int | None
    network: str
    difference: Difference | None
    p_holm: float | None = None
    seeds: str = "-"

    @property
    def verdict(self) -> str:
        """In words; a difference that no test can tell from none neither confirms nor refutes."""
        if self.difference is None or self.p_holm is None:
            return "cannot be tested"
        if self.p_holm >= LEVEL:
            return "not shown"
        return "**holds**" if self.difference.mean > 0 else "**the reverse**"


def read_claims() -> list[Claim]:
    """Return all claims, in order."""
    return TypeAdapter(list[Claim]).validate_python(yaml.safe_load(CLAIMS.read_text(encoding="utf-8")))


def outcomes(claims: Sequence[Claim], tables: Mapping[tuple[str, str], Sequence[Comparison]]) -> list[Outcome]:
    """Return every claim in every column of its table, tables being by suite and name, as the table has it."""
    return [
        _outcome(claim, comparison, column)
        for claim in claims
        for comparison in tables.get((claim.suite, claim.table), ())
        for column in comparison.columns()
        if column[1] != claim.without
    ]


def _outcome(claim: Claim, comparison: Comparison, column: Column) -> Outcome:
    """Take the test from the table; where that is of a third row, test the table against the claim's other row."""
    reference = claim.row if comparison.against == claim.row else claim.than
    tested = with_tests(comparison.cells, reference, "paired")
    cells = {cell.row: cell for cell in tested if cell.column == column and cell.row in (claim.row, claim.than)}
    if len(cells) < 2:
        return Outcome(claim, *column, None)
    cell = cells[claim.than if reference == claim.row else claim.row]
    d = cell.difference
    if d is not None and reference == claim.row:
        low, high = (None if end is None else -end for end in (d.high, d.low))
        d = Difference(-d.mean, low, high, d.p, d.pairs)
    seeds = [len(cells[row].distillations) for row in (claim.row, claim.than)]
    said = " and ".join(map(str, seeds)) if d is None or d.pairs is None else f"{d.pairs} pairs"
    return Outcome(claim, *column, d, cell.p_holm, said)


def rows(results: Sequence[Outcome], datasets: Mapping[str, str]) -> list[list[str]]:
    """Return the table of outcomes; ``datasets`` names each suite's data."""
    found = []
    for each in results:
        numbers, d = ["-", "-", "-", "-"], each.difference
        if d is not None:
            numbers = [difference_text(d), each.seeds, p_value(d.p), p_value(each.p_holm)]
        where = [each.claim.says, datasets[each.claim.suite], each.network]
        found.append([*where, each.verdict, str(each.ipc), *numbers])
    return found
