"""The cost model of ``scaling.py``: how much work a stage is, what the work costs, and what that predicts.

A stage's seconds are a sum of terms, each an amount of work times a coefficient that is fitted and not negative:

    seconds = o * steps + (operations) / throughput + a * activations + p * parameters * steps + ...

Operations are image passes (``estimate.py``: an image once forward and once backward) times three times those of one
way forward (``forward_operations``), whatever a stage really computes: its throughput holds the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from statistics import median
from typing import TypeAlias

import numpy as np
import torch
from estimate import FLOAT_BYTES, DataSize, Job, Store
from scaling_points import CHANNELS, EXPERT_EPOCHS, Point, Stage
from scipy.optimize import nnls

from hoptm_plugin.networks import ConvNet
from hoptm_plugin.runtime.compute import KEEP_UP_TO, forward_operations

Work: TypeAlias = dict[str, float]
Terms: TypeAlias = Callable[[Point], Work]
Measured: TypeAlias = Sequence[tuple[Point, float]]
STAGES: tuple[Stage, ...] = ("experts", "distillation", "evaluation")
OVERHEAD = ("epoch", "gradient", "iteration", "student step", "network", "training step")
# memory that malloc returns to the system after each step, see ``keep_freed_memory``: page faults, on the CPU only
FRESH = "fresh activation"
# what a way forward and backward takes, in ways forward
PER_PASS = 3


@dataclass(frozen=True)
class NetworkSize:
    """Of one image's way forward: operations and values that layers put out; and the parameters, P."""

    operations: int
    activations: int
    parameters: int


@cache
def network_size(depth: int, width: int, side: int, classes: int) -> NetworkSize:
    """Return the size of a ConvNet; nothing is computed for it."""
    shape, builder = (CHANNELS, side, side), ConvNet(depth=depth, width=width)
    values = 0

    def count(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal values
        values += output.numel()

    with torch.device("meta"), torch.no_grad():
        network = builder.build(shape, classes)
        for layer in network.modules():
            if not list(layer.children()):
                layer.register_forward_hook(count)
        network(torch.empty(1, *shape))
    parameters = sum(part.numel() for part in network.parameters())
    return NetworkSize(forward_operations(partial(builder.build, shape, classes), shape), values, parameters)


def size_of(point: Point) -> NetworkSize:
    """Return the size of a point's network."""
    return network_size(point.depth, point.width, point.side, point.classes)


def passes(point: Point) -> float:
    """Return the image passes of a point, as ``estimate.py`` counts them; testing counts its way forward."""
    if point.stage == "distillation":
        return 3.0 * point.iterations * point.steps * min(point.batch, point.images)
    gradients = 2 if point.stage == "experts" and point.algorithm == "gsam" else 1
    return gradients * point.epochs * point.images + point.test / PER_PASS


def work(point: Point, saved: float = 0.0) -> Work:
    """Return how much of everything that costs time a point is.

    Args:
        point: the work.
        saved: bytes that a step saves per byte of its activations; decides whether malloc may keep its memory.
    """
    size, batches = size_of(point), math.ceil(point.images / point.batch)
    if point.stage == "distillation":
        steps = point.iterations * point.steps
        terms: Work = {"iteration": point.iterations, "student step": steps}
    elif point.stage == "experts":
        steps = point.epochs * batches * (2 if point.algorithm == "gsam" else 1)
        terms = {"epoch": point.epochs, "gradient": steps}
    else:
        steps = point.epochs * batches
        terms = {"network": 1, "training step": steps}
    images = passes(point)
    values = size.activations * images
    returned = saved * min(point.batch, point.images) * size.activations * FLOAT_BYTES > KEEP_UP_TO
    terms |= {"operation": PER_PASS * size.operations * images, "activation": values,
              FRESH: values if returned else 0, "parameter": size.parameters * steps}  # fmt: skip
    if point.stage == "distillation":
        terms["learned value"] = point.images * math.prod(point.shape) * point.iterations
    return terms


def memory(point: Point) -> Work:
    """Return the bytes of everything that a point holds beside its data, float32, and 1 for what is always there."""
    size, pixels, batch = size_of(point), math.prod(point.shape), min(point.batch, point.images)
    kept = point.steps + 1 + EXPERT_EPOCHS if point.stage == "distillation" else point.epochs + 1
    terms: Work = {"process": 1, "parameter vectors": kept * size.parameters * FLOAT_BYTES,
                   "activations of a batch": batch * size.activations * FLOAT_BYTES}  # fmt: skip
    if point.stage == "distillation":
        terms["images of all steps"] = point.steps * batch * pixels * FLOAT_BYTES
        terms["synthetic images"] = point.images * pixels * FLOAT_BYTES
    return terms


@dataclass(frozen=True)
class Model:
    """Fitted coefficients by term: seconds, or bytes, per unit of each."""

    coefficients: Mapping[str, float]
    terms: Terms = work

    @classmethod
    def fit(cls, measured: Measured, terms: Terms = work) -> Model:
        """Fit points of one stage by non-negative least squares of relative errors."""
        names = list(terms(measured[0][0]))
        rows = np.array([[terms(point)[name] / value for name in names] for point, value in measured])
        scale = np.maximum(rows.max(axis=0), np.finfo(float).tiny)  # columns lie many powers of ten apart
        found, _ = nnls(rows / scale, np.ones(len(rows)))
        return cls(dict(zip(names, (found / scale).tolist(), strict=True)), terms)

    def predict(self, point: Point, speedup: float | None = None) -> float:
        """Return the seconds, or bytes, of a point; on a GPU that does all but overhead ``speedup`` times as fast."""
        parts = {name: amount * self.coefficients[name] for name, amount in self.terms(point).items()}
        if speedup is not None:
            parts = {name: part / (1.0 if name in OVERHEAD else speedup) for name, part in parts.items()}
            parts.pop(FRESH, None)
        return sum(parts.values())

    def errors(self, measured: Measured) -> list[float]:
        """Return predicted / measured - 1 of each point."""
        return [self.predict(point) / value - 1 for point, value in measured]


def left_out(measured: Measured, terms: Terms = work) -> list[float]:
    """Return the error at every point of the model that is fitted to all others."""
    found = []
    for at in range(len(measured)):
        others = [*measured[:at], *measured[at + 1 :]]
        found += Model.fit(others, terms).errors([measured[at]])
    return found


def spread(errors: Sequence[float]) -> tuple[float, float]:
    """Return the median and the largest absolute error."""
    return median(map(abs, errors)), max(map(abs, errors))


@dataclass(frozen=True)
class Target:
    """A setting that nobody has run here.

    Attributes:
        name: of the setting.
        job: its composed settings.
        size: of its data set; ``train`` is what experts see.
        held: images of the validation and test splits, which lie in memory as well.
        test: of them, what networks are tested on.
        resized: whether images are brought to another size when read, which makes them float32.
    """

    name: str
    job: Job
    size: DataSize
    held: int
    test: int
    resized: bool

    def point(self, stage: Stage) -> Point:
        """Return the work of one expert, one distillation, or one evaluated network."""
        s, method, size = self.job.settings, self.job.parts.method, self.size
        shape = (s.network["depth"], s.network["width"], size.image[1], size.classes)
        synthetic = method.training_images(size.classes, s.ipc)
        if stage == "experts":
            training = s.experts.training
            return Point(stage, *shape, size.train, training.batch, self.job.expert_epochs, training.algorithm)
        if stage == "distillation":
            batch, steps = s.method["student_batch"], s.method["student_steps"]
            return Point(stage, *shape, synthetic, batch, steps=steps, iterations=s.distillation.iterations)
        return Point(stage, *shape, synthetic, s.protocol.batch, s.protocol.epochs, test=self.test)

    @property
    def experts(self) -> int:
        """How many experts are trained."""
        return Store([self.job]).count

    @property
    def networks(self) -> int:
        """How many networks are evaluated: of every architecture, on the synthetic and on random images."""
        each = self.job.evaluation(self.size) / (self.job.settings.protocol.epochs * self.point("evaluation").images)
        return round(each) * len(self.job.parts.evaluated)

    @property
    def expert_bytes(self) -> int:
        """What the experts take on the disk: initial parameters and those after every epoch."""
        return self.experts * (self.job.expert_epochs + 1) * size_of(self.point("experts")).parameters * FLOAT_BYTES

    @property
    def set_bytes(self) -> int:
        """What the synthetic images take; a checkpoint holds them and their momentum, twice this."""
        return self.point("distillation").images * math.prod(self.size.image) * FLOAT_BYTES

    def data_bytes(self, resized: bool | None = None) -> int:
        """What all splits take on the device: float32 where images are resized, else a byte a value."""
        each = FLOAT_BYTES if (self.resized if resized is None else resized) else 1
        return (self.size.train + self.held) * math.prod(self.size.image) * each


@dataclass(frozen=True)
class Times:
    """Seconds of one expert, one distillation and one evaluated network, and how many of each a run has."""

    expert: float
    distillation: float
    network: float
    experts: int
    networks: int

    def wall(self, gpus: int, runs: int = 1) -> float:
        """Return the seconds until ``runs`` seeds that share experts are done, each job on one GPU, stage by stage."""
        return (
            math.ceil(self.experts / gpus) * self.expert
            + math.ceil(runs / gpus) * self.distillation
            + math.ceil(runs * self.networks / gpus) * self.network
        )


def times(target: Target, models: Mapping[str, Model], speedup: float | None = None) -> Times:
    """Return what a target's stages take, here or on GPUs, see :meth:`Model.predict`."""
    seconds = [models[stage].predict(target.point(stage), speedup) for stage in STAGES]
    return Times(*seconds, target.experts, target.networks)
