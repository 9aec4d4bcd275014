"""What share of a device's peak the figures of ``run.py`` are: one table of several JSON files.

    python benchmarks/speed/roofline.py FILE.json ...

The work is counted, not measured: operations of one image's way forward through the network, times the passes that the
formulas need. A student step is 11 of them, with its share of the adjoint: 3 for the gradient, 8 for its derivatives. A
training step is 3, of GSAM twice as many.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hoptm_plugin.networks import ConvNet

STEP, TRAINING = 11, 3
# dense peaks in TFLOP/s of float32, TF32 and bf16; of other devices none is claimed
PEAKS = {"H100": (67, 495, 989), "H200": (67, 495, 989)}
COLUMNS = ("suite", "case", "variant", "figure", "images/s", "TFLOP/s", "of the peak", "kernels", "launches", "waits")


def forward_operations(setting: dict[str, Any]) -> int:
    """Return the operations of one image's way forward through the network of a setting."""
    with torch.device("meta"):
        network = ConvNet(setting["depth"], setting["width"]).build(
            (3, setting["side"], setting["side"]), setting["classes"]
        )
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, setting["side"], setting["side"]))
    return int(counter.get_total_flops())


def passes(result: dict[str, Any]) -> tuple[float, float] | None:
    """Return the images a second that are computed on, and passes forward of each; None: no such figure."""
    setting, figures = result["setting"], {name: each["median"] for name, each in result["summary"].items()}
    kind = "iteration" if "steps" in setting and "seconds" in figures else "training"
    if kind == "iteration":
        return setting["steps"] * setting["batch"] / figures["seconds"], STEP
    if "images_per_s" in figures or "epochs_per_s" in figures:
        seen = figures.get("images_per_s", setting["images"] * figures.get("epochs_per_s", 0.0))
        return seen, TRAINING * (2 if setting.get("algorithm") == "gsam" else 1)
    return None


def rows(content: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the lines of one file."""
    gpu, found = content["machine"]["gpu"] or "", []
    peaks = next((value for name, value in PEAKS.items() if name in gpu), None)
    for result in content["results"]:
        setting, counts = result["setting"], {name: each["median"] for name, each in result["summary"].items()}
        cells, work = ["-"] * 4, passes(result)
        if work is not None:
            images, each = work
            rate = images * each * forward_operations(setting) / 1e12
            at = {"float32": 0, "tf32": 1, "bf16": 2}[setting["precision"]]
            share = f"{100 * rate / peaks[at]:.1f} %" if peaks else "-"
            figure = f"{1000 * counts['seconds']:.3g} ms" if "seconds" in counts else "-"
            cells = [figure, f"{images:,.0f}", f"{rate:.3g}", share]
        counted = [f"{counts[name]:,.0f}" if name in counts else "-" for name in ("kernels", "launches", "waits")]
        title = (result["suite"], result["case"], result["variant"] + (" (failed)" if result["failed"] else ""))
        found.append((*title, *cells, *counted))
    return found


def main(files: Sequence[str]) -> int:
    """Print the table of all files that are there; return the exit code."""
    if not files:
        print(__doc__)
        return 2
    table, devices = [COLUMNS, ("---",) * len(COLUMNS)], dict[str, None]()
    for file in map(Path, files):
        if not file.exists():
            print(f"error: {file.name} is not there: it was not measured to its end", file=sys.stderr)
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        machine = content["machine"]
        devices[machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"] = None
        table += rows(content)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print(f"{', '.join(devices) or 'nothing measured'}\n")
    for row in table:
        print(f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |")
    return 0 if len(table) > 2 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
