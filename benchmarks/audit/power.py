"""How weak a leak can an audit still find: sets of digits with planted ones, by the power of its tiers' tests.

    python benchmarks/audit/power.py [REPEATS]     # about half an hour; prints the table of README.md

A set has images of real digits in it, blended, moved, or in its soft labels alone. No set is distilled and no network
is trained, so that a leak is exactly as strong as it says: kernel ridge regression stands for the networks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import shift
from sklearn.datasets import load_digits
from sklearn.kernel_ridge import KernelRidge

from hoptm_plugin.engine.significance import holm
from hoptm_plugin.privacy.design import halves
from hoptm_plugin.privacy.distances import distances
from hoptm_plugin.privacy.identity import moved, ranks
from hoptm_plugin.privacy.membership import membership
from hoptm_plugin.privacy.signals import loss_signal, nearest_signal

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
LEVEL, RESERVE, REDRAWS = 0.05, 18, 199  # RESERVE of each class
CLASSES, SIDE = 10, 8
SHADOWS = {"16 shadows": 16, "32 shadows": 32}
TEACHER = 0.02  # ridge of the teacher that gives soft labels: it has its training images nearly by heart
SHARPNESS = 20.0  # logits of an output of 1


class Made(NamedTuple):
    """A set, and the member that each of its images began from; None: they began from none."""

    images: Floats
    classes: Labels
    targets: Floats
    origins: Labels | None


Plant = Callable[[Floats, Floats, np.random.Generator], Floats]


def blended(weight: float) -> Plant:
    """Return what blends members with fresh images, the members' weight first."""
    return lambda own, fresh, draws: weight * own + (1 - weight) * fresh


def shifted(own: Floats, fresh: Floats, draws: np.random.Generator) -> Floats:
    """Return members, each moved by one pixel."""
    steps = [(0, 1), (0, -1), (1, 0), (-1, 0)]
    return np.stack([shift(each.reshape(SIDE, SIDE), steps[draws.integers(4)], order=0).ravel() for each in own])


SOFT = "fresh images with soft labels of a teacher"
LEAKS: dict[str, Plant | None] = {
    "training images themselves": blended(1.0),
    "blended with fresh ones, 50 %": blended(0.5),
    "blended, 20 %": blended(0.2),
    "blended, 5 %": blended(0.05),
    "moved by one pixel": shifted,
    SOFT: None,
    "none: fresh images": None,
}


class World:
    """Digits: a pool that members are drawn from, and a reserve of fresh images."""

    def __init__(self, draws: np.random.Generator, ipc: int) -> None:
        data = load_digits()
        images, labels = data.data / 16, data.target.astype(np.int64)
        rows = np.concatenate(
            [draws.permutation(np.flatnonzero(labels == label))[:RESERVE] for label in range(CLASSES)]
        )
        aside = np.isin(np.arange(len(labels)), rows)
        self.fresh, self.of_fresh = images[aside], labels[aside]
        self.images, self.labels = images[~aside], labels[~aside]
        self.draws, self.ipc = draws, ipc

    def made(self, name: str, members: NDArray[np.bool_]) -> Made:
        """Return a set with a planted leak of some of the members."""
        origins, fresh = (np.concatenate([self.draws.permutation(np.flatnonzero(which))[: self.ipc]
                                          for which in (of == label for label in range(CLASSES))])
                          for of in (np.where(members, self.labels, -1), self.of_fresh))  # fmt: skip
        plant, images = LEAKS[name], self.fresh[fresh]
        if plant is not None:
            images = plant(self.images[origins], images, self.draws)
        targets = np.eye(CLASSES)[self.labels[origins]]
        if name == SOFT:
            teacher = KernelRidge(alpha=TEACHER, kernel="rbf", gamma=1.0)
            targets = teacher.fit(self.images[members], np.eye(CLASSES)[self.labels[members]]).predict(images)
        levels = np.round(255 * images) / 255
        return Made(levels, self.labels[origins], targets, None if plant is None else origins)

    def quick(self, made: Made, members: NDArray[np.bool_]) -> list[float]:
        """Return the p-values of the quick tier: distances in pixels, and ranks where images began as members."""
        sides = self.images[members], self.images[~members]
        found = [distances(made.images, *sides, self.draws).p]
        if made.origins is not None:
            rows = np.flatnonzero(members)
            of_class = [rows[self.labels[rows] == label] for label in made.classes]
            places = [int(np.flatnonzero(own == origin)[0]) for own, origin in zip(of_class, made.origins, strict=True)]
            versions = moved(made.images.reshape(-1, 1, SIDE, SIDE))
            found.append(ranks(versions, places, [self.images[own] for own in of_class]).p)
        return found

    def signals(self, made: Made) -> dict[str, Floats]:
        """Return both signals of a set about the whole pool."""
        student = KernelRidge(alpha=0.1, kernel="rbf", gamma=0.3).fit(made.images, made.targets)
        logits = SHARPNESS * student.predict(self.images)[None]
        return {"loss": loss_signal(logits, self.labels),
                "nearest": nearest_signal(self.images, self.labels, made.images, made.classes)}  # fmt: skip

    def standard(self, name: str, pairs: int) -> tuple[list[float], dict[str, float]]:
        """Return the p-values that shadows add to the quick ones, and the AUC of both signals."""
        members = halves(self.labels, pairs, self.draws)
        found = [self.signals(self.made(name, each)) for each in members]
        tests, aucs = list[float](), {}
        for signal in found[0]:
            told = membership(np.stack([each[signal] for each in found]), members,
                              lambda draws: halves(self.labels, pairs, draws), self.draws, REDRAWS)  # fmt: skip
            tests += [told.p, *(rate.p for rate in told.rates if rate.fpr == 0.01)]
            aucs[signal] = told.auc
        return tests, aucs


def is_found(tests: list[float]) -> bool:
    """Tell whether an audit with these p-values finds a leak."""
    return any(p is not None and p <= LEVEL for p in holm(tests))


def powers(name: str, ipc: int, repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the share of audits of each tier that find a leak, and the mean AUC of both signals by 16 shadows."""
    hits = {tier: list[bool]() for tier in ("quick", *SHADOWS)}
    aucs: dict[str, list[float]] = {"loss": [], "nearest": []}
    for seed in range(repeats):
        world = World(np.random.default_rng([seed, ipc]), ipc)
        members = np.zeros(len(world.labels), dtype=bool)
        members[world.draws.permutation(len(members))[: int(0.8 * len(members))]] = True
        quick = world.quick(world.made(name, members), members)
        hits["quick"].append(is_found(quick))
        for tier, shadows in SHADOWS.items():
            more, found = world.standard(name, shadows // 2)
            hits[tier].append(is_found(quick + more))
            if shadows == 16:
                for signal, auc in found.items():
                    aucs[signal].append(auc)
    return {tier: float(np.mean(each)) for tier, each in hits.items()}, {k: float(np.mean(v)) for k, v in aucs.items()}


def lines(repeats: int) -> Iterator[str]:
    """Yield the table's lines."""
    yield "| planted | IPC | quick | 16 shadows | 32 shadows | AUC by loss | AUC by nearest |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name in LEAKS:
        for ipc in (1, 10):
            power, aucs = powers(name, ipc, repeats)
            shares = " | ".join(f"{100 * each:.0f} %" for each in power.values())
            yield f"| {name} | {ipc} | {shares} | {aucs['loss']:.3f} | {aucs['nearest']:.3f} |"


if __name__ == "__main__":
    for line in lines(int(sys.argv[1]) if len(sys.argv) > 1 else 10):
        print(line, flush=True)
