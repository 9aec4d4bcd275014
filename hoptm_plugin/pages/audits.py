"""What audited sets give away: a table of all, the words and figures of each, and privacy against accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from hoptm_plugin.cards.audit import AuditCard
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.pages import figures
from hoptm_plugin.pages.reading import Run, size_of
from hoptm_plugin.pages.svg import standalone
from hoptm_plugin.storage.files import write_text
from hoptm_plugin.tables.audits import Audited

VERDICTS = {"leak_found": "leak found", "none_found": "none found by these tests", "invalid": "not valid"}
COLUMNS = ("Verdict", "Tier", "Point to their\norigins", "p", "Nearer to\ntraining", "p", "AUC, loss", "AUC, nearest",
           "Told at 1 %\nfalse positives", "Epsilon shown\nto exceed")  # fmt: skip


@dataclass(frozen=True)
class AuditPart:
    """One run's audit, as a page shows it.

    Attributes:
        name: of the run.
        key: for its id.
        cells: of its row in the table.
        sentences: what it means.
        controls: name, what had to be done with it, whether it was, and what was measured.
        figures: drawn, with captions.
    """

    name: str
    key: str
    cells: list[str]
    sentences: list[str]
    controls: list[tuple[str, list[str]]]
    figures: list[tuple[Markup, str]]


def audit_parts(runs: Sequence[Run]) -> list[AuditPart]:
    """Return the parts of runs that were audited."""
    return [_part(run, run.audit) for run in runs if run.audit is not None]


def write_picture(found: Sequence[Audited], path: Path) -> None:
    """Write privacy against accuracy as an SVG file, of runs that were audited at a tier that tells members.

    Raises:
        ConfigurationError: none was.
        StorageError: it cannot be written.
    """
    points = [figures.Point(f"{each.row}, {size_of(each.card)}", each.accuracy, each.auc) for each in found if each.auc]
    if not points:
        raise ConfigurationError("no run was audited at the standard tier, and others have no AUC to be drawn; "
                                 "hoptm-bench audit RUN tier=standard")  # fmt: skip
    write_text(path, standalone(figures.privacy("privacy against accuracy: AUC of membership inference", points)))


def _part(run: Run, found: AuditCard) -> AuditPart:
    controls = [
        (each.name, [f"must {each.must}", "as it must" if each.passed else "WRONG", each.measured])
        for each in found.controls
    ]
    return AuditPart(run.name, f"audit-{run.key}", _cells(found), found.sentences(), controls, _figures(run, found))


def _cells(found: AuditCard) -> list[str]:
    mine, pixels = found.identity, found.synthetic.pixels
    pointing = ["-", "-"] if mine is None else [f"{mine.first} of {mine.images}", f"{mine.p:.2g}"]
    near = [f"{100 * pixels.share:.0f} %\nby chance {100 * pixels.expected:.0f} %", f"{pixels.p:.2g}"]
    told = ["-", "-", "-"]
    if found.membership is not None:
        both = (found.membership.loss, found.membership.nearest)
        told = ["{:.3f}\n{:.3f} to {:.3f}".format(each.auc, *each.auc_ci95) for each in both]
        best = found.membership.told and found.membership.told[1]
        told.append("-" if best is None else "{:.1f} %\n{:.1f} to {:.1f}".format(
            100 * best.tpr, *(100 * value for value in best.ci95)))  # fmt: skip
    bound = (
        "-"
        if found.one_run is None
        else f"{found.one_run.epsilon:.2f}\ncannot show more than {found.one_run.ceiling:.2f}"
    )
    return [VERDICTS[found.verdict], found.tier, *pointing, *near, *told, bound]


def _figures(run: Run, found: AuditCard) -> list[tuple[Markup, str]]:
    if found.membership is None or not found.membership.loss.roc:
        return []
    shown = {f"by {name}": each for name, each in found.membership.signals.items()}
    if found.membership.canaries is not None:
        shown |= {f"of a wrong class, by {name}": each for name, each in found.membership.canaries.signals.items()}
    curves = [(name, each.roc) for name, each in shown.items()]
    lines = ", ".join(f"{name} AUC {each.auc:.3f}" for name, each in shown.items())
    where = f"Members told of {run.name}"
    drawn = [(figures.roc(f"{where}: {lines}", curves), f"{where}, logarithmic; the dotted line is guessing.")]
    if found.one_run is not None:
        both = (("by the loss", found.one_run.loss), ("by the nearest image", found.one_run.nearest))
        bounds = [(name, list(zip(each.guesses, each.bounds, strict=True))) for name, each in both]
        name = f"Lower bound on epsilon of {run.name}: {found.one_run.epsilon:.2f}"
        drawn.append((figures.bounds(name, bounds), f"{name}, by how many pairs were guessed."))
    return drawn
