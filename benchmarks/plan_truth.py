"""Plans against real runs: each run is planned, then made, and its parts are set side by side in seconds.

    python benchmarks/plan_truth.py [KEY=VALUE ...]

KEY=VALUE are settings of all runs. HOPTM_DATA_ROOT is the folder of bloodcells.npz and
COVID-19_Radiography_Dataset. Each run has a process of its own and an empty cache of compiled code: a plan takes
compiling for new. Seconds are that process's own (CPU), so that they can be compared on a busy machine; give
OMP_NUM_THREADS=1, or threads count several times.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from hoptm_plugin import Plan, compose, run
from hoptm_plugin.runtime.progress import silent
from hoptm_plugin.settings import RunSettings

HEAD = "| run | experts, s | distillation, s | evaluation, s | in all, s | ratio | memory, MiB | disk, MiB |"
COMMON = ("protocol.repeats=2", "protocol.epochs=60", "distillation.iterations=20", "experts.count=1")
SHORT = ("method.sampler.min_start_epoch=0", "method.sampler.max_start_epoch=1")
DIGITS = ("dataset=digits",)
NARROW = ("network.width=16", "network.depth=3")
DATA = "dataset.root=${oc.env:HOPTM_DATA_ROOT}"
CELLS = ("dataset=npz", f"{DATA}/bloodcells.npz", *NARROW)
XRAYS = ("dataset=covid19cxr", f"{DATA}/COVID-19_Radiography_Dataset",
         "dataset.classes=[COVID,Normal,Viral Pneumonia]", "dataset.preprocess.image_size=32", *NARROW)  # fmt: skip
RUNS: dict[str, Sequence[str]] = {
    "HoP-TM, digits, IPC 1": ("method=hoptm", "ipc=1", *DIGITS, *SHORT),
    "MTT, digits, IPC 10": ("method=mtt", "ipc=10", *DIGITS, *SHORT),
    "DM, digits, IPC 10": ("method=dm", "ipc=10", *DIGITS),
    "IDM, digits, IPC 1": ("method=idm", "ipc=1", *DIGITS),
    "random, digits, IPC 10": ("method=random", "ipc=10", *DIGITS),
    "FTD, blood cells, IPC 1": ("method=ftd", "ipc=1", *CELLS, *SHORT, "method.student_steps=30"),
    "DATM, blood cells, IPC 10": ("method=datm", "ipc=10", *CELLS, "method.student_steps=30",
                                  "method.labels.teacher_epoch=2", "method.initial_images.teacher_epoch=2"),
    "DM, blood cells, IPC 1": ("method=dm", "ipc=1", *CELLS),
    "HoP-TM, X-rays, IPC 1": ("method=hoptm", "ipc=1", *XRAYS, *SHORT, "method.student_steps=30"),
    "herding, X-rays, IPC 10": ("method=herding", "ipc=10", *XRAYS, "method.teacher_epoch=2"),
}  # fmt: skip


def row(name: str, settings: RunSettings, folder: Path) -> str:
    """Return the line of a table: of each part what was planned, and after it what it was."""
    told: list[Plan] = []
    cost = run(settings, folder / "run", silent, told.append).cost
    plan, real = told[0], [cost.experts_s or 0.0, cost.distill_s or 0.0, cost.evaluate_s or 0.0]
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    pairs = [(plan.experts.seconds, real[0]), (plan.distillation.seconds, real[1]),
             (plan.evaluation.seconds, real[2]), (plan.seconds, sum(real))]  # fmt: skip
    cells = [f"{'?' if said is None else f'{said:.1f}'} / {was:.1f}" for said, was in pairs]
    cells.append("?" if plan.seconds is None else f"{plan.seconds / sum(real):.2f}")
    cells += [f"{said / 2**20:.1f} / {(was or 0) / 2**20:.1f}"
              for said, was in ((plan.memory_bytes, cost.peak_memory_bytes), (plan.disk_bytes, disk))]  # fmt: skip
    return f"| {' | '.join([name, *cells])} |"


def alone(name: str, overrides: Sequence[str], place: str) -> str:
    """Return a run's line, in a process that did nothing else."""
    time.perf_counter = time.process_time
    return row(name, compose(*RUNS[name], *COMMON, *overrides, f"experts.root={place}/experts"), Path(place))


def table(names: Iterable[str], overrides: Sequence[str]) -> Iterator[str]:
    """Yield a table in Markdown, line by line."""
    yield HEAD
    yield f"|{' --- |' * HEAD.count(' | ')} --- |"
    for name in names:
        with TemporaryDirectory() as place, TemporaryDirectory() as code:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = code
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                yield pool.submit(alone, name, overrides, place).result()


if __name__ == "__main__":
    for line in table(RUNS, sys.argv[1:]):
        print(line, flush=True)
