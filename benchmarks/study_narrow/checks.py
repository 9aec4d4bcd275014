"""Measures what the study's diagnoses rest on, from whole run folders, which are not committed; writes a JSON file.

    python benchmarks/study_checks.py FOLDER

FOLDER is what ``suite.py --out`` was given, with runs, data and experts still where they were. Of every run: the loss
and the step size over the run, and how the mask opened. Of every store of experts: their accuracy on the validation
split after each epoch. Of HoP-TM without pacing: how large the shape term's gradient is beside the endpoint's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import torch
from study_cards import STUDY
from study_sections import CHECKS, FRACTIONS, PARTS
from suite_file import FULL
from torch import Tensor

from hoptm_plugin.cli.entry import compose
from hoptm_plugin.core.errors import FileFormatError, HopTMError
from hoptm_plugin.core.interfaces import value_at
from hoptm_plugin.core.observations import TrajectoryPair
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.training import predict
from hoptm_plugin.loggers import METRICS
from hoptm_plugin.runs.assembly import Workbench
from hoptm_plugin.runs.folder import CARD, CONFIG, SYNTHETIC, read_config
from hoptm_plugin.runs.settings import RunSettings, validate_settings
from hoptm_plugin.runtime.progress import silent
from hoptm_plugin.storage.files import write_json
from hoptm_plugin.storage.sets import read_set
from hoptm_plugin.trajectory import TrajectoryMatching

Folders: TypeAlias = Sequence[tuple[Path, RunSettings]]
TENTHS, DRAWS, PUBLISHED_DRAWS = 10, 10, 3
UNPACED = "2. shape term"


def runs(folder: Path) -> Iterator[tuple[Path, RunSettings]]:
    """Yield the folders of a suite's finished distillations, with their settings."""
    for path in sorted(folder.glob(f"*/*/{METRICS}")):
        if (path.parent / CARD).exists():
            yield path.parent, validate_settings(read_config(path.parent / CONFIG))


def curve(folder: Path) -> dict[str, Any] | None:
    """Return mean losses and step sizes of the first and the last tenth of a run, and its mask's parts."""
    lines = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if "loss" in line]
    if not lines:
        return None
    tenth = max(1, len(lines) // TENTHS)
    found: dict[str, Any] = {
        name: [fmean(line[name] for line in part) for part in (lines[:tenth], lines[-tenth:])]
        for name in ("loss", "step_size")
        if name in lines[0]
    }
    if "mask_fraction" in lines[0]:
        last = lines[-1]["step"]
        nearest = [min(lines, key=lambda line: abs(line["step"] - part * last)) for part in PARTS]
        found["mask"] = [line["mask_fraction"] for line in nearest]
    return found


def averaged(curves: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of several runs' curves."""
    return {"runs": len(curves)} | {
        name: [round(fmean(values), 6) for values in zip(*(each[name] for each in curves), strict=True)]
        for name in curves[0]
    }


def expert_accuracies(bench: Workbench) -> list[float]:
    """Return the experts' mean accuracy on the validation split after each epoch, from none."""
    trajectories, network = bench.experts(bench.parts.method.last_expert_epoch()), bench.task.network
    module, split = network(torch.Generator()), bench.data.validation
    epochs = trajectories.store.epochs(0)
    accuracies: list[list[float]] = [[] for _ in range(epochs + 1)]
    for expert in range(len(trajectories)):
        for epoch, theta in enumerate(trajectories.segment(expert, 0, epochs)):
            torch.nn.utils.vector_to_parameters(theta, module.parameters())
            right = predict(module, split).argmax(dim=1) == split.labels.cpu()
            accuracies[epoch].append(float(right.float().mean()))
    return [round(fmean(values), 4) for values in accuracies]


def shares(bench: Workbench, stored: SyntheticSet | None, draws: int = DRAWS) -> dict[str, Any]:
    """Return how the gradients of shape term and endpoint compare, on the images at the start and, if any, at the end.

    Of the images' gradients g, weights included: |g_shape| / |g_endpoint| and their cosine; and which part of the
    squared way of the expert, sum_i n_i, lies in the easiest parameters, by their fraction. Means over iterations.
    """
    method = bench.parts.method
    assert isinstance(method, TrajectoryMatching)
    synthetic = method.setup(bench.task)
    found = {}
    for when, images in {"start": None, **({} if stored is None else {"end": stored})}.items():
        if images is not None:
            with torch.no_grad():
                synthetic.images.copy_(images.images)
                if synthetic.step_size is not None and images.step_size is not None:
                    synthetic.step_size.copy_(images.step_size)
        synthetic.images.requires_grad_(True)
        pairs = [method.observe(synthetic, step) for step in range(draws)]
        gradients = [_gradients(method, synthetic, pair) for pair in pairs]
        ratios = [float(shape.norm() / endpoint.norm()) for endpoint, shape in gradients]
        cosines = [float(torch.cosine_similarity(*each, dim=0)) for each in gradients]
        ways = zip(*(_ways(pair.detached()) for pair in pairs), strict=True)
        found[when] = {"ratio": round(fmean(ratios), 6), "cosine": round(fmean(cosines), 4),
                       "way": [round(fmean(way), 6) for way in ways]}  # fmt: skip
    return found


def _ways(pair: TrajectoryPair) -> list[float]:
    """Return the part of sum_i n_i in those parameters whose errors d_i are smallest, by FRACTIONS of them."""
    ordered = pair.squared_distances[pair.squared_errors.argsort()]
    return [float(ordered[: round(part * len(ordered))].sum() / ordered.sum()) for part in FRACTIONS]


def _gradients(method: TrajectoryMatching, synthetic: SyntheticSet, pair: TrajectoryPair) -> tuple[Tensor, Tensor]:
    gradients = []
    for name in ("endpoint", "shape"):
        term = method.matchers[name]
        loss = value_at(term.weight, 0) * term.matcher.loss(pair)
        gradients.append(torch.autograd.grad(loss, synthetic.images, retain_graph=True)[0].flatten())
    return gradients[0], gradients[1]


def published_size(settings: RunSettings) -> dict[str, Any]:
    """Return the shares at the published width and number of student steps, on the data and for the IPC of a run.

    Of the first segment of one expert, since more takes hours on a CPU; experts are stored beside the run's.
    """
    values = compose([
        "method=hoptm", "dataset=npz", f"ipc={settings.ipc}", "method.schedulers.pace=null", "experts.count=1",
        "method.sampler.max_start_epoch=1", "runtime.threads=1",
    ])[0]  # fmt: skip
    values |= {"dataset": settings.dataset}
    values["experts"] |= {"root": str(settings.experts.root)}
    return {"width": values["network"]["width"], "student_steps": values["method"]["student_steps"],
            **shares(Workbench(validate_settings(values), silent), None, PUBLISHED_DRAWS)}  # fmt: skip


def measure(place: Path) -> dict[str, list[dict[str, Any]]]:
    """Return all checks of all suites' runs below ``place``.

    Raises:
        FileFormatError: a suite has none.
    """
    found = {name: list(runs(place / f"{name}-{FULL}")) for name in STUDY}
    if missing := [name for name, folders in found.items() if not folders]:
        raise FileFormatError(
            f"{place}: holds no finished runs of {', '.join(missing)}; name what suite.py --out was given, and run the "
            f"suites before"
        )
    return {
        what: [{"suite": name, **row} for name, folders in found.items() for row in of(folders)]
        for what, of in (("curves", _curves), ("experts", _experts), ("shape", _shapes))
    }


def _curves(found: Folders) -> list[dict[str, Any]]:
    by_row: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for folder, settings in found:
        if (line := curve(folder)) is not None:
            by_row.setdefault((settings.method_title, settings.ipc), []).append(line)
    return [{"title": title, "ipc": ipc, **averaged(lines)} for (title, ipc), lines in sorted(by_row.items())]


def _experts(found: Folders) -> list[dict[str, Any]]:
    reading = {settings.experts.training.algorithm: settings for _, settings in found
               if settings.method["name"] == "trajectory_matching"}  # fmt: skip
    return [{"experts": algorithm, "accuracy": expert_accuracies(Workbench(settings, silent))}
            for algorithm, settings in sorted(reading.items())]  # fmt: skip


def _shapes(found: Folders) -> list[dict[str, Any]]:
    rows = []
    for folder, settings in found:
        if settings.method_title == UNPACED and settings.seed == 0:
            share = shares(Workbench(settings, silent), read_set(folder / SYNTHETIC))
            rows.append({"ipc": settings.ipc, "width": settings.network["width"],
                         "student_steps": settings.method["student_steps"], **share})  # fmt: skip
            if settings.dataset["name"] == "npz":
                rows.append({"ipc": settings.ipc, **published_size(settings)})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the file; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        write_json(CHECKS, measure(options.folder))
    except HopTMError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(CHECKS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
