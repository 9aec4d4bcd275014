"""Whether a synthetic image still points to the real image it began from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hoptm_plugin.privacy.nearest import Floats


@dataclass(frozen=True)
class Ranks:
    """The rank of each image's true origin among all that it may have begun from, by distance.

    Attributes:
        ranks: (S,), 1 for the nearest; of equally near ones the mean.
        among: how many candidates there were, (S,).
        first: how many have rank 1.
        mean: mean of (rank - 1/2) / candidates; 1/2 is chance, near 0 is identified.
        p: probability of as many first ones by chance.
    """

    ranks: Floats
    among: NDArray[np.int64]
    first: int
    mean: float
    p: float


def ranks(images: NDArray[np.floating], origins: Sequence[int], candidates: Sequence[NDArray[np.floating]]) -> Ranks:
    """Rank each image's origin among its candidates.

    Args:
        images: (S, D).
        origins: position of the true one among its candidates, S.
        candidates: of each image, such as all real images of its class, S times (n, D).

    Source: docs/audit.md 4.
    """
    found, among = [], []
    for image, origin, real in zip(images, origins, candidates, strict=True):
        distance = np.linalg.norm(real.astype(np.float64) - image.astype(np.float64), axis=1)
        own = distance[origin]
        found.append((distance < own).sum() + ((distance == own).sum() + 1) / 2)
        among.append(len(real))
    places, sizes = np.array(found, dtype=np.float64), np.array(among, dtype=np.int64)
    first = int((places == 1).sum())
    mean = float(((places - 0.5) / sizes).mean()) if len(places) else 0.5
    return Ranks(places, sizes, first, mean, _as_many(first, 1 / sizes))


def _as_many(hits: int, chances: Floats) -> float:
    """Return the probability of at least so many hits, each with a chance of its own."""
    distribution = np.ones(1)
    for chance in chances:
        distribution = np.convolve(distribution, [1 - chance, chance])
    return float(min(1.0, distribution[hits:].sum()))
