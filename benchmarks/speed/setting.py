"""What the measurements have in common: random images, networks, experts in memory, HoP-TM on them."""

from __future__ import annotations

from typing import Any

import torch
from classical import ClassicalMatching

from hoptm_plugin.augment import DSA
from hoptm_plugin.core.compute import Compute
from hoptm_plugin.core.dataset import ImageData, Normalisation, Split
from hoptm_plugin.core.interfaces import Task
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.matchers import Endpoint, ShapeWisePotential
from hoptm_plugin.networks import ConvNet, FlatNetwork, create
from hoptm_plugin.schedulers import SelfPaced
from hoptm_plugin.trajectory import HardLabels, RealImages, TrajectoryMatching, UniformSegments, WeightedMatcher

Job = dict[str, Any]
SEEDS = Seeds(0)
EXPERT_EPOCHS, START_EPOCHS, RATE = 2, 4, 0.01


def network(job: Job, *stream: str | int, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """Return a network of the job's shape, initialised from the stream of that name."""
    builder = ConvNet(depth=job["depth"], width=job["width"])
    shape = (3, job["side"], job["side"])
    return create(builder, shape, job["classes"], SEEDS.generator(*stream), job["device"]).to(dtype)


def noise(job: Job, dtype: torch.dtype = torch.float32) -> ImageData:
    """Return as many random images as the job says."""
    normalisation = Normalisation((0.0,) * 3, (1.0,) * 3, "none")
    shape = (job["images"], 3, job["side"], job["side"])
    images = torch.randn(shape, generator=SEEDS.generator("images")).to(job["device"], dtype)
    labels = torch.arange(job["images"], device=job["device"]) % job["classes"]
    split = Split(images, labels, normalisation)
    names = tuple(f"class {label}" for label in range(job["classes"]))
    return ImageData("noise", names, split, split, split, normalisation, "none")


class WalkingExperts:
    """One expert in memory: a short random walk of parameters."""

    def __init__(self, job: Job, dtype: torch.dtype) -> None:
        start = FlatNetwork(network(job, "expert", dtype=dtype)).flatten()
        shape = (START_EPOCHS + EXPERT_EPOCHS - 1, len(start))
        steps = torch.randn(shape, generator=SEEDS.generator("walk")).to(start)
        self.points = torch.cat([start[None], start + 1e-3 * steps.cumsum(0)])

    def __len__(self) -> int:
        """Return 1."""
        return 1

    def segment(self, expert: int, first: int, last: int) -> torch.Tensor:
        """Return parameters after epochs ``first`` to ``last``, both included."""
        return self.points[first : last + 1]


def distillation(job: Job, dtype: torch.dtype = torch.float32) -> tuple[TrajectoryMatching, SyntheticSet]:
    """Return HoP-TM, set up, and the synthetic set that it learns."""
    kind = ClassicalMatching if job["classical"] else TrajectoryMatching
    method = kind(
        matchers={"endpoint": WeightedMatcher(Endpoint()), "shape": WeightedMatcher(ShapeWisePotential(), 0.5)},
        schedulers={"pace": SelfPaced(kappa=1e-5)},
        sampler=UniformSegments(max_start_epoch=START_EPOCHS),
        labels=HardLabels(),
        initial_images=RealImages(),
        student_steps=job["steps"],
        expert_epochs=EXPERT_EPOCHS,
        student_batch=job["batch"],
        step_size=RATE,
    )
    data, experts = noise(job, dtype), WalkingExperts(job, dtype)
    compute = Compute(job["unroll"], job["compiled"], job["precision"], job["memory_budget"])
    task = Task(
        data=data,
        ipc=job["images"] // job["classes"],
        network=lambda generator: network(job, "container", dtype=dtype),
        augmentation=DSA(),
        experts=lambda epochs: experts,
        seeds=SEEDS,
        compute=compute,
    )
    synthetic = method.setup(task)
    synthetic.images.requires_grad_()
    synthetic.step_size.requires_grad_()
    return method, synthetic
