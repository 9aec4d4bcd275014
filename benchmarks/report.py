"""Size and time of ``hoptm-bench report`` over many runs.

Makes run folders that look like real ones, in a temporary folder: cards of ten classes and five networks with confusion
matrices and calibration, 1000 lines of metrics, configuration, and pictures of 32x32 RGB images, noise, which is the
worst case for PNG. Then calls the command in a process of its own and prints seconds, megabytes and the limits.

    python benchmarks/report.py [--runs 100] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from hoptm_plugin.cards.card import Card, write_card
from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.cards.software import software_versions
from hoptm_plugin.engine.metrics import classification_metrics
from hoptm_plugin.runs.folder import RunFolder
from hoptm_plugin.runs.grid import write_grid
from hoptm_plugin.storage.files import write_text

METHODS = {"hoptm": "HoP-TM", "mtt": "MTT", "ftd": "FTD", "att": "ATT", "datm": "DATM"}
CLASSES, NETWORKS, TEST, LINES = 10, 5, 1000, 1000
PROGRAM = (sys.executable, "-m", "hoptm_plugin.cli")
LIMITS = "limits: 30 s, 20 MB"


def evaluation(generator: torch.Generator, skill: float) -> Evaluation:
    """Networks that are right about as often as ``skill`` says."""
    rows = []
    for _ in range(NETWORKS):
        targets = torch.arange(TEST) % CLASSES
        scores = torch.randn(TEST, CLASSES, generator=generator)
        scores[torch.arange(TEST), targets] += skill
        rows.append(classification_metrics(targets, scores.softmax(dim=1)))
    return Evaluation.from_metrics("convnet", rows)


def card(method: str, ipc: int, seed: int, generator: torch.Generator) -> Card:
    """A card with every field that a page shows."""
    return Card.model_validate({
        "schema": 1, "method": method, "title": METHODS[method], "ipc": ipc, "seed": seed, "selection": "last",
        "dataset": {"name": "synthetic", "fingerprint": "f" * 64, "classes": [f"class {n}" for n in range(CLASSES)],
                    "train": 50000, "validation": 0, "test": TEST},
        "protocol": {"epochs": 1000, "repeats": NETWORKS}, "software": software_versions(), "config_sha256": "0" * 64,
        "evaluations": [evaluation(generator, 2.0 + math.log10(ipc))],
        "random_subset": [evaluation(generator, 1.0)], "artefacts": {},
        "cost": {"experts_s": 100.0, "distill_s": 1000.0 + 10 * seed, "evaluate_s": 60.0, "device": "CPU",
                 "seconds_per_iteration": 0.1, "peak_memory_bytes": 2**30},
    })  # fmt: skip


def metrics(generator: torch.Generator) -> str:
    """What a long distillation logs."""
    noise = torch.rand(LINES, 3, generator=generator).tolist()
    rows = [
        {"step": 10 * line, "loss": 0.5 + 0.1 * a, "endpoint": 0.4 + 0.1 * b, "shape": 0.01 * c,
         "kappa": 1e-7 * 1.5 ** (line // 100), "mask_fraction": 1 - math.exp(-line / 300), "regulariser": -1e-4 * line,
         "step_size": 0.02 + 1e-5 * line}
        for line, (a, b, c) in enumerate(noise)
    ]  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in rows)


def configuration(method: str) -> dict[str, Any]:
    """The composed settings of a method, as a run stores them."""
    done = subprocess.run([*PROGRAM, "run", "--cfg", "job", f"method={method}"], check=True, capture_output=True)
    return yaml.safe_load(done.stdout)


def make(folder: Path, runs: int) -> None:
    """Write ``runs`` run folders: methods, then IPC 1 and 10, then seeds."""
    composed = {method: configuration(method) for method in METHODS}
    settings = {(method, ipc): values | {"ipc": ipc} for method, values in composed.items() for ipc in (1, 10)}
    for number in range(runs):
        method, ipc = list(settings)[number % len(settings)]
        seed, generator = number // len(settings), torch.Generator().manual_seed(number)
        run = RunFolder(folder / f"{number:03}-{method}-ipc{ipc}-seed{seed}")
        run.begin(settings[method, ipc] | {"seed": seed})
        write_card(card(method, ipc, seed, generator), run / "result.json")
        write_text(run / "metrics.jsonl", metrics(generator))
        for name in ("initial.png", "synthetic.png"):
            write_grid(torch.rand(CLASSES * ipc, 3, 32, 32, generator=generator), run / name, ipc)


def main() -> None:
    """Make the folders, call the command, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="make the run folders here, and leave them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        make(folder, options.runs)
        page = folder / "report.html"
        began = time.perf_counter()
        subprocess.run([*PROGRAM, "report", str(folder), "-o", str(page)], check=True)
        seconds = time.perf_counter() - began
        print(f"{options.runs} runs: {seconds:.1f} s, {page.stat().st_size / 1e6:.2f} MB ({LIMITS})")


if __name__ == "__main__":
    main()
