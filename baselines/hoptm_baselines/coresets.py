"""Coresets: real training images, chosen by their features instead of at random."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from hoptm_baselines.real_batches import BLOCK, feature_problems
from hoptm_baselines.real_images import Chosen
from hoptm_plugin import SyntheticSet, Task, class_major, features, register

Array: TypeAlias = NDArray[Any]


class Coreset(Chosen):
    """The ``ipc`` training images of each class that a subclass chooses; nothing is learned, labels are hard.

    Args:
        features: where images are compared: "network" is the features of expert 0, before its classifier; "pixels" is
            the normalised images themselves, and needs no expert.
        teacher_epoch: expert epoch whose parameters give the features.

    The protocol's own learning rate trains on it.
    """

    def __init__(self, features: Literal["network", "pixels"] = "network", teacher_epoch: int = 20) -> None:
        if teacher_epoch < 1:
            raise ValueError("teacher_epoch must be at least 1; features=pixels needs no expert")
        self.features, self.teacher_epoch = features, teacher_epoch

    @abstractmethod
    def choose(self, features: Array, count: int) -> list[int]:
        """Return ``count`` different rows of features (n, F) of one class, best first."""

    def last_expert_epoch(self) -> int:
        """Return the epoch up to which experts are read."""
        return self.teacher_epoch if self.features == "network" else 0

    def problems(self, task: Task) -> list[str]:
        """Return why the network cannot give features."""
        if self.features == "pixels":
            return []
        found = feature_problems(task, "no_state")
        return [f"{problem}; method.features=pixels needs no network" for problem in found]

    def setup(self, task: Task) -> SyntheticSet:
        """Return the chosen images, class-major."""
        describe = self._describer(task)
        rows = []
        for label in range(len(task.data.class_names)):
            members = task.train.of_class(label)
            described = torch.cat([describe(task.train.batch(block)).cpu() for block in members.split(BLOCK)])
            chosen = self.choose(described.numpy(), task.ipc)
            rows.append(members[torch.tensor(chosen, device=members.device)])
        images = task.train.batch(torch.cat(rows))
        return SyntheticSet(images, class_major(task), None, task.data.class_names, task.data.normalisation)

    def _describer(self, task: Task) -> Callable[[Tensor], Tensor]:
        """Return the function from images (B, C, H, W) to features (B, F)."""
        if self.features == "pixels":
            return lambda images: images.flatten(1)
        network = task.network(task.seeds.generator("container"))
        theta = task.experts(self.teacher_epoch).segment(0, self.teacher_epoch, self.teacher_epoch)[0]
        vector_to_parameters(theta, network.parameters())
        return torch.no_grad()(lambda images: features(network, images))


@register("herding_subset")
class Herding(Coreset):
    """Herding: greedily adds the training image that brings the mean of the chosen features nearest to the class mean.

    i_t = argmin_i ||mu - (f_i + sum_{s<t} f_{i_s}) / t||_2 over the images not yet chosen, t = 1 ... ipc, mu the mean
    feature of the class; of equal ones the first.

    Args:
        features: "network" (of expert 0 after ``teacher_epoch`` epochs) or "pixels".
        teacher_epoch: expert epoch whose parameters give the features.

    Source: Welling 2009; the greedy rule over images as in Rebuffi et al. 2017 (iCaRL), Algorithm 4, with features not
    normalised; docs/methods.md 10.2. Deviates: no image is taken twice.
    """

    cites = ("welling2009herding",)

    def choose(self, features: Array, count: int) -> list[int]:
        """Return ``count`` rows by herding."""
        mean = features.mean(axis=0, dtype=np.float64)
        total = np.zeros_like(mean)
        chosen: list[int] = []
        for t in range(1, count + 1):
            # nearest to mu after adding, times t
            distances = _distances(features, t * mean - total)
            distances[chosen] = np.inf
            chosen.append(int(distances.argmin()))
            total += features[chosen[-1]]
        return chosen


@register("k_center_subset")
class KCenter(Coreset):
    """k-centre greedy: starts nearest to the class mean, then adds the image farthest from its nearest chosen one.

    i_1 = argmin_i ||f_i - mu||_2, i_t = argmax_i min_{s<t} ||f_i - f_{i_s}||_2; of equal ones the first. The largest
    distance that is left is at most twice the smallest possible for ipc images.

    Args:
        features: "network" (of expert 0 after ``teacher_epoch`` epochs) or "pixels".
        teacher_epoch: expert epoch whose parameters give the features.

    Source: Sener & Savarese 2018 (arXiv 1708.00489), Algorithm 1, within each class; docs/methods.md 10.3.
    Deviates: the paper starts from images that are labelled already; here none are.
    """

    cites = ("sener2018coreset",)

    def choose(self, features: Array, count: int) -> list[int]:
        """Return ``count`` rows by greedy k-centre."""
        chosen = [int(_distances(features, features.mean(axis=0, dtype=np.float64)).argmin())]
        nearest = np.full(len(features), np.inf)
        while len(chosen) < count:
            nearest = np.minimum(nearest, _distances(features, features[chosen[-1]]))
            nearest[chosen] = -np.inf  # where images repeat, all distances may be 0
            chosen.append(int(nearest.argmax()))
        return chosen


def _distances(features: Array, point: Array) -> Array:
    """Return the Euclidean distances (n,) of features (n, F) to a point (F,); float32 is summed in float64."""
    from sklearn.metrics import pairwise_distances  # slow to import

    return pairwise_distances(features, point[None].astype(features.dtype)).ravel()
