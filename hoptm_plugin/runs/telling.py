"""Who was among the training images: what signals of shadow distillations tell, of these and of the run itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from hoptm_plugin.cards.audit import LEVEL, TOLD_AT, Bound, Control, Must, OneRun, Rate, Signal
from hoptm_plugin.engine.significance import holm
from hoptm_plugin.privacy.design import halves
from hoptm_plugin.privacy.membership import Membership, lira_of, membership, roc, threshold_at
from hoptm_plugin.privacy.one_run import paired
from hoptm_plugin.runs.closeness import control
from hoptm_plugin.runs.shadows import CONTROLS, Pool, Signals

SIGNALS = ("loss", "nearest")
DELTA = 1e-5
REDRAWS = 999  # designs that might have been
CLEAR = 0.01  # corrected; 999 redraws can come below it
MOST_MISSED = 0.5  # of copies
MUST: Mapping[str, Must] = {"copies": "be found", "barely changed": "be found", "reserve": "be cleared",
                            "noise": "be cleared"}  # fmt: skip
CALLED = {"copies": "copies of members", "barely changed": "barely changed members",
          "reserve": "real images that were put aside", "noise": "noise"}  # fmt: skip


class Told:
    """What all shadows together tell.

    Args:
        signals: of every shadow, pairs of complements.
        pool: the images that were divided.
        draws: a generator for each name.
        canaries: which of these had a class that was not theirs, (N,); they are told of apart from all others.
    """

    def __init__(
        self,
        signals: Sequence[Signals],
        pool: Pool,
        draws: Mapping[str, np.random.Generator],
        canaries: NDArray[np.bool_],
    ) -> None:
        self.members = np.stack([each.members for each in signals])
        self.exposed = np.stack([each.exposed for each in signals])
        self.values = {name: np.stack([each.values[name] for each in signals]) for name in signals[0].values}
        self.pool, self.draws, self.canaries = pool, draws, canaries

    def of(self, name: str, rows: NDArray[np.bool_]) -> Membership:
        """Return how well members are told from others among some of the images by one signal."""
        labels, units, pairs = self.pool.labels, self.pool.units, len(self.members) // 2
        return membership(
            self.values[name][:, rows],
            self.members[:, rows],
            lambda draws: halves(labels, pairs, draws, units)[:, rows],
            self.draws["designs"],
            REDRAWS,
        )

    def signal(self, name: str, of_canaries: bool = False) -> Signal:
        """Return the record of what one signal tells of all images but the canaries, or of these alone."""
        rows = self.canaries == of_canaries
        found, members, among = self.of(name, rows), self.members[:, rows], self.exposed[:, rows]
        rates = tuple(Rate(**asdict(each)) for each in found.rates)
        exposed = None
        if among.any() and any(each.fpr == TOLD_AT for each in rates):
            exposed = _told(found, members, among)
        curve = tuple(roc(found.scores, members))
        return Signal(auc=found.auc, auc_ci95=found.auc_ci95, p=found.p, rates=rates, exposed_found=exposed, roc=curve)

    def controls(self) -> list[Control]:
        """Return whether sets of which it is known what they give away are found, or cleared."""
        found, rows = [], ~self.canaries
        for name in CONTROLS:
            told = [self.of(f"{name}, {what}", rows) for what in SIGNALS]
            tests = holm([each.p for each in told] + [rate.p for each in told for rate in each.rates])
            p = min(each for each in tests if each is not None)
            aucs = ", ".join(f"{what} {each.auc:.3f}" for what, each in zip(SIGNALS, told, strict=True))
            said, copied = f"AUC by {aucs}; p = {p:.2g}, corrected", self.values[f"{name}, exposed"][:, rows] > 0
            passed = p <= LEVEL if MUST[name] == "be found" else p > CLEAR
            if copied.any():  # few among many move no AUC: of these it is known who they are
                share = max(_told(each, self.members[:, rows], copied) for each in told)
                said += (
                    f"; {100 * share:.0f} % of those that were copied are told at {100 * TOLD_AT:g} % false positives"
                )
                passed = passed or share > MOST_MISSED
            found.append(control(f"{CALLED[name]}, membership", MUST[name], passed, said))
        return found

    def one_run(self, values: Mapping[str, NDArray[np.float64]]) -> OneRun | None:
        """Return what the run's own set refutes; None where there are no pairs.

        Args:
            values: both signals of the run's set.
        """
        first, second = self._pairs(self.draws["pairs"])
        rows = ~self.canaries
        if not len(first):
            return None
        coins = self.draws["coins"].random(len(first)) < 0.5  # which of a pair comes first tells nothing
        bounds = {}
        for name in SIGNALS:
            z = np.zeros(len(rows))
            z[rows] = lira_of(values[name][rows], self.values[name][:, rows], self.members[:, rows])
            difference = np.where(coins, 1.0, -1.0) * (z[first] - z[second])
            bounds[name] = Bound(**asdict(paired(difference, coins, DELTA, LEVEL / len(SIGNALS))))
        return OneRun(**bounds)

    def _pairs(self, draws: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return pairs of a member of the run and another image of its class: one image of each unit at most.

        Both units are of one size, since large ones are put aside less often, and the coin would not be fair. Units
        with a canary are in no pair: the run knew it by its own class.
        """
        units = self.pool.units
        order = draws.permutation(np.flatnonzero(~np.isin(units, units[self.canaries])))
        if not len(order):
            return order, order
        _, one, sizes = np.unique(units[order], return_index=True, return_counts=True)
        shuffled = draws.permutation(len(one))
        chosen, size = order[one][shuffled], sizes[shuffled]
        strata = self.pool.labels[chosen] * (size.max() + 1) + size
        first, second = list[NDArray[np.int64]](), list[NDArray[np.int64]]()
        for stratum in np.unique(strata):
            rows = chosen[strata == stratum]
            inside, outside = rows[self.pool.members[rows]], rows[~self.pool.members[rows]]
            count = min(len(inside), len(outside))
            first.append(inside[:count])
            second.append(outside[:count])
        return np.concatenate(first), np.concatenate(second)


def _told(found: Membership, members: NDArray[np.bool_], which: NDArray[np.bool_]) -> float:
    """Return the share of members that are told where 1 % false positives are allowed."""
    return float((found.scores[which] > threshold_at(found.scores, members, TOLD_AT)).mean())
