"""What experts, distillation and evaluation cost as functions of their sizes, and what large settings would cost.

    python benchmarks/scaling.py measure [--threads 1] [--rounds 1] [--output FILE.json]
    python benchmarks/scaling.py report [--speedup LOW HIGH] [--results FILE.json] [--output FILE.md]

The first runs a grid of small points (``scaling_points.py``), minutes on one core; the second fits the cost model
(``scaling_model.py``) to what was measured and writes ``scaling.md``: the same file from the same points.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch, as hoptm-bench does

from scaling_points import ENOUGH_SECONDS, REPEATS, ROUNDS, Point, grid, measure_all
from scaling_report import SUSTAINED, report

from hoptm_plugin.cards.software import software_versions
from hoptm_plugin.storage.files import write_json, write_text

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "scaling.json", HERE / "scaling.md"


def machine(threads: int) -> dict[str, Any]:
    """Return what the points are measured on; no name of a host, no path."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"device": "cpu", "cpu": (models or [platform.machine()])[0], "cores": os.cpu_count(), "threads": threads,
            "software": software_versions()}  # fmt: skip


def measure(points: Sequence[Point], threads: int, rounds: int, output: Path) -> None:
    """Measure all points and write them."""
    repeats = {"rounds": rounds, "most": REPEATS, "until_seconds": ENOUGH_SECONDS}
    content = {"machine": machine(threads), "repeats": repeats}
    write_json(output, {**content, "points": measure_all(points, threads, rounds)})


def read(path: Path) -> tuple[dict[str, Any], list[tuple[Point, dict[str, Any]]]]:
    """Return what was measured on, and the points with their figures."""
    content = json.loads(path.read_text(encoding="utf-8"))
    names = [field.name for field in fields(Point)]
    made = [
        (Point(**{key: record[key] for key in names if key in record}), record)
        for record in content["points"]
    ]  # fmt: skip
    return content, made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="run the grid")
    measuring.add_argument("--threads", type=int, default=1, help="of the CPU")
    measuring.add_argument("--rounds", type=int, default=ROUNDS, help="over all points")
    measuring.add_argument("--output", type=Path, default=RESULTS, metavar="FILE.json")
    reporting = commands.add_parser("report", help="fit the model and write the page")
    reporting.add_argument("--results", type=Path, default=RESULTS, metavar="FILE.json")
    reporting.add_argument("--output", type=Path, default=PAGE, metavar="FILE.md")
    low, high = (round(each / 1e12) for each in SUSTAINED)
    reporting.add_argument(
        "--speedup", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help=f"of a GPU to what was measured on; by default what {low} and {high} TFLOP/s would be",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.command == "measure":
        measure(grid(), options.threads, options.rounds, options.output)
    else:
        write_text(options.output, report(*read(options.results), options.speedup))
    return 0


if __name__ == "__main__":
    sys.exit(main())
