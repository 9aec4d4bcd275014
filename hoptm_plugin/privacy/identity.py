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


def moved(images: NDArray[np.floating], most: int = 1) -> NDArray[np.floating]:
    """Return images as they are and moved by up to ``most`` pixels each way, V = (2 most + 1)^2; edges are repeated.

    Distances know no shifts, and a look does.

    Args:
        images: (S, C, H, W).
        most: pixels.

    Returns:
        (S, V, C H W).
    """
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (most, most), (most, most)), mode="edge")
    shifts = np.ndindex(2 * most + 1, 2 * most + 1)
    versions = [padded[:, :, top : top + height, left : left + width] for top, left in shifts]
    return np.stack([each.reshape(len(images), -1) for each in versions], axis=1)


def ranks(images: NDArray[np.floating], origins: Sequence[int], candidates: Sequence[NDArray[np.floating]]) -> Ranks:
    """Rank each image's origin among its candidates, by the distance of its nearest version.

    Args:
        images: in V versions, (S, V, D), see :func:`moved`.
        origins: position of the true one among its candidates, S.
        candidates: of each image, such as all real images of its class, S times (n, D).

    Source: docs/audit.md 4.
    """
    found, among = [], []
    last, wide, lengths = None, np.zeros((0, 0)), np.zeros(0)
    for versions, origin, real in zip(images, origins, candidates, strict=True):
        if real is not last:
            last, wide = real, real.astype(np.float64)
            lengths = np.einsum("nd,nd->n", wide, wide)
        own_lengths = np.einsum("vd,vd->v", versions, versions, dtype=np.float64)
        distance = (lengths - 2 * (versions.astype(np.float64) @ wide.T) + own_lengths[:, None]).min(axis=0)
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
