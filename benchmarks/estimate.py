"""What a suite's runs may cost: image passes by stage, and hours from one timing per network on this machine.

An image pass is one image once forward and once backward through a network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import torch
from pandas import DataFrame
from suite_file import DataSize
from suite_plan import Job, Store, expert_stores

from hoptm_plugin.core.interfaces import NetworkBuilder
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import load
from hoptm_plugin.networks import create
from hoptm_plugin.runs.assembly import network_label
from hoptm_plugin.runtime.device import resolve
from hoptm_plugin.settings import RunSettings

SECONDS, BATCH, FLOAT_BYTES = 1.0, 32, 4
Timer: TypeAlias = Callable[[NetworkBuilder, DataSize], float]
CAVEAT = (
    "An estimate, of everything from scratch: hours are image passes (an image once forward and once backward) times "
    "the seconds of one, measured just now here ({device}): about a second for each of {networks} networks, the "
    "fastest batch of {batch}. Augmentation, testing and whatever else a method computes come on top."
)


@dataclass(frozen=True)
class Estimate:
    """Cost of a suite: a row for every store of experts and one for every run; and what was timed on which device."""

    experts: DataFrame
    runs: DataFrame
    device: str
    networks: int

    @property
    def hours(self) -> float:
        """All of it."""
        return float(sum(table.filter(like="hours").to_numpy().sum() for table in (self.experts, self.runs)))


def estimate(jobs: Sequence[Job], given: DataSize, extra: Sequence[str], timer: Timer | None = None) -> Estimate:
    """Return what runs may cost.

    Args:
        jobs: all runs of a suite.
        given: size of the suite's data set.
        extra: settings of the command line; where they choose another data set, it is read.
        timer: seconds of one image pass; measures on the runs' device unless given.

    Raises:
        DataError: another data set was asked for and cannot be read.
    """
    runtime = jobs[0].settings.runtime
    device = resolve(runtime.device, runtime.precision, runtime.compile is True)
    replaced = any(setting.startswith("dataset=") for setting in extra)
    distinct = {str(job.settings.dataset): job.settings for job in jobs}
    sizes = {key: data_size(settings, given, replaced) for key, settings in distinct.items()}
    builders: dict[str, NetworkBuilder] = {}

    @cache
    def hours(label: str, size: DataSize) -> float:
        measured = timer or (lambda builder, size: time_pass(builder, size, device))
        return measured(builders[label], size) / 3600

    stores, store_of, experts, runs = expert_stores(jobs), {}, [], []
    for number, store in enumerate(stores, 1):
        settings, size = store.deepest.settings, sizes[str(store.deepest.settings.dataset)]
        label, passes = network_label(settings.network), expert_passes(store, size)
        builders[label] = store.deepest.parts.network
        store_of |= {id(job): number for job in store.jobs}
        experts.append({
            "store": number,
            "trained by": f"{label}, {settings.experts.training.algorithm}, batch {settings.experts.training.batch}",
            "experts": store.count, "epochs": store.epochs, "runs": len(store.jobs), "passes": passes,
            "hours": passes * hours(label, size), "bytes": store_bytes(store, size),
        })  # fmt: skip
    for job in jobs:
        size, label = sizes[str(job.settings.dataset)], network_label(job.settings.network)
        builders |= {label: job.parts.network, **job.parts.evaluated}
        of_networks = [hours(name, size) for name in job.parts.evaluated]
        distilled = distillation_passes(job, size)
        each, selected = evaluation_passes(job, size), selection_passes(job, size)
        runs.append({
            "sweep": job.sweep, "run": job.name, "store": store_of.get(id(job), "-"), "distillation passes": distilled,
            "distillation hours": distilled and distilled * hours(label, size),
            "evaluation passes": each * len(of_networks) + selected,
            "evaluation hours": each * sum(of_networks) + selected * of_networks[0],
        })  # fmt: skip
    return Estimate(DataFrame(experts), DataFrame(runs), str(device), hours.cache_info().currsize)


def expert_passes(store: Store, size: DataSize) -> float:
    """Return the image passes of the experts' training; GSAM takes two gradients a step."""
    twice = 2 if store.deepest.settings.experts.training.algorithm == "gsam" else 1
    return float(store.count * store.epochs * size.train * twice)


def store_bytes(store: Store, size: DataSize) -> int:
    """Return what the experts take on the disk."""
    with torch.device("meta"):
        network = store.deepest.parts.network.build(size.image, size.classes)
    parameters = sum(tensor.numel() for tensor in network.parameters())
    return store.count * (store.epochs + 1) * parameters * FLOAT_BYTES


def distillation_passes(job: Job, size: DataSize) -> float:
    """Return the image passes of a run's distillation."""
    if job.evaluates:
        return 0.0
    return float(job.settings.distillation.iterations * job.parts.method.image_passes(size.classes, job.settings.ipc))


def evaluation_passes(job: Job, size: DataSize) -> float:
    """Return the image passes through each network that a run evaluates."""
    protocol, whole = job.settings.protocol, job.parts.method.whole_split
    averaged = job.settings.distillation.average_decay is not None
    sets = 1 + averaged + (averaged and protocol.warm_start_average)
    subset = size.classes * job.settings.ipc * (protocol.random_subset and not whole)
    return float(protocol.repeats * protocol.epochs * (sets * _images(job, size) + subset))


def selection_passes(job: Job, size: DataSize) -> float:
    """Return the image passes through a run's first evaluated network that choosing a checkpoint takes."""
    loop = job.settings.distillation
    if loop.selection == "last" or job.evaluates or job.parts.method.whole_split:
        return 0.0
    times = -(-loop.iterations // loop.evaluate_every) * (1 + (loop.average_decay is not None))
    return float(times * job.settings.protocol.epochs * _images(job, size))


def _images(job: Job, size: DataSize) -> int:
    """Return how many images a network trains on; a mosaic is taken apart for it."""
    if job.parts.method.whole_split:
        return size.train
    return job.parts.method.training_images(size.classes, job.settings.ipc)


def data_size(settings: RunSettings, given: DataSize, replaced: bool) -> DataSize:
    """Return the size of a run's data set: as the suite gives it, or read where another data set was asked for."""
    if replaced:
        data = load(settings.dataset, Seeds(settings.data_seed), torch.device("cpu"))
        return DataSize(train=len(data.train), classes=len(data.class_names), image=data.image_shape)
    side = settings.dataset.get("preprocess", {}).get("image_size")
    image = (given.image[0], side, side) if isinstance(side, int) else given.image  # not where the reader decides
    return given.model_copy(update={"image": image})


def time_pass(builder: NetworkBuilder, size: DataSize, device: torch.device) -> float:
    """Return the seconds of one image pass: of the fastest batch within about a second."""
    network = create(builder, size.image, size.classes, torch.Generator(), device)
    images = torch.zeros(BATCH, *size.image, device=device)
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


def print_estimate(estimate: Estimate) -> None:
    """Print the tables of experts and runs, the total, and what the numbers are worth."""
    for title, table in (("Experts", estimate.experts), ("Runs", estimate.runs)):
        if len(table):
            print(f"\n{title}\n{table.to_string(index=False, float_format='{:.3g}'.format)}")
    stored = sum(estimate.experts.get("bytes", ()))
    print(f"\nTotal: {estimate.hours:.3g} hours, {stored:,} bytes of experts")
    print(CAVEAT.format(networks=estimate.networks, device=estimate.device, batch=BATCH))
