"""What an audit found, on a terminal or in plain text."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.table import Table

from hoptm_plugin.cards.audit import FILE_NAME, AuditCard, Closeness
from hoptm_plugin.cli.console import output_console, text_of

COLUMNS = ("images", "measured in", "nearer to training", "by chance", "p", "ratio", "authenticity")


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
        console.print(text_of(
            f"identity: {mine.first} of {mine.images} point to the image they began from (by chance "
            f"{mine.expected_first:.1f}, p = {mine.p:.2g}), mean rank {mine.mean_rank:.3f} of 1; correlation "
            f"{mine.correlation:.2f} (others of the class {mine.correlation_of_others:.2f}), SSIM {mine.ssim:.2f}"
        ), soft_wrap=True)  # fmt: skip
    for control in found.controls:
        said = f"control: {control.name} must {control.must}: {'ok' if control.passed else 'FAILED'}"
        console.print(text_of(f"{said} ({control.measured})"), soft_wrap=True)
    verdict, *rest = found.sentences()
    console.print(text_of(verdict, "bold" if found.verdict == "none_found" else "bold red"), soft_wrap=True)
    for line in (*rest, f"audit: {folder / FILE_NAME} ({found.seconds:.0f} s)"):
        console.print(text_of(line), soft_wrap=True)


def _cells(each: Closeness) -> list[str]:
    share, expected = (f"{100 * value:.0f} %" for value in (each.share, each.expected))
    return [share, expected, f"{each.p:.2g}", f"{each.ratio:.2f}", f"{each.authenticity:.2f}"]
