"""Shadow distillations of an audit: the run's own on halves of the images, and what an attacker reads off each set.

A shadow leaves its signals alone, ``signals.safetensors``; its set, which was made of real images, is removed.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hoptm_plugin.core.asking import Asking, alone
from hoptm_plugin.core.dataset import Split
from hoptm_plugin.core.errors import DivergedError, FileFormatError, HopTMError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.plugins import load_plugins
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.data.aside import mislabelled
from hoptm_plugin.data.loading import opened
from hoptm_plugin.data.preprocess import Shadow
from hoptm_plugin.engine.distil import CHECKPOINT, Distiller
from hoptm_plugin.engine.evaluation import Evaluator
from hoptm_plugin.exchange.pixels import as_exported
from hoptm_plugin.privacy.nearest import nearest
from hoptm_plugin.privacy.signals import loss_signal, nearest_signal
from hoptm_plugin.runs.assembly import Workbench, workbench
from hoptm_plugin.runs.company import driven
from hoptm_plugin.runs.running import selection_score
from hoptm_plugin.runtime.processes import WorkerDiedError, shared_out
from hoptm_plugin.runtime.progress import Progress, ProgressFactory, silent
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.run_files import METRICS
from hoptm_plugin.storage.tensors import read_tensors, write_tensors

FILE_NAME: Final = "signals.safetensors"
EXPERTS: Final = "experts"
KIND: Final = "file of signals of an audit"
REMEDY: Final = "delete it, and that shadow is distilled again"
CONTROLS: Final = ("copies", "barely changed", "reserve", "noise")
BARELY: Final = 0.98  # correlation of barely changed images with what they were
ITSELF: Final = 1e-3  # root mean square in pixels of [0, 1]: half a level of 8 bits is 0.002
AT_ONCE: Final = 16
BLOCK: Final = 512  # images at a time
MOST_SEED: Final = 2**31

Floats = NDArray[np.float64]
Job: TypeAlias = tuple[RunSettings, Path, int, int]  # settings, folder, networks, seed of a shadow


@dataclass(frozen=True)
class How:
    """How shadows are computed, which changes no result.

    Attributes:
        stacked: as one computation.
        processes: else, so many at a time, each in its own process.
    """

    stacked: bool = False
    processes: int = 1


@dataclass(frozen=True)
class Signals:
    """What is read off one set about each of N images: those that a shadow may be given.

    Attributes:
        members: whether it was made from them, (N,).
        exposed: whether one of its images began from them, (N,); all False where that is not known.
        values: "loss" and "nearest", and of each control the same ("copies, loss"), (N,).
    """

    members: NDArray[np.bool_]
    exposed: NDArray[np.bool_]
    values: Mapping[str, Floats]


def shadow_settings(settings: RunSettings, place: Path, shadow: Shadow) -> RunSettings:
    """Return the settings of a shadow of a run; its experts lie in its own folder, until it is done."""
    number = shadow.number
    # without canaries as it was before there were any, so that stored signals stay those of the same settings
    asked = shadow.model_dump(exclude=None if shadow.canaries else {"canaries"})
    dataset = {**settings.dataset, "shadow": asked}
    own = Seeds(shadow.seed).child("shadow")  # which members are exposed is to be drawn anew in each
    experts = settings.experts.model_copy(
        update={"root": shadow_folder(place, number) / EXPERTS, "seed": own.number("experts", number) % MOST_SEED}
    )
    changed = {"seed": own.number("run", number) % MOST_SEED, "loggers": [], "resume": False}
    return settings.model_copy(update={"dataset": dataset, "experts": experts, **changed})


def shadow_folder(place: Path, number: int) -> Path:
    """Return the folder of a shadow."""
    return place / f"shadow-{number:02}"


def shadows(
    settings: RunSettings, folder: Path, design: Shadow, networks: int, how: How, progress: ProgressFactory
) -> list[Signals]:
    """Distil what is missing of all shadows of a run, in folders of their own; return their signals.

    Args:
        settings: of the run.
        folder: of the audit.
        design: one of them.
        networks: trained on each set.
        how: they are computed.
        progress: reports what takes long.

    Raises:
        HopTMError: one failed; what the others did is kept.
    """
    jobs = []
    for number in range(2 * design.pairs):
        each = design.model_copy(update={"number": number})
        jobs.append((shadow_settings(settings, folder, each), shadow_folder(folder, number), networks, design.seed))
    try:
        with progress("shadow distillations", len(jobs)) as bar:
            if how.stacked:
                return _as_one(jobs, bar)
            if how.processes > 1:
                return _by_processes(jobs, how.processes, bar)
            found = []
            for job in jobs:
                found.append(alone(_shadow(*job)))
                bar.advance(1)
            return found
    finally:
        _sources.clear()


def _as_one(jobs: Sequence[Job], bar: Progress) -> list[Signals]:
    found: list[Signals] = []
    for at in range(0, len(jobs), AT_ONCE):
        group = {job[1].name: _shadow(*job) for job in jobs[at : at + AT_ONCE]}
        for outcome in driven(group).values():
            if isinstance(outcome, Exception):
                raise outcome
            found.append(outcome)
        bar.advance(len(group))
    return found


def _by_processes(jobs: Sequence[Job], at_once: int, bar: Progress) -> list[Signals]:
    """Distil those that are missing by processes, and read what they left."""
    missing = []
    for job in jobs:
        if (job[1] / FILE_NAME).exists():
            alone(_shadow(*job))  # what is damaged is told at once
            bar.advance(1)
        else:
            missing.append(job)
    try:
        shared_out(_shadow_in_process, missing, at_once, lambda: bar.advance(1))
    except WorkerDiedError:
        raise HopTMError("a process that distilled shadows was killed, maybe for want of memory; what they did until "
                         "their last checkpoints is kept: the same command goes on, with processes=1 one after the "
                         "other") from None  # fmt: skip
    return [alone(_shadow(*job)) for job in jobs]


def _shadow_in_process(*job: *Job) -> None:
    """Distil one shadow in a process that has loaded nothing."""
    load_plugins()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself said it, and sixteen others will
        alone(_shadow(*job))


def _shadow(settings: RunSettings, folder: Path, networks: int, seed: int) -> Asking[Signals]:
    path, identity = folder / FILE_NAME, _identity(settings, networks)
    if path.exists():
        found = _read(path, identity)
        _clear(folder)  # of one that was killed before it could
        return found
    folder.mkdir(parents=True, exist_ok=True)
    with workbench(settings, silent, source=_source(settings)) as bench:
        bench.check()
        bench.check_experts()
        begun: list[SyntheticSet] = []
        evaluator = bench.evaluator()
        distiller = Distiller(
            bench.parts.method, bench.task, settings.distillation, folder, silent, selection_score(bench, evaluator),
            begun=lambda start: begun.append(start.detached()),
        )  # fmt: skip
        try:
            distilled = yield from distiller.run_side_by_side()
        except DivergedError as error:
            raise type(error)(f"{folder.name}, a distillation of half of the images: {error}") from error
        pool = Pool.of(bench)
        exposed = pool.origins(begun[0]) if bench.parts.method.images_are != "made" else None
        values = yield from pool.signals(evaluator, distilled.synthetic, networks)
        draws = np.random.default_rng(bench.seeds.child("audit", "controls", seed).number("draws"))
        for name, control in pool.controls(settings.ipc, draws).items():
            more = yield from pool.signals(evaluator, control, 1)
            values |= {f"{name}, {what}": each for what, each in more.items()}
            values[f"{name}, exposed"] = np.zeros(len(pool.members))
            if name == "copies":
                values[f"{name}, exposed"][pool.origins(control)] = 1
    signals = Signals(pool.members, np.zeros_like(pool.members), values)
    if exposed is not None:
        signals.exposed[exposed] = True
    _write(path, signals, identity)
    _clear(folder)
    return signals


_sources: dict[str, RawImages] = {}  # of the run whose shadows this process distils: their pictures are decoded once


def _source(settings: RunSettings) -> RawImages:
    spec = {key: value for key, value in settings.dataset.items() if key != "shadow"}
    key = repr((spec, settings.data_seed))
    if key not in _sources:
        _sources.clear()
        _sources[key] = opened(spec, Seeds(settings.data_seed))
    return _sources[key]


def _clear(folder: Path) -> None:
    """Remove what a shadow was made of: real images, and what has seen them."""
    for name in (CHECKPOINT, METRICS):
        (folder / name).unlink(missing_ok=True)
    if (folder / EXPERTS).exists():
        shutil.rmtree(folder / EXPERTS)


def _identity(settings: RunSettings, networks: int) -> str:
    return hashlib.sha256(f"{settings.digest()} {networks}".encode()).hexdigest()


def _write(path: Path, signals: Signals, identity: str) -> None:
    masks = {"members": signals.members, "exposed": signals.exposed}
    tensors = {name: torch.from_numpy(each) for name, each in (masks | dict(signals.values)).items()}
    write_tensors(path, tensors, {"identity": identity, "confidential": "scores of single images"})


def _read(path: Path, identity: str) -> Signals:
    tensors, content = read_tensors(path, KIND, REMEDY)
    if not isinstance(content, Mapping) or content.get("identity") != identity:
        raise FileFormatError(f"{path}: is of another audit; {REMEDY}")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return Signals(arrays.pop("members"), arrays.pop("exposed"), arrays)


@dataclass(frozen=True)
class Pool:
    """The images that a shadow may be given, in the order of the data's rows, and what is read off a set about them.

    Attributes:
        bench: of the run or shadow.
        split: the N images, as its networks see them.
        members: which of them it was made from, (N,).
        units: what they belong to, (N,).
    """

    bench: Workbench
    split: Split
    members: NDArray[np.bool_]
    units: NDArray[np.int64]

    @classmethod
    def of(cls, bench: Workbench) -> Pool:
        """Return the pool of a run that put images aside, or of one of its shadows."""
        data, aside = bench.data, bench.data.aside
        assert aside is not None
        rows = torch.cat([aside.rows["train"], aside.rows["holdout"]])
        order = rows.argsort()
        images, labels = (torch.cat(parts)[order.to(data.device)] for parts in (
            (data.train.images, aside.holdout.images), (data.train.labels, aside.holdout.labels)))  # fmt: skip
        split = Split(images, labels, data.normalisation)
        members = (torch.arange(len(rows)) < len(data.train))[order].numpy()
        units = torch.cat([aside.units["train"], aside.units["holdout"]])[order].numpy()
        return cls(bench, split, members, units)

    @cached_property
    def flat(self) -> NDArray[np.float32]:
        """8-bit pixels of each image, of [0, 1], (N, D)."""
        return pixels_of(self.bench, self.split).flatten(1).numpy()

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image, (N,)."""
        return self.split.labels.cpu().numpy()

    def mislabelled(self, design: Shadow) -> NDArray[np.int64]:
        """Return the class that each image has in shadows, (N,): of canaries it is not theirs."""
        units, classes = torch.from_numpy(self.units), len(self.bench.data.class_names)
        changed = mislabelled(self.split.labels, units, classes, design.canaries, design.seed)
        return changed.cpu().numpy()

    def origins(self, start: SyntheticSet) -> NDArray[np.int64]:
        """Return the members that a set's images began from as they are; of those in mosaics none is known."""
        if start.mosaic > 1:
            return np.zeros(0, dtype=np.int64)
        rows = np.flatnonzero(self.members)
        began = eight_bits(self.bench.data.pixels(start.images)).flatten(1).numpy()
        distance, index = nearest(began, self.flat[rows])
        return np.unique(rows[index[distance[:, 0] <= ITSELF * np.sqrt(began.shape[1]), 0]])

    def signals(self, evaluator: Evaluator, synthetic: SyntheticSet, networks: int) -> Asking[dict[str, Floats]]:
        """Ask for networks trained on a set as it is exported; return both signals about every image."""
        exported, name = as_exported(synthetic), next(iter(evaluator.networks))
        trained = yield from evaluator.trained(name, dict.fromkeys(range(networks), exported))
        every = [evaluator.predicted(name, network, self.split, at).numpy() for at, network in enumerate(trained)]
        logits = [each for each in every if np.isfinite(each).all()]
        if not logits:
            raise HopTMError("every network that was trained on a set diverged, so nothing can be told from their "
                             "losses; audit a run whose networks can be trained")  # fmt: skip
        whole = exported.expanded()
        classes = (whole.labels.argmax(dim=1) if whole.soft else whole.labels).cpu().numpy()
        shown = eight_bits(self.bench.data.pixels(whole.images)).flatten(1).numpy()
        return {
            "loss": loss_signal(np.stack(logits), self.labels),
            "nearest": nearest_signal(self.flat, self.labels, shown, classes),
        }

    def controls(self, ipc: int, draws: np.random.Generator) -> dict[str, SyntheticSet]:
        """Return sets of which it is known what they give away, ``ipc`` images of each class, in :data:`CONTROLS`."""
        data, aside = self.bench.data, self.bench.data.aside
        assert aside is not None
        copies, labels = _drawn(data.train, ipc, draws)
        fresh, of_fresh = _drawn(aside.reserve, ipc, draws)
        pixels = data.pixels(copies)
        barely = barely_changed(pixels, draws)
        apply = data.normalisation.apply
        flat = torch.from_numpy(draws.random(pixels.shape)).to(pixels)
        made = {"copies": (copies, labels), "barely changed": (apply(barely), labels), "reserve": (fresh, of_fresh),
                "noise": (apply(flat), labels)}  # fmt: skip
        return {name: SyntheticSet(images, of, None, data.class_names, data.normalisation)
                for name, (images, of) in made.items()}  # fmt: skip


def _drawn(split: Split, ipc: int, draws: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return ``ipc`` images of each class, or as many as there are, and their classes."""
    rows = [torch.from_numpy(draws.permutation(split.of_class(label).cpu().numpy())[:ipc])
            for label in split.labels.unique().tolist()]  # fmt: skip
    indices = torch.cat(rows).to(split.labels.device)
    return split.batch(indices), split.labels[indices]


def eight_bits(pixels: Tensor) -> Tensor:
    """Return pixels of [0, 1] as 8 bits hold them, on the CPU."""
    return (255 * pixels.detach().cpu().float().clamp(0, 1)).round() / 255


def pixels_of(bench: Workbench, split: Split) -> Tensor:
    """Return a split's images as 8-bit pixels of [0, 1], (n, C, H, W), on the CPU."""
    blocks = torch.arange(len(split), device=split.labels.device).split(BLOCK)
    return torch.cat([eight_bits(bench.data.pixels(split.batch(rows))) for rows in blocks])


def barely_changed(pixels: Tensor, draws: np.random.Generator) -> Tensor:
    """Return images (n, C, H, W) with noise, up to a correlation of :data:`BARELY` with what they were."""
    spread = pixels.flatten(1).std(dim=1).view(-1, 1, 1, 1)
    noise = torch.from_numpy(draws.normal(size=pixels.shape)).to(pixels)
    return pixels + noise * spread * float(np.sqrt(1 / BARELY**2 - 1))
