"""How difficult training images are to networks: EL2N scores, kept beside the experts that see images in their order.

``difficulty.safetensors`` in an expert store has one tensor ``scores`` (n,), float32, and how long it took. All experts
of a store see images in one order, so the scores are computed once, by whoever holds ``difficulty.lock``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hoptm_plugin.core.dataset import Split
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.experts.store import ExpertStore, StoredTrajectories
from hoptm_plugin.networks.flat import FlatNetwork
from hoptm_plugin.storage.locks import Lock
from hoptm_plugin.storage.tensors import read_header, read_tensors, write_tensors

TENSOR, KIND, VERSION = "scores", "difficulty of images", 1
AGAIN = "delete it, and the images are scored again"
LARGEST = 2**0.5 + 1e-3  # two probability vectors are no farther apart
AT_ONCE, LOOK_EVERY = 256, 1.0  # images; seconds between looks at what another process scores


def el2n(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the length of each image's error, ||p - onehot(y)||_2, (n,), of probabilities (n, K) and labels (n,).

    Source: Paul et al. 2021 (arXiv 2107.07075), whose EL2N is its mean over networks; docs/methods.md 19.
    """
    return torch.linalg.vector_norm(probabilities - one_hot(labels, probabilities.shape[1]), dim=1)


@torch.no_grad()
def mean_el2n(network: FlatNetwork, thetas: Tensor, split: Split) -> Tensor:
    """Return the mean of :func:`el2n` over networks with the parameters ``thetas`` (E, P), (n,), on the CPU."""
    found = []
    for rows in torch.arange(len(split), device=split.labels.device).split(AT_ONCE):
        images, labels = split.batch(rows), split.labels[rows]
        each = [el2n(network(theta, images).softmax(dim=1), labels) for theta in thetas]
        found.append(torch.stack(each).mean(dim=0))
    return torch.cat(found).cpu()


def in_order(scores: Tensor, labels: Tensor) -> list[Tensor]:
    """Return, class by class, the indices of its images from the easiest on, on the CPU; equal ones as they come."""
    labels, order = labels.cpu(), scores.sort(stable=True).indices
    return [order[labels[order] == label] for label in labels.unique()]


def scored(
    store: ExpertStore, experts: Callable[[], StoredTrajectories], epoch: int, network: FlatNetwork, split: Split
) -> Tensor:
    """Return the scores (n,) of the images that a store's experts are trained on, computing them where there are none.

    Args:
        store: with a curriculum.
        experts: builds those that score, as they are after ``epoch``.
        epoch: of theirs.
        network: their architecture.
        split: the images.

    Raises:
        FileFormatError: what is stored is damaged, or of other images.
    """
    found = _stored(store, len(split))
    if found is not None:
        return found
    scoring = experts()
    store.begin()
    lock = Lock(store.folder / "difficulty.lock")
    while (found := _stored(store, len(split))) is None:
        if not lock.acquire():
            time.sleep(LOOK_EVERY)
            continue
        with closing(lock):
            if not _path(store).exists():
                began = time.perf_counter()
                thetas = torch.cat([scoring.segment(expert, epoch, epoch) for expert in range(len(scoring))])
                scores = mean_el2n(network, thetas, split)
                header = _identity(store) | {"seconds": scoring.seconds + time.perf_counter() - began}
                write_tensors(_path(store), {TENSOR: scores}, header)
    return found


def has_scores(store: ExpertStore) -> bool:
    """Tell whether a store's images are scored.

    Raises:
        FileFormatError: what is stored is damaged.
    """
    return _path(store).exists() and bool(_header(store))


def scoring_seconds(store: ExpertStore) -> float:
    """Return how long the scoring of a store's images took, its networks' training included; 0 without a curriculum."""
    return float(_header(store)["seconds"]) if store.recipe.training.curriculum and has_scores(store) else 0.0


def _path(store: ExpertStore) -> Path:
    return store.folder / "difficulty.safetensors"


def _identity(store: ExpertStore) -> dict[str, Any]:
    return {"kind": KIND, "version": VERSION, "recipe": store.recipe.digest}


def _header(store: ExpertStore) -> dict[str, Any]:
    shapes, header = read_header(_path(store), KIND, AGAIN)
    identity = _identity(store)
    if not isinstance(header, dict) or {key: header.get(key) for key in identity} != identity or len(shapes) != 1:
        raise FileFormatError(f"{_path(store)}: not the {KIND} of this store (version {VERSION}); {AGAIN}")
    seconds = header.get("seconds")
    if not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        raise FileFormatError(f"{_path(store)}: damaged: its seconds are none; {AGAIN}")
    return header


def _stored(store: ExpertStore, images: int) -> Tensor | None:
    """Return the scores of so many images, or None where there are none."""
    path = _path(store)
    if not has_scores(store):
        return None
    scores = read_tensors(path, KIND, AGAIN)[0].get(TENSOR)
    if scores is None or scores.shape != (images,) or scores.dtype != torch.float32:
        raise FileFormatError(f"{path}: does not hold one score, float32, for each of {images:,} images; {AGAIN}")
    if not bool(((scores >= 0) & (scores <= LARGEST)).all()):
        raise FileFormatError(f"{path}: damaged: scores that are none; {AGAIN}")
    return scores
