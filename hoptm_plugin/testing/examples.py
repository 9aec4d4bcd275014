"""Small examples that contracts and tests are run on; all random, none slow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from hoptm_plugin.augment import DSA
from hoptm_plugin.core.compute import Compute
from hoptm_plugin.core.dataset import ImageData, Normalisation, Split
from hoptm_plugin.core.interfaces import Augmentation, NetworkBuilder, Task
from hoptm_plugin.core.observations import FeaturePair, GradientPair, TrajectoryPair
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.networks import ConvNet, FlatNetwork, create

EXPERT_EPOCHS, STUDENT_STEPS, SIZES = 3, 5, (6, 4, 2)


def example_pair(step: int = 0, requires_grad: bool = True) -> TrajectoryPair:
    """Return a small float64 pair: M = 3, N = 5, P = 12 in three tensors."""
    generator = Seeds(step).generator("example pair")
    parameters = sum(SIZES)
    expert = torch.randn(EXPERT_EPOCHS + 1, parameters, generator=generator, dtype=torch.float64).cumsum(dim=0)
    moves = torch.randn(STUDENT_STEPS, parameters, generator=generator, dtype=torch.float64)
    student = [expert[0].clone(), *(expert[0] + move for move in moves.cumsum(dim=0))]
    for point in student[1:]:
        point.requires_grad_(requires_grad)
    return TrajectoryPair(expert, student, step, SIZES)


def example_features(step: int = 0, real: int = 7, synthetic: int = 3, dimensions: int = 5) -> FeaturePair:
    """Return float64 features of one class, (real, D) and (synthetic, D); the synthetic ones require gradients."""
    generator = Seeds(step).generator("example features")
    parts = torch.randn(real + synthetic, dimensions, generator=generator, dtype=torch.float64).split([real, synthetic])
    own = Seeds(step).generator("example matcher")
    return FeaturePair(parts[0].clone(), parts[1].clone().requires_grad_(), 1, step, own)


def example_gradients(step: int = 0) -> GradientPair:
    """Return float64 gradients of one class in a kernel (3, 2, 2, 2), a bias (3,) and a matrix (4, 3)."""
    generator, shapes = Seeds(step).generator("example gradients"), ((3, 2, 2, 2), (3,), (4, 3))
    real, synthetic = ([torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes] for _ in "rs")
    return GradientPair(real, [part.requires_grad_() for part in synthetic], 1, step)


def example_data(
    classes: int = 3,
    per_class: int = 6,
    size: int = 8,
    channels: int = 2,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> ImageData:
    """Return random, learnable image data: each class has a mean image of its own, the same in all three splits."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(classes, channels, size, size, generator=generator, dtype=dtype)
    normalisation = Normalisation((0.5,) * channels, (0.25,) * channels, "measured")

    def split() -> Split:
        labels = torch.arange(classes).repeat(per_class)
        noise = torch.randn(len(labels), channels, size, size, generator=generator, dtype=dtype)
        return Split(means[labels] + 0.5 * noise, labels, normalisation)

    names = tuple(f"class {k}" for k in range(classes))
    return ImageData("tiny", names, split(), split(), split(), normalisation, f"fingerprint {seed}")


@dataclass
class MemoryExperts:
    """Trajectories held in one tensor.

    Attributes:
        parameters: (experts, epochs + 1, P).
        last: the epoch up to which they were asked for, which is all that a store promises.
    """

    parameters: Tensor
    last: int

    def __len__(self) -> int:
        """Return the number of experts."""
        return len(self.parameters)

    def segment(self, expert: int, first: int, last: int) -> Tensor:
        """Return parameters after epochs ``first`` to ``last``, both included."""
        assert last <= self.last, f"epoch {last} is read of experts that were asked for up to epoch {self.last}"
        held = self.parameters.shape[1] - 1
        assert last <= held, f"epoch {last} is read; pass example_task(epochs={last}) or more"
        return self.parameters[expert, first : last + 1]


def example_experts(epochs: int, experts: int = 2) -> MemoryExperts:
    """Return float64 experts that walk at random, with P = 12 parameters in three tensors."""
    generator = Seeds(0).generator("example experts")
    moves = torch.randn(experts, epochs + 1, sum(SIZES), generator=generator, dtype=torch.float64)
    return MemoryExperts(moves.cumsum(dim=1), epochs)


def example_task(
    ipc: int = 1,
    experts: int = 2,
    epochs: int = 5,
    dtype: torch.dtype = torch.float32,
    width: int = 4,
    depth: int = 2,
    augmentation: Augmentation | None = None,
    compute: Compute | None = None,
    seed: int = 0,
    stride: float = 0.02,
    data: ImageData | None = None,
    network: NetworkBuilder | None = None,
) -> Task:
    """Return a task of :func:`example_data`, a small ConvNet, and experts in memory that walk at random.

    Args:
        ipc: synthetic images per class.
        experts: how many.
        epochs: length of each expert's trajectory.
        dtype: of data, network and experts.
        width: of the ConvNet.
        depth: of the ConvNet.
        augmentation: by default DSA.
        compute: how the task is computed.
        seed: of the distillation and of the experts.
        stride: standard deviation of an expert's step per epoch and parameter.
        data: other data than the example's.
        network: another one than the ConvNet.
    """
    chosen = data or example_data(dtype=dtype)
    builder = network or ConvNet(depth=depth, width=width)

    def fresh(generator: torch.Generator) -> nn.Module:
        return create(builder, chosen.image_shape, len(chosen.class_names), generator).to(dtype)

    generator = torch.Generator().manual_seed(seed + 100)
    paths = []
    for _ in range(experts):
        start = FlatNetwork(fresh(generator)).flatten()
        steps = stride * torch.randn(epochs, len(start), generator=generator, dtype=dtype)
        paths.append(torch.cat([start[None], start + steps.cumsum(0)]))
    stored = partial(MemoryExperts, torch.stack(paths))
    architecture = type(builder), width, depth, network and id(network)
    return Task(chosen, ipc, fresh, augmentation or DSA(), stored, Seeds(seed), compute or Compute(), architecture)


def all_real(images: Tensor, labels: Tensor, task: Task) -> bool:
    """Tell whether each of some images (n, C, H, W) is a training image; of its class, where labels (n,) are hard."""
    known = task.train.batch(slice(None))
    for image, label in zip(images, labels, strict=True):
        found = (known == image).flatten(1).all(dim=1)
        if not bool((found if label.ndim else found & (task.train.labels == label)).any()):
            return False
    return True
