"""What the paper claims, tested on the study's cards: ``claims.yaml`` says which rows, this says what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from page import table
from pydantic import BaseModel, ConfigDict, TypeAdapter
from suite_file import MAIN

from hoptm_plugin.results.cells import Cell
from hoptm_plugin.results.compare import Comparison
from hoptm_plugin.results.grids import MINUS
from hoptm_plugin.results.significance import LEVEL, Difference, holm, paired

CLAIMS = Path(__file__).parent / "claims.yaml"


class Claim(BaseModel):
    """That one row of a table is better than another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    says: str
    suite: str
    table: str = MAIN
    row: str
    than: str


@dataclass(frozen=True)
class Outcome:
    """A claim in one column of its table, and the paired difference there; p is corrected over all claims."""

    claim: Claim
    ipc: int | None
    network: str
    difference: Difference
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        """In words; a difference that no test can tell from none neither confirms nor refutes."""
        if self.p_holm is None:
            return "cannot be tested"
        if self.p_holm >= LEVEL:
            return "not shown"
        return "**holds**" if self.difference.mean > 0 else "**the reverse**"


def read_claims() -> list[Claim]:
    """Return all claims, in order."""
    return TypeAdapter(list[Claim]).validate_python(yaml.safe_load(CLAIMS.read_text(encoding="utf-8")))


def outcomes(claims: Sequence[Claim], tables: Mapping[tuple[str, str], Sequence[Comparison]]) -> list[Outcome]:
    """Test every claim whose rows are there, in every column that both have, by suite and name of the table."""
    found = []
    for claim in claims:
        for comparison in tables.get((claim.suite, claim.table), ()):
            for column in comparison.columns():
                row, than = comparison.cell(claim.row, column), comparison.cell(claim.than, column)
                difference = None if row is None or than is None else paired(_means(row), _means(than))
                if difference is not None:
                    found.append(Outcome(claim, *column, difference))
    corrected = holm([each.difference.p for each in found])
    return [Outcome(each.claim, each.ipc, each.network, each.difference, p)
            for each, p in zip(found, corrected, strict=True)]  # fmt: skip


def _means(cell: Cell) -> dict[int, float]:
    return {seed: mean for seed, mean in cell.by_seed if mean is not None}


def markdown(results: Sequence[Outcome], datasets: Mapping[str, str]) -> str:
    """Return the table of outcomes; ``datasets`` names each suite's data."""
    headings = ["claim", "data", "IPC", "network", "difference [95 % interval], points", "pairs", "p", "p, Holm",
                "outcome"]  # fmt: skip
    rows = []
    for each in results:
        d = each.difference
        interval = "" if d.low is None or d.high is None else f" [{_points(d.low)}, {_points(d.high)}]"
        where = [each.claim.says, datasets[each.claim.suite], str(each.ipc), each.network]
        numbers = [f"{_points(d.mean)}{interval}", str(d.pairs), _p(d.p), _p(each.p_holm), each.verdict]
        rows.append([*where, *numbers])
    return table(headings, rows, words=2) + "\n"


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}".replace("-", MINUS)


def _p(p: float | None) -> str:
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
