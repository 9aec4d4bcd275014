"""The simulation of two methods that are alike: how often they are called different."""

import random
from statistics import fmean

import null
import pytest
import scored_cards

from hoptm_plugin.cards.card import write_card


def card(**changes):
    return scored_cards.make("mtt", 0.5, **changes)


@pytest.mark.slow
def test_the_scatter_is_that_of_the_cards():
    """Seeds scatter by 0.04, networks by 0.02 about them: intraclass correlation 16 / (16 + 4) = 0.8."""
    generator = random.Random(0)
    scatter = null.Scatter(0.04, 0.02)
    cards = [each.model_copy(update={"ipc": ipc}) for ipc in range(1, 200)
             for each in null.drawn(card(), "mtt", 3, scatter, generator)]  # fmt: skip
    found = null.scatter(cards)
    assert found.between_seeds == pytest.approx(0.04, rel=0.1)
    assert found.between_networks == pytest.approx(0.02, rel=0.1)
    assert found.intraclass == pytest.approx(0.8, abs=0.05)
    assert scatter.intraclass == pytest.approx(0.8)


def test_scatter_by_hand():
    """Networks 0.4 and 0.6, five of them; seed means 0.5 and 0.7: variances 0.012 within, 0.02 - 0.012 / 5 between."""
    values = (0.4, 0.4, 0.5, 0.6, 0.6)
    higher = [value + 0.2 for value in values]
    found = null.scatter([scored_cards.make("mtt", *values), scored_cards.make("mtt", *higher, seed=1)])
    assert found.between_networks**2 == pytest.approx(fmean((0.01, 0.01)))
    assert found.between_seeds**2 == pytest.approx(0.02 - 0.01 / 5)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_two_equal_methods_are_rarely_called_different(seeds):
    """5 % of 300 are 15, and with 99.9 % probability fewer than 28; tests over networks call six times as many."""
    rates = null.rejections(card(), seeds, null.Scatter(0.023, 0.024), 300, random.Random(seeds))
    assert rates[0] < 28 / 300
    assert rates[1] > 0.2


def test_one_seed_is_no_test():
    assert null.rejections(card(), 1, null.Scatter(0.023, 0.024), 50, random.Random(1))[0] == 0


def test_the_script_prints_what_it_found(tmp_path, capsys):
    for seed, base in enumerate((0.5, 0.54, 0.47)):
        accuracies = [base + number / 100 for number in range(5)]
        write_card(scored_cards.make("mtt", *accuracies, seed=seed), tmp_path / f"{seed}/result.json")
    assert null.main(["--cards", str(tmp_path), "--trials", "3"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("3 cards: standard deviation 3.44 points between seeds, 1.58 between networks of a set;")
    assert "| 1 | 5 | no test |" in said
