"""Whether synthetic images lie closer to the images they were made from than to others like them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hoptm_plugin.privacy.nearest import Floats, nearest

RESPLITS = 999


@dataclass(frozen=True)
class Distances:
    """Of images whose origin is in question.

    Attributes:
        share: of them that are nearer to a member than to any other real image; of equally near ones half.
        expected: what that is where nothing leaked: the members' share of the real images.
        p: share of other splits of the real images that give as much.
        ratio: median over the images of the distance to the nearest member by that to the second nearest; 0 for copies.
        authenticity: share of them that are no nearer to a member than that is to its nearest fellow; 0 for copies.
    """

    share: float
    expected: float
    p: float
    ratio: float
    authenticity: float


def distances(
    images: NDArray[np.floating],
    members: NDArray[np.floating],
    others: NDArray[np.floating],
    generator: np.random.Generator,
    units: NDArray[np.int64] | None = None,
) -> Distances:
    """Return how close images lie to members, beside how close they lie to other real images.

    Args:
        images: in question, (S, D).
        members: real images they may have been made from, (A, D).
        others: real images that no step has seen, (B, D), of the same kind.
        generator: draws other splits.
        units: what is split as a whole, such as patients: a number for each member and then each other one, (A + B,).

    Raises:
        ValueError: fewer than two members, or no others.

    Source: docs/audit.md 3.
    """
    if len(members) < 2 or not len(others):
        raise ValueError(f"needs at least two members and one other image, got {len(members)} and {len(others)}")
    to_members, index = nearest(images, members, 2)
    to_others, _ = nearest(images, others)
    second = to_members[:, 1]
    ratio = np.divide(to_members[:, 0], second, out=np.zeros_like(second), where=second > 0)
    among, _ = nearest(members, members, 2)
    fellow = among[:, 1][index[:, 0]]  # its nearest is itself, or a copy of it
    real = np.concatenate([members, others])
    is_member = np.arange(len(real)) < len(members)
    share = _share(to_members[:, 0], to_others[:, 0])
    # of each image the nearest real one, whose side is what a split decides
    hub = nearest(images, real)[1][:, 0]
    labels = np.arange(len(real)) if units is None else np.unique(units, return_inverse=True)[1]
    owner = np.zeros(labels.max() + 1, dtype=bool)
    owner[labels] = is_member
    sizes = np.bincount(labels)
    alike = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]  # large ones are put aside less often
    sides = np.stack([_resplit(owner, alike, generator) for _ in range(RESPLITS)])[:, labels[hub]].mean(axis=1)
    p = (1 + int((sides >= share - 1e-12).sum())) / (RESPLITS + 1)
    # a copy is none, also of an image that the members hold twice
    authentic = float(((to_members[:, 0] >= fellow) & (to_members[:, 0] > 0)).mean())
    return Distances(share, float(is_member.mean()), p, float(np.median(ratio)), authentic)


def _resplit(owner: NDArray[np.bool_], alike: list[NDArray[np.intp]], generator: np.random.Generator) -> Any:
    """Return whose each unit is in another split, in which units of one size change places."""
    other = owner.copy()
    for units in alike:
        other[units] = generator.permutation(owner[units])
    return other


def _share(to_members: Floats, to_others: Floats) -> float:
    return float(((to_members < to_others) + 0.5 * (to_members == to_others)).mean())
