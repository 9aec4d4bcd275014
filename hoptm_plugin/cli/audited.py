"""What an audit found, on a terminal or in plain text."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from hoptm_plugin.cards.audit import FILE_NAME, AuditCard, Closeness, Membership
from hoptm_plugin.cards.words import percent
from hoptm_plugin.cli.console import output_console, text_of
from hoptm_plugin.core.errors import ConfigurationError, StorageError, UserError
from hoptm_plugin.pages.audits import VERDICTS, write_picture
from hoptm_plugin.tables.audits import audited
from hoptm_plugin.tables.compare import Comparison, refuse_card

COLUMNS = ("images", "measured in", "nearer to training", "by chance", "p", "ratio", "authenticity")
COMPARED = ("method", "data set", "IPC", "accuracy, %", "tier", "verdict", "point to origins", "AUC", "told at 1 %")


def print_audit(found: AuditCard, folder: Path) -> None:
    """Print what was measured, the controls, and what it means."""
    console = output_console()
    table = Table(box=box.SIMPLE_HEAD)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in COLUMNS[:2] else "right")
    for what, spaces in (("synthetic", found.synthetic), ("real, put aside", found.real)):
        for name, each in (("pixels", spaces.pixels), ("features", spaces.features)):
            if each is not None:
                table.add_row(what, name, *_cells(each))
    units = f"{found.members:,} training images, {found.holdout:,} put aside, {found.reserve:,} in reserve"
    console.print(text_of(f"{found.title} on {found.dataset}, IPC {found.ipc}: {units}", "bold"), soft_wrap=True)
    console.print(table)
    if (mine := found.identity) is not None:
        others = f"; {mine.untested} others began otherwise, and were not tested" if mine.untested else ""
        console.print(text_of(
            f"identity: {mine.first} of {mine.images} point to the image they began from (by chance "
            f"{mine.expected_first:.1f}, p = {mine.p:.2g}), mean rank {mine.mean_rank:.3f} of 1; correlation "
            f"{mine.correlation:.2f} (others of the class {mine.correlation_of_others:.2f}), SSIM {mine.ssim:.2f}"
            f"{others}"
        ), soft_wrap=True)  # fmt: skip
    if found.membership is not None:
        _print_membership(found.membership, console)
    if (bound := found.one_run) is not None:
        console.print(text_of(f"one run: epsilon above {bound.epsilon:.2f}; this attempt cannot show more than "
                              f"{bound.ceiling:.2f} ({bound.nearest.pairs:,} pairs)"), soft_wrap=True)  # fmt: skip
    for control in found.controls:
        said = f"check of the audit, not of the set: {control.name} must {control.must}: "
        said += "as it must" if control.passed else "FAILED"
        console.print(text_of(f"{said} ({control.measured})"), soft_wrap=True)
    verdict, *rest = found.sentences()
    console.print(text_of(verdict, "bold" if found.verdict == "none_found" else "bold red"), soft_wrap=True)
    for line in (*rest, f"audit: {folder / FILE_NAME} ({found.seconds:.0f} s)"):
        console.print(text_of(line), soft_wrap=True)


def show_audits(comparison: Comparison, picture: Path) -> None:
    """Print what audits of a comparison's runs measured, and draw privacy against accuracy.

    Raises:
        UserError: no run was audited, or the picture cannot be written.
    """
    if picture.suffix.lower() != ".svg":
        raise ConfigurationError(f"--audit {picture}: name a file that ends in .svg")
    found = audited(comparison)
    refuse_card(picture, comparison.cards)
    table = Table(box=box.SIMPLE_HEAD)
    for name in COMPARED:
        left = name in ("method", "data set", "tier", "verdict")
        table.add_column(name, justify="left" if left else "right")
    for each in found:
        mine, auc, told = each.audit.identity, "-", "-"
        if each.auc is not None and each.audit.membership is not None:
            auc = f"{each.auc[0]:.3f} [{each.auc[1][0]:.3f}, {each.auc[1][1]:.3f}]"
            told = "-" if each.audit.membership.told is None else f"{100 * each.audit.membership.told[1].tpr:.1f} %"
        pointing = "-" if mine is None else f"{mine.first} of {mine.images}"
        texts = (each.row, each.card.dataset.name, str(each.card.ipc), percent(*each.accuracy), each.audit.tier,
                 VERDICTS[each.audit.verdict], pointing, auc, told)  # fmt: skip
        table.add_row(*map(text_of, texts))
    console = output_console()
    console.print(text_of("what sets give away, by audits; AUC of membership inference, 0.5 is guessing", "bold"),
                  soft_wrap=True)  # fmt: skip
    console.print(table)
    try:
        write_picture(found, picture)
    except StorageError as error:
        raise UserError(f"{picture}: {error.reason}; name another file") from None
    console.print(text_of(f"privacy against accuracy: {picture}"), soft_wrap=True)


def _print_membership(found: Membership, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("members told by", "AUC", "p", "false positives", "told", "p", "exposed ones told"):
        table.add_column(name, justify="left" if name == "members told by" else "right")
    rows = list(found.signals.items())
    if found.canaries is not None:
        rows += [(f"{name}, of a wrong class", each) for name, each in found.canaries.signals.items()]
    for name, each in rows:
        low, high = each.auc_ci95
        first = [name, f"{each.auc:.3f} [{low:.3f}, {high:.3f}]", f"{each.p:.2g}"]
        exposed = "-" if each.exposed_found is None else f"{100 * each.exposed_found:.1f} %"
        for rate in each.rates:
            low, high = (100 * value for value in rate.ci95)
            told = f"{100 * rate.tpr:.2f} % [{low:.2f}, {high:.2f}]"
            table.add_row(*first, f"{100 * rate.fpr:g} %", told, f"{rate.p:.2g}", exposed if rate.fpr == 0.01 else "")
            first = ["", "", ""]
        if not each.rates:
            table.add_row(*first, "-", "-", "-", exposed)
    wrong = "" if found.canaries is None else f" and {found.canaries.images} given a wrong class"
    console.print(text_of(f"{found.shadows} shadow distillations, {found.networks} networks each, {found.images:,} "
                          f"images{wrong} divided; 95 % intervals"), soft_wrap=True)  # fmt: skip
    console.print(table)


def _cells(each: Closeness) -> list[str]:
    share, expected = (f"{100 * value:.0f} %" for value in (each.share, each.expected))
    return [share, expected, f"{each.p:.2g}", f"{each.ratio:.2f}", f"{each.authenticity:.2f}"]
