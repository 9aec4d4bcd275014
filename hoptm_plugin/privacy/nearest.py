"""Nearest neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def nearest(
    rows: NDArray[np.floating], among: NDArray[np.floating], count: int = 1
) -> tuple[Floats, NDArray[np.int64]]:
    """Return the Euclidean distances to the ``count`` nearest of ``among``, ascending, and which they are.

    Args:
        rows: (N, D).
        among: (A, D).
        count: at most A.

    Returns:
        Distances (N, count), and indices (N, count).
    """
    from sklearn.neighbors import NearestNeighbors  # here, since its import takes seconds

    wide = among.astype(np.float64)
    index = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(wide).kneighbors(rows, return_distance=False)
    # the library's distances are differences of squares, which of a copy leave rounding
    distance = np.linalg.norm(rows.astype(np.float64)[:, None] - wide[index], axis=2)
    order = np.argsort(distance, axis=1, kind="stable")
    return np.take_along_axis(distance, order, axis=1), np.take_along_axis(index, order, axis=1)
