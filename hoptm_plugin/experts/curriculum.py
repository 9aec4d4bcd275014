"""Experts on data that change by the epoch: which images of each class are open, by their difficulty."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from hoptm_plugin.core.roles import Result, Settings


class Curriculum(Settings):
    """From easy to hard images, and in the end without the easiest (PAD).

    Of the n images of a class from the easiest on, epoch e (from 0) trains on those between the places round(l n) and
    round(u n): u = start + (1 - start) e / all_at up to epoch all_at, 1 later; l = 0 until an epoch of ``drop_after``
    is over, then its fraction of ``drop``. No class is ever without an image. Difficulty is EL2N, the mean over some
    networks of ||softmax f(x) - onehot(y)||_2; they are experts of the same recipe without the curriculum.

    Attributes:
        start: fraction of each class that is open in epoch 0.
        all_at: epoch from which all are.
        drop_after: epochs after which the easiest are left out; ascending, none before ``all_at``.
        drop: fraction of each class that is left out after each of these.
        scoring_networks: networks whose scores are averaged.
        scoring_epochs: that they are trained for.

    Source: PAD (Li et al. 2024, arXiv 2408.03360); EL2N: Paul et al. 2021 (arXiv 2107.07075); docs/methods.md 19.
    Deviates: how PAD's scores were made is not published; networks and epochs are those of EL2N's paper.
    """

    start: Result[float] = 0.75
    all_at: Result[NonNegativeInt] = 20
    drop_after: Result[tuple[NonNegativeInt, ...]] = (40, 60)
    drop: Result[tuple[float, ...]] = (0.1, 0.2)
    scoring_networks: Result[PositiveInt] = 10
    scoring_epochs: Result[PositiveInt] = 20

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if not 0 < self.start <= 1:
            raise ValueError("start must be above 0 and at most 1")
        if not all(0 <= fraction < 1 for fraction in self.drop):
            raise ValueError("drop must be fractions from 0 to below 1")
        if len(self.drop_after) != len(self.drop):
            raise ValueError("drop needs one fraction for each epoch of drop_after")
        if any(first >= second for first, second in pairwise(self.drop_after)):
            raise ValueError("drop_after must ascend")
        if self.drop_after and self.drop_after[0] < self.all_at:
            raise ValueError("drop_after must not lie before all_at, where images are still being added")
        return self

    def fractions(self, epoch: int) -> tuple[float, float]:
        """Return (l, u), between which the images of a class are open in an epoch, counted from 0."""
        opened = 1.0 if epoch >= self.all_at else self.start + (1 - self.start) * epoch / self.all_at
        dropped = [fraction for last, fraction in zip(self.drop_after, self.drop, strict=True) if epoch > last]
        return (dropped or [0.0])[-1], opened

    def window(self, epoch: int, size: int) -> slice:
        """Return which places of ``size`` images from the easiest on are open; of any images one at least."""
        dropped, opened = self.fractions(epoch)
        stop = max(1, round(opened * size))
        return slice(min(round(dropped * size), stop - 1), stop)

    def open_images(self, epoch: int, ranked: Sequence[Tensor]) -> Tensor:
        """Return the indices of the images that an epoch trains on, ascending.

        Args:
            epoch: from 0.
            ranked: of each class the indices of its images, the easiest first.
        """
        return torch.cat([rows[self.window(epoch, len(rows))] for rows in ranked]).sort().values

    def share(self, epochs: int) -> float:
        """Return the mean fraction of the images that ``epochs`` train on."""
        fractions = [self.fractions(epoch) for epoch in range(epochs)]
        return sum(opened - dropped for dropped, opened in fractions) / max(1, epochs)
