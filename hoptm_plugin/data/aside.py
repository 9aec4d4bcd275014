"""Images that are put aside for an audit, and the halves that its shadow distillations are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hoptm_plugin.core.dataset import Aside, Split
from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.preprocess import BesideReader
from hoptm_plugin.privacy.design import halves

HOLDOUT, RESERVE = "holdout", "reserve"
RESERVED = 1 / 3  # of what is put aside
TENTH = 10  # of the images that shadows are given, and of their units, at most one in so many is a canary
Labelled = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Parted:
    """Rows of what was the training split, ascending, by what they are now.

    Attributes:
        rows: of "train", "holdout" and "reserve".
        units: of all rows of what was the training split.
        said: what was done, in a line.
        labels: that these rows have now, where an audit mislabels some; None: their own.
    """

    rows: Mapping[str, Tensor]
    units: Tensor
    said: str
    labels: Tensor | None = None

    def applied(
        self, splits: Mapping[str, Labelled], provenance: Mapping[str, Any], hashes: Mapping[str, Tensor]
    ) -> tuple[dict[str, Labelled], dict[str, Any], dict[str, Tensor]]:
        """Return splits, provenance and hashes of the training split, divided; what is put aside keeps no hashes."""
        images, labels = splits["train"]
        labels = labels if self.labels is None else self.labels.to(labels)
        divided = {name: (images[rows], labels[rows]) for name, rows in self.rows.items()}
        told = {**provenance, "put_aside": {name: len(self.rows[name]) for name in (HOLDOUT, RESERVE)}}
        if "split" in provenance:
            files = provenance["split"]["train"]
            named = {name: [files[row] for row in rows.tolist()] for name, rows in self.rows.items()}
            told["split"] = {**provenance["split"], **named}
        return {**splits, **divided}, told, {**hashes, "train": hashes["train"][self.rows["train"]]}

    def of(self, parts: Mapping[str, Split]) -> Aside:
        """Return what was put aside of prepared splits."""
        units = {name: self.units[rows] for name, rows in self.rows.items()}
        return Aside(parts[HOLDOUT], parts[RESERVE], self.rows, units)


def put_aside(
    labels: Tensor,
    class_names: Sequence[str],
    hashes: Tensor,
    groups: Tensor | None,
    beside: BesideReader,
    seeds: Seeds,
) -> Parted:
    """Put images of the training split aside, of every class the same share; of a shadow divide what is left anew.

    Groups are not divided, nor are images that are equal: the one that is put aside would be known by the other.

    Args:
        labels: of the training split, (n,).
        class_names: by class index.
        hashes: of its images, (n, 16).
        groups: of its images, (n,), such as patients; None: there are none.
        beside: says how many are put aside, and which half a shadow is given.
        seeds: decide which.

    Raises:
        DataError: nothing can be put aside, or nothing is left.
    """
    assert beside.holdout_fraction is not None
    units = units_of(hashes, groups)
    aside = _drawn(units, labels, class_names, beside.holdout_fraction, seeds.child(HOLDOUT))
    reserve = aside.clone()
    reserve[aside] = _drawn(units[aside], labels[aside], class_names, RESERVED, seeds.child(RESERVE))
    train, holdout = ~aside, aside & ~reserve
    if not (train.any() and holdout.any() and reserve.any()):
        raise DataError(f"dataset.holdout_fraction={beside.holdout_fraction:g}: {len(labels)} training images in "
                        f"{len(units.unique())} groups of patients or of equal images are too few to put any aside; "
                        f"leave it out, or give more images")  # fmt: skip
    changed = None
    said = (f"put aside for an audit: {int(aside.sum()):,} of {len(labels):,} training images, {int(reserve.sum()):,} "
            f"of these as its reserve (dataset.holdout_fraction={beside.holdout_fraction:g})")  # fmt: skip
    if beside.shadow is not None:
        pool, shadow = ~reserve, beside.shadow
        members = members_of_shadows(labels[pool], units[pool], shadow.pairs, shadow.seed)[shadow.number]
        train = torch.zeros_like(pool)
        train[pool] = torch.from_numpy(members)
        holdout = pool & ~train
        said = f"{said}; shadow {shadow.number} of {2 * shadow.pairs}: {int(train.sum()):,} of the others"
        if shadow.canaries:
            changed = labels.clone()
            changed[pool] = mislabelled(labels[pool], units[pool], len(class_names), shadow.canaries, shadow.seed)
    rows = {"train": train, HOLDOUT: holdout, RESERVE: reserve}
    return Parted({name: mask.nonzero().flatten() for name, mask in rows.items()}, units, said, changed)


def units_of(hashes: Tensor, groups: Tensor | None) -> Tensor:
    """Return numbers of what belongs together, (n,): equal images, images of one group, and what these link."""
    _, equal = np.unique(hashes.numpy(), axis=0, return_inverse=True)
    equal = equal.reshape(-1)
    if groups is None:
        return _by_appearance(equal)
    from scipy.sparse import coo_array  # here, since its import takes long
    from scipy.sparse.csgraph import connected_components

    _, group = np.unique(groups.numpy(), return_inverse=True)
    count = int(group.max()) + 1
    size = count + int(equal.max()) + 1
    links = coo_array((np.ones(len(group)), (group, count + equal)), shape=(size, size))
    return _by_appearance(connected_components(links, directed=False)[1][group])


def _by_appearance(units: NDArray[np.integer]) -> Tensor:
    """Return the same units numbered in the order of their first images: another image renumbers no others."""
    _, first, number = np.unique(units, return_index=True, return_inverse=True)
    return torch.from_numpy(np.argsort(np.argsort(first))[number.reshape(-1)].astype(np.int64))


def members_of_shadows(labels: Tensor, units: Tensor, pairs: int, seed: int) -> NDArray[np.bool_]:
    """Return which images each shadow is given, (2 pairs, n).

    Args:
        labels: of the images that are neither in a validation or test split nor in reserve, (n,).
        units: that they belong to, (n,).
        pairs: of shadows.
        seed: that divides them.
    """
    draws = np.random.default_rng(Seeds(seed).child("shadows").number("halves"))
    return halves(labels.cpu().numpy(), pairs, draws, units.cpu().numpy())


def mislabelled(labels: Tensor, units: Tensor, classes: int, count: int, seed: int) -> Tensor:
    """Return labels, (n,), of which those of canaries are another class: one image of a unit at most.

    Args:
        labels: of the images that :func:`members_of_shadows` divides, (n,).
        units: that they belong to, (n,).
        classes: there are.
        count: of canaries, at most a tenth of the images and of the units.
        seed: draws them, and their classes.
    """
    draws = np.random.default_rng(Seeds(seed).child("shadows").number("canaries"))
    order = draws.permutation(len(labels))
    _, one = np.unique(units.cpu().numpy()[order], return_index=True)
    rows = torch.from_numpy(order[np.sort(one)][: min(count, len(labels) // TENTH, len(one) // TENTH)])
    changed = labels.clone()
    away = torch.from_numpy(draws.integers(1, classes, len(rows)))
    changed[rows] = (labels[rows].cpu() + away).remainder(classes).to(labels)
    return changed


def _drawn(units: Tensor, labels: Tensor, class_names: Sequence[str], fraction: float, seeds: Seeds) -> Tensor:
    """Return which images are drawn, (n,) bool: whole units, of each class about the fraction of its images.

    A unit counts to the class of most of its images. Of a class of several units at least one is drawn, never all.
    """
    names, number = units.unique(return_inverse=True)
    sizes = torch.bincount(number)
    by_class = torch.zeros(len(names), len(class_names), dtype=torch.int64)
    by_class.index_put_((number, labels), torch.ones_like(labels), accumulate=True)
    majority, drawn = by_class.argmax(dim=1), torch.zeros(len(names), dtype=torch.bool)
    for label, name in enumerate(class_names):
        own = (majority == label).nonzero().flatten()
        if len(own) < 2:
            continue
        order = own[torch.randperm(len(own), generator=seeds.generator(name))]
        below = int((sizes[order].cumsum(0) <= fraction * int(sizes[own].sum()) + 0.5).sum())
        drawn[order[: min(max(below, 1), len(own) - 1)]] = True
    return drawn[number]
