"""What a tuning found, on a terminal or in plain text, and drawn beside its runs."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from hoptm_plugin.cards.words import percent
from hoptm_plugin.cli.console import output_console, text_of
from hoptm_plugin.pages.tuned import FILE_NAME as FIGURE
from hoptm_plugin.pages.tuned import write_figure
from hoptm_plugin.runs.tuning import BEST, TABLE, Tuned


def print_tuned(tuned: Tuned) -> None:
    """Print all candidates, the best in bold, whether that is sure, and the command that runs it; draw them."""
    write_figure(tuned)
    console, record = output_console(), tuned.record
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("candidate", "iterations", "accuracy", ""):
        table.add_column(name, justify="right" if name in ("iterations", "accuracy") else "left")
    last = tuned.table.drop_duplicates("candidate", keep="last")
    for row in last.sort_values("accuracy", ascending=False, kind="stable", na_position="last").to_dict("records"):
        settings = record.candidates[row["candidate"]].settings
        failed, chosen = row["failed"] if isinstance(row["failed"], str) else "", settings == record.chosen
        accuracy = Text("failed") if failed else Text(percent(row["accuracy"], row["std"]))
        aside = failed or ("the best" if chosen else "")
        table.add_row(text_of(settings), str(row["iterations"]), accuracy, text_of(aside),
                      style="bold" if chosen else "")  # fmt: skip
    networks = f"{record.networks} network{'s' if record.networks > 1 else ''}"
    console.print(text_of(f"accuracy on the validation split in percent, {networks} each, seed {record.seed}: for "
                          f"choosing settings, not a result", "bold"), soft_wrap=True)  # fmt: skip
    console.print(table)
    lines = [f"best: {record.chosen}", f"{tuned.sure}."]
    if tuned.random_subset is not None:
        lines.append(f"a random subset of real images gives {percent(tuned.random_subset)}")
    lines.append(f"folder: {tuned.folder}, with {TABLE}, {FIGURE}{'' if tuned.command is None else f', {BEST}'}")
    for line in lines:
        console.print(text_of(line), soft_wrap=True)
    if tuned.command is not None:
        console.print(text_of(f"run it with: {tuned.command}", "bold"), soft_wrap=True)
