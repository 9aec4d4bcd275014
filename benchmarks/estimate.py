"""What a suite's runs may cost: image passes by stage, and hours from one timing per network on this machine.

An image pass is one image once forward and once backward through a network.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from rich import box
from rich.table import Table

from hoptm_plugin.cli.console import output_console
from hoptm_plugin.core.interfaces import NetworkBuilder
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import load
from hoptm_plugin.networks import create
from hoptm_plugin.runs.assembly import Parts, network_label, resolve_device
from hoptm_plugin.runs.settings import RunSettings

SECONDS, BATCH, FLOAT_BYTES = 1.0, 32, 4
Shape: TypeAlias = tuple[int, int, int]
Timer: TypeAlias = Callable[[NetworkBuilder, Shape, int], float]
CAVEAT = (
    "An estimate, of everything from scratch: hours are image passes (an image once forward and once backward) times "
    "the seconds of one, measured just now here ({device}): about a second for each of {networks} networks, the "
    "fastest batch of {batch}. Augmentation, testing and whatever else a method computes come on top."
)


class DataSize(BaseModel):
    """A data set's size.

    Attributes:
        train: training images.
        classes: of them.
        image: (C, H, W) as networks see it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: PositiveInt
    classes: PositiveInt
    image: tuple[PositiveInt, PositiveInt, PositiveInt]


Timed: TypeAlias = Callable[[str, NetworkBuilder, DataSize], float]


@dataclass(frozen=True)
class Job:
    """One run of a suite, or one evaluation of a run's set: where it stands in its sweeps, and what it composes to.

    Attributes:
        sweep: index of its sweep.
        number: of the job within it.
        title: of the sweep.
        overrides: that make it.
        settings: what they compose to.
        parts: what that describes.
        folder: pattern of its folder below the suite's; the data set's part is what was typed, which no setting says.
        config_sha256: that the card of such a run has; of an evaluation, which is composed of stored settings, None.
        evaluates: the folder of the run whose set it judges again; None: it is a run.
    """

    sweep: int
    number: int
    title: str
    overrides: list[str]
    settings: RunSettings
    parts: Parts
    folder: str
    config_sha256: str | None = None
    evaluates: str | None = None

    @property
    def name(self) -> str:
        """What it is, in short."""
        images = "all images" if self.parts.method.whole_split else f"IPC {self.settings.ipc}"
        return f"{self.settings.method_title}, {images}, seed {self.settings.seed}"

    @property
    def expert_epochs(self) -> int:
        """Epochs of each expert that it needs; 0 if it reads none."""
        read = 0 if self.evaluates else self.parts.method.last_expert_epoch()
        return max(read, self.settings.experts.epochs or 0) if read else 0

    def distillation(self, size: DataSize) -> float:
        """Return the image passes of its distillation."""
        if self.evaluates:
            return 0
        return self.settings.distillation.iterations * self.parts.method.image_passes(size.classes, self.settings.ipc)

    def evaluation(self, size: DataSize) -> float:
        """Return the image passes through each of its evaluated networks."""
        protocol, whole = self.settings.protocol, self.parts.method.whole_split
        averaged = self.settings.distillation.average_decay is not None
        sets = 1 + averaged + (averaged and protocol.warm_start_average)
        subset = size.classes * self.settings.ipc * (protocol.random_subset and not whole)
        return float(protocol.repeats * protocol.epochs * (sets * self._images(size) + subset))

    def selection(self, size: DataSize) -> float:
        """Return the image passes through its first evaluated network that choosing a checkpoint takes."""
        loop = self.settings.distillation
        if loop.selection == "last" or self.evaluates or self.parts.method.whole_split:
            return 0
        times = -(-loop.iterations // loop.evaluate_every) * (1 + (loop.average_decay is not None))
        return float(times * self.settings.protocol.epochs * self._images(size))

    def _images(self, size: DataSize) -> int:
        """Return how many images a network trains on; a mosaic is taken apart for it."""
        if self.parts.method.whole_split:
            return size.train
        return self.parts.method.training_images(size.classes, self.settings.ipc)


@dataclass
class Store:
    """Experts of one recipe and the runs that read them."""

    jobs: list[Job] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Experts that the runs need together."""
        return max(job.settings.experts.count for job in self.jobs)

    @property
    def epochs(self) -> int:
        """Epochs that the runs need together."""
        return self.deepest.expert_epochs

    @property
    def deepest(self) -> Job:
        """The run that reads furthest."""
        return max(self.jobs, key=lambda job: job.expert_epochs)

    def passes(self, size: DataSize) -> float:
        """Return the image passes of their training; GSAM takes two gradients a step."""
        twice = 2 if self.deepest.settings.experts.training.algorithm == "gsam" else 1
        return float(self.count * self.epochs * size.train * twice)


def expert_stores(jobs: Sequence[Job]) -> list[Store]:
    """Return the stores that runs share: what ``ExpertRecipe`` hashes, with settings in place of the fingerprint."""
    stores: dict[str, Store] = {}
    for job in jobs:
        if job.expert_epochs:
            s = job.settings
            data = {key: value for key, value in s.dataset.items() if key not in ("root", "download")}
            key = [data, s.data_seed, s.network, s.augment, s.experts.training.model_dump(), s.experts.seed,
                   str(s.experts.root)]  # fmt: skip
            stores.setdefault(json.dumps(key, sort_keys=True, default=str), Store()).jobs.append(job)
    return list(stores.values())


@dataclass(frozen=True)
class StoreCost:
    """Cost of one store of experts, in image passes and seconds."""

    store: Store
    passes: float
    seconds: float
    storage_bytes: int


@dataclass(frozen=True)
class JobCost:
    """Cost of one run without its experts, in image passes and seconds; ``store`` counts from 1."""

    job: Job
    distillation: float
    distillation_seconds: float
    evaluation: float
    evaluation_seconds: float
    store: int | None


@dataclass(frozen=True)
class Estimate:
    """Cost of a suite, and how many networks were timed on which device."""

    stores: list[StoreCost]
    jobs: list[JobCost]
    device: str
    networks: int

    @property
    def seconds(self) -> float:
        """All of it."""
        runs = sum(cost.distillation_seconds + cost.evaluation_seconds for cost in self.jobs)
        return runs + sum(cost.seconds for cost in self.stores)


def data_size(settings: RunSettings, given: DataSize, replaced: bool) -> DataSize:
    """Return the size of a run's data set: as the suite gives it, or read where another data set was asked for.

    Raises:
        DataError: another data set was asked for and cannot be read.
    """
    if replaced:
        data = load(settings.dataset, Seeds(settings.data_seed), torch.device("cpu"))
        return DataSize(train=len(data.train), classes=len(data.class_names), image=data.image_shape)
    side = settings.dataset.get("preprocess", {}).get("image_size")
    image = (given.image[0], side, side) if side else given.image
    return given.model_copy(update={"image": image})


def time_pass(builder: NetworkBuilder, shape: Shape, classes: int, device: torch.device) -> float:
    """Return the seconds of one image pass: of the fastest batch within about a second."""
    network = create(builder, shape, classes, torch.Generator(), device)
    images = torch.zeros(BATCH, *shape, device=device)
    targets = torch.zeros(BATCH, dtype=torch.int64, device=device)

    def step() -> float:
        began = time.perf_counter()
        torch.nn.functional.cross_entropy(network(images), targets).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    step()  # the first one allocates
    taken = [step()]
    while sum(taken) < SECONDS:
        taken.append(step())
    return min(taken) / BATCH  # the slower ones had to share the machine


def estimate(jobs: Sequence[Job], given: DataSize, extra: Sequence[str], timer: Timer | None = None) -> Estimate:
    """Return what runs may cost.

    Args:
        jobs: all runs of a suite.
        given: size of the suite's data set.
        extra: settings of the command line; where they choose another data set, it is read.
        timer: seconds of one image pass; measures on the runs' device unless given.
    """
    device = resolve_device(jobs[0].settings.runtime)
    replaced = any(setting.startswith("dataset=") for setting in extra)
    distinct = {str(job.settings.dataset): job.settings for job in jobs}
    sizes = {key: data_size(settings, given, replaced) for key, settings in distinct.items()}
    measure = timer or (lambda builder, shape, classes: time_pass(builder, shape, classes, device))
    seconds: dict[tuple[str, DataSize], float] = {}

    def timed(label: str, builder: NetworkBuilder, size: DataSize) -> float:
        if (label, size) not in seconds:
            seconds[label, size] = measure(builder, size.image, size.classes)
        return seconds[label, size]

    stores = expert_stores(jobs)
    return Estimate(
        [_store_cost(store, sizes[str(store.deepest.settings.dataset)], timed) for store in stores],
        [_job_cost(job, sizes[str(job.settings.dataset)], timed, stores) for job in jobs],
        str(device), len(seconds),
    )  # fmt: skip


def _store_cost(store: Store, size: DataSize, timed: Timed) -> StoreCost:
    job, builder, passes = store.deepest, store.deepest.parts.network, store.passes(size)
    with torch.device("meta"):
        parameters = sum(tensor.numel() for tensor in builder.build(size.image, size.classes).parameters())
    seconds = passes * timed(network_label(job.settings.network), builder, size)
    return StoreCost(store, passes, seconds, store.count * (store.epochs + 1) * parameters * FLOAT_BYTES)


def _job_cost(job: Job, size: DataSize, timed: Timed, stores: Sequence[Store]) -> JobCost:
    distillation, each = job.distillation(size), job.evaluation(size)
    spent = distillation * timed(network_label(job.settings.network), job.parts.network, size) if distillation else 0.0
    per_pass = [timed(label, builder, size) for label, builder in job.parts.evaluated.items()]
    selection = job.selection(size)
    return JobCost(
        job, distillation, spent,
        each * len(per_pass) + selection, each * sum(per_pass) + selection * per_pass[0],
        next((index for index, store in enumerate(stores, 1) if any(one is job for one in store.jobs)), None),
    )  # fmt: skip


def print_estimate(estimate: Estimate) -> None:
    """Print the tables of experts and runs, the total, and what the numbers are worth."""
    console = output_console()
    experts, runs = Table(title="Experts", box=box.SIMPLE_HEAD), Table(title="Runs", box=box.SIMPLE_HEAD)
    for column in ("store", "trained by", "experts", "epochs", "runs", "passes", "hours", "GB"):
        experts.add_column(column, justify="left" if column == "trained by" else "right")
    for index, cost in enumerate(estimate.stores, 1):
        store, training = cost.store, cost.store.deepest.settings.experts.training
        label = f"{network_label(store.deepest.settings.network)}, {training.algorithm}, batch {training.batch}"
        experts.add_row(
            str(index), label, str(store.count), str(store.epochs), str(len(store.jobs)),
            f"{cost.passes:.3g}", _hours(cost.seconds), f"{cost.storage_bytes / 1e9:.3g}",
        )  # fmt: skip
    for column in ("sweep", "run", "store", "distillation\npasses", "hours", "evaluation\npasses", "hours"):
        runs.add_column(column, justify="left" if column == "run" else "right")
    for row in estimate.jobs:
        runs.add_row(
            str(row.job.sweep), row.job.name, str(row.store or "-"), f"{row.distillation:.3g}",
            _hours(row.distillation_seconds), f"{row.evaluation:.3g}", _hours(row.evaluation_seconds),
        )  # fmt: skip
    console.print(*(table for table in (experts, runs) if table.row_count), sep="\n")
    stored = sum(cost.storage_bytes for cost in estimate.stores)
    console.print(f"Total: {_hours(estimate.seconds)} hours, {stored:,} bytes of experts")
    console.print(CAVEAT.format(networks=estimate.networks, device=estimate.device, batch=BATCH), soft_wrap=True)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g}"
