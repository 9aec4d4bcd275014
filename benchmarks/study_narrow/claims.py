"""What the paper claims, tested on the study's cards: ``claims.yaml`` says which rows, this says what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter
from suite_file import MAIN

from hoptm_plugin.engine.significance import LEVEL, Difference, holm, paired
from hoptm_plugin.tables.cells import Column
from hoptm_plugin.tables.grids import difference_text, p_value
from hoptm_plugin.tables.table import ComparisonTable as Comparison

CLAIMS = Path(__file__).parent / "claims.yaml"


class Claim(BaseModel):
    """That one row of a table is better than another.

    Attributes:
        says: in words.
        family: p-values are corrected over the claims of one family.
        suite: whose table it is.
        table: its name.
        row: said to be better.
        than: the other row.
        without: a network that it is not about.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    says: str
    family: str
    suite: str
    table: str = MAIN
    row: str
    than: str
    without: str | None = None


@dataclass(frozen=True)
class Outcome:
    """A claim in one column of its table, and the paired difference there; p is corrected over the claim's family.

    The difference is None where a row is missing or has an undefined seed, or no seed is on both sides.
    """

    claim: Claim
    ipc: int | None
    network: str
    difference: Difference | None
    p_holm: float | None = None

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
    """Test every claim in every column of its table, tables being by suite and name."""
    found = [
        Outcome(claim, *column, _difference(comparison, claim, column))
        for claim in claims
        for comparison in tables.get((claim.suite, claim.table), ())
        for column in comparison.columns()
        if column[1] != claim.without
    ]
    corrected: dict[int, float | None] = {}
    for family in {claim.family for claim in claims}:
        members = [index for index, each in enumerate(found) if each.claim.family == family]
        p_values = [each.difference.p if each.difference else None for each in (found[index] for index in members)]
        corrected |= dict(zip(members, holm(p_values), strict=True))
    return [replace(each, p_holm=corrected[index]) for index, each in enumerate(found)]


def _difference(comparison: Comparison, claim: Claim, column: Column) -> Difference | None:
    cells = [comparison.cell(name, column) for name in (claim.row, claim.than)]
    means = [{} if cell is None else dict(cell.by_seed) for cell in cells]
    known = [{seed: mean for seed, mean in each.items() if mean is not None} for each in means]
    return paired(*known) if known == means else None


def rows(results: Sequence[Outcome], datasets: Mapping[str, str]) -> list[list[str]]:
    """Return the table of outcomes; ``datasets`` names each suite's data."""
    found = []
    for each in results:
        numbers, d = ["-", "0", "-", "-"], each.difference
        if d is not None:
            numbers = [difference_text(d), str(d.pairs), p_value(d.p), p_value(each.p_holm)]
        where = [each.claim.says, datasets[each.claim.suite], each.network]
        found.append([*where, each.verdict, str(each.ipc), *numbers])
    return found
