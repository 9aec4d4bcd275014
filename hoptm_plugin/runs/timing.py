"""How long the parts of a run take here: each is tried for a moment, as it will be computed.

Whatever a part does in long pieces is tried in a smaller one: fewer images of an epoch, fewer steps of the student.
Nothing is written, experts need not exist, and the run's random streams are left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor

from hoptm_plugin.cards.card import peak_memory_bytes
from hoptm_plugin.core.compute import Compute
from hoptm_plugin.core.dataset import Split
from hoptm_plugin.core.interfaces import Excerpt, Initialiser, Method, Task, methods
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.engine.evaluation import CreateNetwork, Evaluator
from hoptm_plugin.engine.optimisers import Optimisers
from hoptm_plugin.engine.training import PREDICTED_AT_ONCE, predict, train_networks
from hoptm_plugin.experts.training import train_experts
from hoptm_plugin.networks.flat import FlatNetwork
from hoptm_plugin.networks.stack import TrainingLoss
from hoptm_plugin.runs.assembly import Workbench
from hoptm_plugin.runtime.compute import keep_freed_memory
from hoptm_plugin.trajectory.initial import RealImages

PART, GROWTH = 0.05, 8.0  # of all work of a kind, that is tried at most; from one share of it to the next
FEW, HELD = 2, 512  # images that memory is measured with; that are trained on at most
TICK = 1e-7  # seconds, below what clocks can tell
TWICE = 4.0  # seconds; the least share is tried again where it took less
LONG, LONGEST = 1e-4, 5.0  # of all work of a kind, that is tried at least; in seconds at most
STILL = 1e-9  # a learning rate at which nothing diverges


@dataclass(frozen=True)
class Timing:
    """What a piece of work takes as a whole.

    Attributes:
        seconds: of it.
        begin: seconds of what is done once beforehand.
        memory_bytes: this process's at its peak.
    """

    seconds: float
    begin: float
    memory_bytes: int


@dataclass(frozen=True)
class Tried:
    """What a share of a piece of work took.

    Attributes:
        share: of the work, above 0 and up to 1.
        seconds: of it.
        held: share of what the whole holds in memory at once.
        begin: seconds of what is done once beforehand.
        seen: share of the data that this looked at.
    """

    share: float
    seconds: float
    held: float = 1.0
    begin: float = 0.0
    seen: float = 1.0


def timed(work: Callable[[float], Tried], times: float, device: torch.device, most: float = 0.4) -> Timing:
    """Return what a piece of work takes, from a moment of it.

    A small share is tried, then larger ones as long as they can be tried twice, where the first time fetches memory.

    Args:
        work: does about the share of it that it is told, the least it can for 0.
        times: how often the whole will be done; what takes little is tried for less.
        device: where it is computed.
        most: seconds that it is tried for, unless its least share takes longer, or the whole hours.
    """
    before, began = peak_memory_bytes(device), time.perf_counter()
    least = last = work(0)
    if time.perf_counter() - began < TWICE:  # which may be what a process does once, or a moment when it was not served
        before, began = peak_memory_bytes(device), time.perf_counter()
        least = last = min(work(0), least, key=lambda tried: tried.seconds)
    first = cost = max(TICK, time.perf_counter() - began)
    memory, again = before, list[Tried]()
    while True:
        memory = max(memory, before + int((peak_memory_bytes(device) - before) / last.held))
        seconds = _whole(least, last, median(each.seconds for each in again or [last]))
        whole = times * seconds + last.begin / last.seen
        left = min(max(most, min(LONGEST, LONG * whole)), PART * whole) - (time.perf_counter() - began)
        # what a share costs grows more slowly than the share
        slope = cost / last.share
        if last.share > least.share:
            slope = max(slope / GROWTH, (cost - first) / (last.share - least.share))
        share = min(1.0, GROWTH * last.share, last.share + ((left if last is least else left / 2) - cost) / slope)
        if not again and share >= min(1.0, 2 * last.share) and last.share < 1:
            at = time.perf_counter()
            last = work(share)
            cost = max(TICK, time.perf_counter() - at)
        elif left > cost:
            again.append(work(last.share))
        else:
            rest = last.begin / last.seen if last.seen == least.seen else (
                (last.begin - least.begin) / (last.seen - least.seen))  # fmt: skip
            return Timing(seconds, last.begin + max(0.0, rest) * (1 - last.seen), memory)


def _whole(least: Tried, last: Tried, seconds: float) -> float:
    """Return what the whole takes, where ``last`` took ``seconds``: in proportion, but for what any try takes."""
    alike = seconds / last.share
    if last.share == least.share:
        return alike
    slope = (seconds - least.seconds) / (last.share - least.share)
    return min(alike, max(alike / 2, seconds + slope * (1 - last.share)))


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _first(split: Split, count: int) -> Split:
    return Split(split.images[:count], split.labels[:count], split.normalisation)


def _side_by_side(loss: TrainingLoss, compute: Compute, batch: tuple[Tensor, Tensor], few: int) -> int:
    """Return how many networks will be trained at once, and let malloc do as it will then."""
    images, targets = batch
    device = images.device
    if device.type == "cuda":
        return loss.together(compute, images, targets)
    # a whole mini-batch may take minutes
    keep_freed_memory(device, lambda: loss.bytes_per_network(images[:few], targets[:few]) * len(images) // few)
    return compute.side_by_side(device, lambda: 0)


def expert_epoch(bench: Workbench, epochs: int) -> Timing:
    """Return what an epoch of one expert takes that has all images, of ``epochs`` in all."""
    training = bench.settings.experts.training.model_copy(update={"learning_rate": STILL, "curriculum": None})
    split, create = bench.task.train, bench.task.network
    epoch = training.images(len(split))
    loss = TrainingLoss(create(torch.Generator()), precision=training.precision)
    batch = min(training.batch, len(split))
    held = split.batch(slice(batch)), split.labels[:batch]
    together = _side_by_side(loss, bench.expert_compute(), held, min(FEW, batch))
    seeds = [Seeds(number) for number in range(together)]
    starts = torch.stack([loss.network.flatten(create(part.generator())) for part in seeds])

    def work(share: float) -> Tried:
        images = max(1, round(share * epoch))
        part, shown = training.model_copy(update={"epoch_images": images}), _first(split, min(images, len(split)))
        began = _clock(bench.device)
        train_experts(loss, starts, shown, part, bench.parts.augmentation, seeds, epochs=1)
        seconds = (_clock(bench.device) - began) / together
        return Tried(images / epoch, seconds, min(1.0, images / batch))

    return timed(work, epochs, bench.device)


def training(bench: Workbench, evaluator: Evaluator, name: str, images: int, times: int) -> Timing:
    """Return what the training of one evaluated network on so many images takes, ``times`` times in all."""
    protocol, create = evaluator.protocol, evaluator.networks[name]
    loss = TrainingLoss(create(torch.Generator()), precision=protocol.precision)
    # of many images a part is trained on for more epochs
    rows = torch.arange(min(images, max(HELD, protocol.batch)), device=bench.device) % len(bench.data.train)
    shown, labels = bench.data.train.batch(rows), bench.data.train.labels[rows]
    batch = min(protocol.batch, len(rows))
    together = _side_by_side(loss, evaluator.compute, (shown[:batch], labels[:batch]), min(FEW, batch))
    networks, seeds = _networks(create, together), [Seeds(number) for number in range(together)]
    whole = protocol.epochs * protocol.images(images)

    def work(share: float) -> Tried:
        passes = max(FEW, round(share * whole))
        size = min(passes, len(rows))
        part = protocol.model_copy(update={"epochs": max(1, passes // size), "epoch_images": None})
        sets = [(shown[:size], labels[:size])] * together
        began = _clock(bench.device)
        train_networks(networks, loss, sets, part, STILL, evaluator.augmentation, seeds)
        seconds = (_clock(bench.device) - began) / together
        return Tried(min(1.0, part.epochs * size / whole), seconds, min(1.0, size / batch))

    return timed(work, times, bench.device)


def _networks(create: CreateNetwork, count: int) -> list[torch.nn.Module]:
    return [create(torch.Generator().manual_seed(number)) for number in range(count)]


def testing(bench: Workbench, evaluator: Evaluator, name: str, split: Split, times: int) -> Timing:
    """Return what the test of one evaluated network on a split takes, ``times`` times in all."""
    network = evaluator.networks[name](torch.Generator())

    def work(share: float) -> Tried:
        images = max(1, round(share * len(split)))
        began = _clock(bench.device)
        predict(network, _first(split, images))
        seconds, most = _clock(bench.device) - began, min(PREDICTED_AT_ONCE, len(split))
        return Tried(images / len(split), seconds, min(1.0, images / most))

    return timed(work, times, bench.device)


class StandIns:
    """Experts that nobody trained, for a method that is only tried: parameters between two random networks."""

    def __init__(self, task: Task, epochs: int) -> None:
        networks = [task.network(Seeds(number).generator()) for number in range(len(self))]
        self.ends, self.epochs = [FlatNetwork(network).flatten() for network in networks], max(1, epochs)

    def __len__(self) -> int:
        """Return how many there are."""
        return 2

    def segment(self, expert: int, first: int, last: int) -> Tensor:
        """Return (last - first + 1, P)."""
        start, end = self.ends[expert], self.ends[1 - expert]
        return torch.stack([torch.lerp(start, end, epoch / self.epochs) for epoch in range(first, last + 1)])


def iteration(bench: Workbench, iterations: int) -> Timing:
    """Return what one iteration of the method takes, of ``iterations`` in all, and its setup.

    Raises:
        Exception: whatever the method does, which cannot work with experts that nobody trained, say.
    """
    whole, classes, ipc = bench.task, len(bench.data.class_names), bench.settings.ipc
    rules = {name: {"learning_rate": 0} for name in ("images", "step_size", "labels")}
    settings = bench.settings.distillation
    settings = settings.model_copy(update={name: getattr(settings, name).model_copy(update=rule)
                                           for name, rule in rules.items()})  # fmt: skip

    def work(share: float) -> Tried:
        part = _fresh(bench).excerpt(share, whole)
        method, split = part.method, _of_every_class(whole.train, share, classes, ipc)
        compute = replace(
            whole.compute, compiled=False, captured=False, memory_budget=int(part.time * whole.compute.memory_budget)
        )
        task = replace(whole, data=replace(whole.data, train=split), compute=compute,
                       experts=lambda epochs: StandIns(whole, epochs))  # fmt: skip
        began = _clock(bench.device)
        synthetic = method.setup(task)
        optimisers = Optimisers(synthetic, settings)
        ready = _clock(bench.device)
        for term in method.losses(synthetic, 1):  # the first one may do more than others
            optimisers.step(term.loss, settings.skip_above)
        method.after_step(1)
        of_data = len(split) / len(whole.train)
        known = part.time if part.time < 1 else of_data
        seconds = (_clock(bench.device) - ready) * known / part.time
        parts.append(part)
        return Tried(known, seconds, part.memory, ready - began, of_data)

    parts: list[Excerpt] = []
    timing = timed(work, iterations, bench.device, most=0.8)
    # what may be held of steps that were left out
    more = whole.compute.memory_budget if parts[-1].memory > parts[-1].time else 0
    return replace(timing, memory_bytes=timing.memory_bytes + more)


def _fresh(bench: Workbench) -> Method:
    """Return the method, as yet told of nothing, that starts from any real images: some need experts that know them."""
    method = methods.build(bench.settings.method, "method")
    for name, value in vars(method).items():
        if isinstance(value, Initialiser):
            setattr(method, name, RealImages())
    return method


def _of_every_class(split: Split, share: float, classes: int, ipc: int) -> Split:
    if share >= 1:
        return split
    members = [split.of_class(label) for label in range(classes)]
    rows = torch.cat([each[: max(ipc, round(share * len(each)))] for each in members])
    return Split(split.images[rows], split.labels[rows], split.normalisation)
