"""Which images each shadow distillation is given: complementary halves, by class and by group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def halves(
    labels: NDArray[np.int64], pairs: int, generator: np.random.Generator, groups: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """Return which of N images are members of each of 2 ``pairs`` shadows, (2 pairs, N).

    Shadow 2k is given a random half of each class and shadow 2k+1 all other images, so that every image is a member of
    exactly half of them, each time by a fair coin. Of two units of about the same size one goes to either side.

    Args:
        labels: class of each image, (N,).
        pairs: how many pairs of shadows.
        generator: draws.
        groups: unit of each image, such as its patient, (N,), which is not divided; None: images are the units.

    Source: docs/audit.md 1.
    """
    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(units.max()) + 1 if len(units) else 0
    sizes = np.bincount(units, minlength=count)
    classes = int(labels.max()) + 1 if len(labels) else 0
    by_class = np.zeros((count, classes), dtype=np.int64)
    np.add.at(by_class, (units, labels), 1)
    stratum = by_class.argmax(axis=1) if classes else np.zeros(0, dtype=np.int64)
    members = np.zeros((2 * pairs, len(labels)), dtype=bool)
    for pair in range(pairs):
        # neighbours in this order are of one class and of about one size; chance decides between equal ones
        order = np.lexsort((generator.random(count), sizes, stratum))
        at = np.arange(count) - np.searchsorted(stratum[order], stratum[order])
        coins = generator.random(count) < 0.5  # one for two neighbours; the last of an odd number has its own
        first = np.zeros(count, dtype=bool)
        first[order] = coins[np.arange(count) - at % 2] ^ (at % 2 == 1)
        members[2 * pair] = first[units]
        members[2 * pair + 1] = ~members[2 * pair]
    return members
