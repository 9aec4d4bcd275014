"""Fixtures shared by all tests: a small data set in memory, small experts, and a task made of them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from hoptm_plugin.augment import DSA
from hoptm_plugin.core.dataset import ImageData, Normalisation, Split
from hoptm_plugin.core.interfaces import Task
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.networks import ConvNet, FlatNetwork, create


@dataclass
class MemoryExperts:
    """Trajectories held in one tensor (experts, epochs+1, P)."""

    parameters: torch.Tensor

    def __len__(self):
        return len(self.parameters)

    def segment(self, expert, first, last):
        assert last < self.parameters.shape[1], "read past the end of the trajectory"
        return self.parameters[expert, first : last + 1]


@pytest.fixture
def make_data():
    """Return a maker of random, learnable image data: each class has a mean image of its own."""

    def make(classes=3, per_class=6, size=8, channels=2, dtype=torch.float32, seed=0):
        generator = torch.Generator().manual_seed(seed)
        means = torch.randn(classes, channels, size, size, generator=generator, dtype=dtype)
        normalisation = Normalisation((0.5,) * channels, (0.25,) * channels, "measured")

        def split():
            labels = torch.arange(classes).repeat(per_class)
            noise = torch.randn(len(labels), channels, size, size, generator=generator, dtype=dtype)
            return Split(means[labels] + 0.5 * noise, labels, normalisation)

        names = tuple(f"class {k}" for k in range(classes))
        return ImageData("tiny", names, split(), split(), split(), normalisation, f"fingerprint {seed}")

    return make


@pytest.fixture
def make_task(make_data):
    """Return a maker of a task: tiny data, a small ConvNet, random-walk experts in memory."""

    def make(ipc=1, experts=2, epochs=5, dtype=torch.float32, width=4, depth=2, augmentation=None, unroll="auto",
             seed=0, stride=0.02, data=None):  # fmt: skip
        data = data or make_data(dtype=dtype)
        builder = ConvNet(depth=depth, width=width)

        def network(generator):
            return create(builder, data.image_shape, len(data.class_names), generator).to(dtype)

        generator = torch.Generator().manual_seed(seed + 100)
        paths = []
        for _ in range(experts):
            start = FlatNetwork(network(generator)).flatten()
            steps = stride * torch.randn(epochs, len(start), generator=generator, dtype=dtype)
            paths.append(torch.cat([start[None], start + steps.cumsum(0)]))
        stored = MemoryExperts(torch.stack(paths))
        return Task(data, ipc, network, augmentation or DSA(), lambda epoch: stored, Seeds(seed), unroll)

    return make
