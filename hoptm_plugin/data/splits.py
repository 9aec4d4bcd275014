"""Seeded stratified splits, of images or of whole groups of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.seeding import Seeds

FOLDS = 20  # at most


def stratified(
    labels: Tensor, class_names: Sequence[str], fraction: float, seeds: Seeds, groups: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return (kept, held) indices, both ascending, with the same ``fraction`` of every class held out.

    Of n images of a class floor(n * fraction + 1/2) are held out, but at least one and at most n - 1; of a single image
    none. Each class draws from its own stream, named after it, so that leaving other classes out does not move its
    images between the splits. With ``groups``, (n,) int64, whole groups are held out, and the fractions are near.

    Raises:
        DataError: groups that cannot be divided so that every class keeps images.
    """
    if groups is not None:
        return _of_groups(labels, class_names, fraction, seeds, groups)
    kept, held = [], []
    for label, name in enumerate(class_names):
        members = torch.nonzero(labels == label).flatten()
        count = len(members)
        number = min(max(int(count * fraction + 0.5), 1), count - 1) if count > 1 else 0
        order = members[torch.randperm(count, generator=seeds.generator(name))]
        held.append(order[:number])
        kept.append(order[number:])
    return torch.cat(kept).sort().values, torch.cat(held).sort().values


def _of_groups(
    labels: Tensor, class_names: Sequence[str], fraction: float, seeds: Seeds, groups: Tensor
) -> tuple[Tensor, Tensor]:
    """Hold out k of n folds of scikit-learn's ``StratifiedGroupKFold``, where k / n is near the fraction.

    Of those that follow each other the ones are taken that leave images of most classes, hold out a share within a
    factor of two of the fraction, have most classes, and are nearest to it.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    count = len(groups.unique())
    if count < 2:
        raise DataError("all training images belong to one group, so none can be held out; supply the split")
    images = torch.bincount(labels, minlength=len(class_names))
    wanted = Fraction(fraction).limit_denominator(FOLDS)
    # more folds than groups, or than images of each class, would be refused
    folds = max(2, min(wanted.denominator if 0 < wanted < 1 else FOLDS, count, int(images.max())))
    together = min(max(round(fraction * folds), 1), folds - 1)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seeds.number("groups") % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer images than folds, looked at below
        found = splitter.split(labels.numpy(), labels.numpy(), groups.numpy())
        fold = torch.empty(len(labels), dtype=torch.int64)
        for number, (_, rows) in enumerate(found):
            fold[torch.from_numpy(rows)] = number
    parts = []
    for first in range(folds):
        out = (fold - first) % folds < together
        parts.append((torch.nonzero(~out).flatten(), torch.nonzero(out).flatten()))

    def classes(part: Tensor) -> int:
        return len(labels[part].unique())

    def fitness(pair: tuple[Tensor, Tensor]) -> tuple[int, bool, int, float]:
        share = len(pair[1]) / len(labels)
        near = fraction / 2 <= share <= 2 * fraction
        return classes(pair[0]), near, classes(pair[1]), -abs(share - fraction)

    kept, held = max(parts, key=fitness)  # of equal ones the first
    if len(held) > max(fraction, 0.5) * len(labels):
        raise DataError(f"groups are too unequal: {len(held)} of {len(labels)} images would be held out instead of "
                        f"{100 * fraction:.0f} %; supply the split")  # fmt: skip
    if classes(kept) < int((images > 0).sum()):
        lost = class_names[next(iter(set(labels.tolist()) - set(labels[kept].tolist())))]
        raise DataError(f"class {lost!r} has too few groups to be divided: all its images would be held out; "
                        f"supply the split, or leave the class out")  # fmt: skip
    return kept, held
