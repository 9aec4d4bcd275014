"""DP means: match class means of features that were released once under differential privacy."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from statistics import NormalDist
from typing import Annotated

import torch
from torch import Tensor, nn

from hoptm_baselines.real_batches import BLOCK, feature_problems
from hoptm_plugin import (
    Initialiser,
    LossTerm,
    Method,
    Symbol,
    SyntheticSet,
    Task,
    class_major,
    features,
    gaussian_sigma,
    register,
)

NOISE_IMAGES = 256  # by whose features' length features are clipped
FIXED = ("none", "given")
MOST_ODDS = 20.0  # an epsilon up to which a factor of odds says something


@register("private_means")
class PrivateMeans(Method):
    """Matches synthetic images' features to class means of real ones, released once with Gaussian noise.

    T_c = (sum_{x of c} psi(x) + xi_c) / n_c, xi ~ N(0, sigma^2 Delta^2); then L = sum_c ||T_c - mean_s psi(s)||^2,
    which sees no real image any more and so is post-processing: the set is (epsilon, delta)-differentially private,
    where two data sets are neighbours that differ in one replaced image of a class or, where images belong to groups,
    in one replaced group; the numbers n_c of images are public. psi are the features before the classifier of fixed
    networks that have seen no data, without their negative parts, and scaled to a length of C at most; of a group that
    is the length of its sums over all classes. For two such vectors Delta = sqrt(2) C. The noise is drawn from the
    system's entropy, not from the seed, which is public: two runs release twice, and their epsilons add up.

    Args:
        initial_images: where distillation starts; real images would void the guarantee.
        epsilon: of the release.
        delta: of the release.
        networks: fixed, whose features stand one after the other in psi.

    Source: DP-MERF (Harder et al. 2021, arXiv 2002.11603) for one release of mean features; Balle & Wang 2018 (arXiv
    1805.06530) for sigma; docs/audit.md 5.
    """

    cites = ("harder2021dpmerf", "balle2018gaussian")
    images_are = "made"

    def __init__(
        self,
        initial_images: Initialiser,
        epsilon: Annotated[float, Symbol("ε")] = 4.0,
        delta: float = 1e-5,
        networks: int = 1,
    ) -> None:
        if networks < 1:
            raise ValueError("networks must be at least 1")
        self.sigma = gaussian_sigma(epsilon, delta)
        self.initial_images, self.networks = initial_images, networks
        self._means: Tensor | None = None
        self.guarantee = _in_words(epsilon, delta, self.sigma)

    def problems(self, task: Task) -> list[str]:
        """Return what would void the guarantee."""
        found = [f"method.initial_images.{problem}" for problem in self.initial_images.problems(task)]
        found += feature_problems(task, "no_state")
        if self.initial_images.images_are != "made":
            found.append("method.initial_images: real images void the guarantee of differential privacy; use "
                         "method.initial_images.name=noise")  # fmt: skip
        if task.data.normalisation.kind not in FIXED:
            found.append(f"dataset.preprocess.normalisation: {task.data.normalisation.kind} constants are made of the "
                         f"data, which voids the guarantee of differential privacy; use "
                         f"dataset.preprocess.normalisation=none")  # fmt: skip
        return found + [f"{what}: chooses by looking at the data, which voids the guarantee of differential privacy; "
                        f"leave it out" for what in task.chosen_by]  # fmt: skip

    def setup(self, task: Task) -> SyntheticSet:
        """Return the initial synthetic set; release the means."""
        self._fixed = [task.network(task.seeds.generator("network", at)).eval().requires_grad_(False)
                       for at in range(self.networks)]  # fmt: skip
        noise = torch.randn((NOISE_IMAGES, *task.data.image_shape), generator=task.seeds.generator("clip"))
        self.length = float(_features(self._fixed, noise.to(task.data.device, task.train.batch(slice(1)).dtype))
                            .norm(dim=1).median())  # fmt: skip
        self._means = self.released(task)
        images = self.initial_images.images(task)
        return SyntheticSet(images, class_major(task), None, task.data.class_names, task.data.normalisation)

    def released(self, task: Task) -> Tensor:
        """Return the noised class means (K, F) of the training images' features."""
        classes, groups = len(task.data.class_names), task.data.groups
        sums = clipped_sums(self._seen(task), task.train.labels, groups, classes, self.length)
        scale = self.sigma * math.sqrt(2) * self.length
        generator = torch.Generator().manual_seed(entropy())
        noise = scale * torch.randn(sums.shape, generator=generator, dtype=torch.float64)
        counts = torch.bincount(task.train.labels.cpu(), minlength=len(sums)).clamp(min=1)
        return ((sums + noise) / counts[:, None]).to(task.train.batch(slice(1)))

    @torch.no_grad()
    def _seen(self, task: Task) -> Tensor:
        rows = torch.arange(len(task.train), device=task.data.device).split(BLOCK)
        return torch.cat([_features(self._fixed, task.train.batch(each)).double().cpu() for each in rows])

    def losses(self, synthetic: SyntheticSet, step: int) -> Iterator[LossTerm]:
        """Yield the sum over classes."""
        assert self._means is not None
        found = _features(self._fixed, synthetic.images)
        found = found * (self.length / found.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
        own = torch.stack([found[synthetic.labels == label].mean(dim=0) for label in range(len(self._means))])
        loss = (self._means - own).square().sum()
        yield LossTerm(loss, watched=loss.detach())

    def image_passes(self, classes: int, ipc: int) -> float:
        """Return the synthetic images, through each network."""
        return classes * ipc * self.networks

    def state_dict(self) -> dict[str, Tensor]:
        """Return the release, which must not be made twice."""
        return {} if self._means is None else {"means": self._means}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the release back."""
        if self._means is not None and "means" in state:
            self._means = state["means"].to(self._means)


def _in_words(epsilon: float, delta: float, sigma: float) -> str:
    """Return what is guaranteed, for people who know no formulas; docs/audit.md 5."""
    odds = f"{math.exp(epsilon):,.1f}-fold at most" if epsilon <= MOST_ODDS else "almost without limit"
    best = NormalDist().cdf(1 / (sigma * math.sqrt(2))) if sigma else 1.0
    return (
        f"Guaranteed by the method, whatever an attacker knows: one image (where the run was told which are one "
        f"patient's, all of one patient) changes the odds of any outcome {odds} (e^epsilon, epsilon {epsilon:g}), "
        f"except with probability {delta:g}. Runs on the same data add up, and figures that are told beside the set "
        f"are not covered. This still permits to tell training images from others with an AUC of up to {best:.2f}."
    )


def entropy() -> int:
    """Return a seed that nobody can know."""
    return secrets.randbits(63)


def clipped_sums(seen: Tensor, labels: Tensor, groups: Tensor | None, classes: int, length: float) -> Tensor:
    """Return sums over images of non-negative features by class, (K, F), each unit's over all classes clipped.

    Replacing a unit moves them by at most sqrt(2) ``length``: both its vectors are non-negative, and no longer.

    Args:
        seen: non-negative features, (n, F).
        labels: class of each image, (n,).
        groups: unit of each, (n,); None: an image is one.
        classes: K.
        length: C.
    """
    labels = labels.cpu()
    units = torch.arange(len(labels)) if groups is None else groups.cpu().unique(return_inverse=True)[1]
    count = int(units.max()) + 1 if len(units) else 0
    squares = torch.zeros(count, dtype=seen.dtype)
    # of a unit's images of one class the sum, of these the length over classes
    pairs, place = (units * classes + labels).unique(return_inverse=True)
    by_pair = torch.zeros(len(pairs), seen.shape[1], dtype=seen.dtype).index_add_(0, place, seen)
    squares.index_add_(0, pairs // classes, by_pair.square().sum(dim=1))
    factors = (length / squares.sqrt().clamp(min=1e-12)).clamp(max=1)
    sums = torch.zeros(classes, seen.shape[1], dtype=seen.dtype)
    return sums.index_add_(0, pairs % classes, by_pair * factors[pairs // classes, None])


def _features(networks: list[nn.Module], images: Tensor) -> Tensor:
    """Return the non-negative parts of all networks' features, (B, F)."""
    return torch.cat([features(network, images).clamp(min=0) for network in networks], dim=1)
