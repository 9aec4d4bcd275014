"""What an attacker reads off a distilled set about one image: higher where the set was more likely made from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from hoptm_plugin.privacy.nearest import Floats, nearest

NEAR = 1e-3  # added to a distance, so that that of a copy has a logarithm


def loss_signal(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Floats:
    """Return log(p / (1 - p)) of each image's class, the mean over networks that were trained on the set, (N,).

    phi = mean_e [z_y - log sum_{j != y} exp z_j]

    Args:
        logits: of E networks for N images and K classes, (E, N, K).
        labels: class of each image, (N,); also where the set has soft labels.

    Source: Carlini et al. 2022 (arXiv 2112.03570); docs/audit.md 1.
    """
    z = np.asarray(logits, dtype=np.float64)
    rows = np.arange(z.shape[1])
    own = z[:, rows, labels].copy()
    others = z.copy()
    others[:, rows, labels] = -np.inf
    return np.asarray((own - logsumexp(others, axis=2)).mean(axis=0))


def nearest_signal(
    images: NDArray[np.floating], labels: NDArray[np.int64], synthetic: NDArray[np.floating], classes: NDArray[np.int64]
) -> Floats:
    """Return -log(d + 0.001) of each image, d its distance to the nearest synthetic image of its class, (N,).

    An image of a class without a synthetic one has the lowest signal of all.

    Args:
        images: (N, D).
        labels: class of each, (N,).
        synthetic: (S, D).
        classes: class of each synthetic image, (S,); of soft labels the most probable.

    Source: docs/audit.md 1.
    """
    found = np.full(len(images), np.inf)
    for label in np.unique(labels):
        rows, own = np.flatnonzero(labels == label), synthetic[classes == label]
        if len(own):
            found[rows] = nearest(images[rows], own)[0][:, 0]
    finite = np.isfinite(found)
    found[~finite] = found[finite].max(initial=0.0)
    return np.asarray(-np.log(found + NEAR))
