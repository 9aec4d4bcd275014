"""All candidates of a tuning as one figure beside their runs."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from hoptm_plugin.pages.svg import COLOURS, INK, axes, drawn, label, standalone, style
from hoptm_plugin.runs.tuning import Tuned
from hoptm_plugin.storage.files import write_text

FILE_NAME = "candidates.svg"
LONGEST = 90  # of a candidate's name


def write_figure(tuned: Tuned) -> Path:
    """Write ``candidates.svg`` into the tuning's folder: accuracy on the validation split of every candidate."""
    path = tuned.folder / FILE_NAME
    best = tuned.record.chosen
    drawing = _candidates(f"accuracy on the validation split of each candidate; the best is {best}", tuned)
    write_text(path, standalone(drawing))
    return path


@drawn
def _candidates(tuned: Tuned) -> Axes:
    """Draw a line per candidate, a mark with one standard deviation for each number of iterations it was given."""
    candidates = tuned.record.candidates
    ax = axes(320, 30 + 22 * len(candidates))
    for index, (iterations, rows) in enumerate(tuned.table.groupby("iterations")):
        judged = rows[rows["failed"].isna()]
        ax.errorbar(
            100 * judged["accuracy"].astype(float), judged["candidate"], xerr=100 * judged["std"].astype(float),
            **style(index) | {"linestyle": "none"}, ms=6, capsize=2, elinewidth=1, label=f"{iterations} iterations",
        )  # fmt: skip
    for candidate in tuned.table["candidate"][tuned.table["failed"].notna()]:
        ax.text(0.02, candidate, "failed", transform=ax.get_yaxis_transform(), va="center", color=COLOURS[1])
    if tuned.random_subset is not None:
        ax.axvline(100 * tuned.random_subset, color=INK, lw=1, ls=":", label="random subset")
    names = [f"{label(each.settings, LONGEST)}{' (best)' if each.settings == tuned.record.chosen else ''}"
             for each in candidates]  # fmt: skip
    ax.set_yticks(range(len(candidates)), names)
    ax.set_ylim(len(candidates) - 0.5, -0.5)
    ax.set_xlabel("accuracy on the validation split in percent, ± one standard deviation of the networks")
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
    return ax
