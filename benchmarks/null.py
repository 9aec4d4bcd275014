"""How often tests call two methods different that are alike: by simulation, with the scatter of committed cards.

    python benchmarks/null.py [--cards FOLDER] [--trials N] [--seed N]

Accuracies scatter between distillation seeds, and between networks that are trained on one set. Both variances are
estimated from the cards below FOLDER (analysis of variance, pooled over methods, IPC and data sets). Two methods that
do not differ are then drawn with them again and again, and compared by ``compare`` as anybody would; beside that, by
Welch's test over networks, as if each network were a distillation of its own.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance

from hoptm_plugin.cards.card import FILE_NAME, Card, read_card
from hoptm_plugin.cards.evaluation import Summary
from hoptm_plugin.engine.metrics import summarise
from hoptm_plugin.engine.significance import LEVEL, welch
from hoptm_plugin.tables.compare import compare

CARDS = Path(__file__).parent / "study_narrow" / "results"
SEEDS, NETWORKS, MEAN = (1, 3, 5), 5, 0.5


@dataclass(frozen=True)
class Scatter:
    """Standard deviations of accuracy, fractions."""

    between_seeds: float
    between_networks: float

    @property
    def intraclass(self) -> float:
        """Correlation of two networks that are trained on one set."""
        return self.between_seeds**2 / (self.between_seeds**2 + self.between_networks**2)


def scatter(cards: Sequence[Card]) -> Scatter:
    """Estimate both variances from sets that ``NETWORKS`` networks judged, of methods with several seeds."""
    sets: dict[tuple[str, ...], dict[int, tuple[float, ...]]] = {}
    for card in cards:
        accuracies = card.evaluations[0].accuracy.values
        if card.ipc is not None and len(accuracies) == NETWORKS:
            key = (card.dataset.name, card.title, str(card.ipc), card.evaluations[0].network)
            sets.setdefault(key, {})[card.seed] = tuple(value or 0.0 for value in accuracies)
    repeated = [list(by_seed.values()) for by_seed in sets.values() if len(by_seed) > 1]
    freedom = sum(len(each) - 1 for each in repeated)
    networks = sum((len(each) - 1) * fmean(map(variance, each)) for each in repeated) / freedom
    means = sum((len(each) - 1) * variance(map(fmean, each)) for each in repeated) / freedom
    return Scatter(max(0.0, means - networks / NETWORKS) ** 0.5, networks**0.5)


def drawn(like: Card, method: str, seeds: int, of: Scatter, generator: random.Random) -> Iterator[Card]:
    """Yield a method's cards, one a seed, of distillations and networks that scatter as given."""
    for seed in range(seeds):
        centre = generator.gauss(MEAN, of.between_seeds)
        values = [min(1.0, max(0.0, generator.gauss(centre, of.between_networks))) for _ in range(NETWORKS)]
        accuracy = Summary.model_validate(summarise(values))
        judged = like.evaluations[0].model_copy(update={"accuracy": accuracy, "confusion": None})
        yield like.model_copy(update={
            "method": method, "title": method, "seed": seed, "distillation_seed": seed, "evaluations": (judged,),
            "averaged": None, "random_subset": None, "reported": None, "artefacts": {},
        })  # fmt: skip


def rejections(like: Card, seeds: int, of: Scatter, trials: int, generator: random.Random) -> tuple[float, float]:
    """Return how often two equal methods are called different: by ``compare``, and by Welch's test over networks."""
    by_compare = over_networks = 0
    for _ in range(trials):
        one, other = (list(drawn(like, name, seeds, of, generator)) for name in ("one", "other"))
        (table,) = compare([*one, *other], against="one").tables
        found, reference = (next(cell for cell in table.cells if cell.row == row) for row in ("other", "one"))
        p = welch(found.values, reference.values).p
        by_compare += found.p_holm is not None and found.p_holm < LEVEL
        over_networks += p is not None and p < LEVEL
    return by_compare / trials, over_networks / trials


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", type=Path, default=CARDS, metavar="FOLDER", help="of finished runs")
    parser.add_argument("--trials", type=int, default=2000, metavar="N", help="for each number of seeds")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the simulation")
    options = parser.parse_args(arguments)
    cards = [read_card(path) for path in sorted(options.cards.rglob(FILE_NAME))]
    of, generator = scatter(cards), random.Random(options.seed)
    like = next(card for card in cards if card.ipc is not None)
    print(f"{len(cards)} cards: standard deviation {100 * of.between_seeds:.2f} points between seeds, "
          f"{100 * of.between_networks:.2f} between networks of a set; intraclass correlation {of.intraclass:.2f}\n\n"
          f"| seeds | networks each | compare rejects | Welch's test over networks rejects |\n"
          f"| ---: | ---: | ---: | ---: |")  # fmt: skip
    for seeds in SEEDS:
        rates = rejections(like, seeds, of, options.trials, generator)
        shown = [f"{100 * rate:.1f} %" for rate in rates]
        print(f"| {seeds} | {NETWORKS} | {shown[0] if seeds > 1 else 'no test'} | {shown[1]} |")
    print(f"\nBoth methods are equal, so {LEVEL:.0%} is right; {options.trials:,} comparisons each.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
