"""A whole run: experts, distillation, evaluation, card."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from hoptm_plugin.cards.card import Card, DistilledFrom, make_card, peak_memory_bytes, write_card
from hoptm_plugin.cards.record import LONGEST_LINE
from hoptm_plugin.core.asking import Asking, alone
from hoptm_plugin.core.dataset import ImageData, Split
from hoptm_plugin.core.errors import DivergedError
from hoptm_plugin.core.interfaces import ImagesAre, Method
from hoptm_plugin.core.loggers import RunLogger
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.core.text import one_line, pasted
from hoptm_plugin.engine.checkpoint import iterations_done
from hoptm_plugin.engine.distil import CHECKPOINT, Distilled, Distiller, Score, Selected
from hoptm_plugin.engine.evaluation import Evaluator, real_subset
from hoptm_plugin.exchange.origin import images_are, not_said
from hoptm_plugin.loggers import GuardedLoggers
from hoptm_plugin.runs.assembly import Workbench, device_name, network_label, workbench
from hoptm_plugin.runs.finished import FILE_NAME as EVALUATIONS
from hoptm_plugin.runs.finished import KeptNetworks
from hoptm_plugin.runs.folder import RunFolder, as_settings
from hoptm_plugin.runs.grid import write_grid
from hoptm_plugin.runs.planning import Plan, planned
from hoptm_plugin.runs.shared import SharedEvaluations
from hoptm_plugin.runtime.bars import usual_progress
from hoptm_plugin.runtime.progress import ProgressFactory, silent
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.files import as_path, write_json
from hoptm_plugin.storage.paths import without_paths
from hoptm_plugin.storage.run_files import (
    AVERAGE,
    CARD,
    CONFIG,
    GRID,
    INITIAL_GRID,
    METRICS,
    SPLIT,
    SYNTHETIC,
    TRAINED_ON,
)
from hoptm_plugin.storage.sets import write_set, write_trained_on
from hoptm_plugin.storage.tensors import digest

UNCHANGED = 1e-4  # of normalised values: far below a level of 8-bit pixels


def run(
    settings: RunSettings,
    folder: str | Path,
    progress: ProgressFactory | None = None,
    told: Callable[[Plan], None] | None = None,
) -> Card:
    """Train missing experts, distil, evaluate, and write it all into the folder; return the card.

    Nothing is written before settings, data and folder have been checked. With ``settings.resume`` an interrupted run
    goes on, and a finished one is returned as it is; its stored settings hold, with ``settings.given`` on top.

    Args:
        settings: as :func:`hoptm_plugin.compose` gives them.
        folder: a new one, or the one to go on in.
        progress: reports what takes long; None: bars on a terminal or in a notebook, else nothing.
        told: is given the plan before the work; None has ``progress`` say it in a line. Where there is neither, and
            where nothing is left to be distilled, none is made.

    Raises:
        ConfigurationError: all that does not fit together, at once, before any work.
        RunFolderError: the folder holds another run, or none to resume.
        DataError: the data cannot be read.
        StorageError: a file cannot be written; what was stored before is intact, and the run can go on.
    """
    return alone(running(settings, folder, progress, told))


def running(
    settings: RunSettings,
    folder: str | Path,
    progress: ProgressFactory | None = None,
    told: Callable[[Plan], None] | None = None,
    read: dict[str, ImageData] | None = None,
) -> Asking[Card]:
    """Do what :func:`run` does, and ask for what runs side by side compute as one; ``read`` holds their data."""
    taken = RunFolder(as_path(folder, "folder"))
    settings = taken.continued(as_settings(settings))
    with taken.taken(settings) as finished:
        return finished or (yield from _run(settings, taken, progress or usual_progress(), told, read))


def _run(
    settings: RunSettings,
    folder: RunFolder,
    progress: ProgressFactory,
    told: Callable[[Plan], None] | None,
    read: dict[str, ImageData] | None,
) -> Asking[Card]:
    with workbench(settings, progress, read) as bench:
        bench.check()
        bench.check_experts()
        bench.say_what_is_dropped()
        _say_longer(bench, folder.shorter(settings), folder)
        if told is not None or progress is not silent:
            _tell(bench, folder, told or (lambda plan: progress(str(plan), 0)))
        folder.begin(settings)
        if "split" in bench.data.provenance:
            write_json(folder / SPLIT, bench.data.provenance["split"])
        evaluator = bench.evaluator()
        with closing(GuardedLoggers(bench.parts.loggers)) as logger:
            distilled, cost = yield from _distil(bench, evaluator, folder, logger)
            finished = finished_networks(folder, bench, distilled)
            shared = SharedEvaluations(settings.experts.root, bench)
            results = yield from judging(distilled, bench, replace(evaluator, finished=finished), shared)
            cost |= {"experts_s": bench.experts_seconds, **shared.cost(finished.seconds)}
            logger.scalars(settings.distillation.iterations, _means(results))
        artefacts = folder.artefacts(SYNTHETIC, AVERAGE, GRID, INITIAL_GRID, METRICS, CONFIG, SPLIT, TRAINED_ON)
        foreign = bench.parts.method.imported is not None  # whatever seed it was distilled with
        seed, note = (None, not_said(distilled.synthetic)) if foreign else (settings.seed, None)
        card = finished_card(bench, results, cost, artefacts, seed, distilled, settings, note=note,
                             began_from=bench.parts.method.images_are)  # fmt: skip
        write_card(card, folder / CARD)
        finished.discard()
        return card


def _say_longer(bench: Workbench, shorter: int | None, folder: RunFolder) -> None:
    """Say that a run of ``shorter`` iterations is made longer, and where its last bits are then others."""
    if shorter is None:
        return
    more = bench.settings.distillation.iterations
    bench.progress(f"{folder.path}: goes on from {shorter} iterations to {more}; its result so far is replaced", 0)
    if bench.compiled(shorter) != bench.compiled(more):
        warnings.warn(f"runtime.compile=auto compiles the longer run only, so its last bits are not those of a run "
                      f"that was planned for {more} iterations", stacklevel=2)  # fmt: skip


def _tell(bench: Workbench, folder: RunFolder, told: Callable[[Plan], object]) -> None:
    """Tell what is left to be done and how long it takes; not where only networks are left to be evaluated."""
    if iterations_done(folder / CHECKPOINT) < bench.settings.distillation.iterations:
        told(planned(bench, folder.path))


@dataclass(frozen=True)
class BuiltExperts:
    """A store of trained experts.

    Attributes:
        folder: of the store; None where the method reads no experts.
        count: experts in it that the run reads.
        epochs: of each.
        seconds: that their training took, whenever it was.
    """

    folder: Path | None
    count: int = 0
    epochs: int = 0
    seconds: float = 0.0


def build_experts(settings: RunSettings, progress: ProgressFactory | None = None) -> BuiltExperts:
    """Train and store the experts that :func:`run` would read with these settings; those that are there stay.

    Raises:
        ConfigurationError: all that does not fit together, at once, before any work.
    """
    with workbench(as_settings(settings), progress or usual_progress()) as bench:
        bench.check()
        needed = bench.parts.method.last_expert_epoch()
        if not max(needed, settings.experts.epochs or 0):
            return BuiltExperts(None)
        bench.check_experts()
        trajectories = bench.experts(needed)
        store = trajectories.store
        return BuiltExperts(store.folder, len(trajectories), store.epochs(0), trajectories.seconds)


def finished_networks(folder: RunFolder, bench: Workbench, distilled: Distilled) -> KeptNetworks:
    """Return the networks that an interrupted evaluation of the same sets had done."""
    sets = [each for each in (distilled.synthetic, distilled.average) if each is not None]
    tensors = [part for each in sets for part in (each.images, each.labels, each.step_size) if part is not None]
    decisive = [bench.settings.digest(), bench.data.fingerprint, *(digest(tensor) for tensor in tensors)]
    return KeptNetworks(folder / EVALUATIONS, hashlib.sha256(" ".join(decisive).encode()).hexdigest())


def _means(results: dict[str, Any]) -> dict[str, float]:
    """Return the mean accuracies of what was evaluated, by names for loggers."""
    return {
        f"evaluation/{kind}/{network}": fmean(row["accuracy"] for row in rows)
        for kind, networks in results.items()
        for network, rows in (networks or {}).items()
    }


def _distil(
    bench: Workbench, evaluator: Evaluator, folder: RunFolder, logger: RunLogger
) -> Asking[tuple[Distilled, dict[str, Any]]]:
    """Distil and write what was distilled into the folder; return it and what it cost."""
    settings, method = bench.settings, bench.parts.method
    if method.whole_split:  # nothing is learned, and real data are not copied into a run folder
        logger.begin(folder.path, 0)
        return Distilled(method.setup(bench.task), None), {"distill_s": None, "seconds_per_iteration": None}
    initial: list[Tensor] = []

    def begun(start: SyntheticSet) -> None:
        initial.append(start.images.detach().cpu().clone())
        if method.imported is None:
            write_grid(bench.data.pixels(start.images), folder / INITIAL_GRID, settings.ipc)

    distiller = Distiller(
        method,
        bench.task,
        settings.distillation,
        folder.path,
        bench.progress,
        selection_score(bench, evaluator),
        logger,
        begun,
    )
    try:
        distilled = yield from distiller.run_side_by_side()
    except DivergedError as error:
        kept, whole = distiller.kept(), settings.distillation.iterations
        said = {"stopped": f"stopped since it diverged; this is iteration {kept.iteration} of {whole}, {kept.why}"}
        _write_sets(bench, folder, Distilled(kept.synthetic, None), initial[0], said | {"iteration": kept.iteration})
        raise type(error)(
            f"{error}. The set of iteration {kept.iteration}, {kept.why}, is kept; judge it by: hoptm-bench eval "
            f"{pasted('synthetic', folder.path)}"
        ) from error
    chosen = distilled.selected
    _write_sets(bench, folder, distilled, initial[0], {} if chosen is None else {"iteration": chosen.iteration})
    if method.imported is not None:
        return distilled, {"distill_s": None, "seconds_per_iteration": None}
    per_iteration = max(0.0, distiller.seconds - distiller.preparing) / settings.distillation.iterations
    return distilled, {"distill_s": distiller.seconds, "seconds_per_iteration": per_iteration}


def _write_sets(
    bench: Workbench, folder: RunFolder, distilled: Distilled, initial: Tensor, more: dict[str, Any]
) -> None:
    """Write a set and its average into the folder with what they say of their making, and the set's pictures."""
    settings, method = bench.settings, bench.parts.method
    if method.imported is None and (hashes := bench.data.image_hashes):
        write_trained_on(hashes["train"], bench.data.split_sha256["train"], folder / TRAINED_ON)
    info: dict[str, Any] = {
        "method_id": settings.method_id,
        "method_title": settings.method_title,
        "ipc": settings.ipc,
        "selection": settings.distillation.selection,
        **more,
    }
    if method.imported is not None:
        info["imported"] = method.imported
    else:
        info |= {"dataset": bench.data.name, "fingerprint": bench.data.fingerprint, "splits": bench.data.split_sha256,
                 "seed": settings.seed}  # fmt: skip
        info |= {key: bench.data.provenance[key] for key in ("source", "licence") if key in bench.data.provenance}
    for synthetic, name in ((distilled.synthetic, SYNTHETIC), (distilled.average, AVERAGE)):
        if synthetic is not None:
            synthetic.info = info | ({"average": True} if name == AVERAGE else {})
            synthetic.info |= {
                "images_are": images_made_of(method, initial, synthetic.images),
                "floor": method.floor,
            } | ({"lower_precision": lower} if (lower := lower_precision(bench)) else {})
            synthetic.info |= {"scale": settings.scale} if settings.scale else {}
            write_set(synthetic, folder / name)
    write_grid(bench.data.pixels(distilled.synthetic.images), folder / GRID, settings.ipc)


def images_made_of(method: Method, initial: Tensor, final: Tensor) -> ImagesAre:
    """Return what a set's images are, given those that ``method`` began with and those it came to, (n, C, H, W)."""
    if method.images_are != "real" or torch.allclose(final.detach().cpu(), initial, atol=UNCHANGED):
        return method.images_are
    return "from_real"


def judge(
    distilled: Distilled, bench: Workbench, evaluator: Evaluator, shared: SharedEvaluations | None = None
) -> dict[str, Any]:
    """Evaluate a set, its moving average, and a random subset if asked, on the protocol's split.

    What needs no distillation is read from ``shared`` where it is there; without it everything is computed.
    """
    return alone(judging(distilled, bench, evaluator, shared))


def judging(
    distilled: Distilled, bench: Workbench, evaluator: Evaluator, shared: SharedEvaluations | None = None
) -> Asking[dict[str, Any]]:
    """Do what :func:`judge` does, and ask for the trainings."""
    settings, average = bench.settings, distilled.average
    tested: Split = getattr(bench.data, settings.protocol.split)
    results: dict[str, Any] = {"averaged": None, "random_subset": None}
    evaluate = evaluator.evaluate_side_by_side
    once = evaluate if shared is None else partial(shared.evaluate, evaluator)
    own = once if bench.parts.method.whole_split else evaluate
    results["evaluations"] = yield from own(lambda repeat: distilled.synthetic, tested, "synthetic set")
    if average is not None:
        warm_up = distilled.synthetic if settings.protocol.warm_start_average else None
        results["averaged"] = yield from evaluate(lambda repeat: average, tested, "moving average", warm_up)
    if settings.protocol.random_subset and not bench.parts.method.whole_split:
        seeds = bench.seeds.child("random subset")
        results["random_subset"] = yield from once(
            lambda repeat: real_subset(bench.data, settings.ipc, seeds.child(repeat)), tested, "random subset"
        )
    return results


def finished_card(
    bench: Workbench,
    results: dict[str, Any],
    cost: dict[str, Any],
    artefacts: dict[str, str],
    distillation_seed: int | None,
    distilled: Distilled,
    made_with: RunSettings | None,
    distilled_from: DistilledFrom | None = None,
    note: str | None = None,
    began_from: ImagesAre = "unknown",
) -> Card:
    """Return the card of results that :func:`judge` gave.

    Args:
        bench: that judged.
        results: of each architecture.
        cost: fields of the card's.
        artefacts: the card's.
        distillation_seed: the card's.
        distilled: what was judged.
        made_with: the settings of its making, where they are known.
        distilled_from: other data that it is from.
        note: to be told beside that of the settings.
        began_from: what the images were that its making began from.
    """
    settings, synthetic = bench.settings, distilled.synthetic
    ipc = None if bench.parts.method.whole_split else settings.ipc
    # a card's reported accuracy is that of its first network: only of the one distilled with
    own = next(iter(results["evaluations"])) == network_label(settings.network) and distilled_from is None
    published = settings.reported if own and bench.unofficial() is None else None
    # of its making, which is not that of its judging
    said = {key: synthetic.info.get(key) for key in ("lower_precision", "imported", "scale")}
    if bench.parts.method.whole_split:
        said["scale"] = settings.scale
    return make_card(
        bench.data,
        results,
        method=settings.method_id,
        title=settings.method_title,
        ipc=ipc,
        seed=settings.seed,
        protocol=settings.protocol.model_dump(mode="json") | {"augment": settings.deciding()["augment"]},
        selection=settings.distillation.selection,
        selected=_selected(distilled.selected),
        averaged_selected=_selected(distilled.average_selected),
        saturation=None if distilled.saturation is None else asdict(distilled.saturation),
        tuning=settings.tuning,
        note="; ".join(filter(None, (note, settings.note)))[:LONGEST_LINE] or None,
        reported=None if published is None else published.of(ipc),
        cost={**cost, "peak_memory_bytes": peak_memory_bytes(bench.device), "device": device_name(bench)},
        distillation_seed=distillation_seed,
        config_sha256=settings.digest(),
        distillation_sha256=None if made_with is None else made_with.set_digest(),
        labels="soft" if synthetic.soft else "hard",
        images_are=images_are(synthetic),
        floor=synthetic.info.get("floor") is True,
        images_stored=len(synthetic.images),
        images_trained_on=len(synthetic),
        **{key: one_line(str(value))[:LONGEST_LINE] if value else None for key, value in said.items()},
        distilled_from=distilled_from,
        settings=None if made_with is None else without_paths(made_with.deciding(["result"])),
        began_from=began_from,
        artefacts=artefacts,
    )


def _selected(selected: Selected | None) -> dict[str, Any] | None:
    """Return how an iteration was chosen, as the card has it; None where an earlier version scored some of them."""
    if selected is None or selected.iteration not in (iteration for iteration, _ in selected.curve):
        return None
    iterations, accuracies = zip(*selected.curve, strict=True)
    return {"iteration": selected.iteration, "iterations": iterations, "accuracies": accuracies}


def lower_precision(bench: Workbench) -> str | None:
    """Return what of a set is computed in lower precision, in words; None where nothing is."""
    settings = bench.settings
    experts = settings.experts.training.precision if bench.parts.method.last_expert_epoch() else "float32"
    parts = {"distillation": settings.runtime.precision, "experts": experts}
    return ", ".join(f"{name} {what}" for what, name in parts.items() if name != "float32") or None


def selection_score(bench: Workbench, evaluator: Evaluator) -> Score | None:
    """Return what scores a checkpoint: the accuracy of one fresh network on the split that the settings name."""
    selection = bench.settings.distillation.selection
    if selection == "last":
        return None
    split = bench.data.validation if selection == "validation" else bench.data.test
    scorer = replace(evaluator, seeds=bench.seeds.child("selection"), turn=0)
    name = next(iter(evaluator.networks))

    def score(synthetic: SyntheticSet) -> Asking[float]:
        return float((yield from scorer.score(name, synthetic, split, 0))["accuracy"])

    return score
