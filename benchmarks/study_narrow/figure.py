"""The study in one picture: accuracy of every method on every data set, at both IPC."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from hoptm_plugin.tables.table import ComparisonTable as Comparison

ORDER = ("HoP-TM", "ATT", "DATM", "FTD", "MTT", "IDM", "DM", "Random subset")
LOOKS = {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "study", "axes.spines.top": False,
         "axes.spines.right": False}  # fmt: skip
MARKS = ({"marker": "o", "mfc": "white", "color": "#b35806"}, {"marker": "s", "color": "#1f4e99"})


def numbers(panels: Sequence[tuple[str, Sequence[Comparison]]]) -> list[dict[str, Any]]:
    """Return what the picture shows: percent, by data set, method and IPC; and the upper bounds."""
    return [
        {
            "data": name,
            "methods": {
                row: {str(cell.ipc): [round(100 * cell.mean, 2), round(100 * (cell.std or 0), 2)]
                      for column in one.columns() if (cell := one.cell(row, column)) and cell.mean is not None}
                for one in comparisons for row in ORDER if row in one.rows()
            },
            "all images": [round(100 * bound.cell.mean, 2) for one in comparisons for bound in one.bounds
                           if bound.cell.mean is not None],
        }
        for name, comparisons in panels
    ]  # fmt: skip


def draw(panels: Sequence[tuple[str, Sequence[Comparison]]]) -> str:
    """Return the picture as SVG; its description holds the numbers that it shows."""
    shown = numbers(panels)
    with mpl.rc_context(LOOKS):
        figure = Figure((3.1 * len(shown) + 0.9, 3.2), layout="constrained")
        all_axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for ax, panel in zip(all_axes, shown, strict=True):
            columns = sorted({int(ipc) for values in panel["methods"].values() for ipc in values})
            for shift, ipc, mark in zip((0.12, -0.12), columns, MARKS, strict=False):
                points = [(ORDER[::-1].index(row) + shift, *values[str(ipc)])
                          for row, values in panel["methods"].items() if str(ipc) in values]  # fmt: skip
                places, means, stds = zip(*points, strict=True)
                ax.errorbar(means, places, xerr=stds, ls="", ms=5, lw=1, capsize=2, label=f"IPC {ipc}", **mark)
            for bound in panel["all images"]:
                ax.axvline(bound, color="#555555", ls=":", lw=1, label="all training images")
            ax.set_title(panel["data"], fontsize=10)
            ax.set_xlabel("accuracy in percent")
            ax.grid(axis="x", lw=0.4, alpha=0.5)
            ax.set_yticks(range(len(ORDER)), ORDER[::-1])
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        stream = io.StringIO()
        description = json.dumps(shown, separators=(",", ":"))
        figure.savefig(stream, format="svg", metadata={"Date": None, "Description": description})
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"
