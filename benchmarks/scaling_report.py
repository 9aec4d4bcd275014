"""The page of ``scaling.py``: the fitted model, its errors, and predictions; every number from points or settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from estimate import FLOAT_BYTES
from page import table
from scaling_model import (
    FRESH,
    OVERHEAD,
    PER_PASS,
    STAGES,
    Model,
    Terms,
    left_out,
    memory,
    passes,
    size_of,
    spread,
    times,
    work,
)
from scaling_points import Point, Stage
from scaling_targets import targets
from scaling_text import ASSUMED, FITTED, HEAD, LIMITS, MEMORY, OUTSIDE, SCALES, STORAGE

from hoptm_plugin.runtime.compute import KEEP_UP_TO

Records: TypeAlias = Sequence[tuple[Point, Mapping[str, Any]]]
Models: TypeAlias = dict[str, Model]
EARLIER = tuple(Path(__file__).parent / "speed" / "results" / f"{name}.json" for name in ("cpu-iteration", "cpu-large"))
# float32 operations a second that a data-centre GPU may sustain, TF32 off: assumed, not measured
SUSTAINED = (5e12, 30e12)
GPUS, SEEDS, HOUR, GIB = (1, 8, 64), 5, 3600, 2**30
UNITS: dict[str, tuple[float, str]] = {
    "operation": (1e12, "ps"), **dict.fromkeys(("activation", FRESH, "parameter", "learned value"), (1e9, "ns")),
    **dict.fromkeys(OVERHEAD, (1e3, "ms")),
}  # fmt: skip


def number(value: float) -> str:
    """Return a value with two digits or all before the point."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.2g}"


def percent(value: float) -> str:
    """Return a fraction as a percentage."""
    return f"{100 * value:.0f} %"


def described(point: Point) -> str:
    """Return a point in words."""
    what = f"D{point.depth} width {point.width}, {point.side}x{point.side}, {point.images} images, batch {point.batch}"
    own = {"experts": point.algorithm.upper(), "distillation": f"N={point.steps}", "evaluation": ""}[point.stage]
    return f"{what}, {own}" if own else what


def of_stage(records: Records, stage: Stage, key: str, held_out: bool | None = None) -> list[tuple[Point, float]]:
    """Return the points of a stage with a figure: the least of the seconds, or the bytes at the peak."""
    figure: dict[str, Callable[[Mapping[str, Any]], float]] = {
        "seconds": lambda record: min(record["seconds"]),
        "bytes": lambda record: record["extra_mib"] * 2**20,
    }
    return [
        (point, figure[key](record))
        for point, record in records
        if point.stage == stage and held_out in (None, point.held_out)
    ]


def saved_share(records: Records, stage: Stage) -> float:
    """Return the bytes that a step saves per byte of its activations: the median over the points of a stage."""
    return median(
        record["step_mib"] * 2**20 / (min(point.batch, point.images) * size_of(point).activations * FLOAT_BYTES)
        for point, record in records
        if point.stage == stage
    )


def coefficients(models: Models) -> str:
    """Return the table of the models' coefficients."""
    rows = []
    for stage, model in models.items():
        for name, value in model.coefficients.items():
            factor, unit = UNITS[name]
            shown = f"{value * factor:.3g} {unit} per {name}"
            if name == "operation" and value:
                shown += f" ({1 / value / 1e9:.3g} GFLOP/s)"
            rows.append([stage, name, shown if value else "0"])
    return table(["stage", "term", "fitted"], rows, words=3)


def errors(records: Records, key: str, terms: Mapping[str, Terms]) -> str:
    """Return the table of errors: of the fit to all points, of each left out, of those held out."""
    rows = []
    for stage in STAGES:
        every, small, large = (of_stage(records, stage, key, kind) for kind in (None, False, True))
        own = terms[stage]
        found = [Model.fit(every, own).errors(every), left_out(every, own), Model.fit(small, own).errors(large)]
        rows.append([stage, str(len(every)), *(percent(value) for each in found for value in spread(each)),
                     str(len(large))])  # fmt: skip
    headings = ["stage", "points", "fit: median", "worst", "left out: median", "worst", "held out: median", "worst",
                "held out points"]  # fmt: skip
    return table(headings, rows)


def held_out(records: Records, terms: Mapping[str, Terms]) -> str:
    """Return the table of the held-out points."""
    rows = []
    for stage in STAGES:
        small, large = (of_stage(records, stage, "seconds", kind) for kind in (False, True))
        model = Model.fit(small, terms[stage])
        most = max(passes(point) * size_of(point).operations for point, _ in small)
        for point, seconds in large:
            factor = passes(point) * size_of(point).operations / most
            rows.append([stage, described(point), f"{factor:.1f}x", f"{seconds:.3g}", f"{model.predict(point):.3g}",
                         f"{100 * (model.predict(point) / seconds - 1):+.0f} %"])  # fmt: skip
    return table(["stage", "point", "operations / largest fitted", "measured s", "predicted s", "error"], rows, words=2)


def earlier(model: Model, threads: int) -> str:
    """Return the table of iterations measured before, by ``speed/run.py``, with other numbers of threads."""
    rows = []
    for path in EARLIER:
        content = json.loads(path.read_text(encoding="utf-8"))
        for record in content["results"]:
            if record["variant"] != "adjoint":
                continue
            job, summary = record["setting"], record["summary"]
            sizes = (job[key] for key in ("depth", "width", "side", "classes", "images", "batch"))
            point = Point("distillation", *sizes, steps=job["steps"], iterations=1)
            seconds = summary.get("seconds", summary["first_seconds"])["median"]
            predicted = model.predict(point)
            rows.append([record["case"], str(point.steps), f"{seconds:.3g} ({content['machine']['threads']} threads)",
                         f"{predicted:.3g} ({threads})", f"{predicted / seconds:.2f}"])  # fmt: skip
    return table(["iteration", "N", "measured s", "predicted s (threads)", "ratio"], rows)


def settings_table() -> str:
    """Return what is predicted."""
    rows = []
    for target in targets():
        expert, distilled, judged = (target.point(stage) for stage in STAGES)
        size = size_of(expert)
        network = f"D{expert.depth} width {expert.width}, {expert.side}x{expert.side}"
        rows.append([
            target.name, network, f"{size.parameters:,}", f"{size.operations / 1e6:,.0f}",
            f"{target.experts} x {expert.epochs} x {expert.images:,} ({expert.algorithm.upper()})",
            f"{distilled.iterations:,} x {distilled.steps} x {min(distilled.batch, distilled.images)}",
            f"{target.networks} x {judged.epochs:,} x {judged.images:,}",
        ])  # fmt: skip
    return table(["setting", "ConvNet", "P", "MFLOP forward", "experts x epochs x images",
                  "iterations x N x student batch", "networks x epochs x images"], rows, words=2)  # fmt: skip


def core_table(models: Models) -> str:
    """Return the times of the stages on what was measured on."""
    rows = []
    for target in targets():
        found = times(target, models)
        rows.append([target.name, *(number(each / HOUR) for each in (
            found.expert, found.distillation, found.network, found.wall(1)))])  # fmt: skip
    headings = ["setting", "one expert, h", "one distillation, h", "one network judged, h", "one run, all in turn, h"]
    return table(headings, rows)


def span(values: Sequence[float]) -> str:
    """Return the least and the largest of some values."""
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def gpu_table(models: Models, speedups: Sequence[float]) -> str:
    """Return wall times by number of GPUs, from the larger speed-up to the smaller."""
    rows = []
    for target in targets():
        found = [times(target, models, speedup) for speedup in speedups]
        for gpus in GPUS:
            parts = [
                [-(-each.experts // gpus) * each.expert for each in found],
                [each.distillation for each in found],
                [-(-each.networks // gpus) * each.network for each in found],
                [each.wall(gpus) for each in found],
                [each.wall(gpus, SEEDS) for each in found],
            ]  # fmt: skip
            rows.append([target.name, str(gpus), *(span([value / HOUR for value in part]) for part in parts)])
    headings = ["setting", "GPUs", "experts, h", "distillation, h", "evaluation, h", "one run, h", f"{SEEDS} seeds, h"]
    return table(headings, rows)


def storage_table() -> str:
    """Return what lies on the disk."""
    rows = [
        [target.name, f"{target.expert_bytes / 1e9:.3g}", f"{target.set_bytes / 1e6:,.0f}",
         f"{2 * target.set_bytes / 1e6:,.0f}", f"{(target.expert_bytes + 3 * SEEDS * target.set_bytes) / 1e9:.3g}"]
        for target in targets()
    ]  # fmt: skip
    return table(["setting", "experts, GB", "synthetic set, MB", "checkpoint, MB", f"{SEEDS} seeds, GB"], rows)


def memory_table(models: Models) -> str:
    """Return what lies in memory."""
    rows = []
    for target in targets():
        path = memory(target.point("distillation"))["parameter vectors"]
        found = [models[stage].predict(target.point(stage)) for stage in STAGES]
        data = target.data_bytes()
        rows.append([target.name, "float32" if target.resized else "uint8", f"{data / GIB:.3g}", f"{path / GIB:.2g}",
                     *(f"{each / GIB:.2g}" for each in found), f"{(data + max(found)) / GIB:.3g}"])  # fmt: skip
    return table(["setting", "data as", "data, GiB", "path, segment, GiB", *(f"{stage}, GiB" for stage in STAGES),
                  "data and largest stage, GiB"], rows, words=2)  # fmt: skip


def outside(records: Records) -> str:
    """Return how many times the predicted settings exceed the largest measured ones; at most 1 is inside."""
    whats: dict[str, Callable[[Point], float]] = {
        "operations of a step": lambda point: size_of(point).operations * min(point.batch, point.images),
        "P": lambda point: size_of(point).parameters,
        "steps": lambda point: sum(value for name, value in work(point).items() if name in OVERHEAD),
        "images": lambda point: point.images,
        "operations in all": lambda point: work(point)["operation"],
    }
    rows = []
    for stage in STAGES:
        points = [point for point, _ in of_stage(records, stage, "seconds")]
        largest = {name: max(map(what, points)) for name, what in whats.items()}
        for target in targets():
            ratios = [what(target.point(stage)) / largest[name] for name, what in whats.items()]
            rows.append([stage, target.name, *(number(ratio) for ratio in ratios)])
    return table(["stage", "setting", *whats], rows, words=2)


def reference(models: Models) -> float:
    """Return the operations a second that training the first setting's network sustains here, overhead aside."""
    amounts, model = work(targets()[0].point("evaluation")), models["evaluation"]
    spent = sum(amount * model.coefficients[name] for name, amount in amounts.items() if name not in OVERHEAD)
    return amounts["operation"] / spent


def report(content: Mapping[str, Any], records: Records, given: Sequence[float] | None = None) -> str:
    """Return the page.

    Args:
        content: the file of points: machine and repeats.
        records: the points.
        given: lowest and highest speed-up of a GPU; None takes those of ``SUSTAINED``.
    """
    saved = {stage: saved_share(records, stage) for stage in STAGES}
    seconds, held = {stage: partial(work, saved=saved[stage]) for stage in STAGES}, dict.fromkeys(STAGES, memory)
    models = {stage: Model.fit(of_stage(records, stage, "seconds"), seconds[stage]) for stage in STAGES}
    peaks = {stage: Model.fit(of_stage(records, stage, "bytes"), memory) for stage in STAGES}
    here, machine = reference(models), content["machine"]
    low, high = sorted(given or [each / here for each in SUSTAINED])
    imagenet = targets()[2]
    values = {
        "machine": f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores; torch "
                   f"{machine['software']['torch']}, commit {machine['software']['commit']}",
        "points": len(records), "repeats": content["repeats"]["most"], "enough": content["repeats"]["until_seconds"],
        "rounds": content["repeats"]["rounds"],
        "per_pass": PER_PASS, "coefficients": coefficients(models), "held_out": held_out(records, seconds),
        "errors": errors(records, "seconds", seconds),
        "earlier": earlier(models["distillation"], machine["threads"]),
        "memory_errors": errors(records, "bytes", held), "settings": settings_table(),
        "core": core_table(models), "here": f"{here / 1e9:.3g}", "low": number(low), "high": number(high),
        "low_rate": f"{low * here / 1e12:.3g}", "high_rate": f"{high * here / 1e12:.3g}",
        "gpus": gpu_table(models, (low, high)), "storage": storage_table(), "memory": memory_table(peaks),
        "outside": outside(records), "seeds": SEEDS, "experts": imagenet.experts,
        "uint8": f"{imagenet.data_bytes(False) / GIB:.3g}", "float32": f"{imagenet.data_bytes(True) / GIB:.3g}",
        "host": f"{2 * imagenet.data_bytes(False) / GIB:.3g}", "train": f"{imagenet.size.train:,}",
        "keep": f"{KEEP_UP_TO / 2**20:.0f}", "saved": ", ".join(f"{value:.2f}" for value in saved.values()),
        "side": imagenet.size.image[1],
    }  # fmt: skip
    parts = (HEAD, FITTED, MEMORY, ASSUMED, SCALES, STORAGE, OUTSIDE, LIMITS)
    return "\n".join(part.format(**values) for part in parts)
