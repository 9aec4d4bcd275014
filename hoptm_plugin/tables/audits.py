"""Privacy beside accuracy: what audits measured of the runs of a comparison."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from hoptm_plugin.cards.audit import AuditCard, audit_beside
from hoptm_plugin.cards.card import Card
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.text import one_line
from hoptm_plugin.tables.compare import Comparison


@dataclass(frozen=True)
class Audited:
    """A run that was audited.

    Attributes:
        row: that tables have it in.
        folder: of the run.
        card: of the run.
        audit: of its set.
    """

    row: str
    folder: Path
    card: Card
    audit: AuditCard

    @property
    def accuracy(self) -> tuple[float | None, float]:
        """Mean and standard deviation of the first network's accuracy."""
        found = self.card.evaluations[0].accuracy
        return found.mean, found.std or 0.0

    @property
    def auc(self) -> tuple[float, tuple[float, float]] | None:
        """The larger AUC of both signals, and its interval; None at the quick tier."""
        if self.audit.membership is None:
            return None
        _, best = self.audit.membership.best
        return best.auc, best.auc_ci95


def audited(comparison: Comparison) -> list[Audited]:
    """Return the runs of a comparison that were audited, by row, IPC and seed; what is left out is said.

    Raises:
        ConfigurationError: none was.
    """
    rows = {place: cell.row for table in comparison.tables for cell in table.cells if cell.own
            for (place, _), _ in cell.runs if isinstance(place, Path)}  # fmt: skip
    found = []
    for place, card in comparison.cards:
        if not isinstance(place, Path):
            continue
        audit, why = audit_beside(place.parent, card)
        if why:
            warnings.warn(f"{one_line(str(place.parent))}: {why}", stacklevel=2)
        if audit is not None:
            found.append(Audited(rows.get(place, card.title), place.parent, card, audit))
    if not found:
        raise ConfigurationError("none of these runs was audited; `hoptm-bench audit RUN` does it, of a run that was "
                                 "made with dataset.holdout_fraction=0.3")  # fmt: skip
    return sorted(found, key=lambda each: (each.card.dataset.name, each.row, each.card.ipc or 0, each.card.seed))
