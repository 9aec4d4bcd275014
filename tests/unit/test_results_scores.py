"""Which cards label-robust and augmentation-robust scores are computed from, and which runs are missing."""

from __future__ import annotations

import itertools

import pytest
from scored_cards import NONE, ONE, OTHER, found, make, whole

from hoptm_plugin.tables.robust import augmentation_robust_score, label_robust_score
from hoptm_plugin.tables.scores import scored, tabled
from hoptm_plugin.tables.table import tables_of


def scores_of(cards, wanted=("lrs", "ars")):
    """Return {row: (lrs, ars)} of the only table, and what is missing."""
    comparisons, missing = scored(tables_of(tabled(cards), None, None), cards, wanted)
    (comparison,) = comparisons
    return {cell.row: (cell.lrs, cell.ars) for cell in comparison.cells}, missing


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_scores_of_data_of_any_number_of_classes(classes):
    scores, missing = scores_of(found(**whole(classes)))
    assert not missing
    assert scores["RANDOM"] == (None, None)
    # means: set .8, random .5, full .95; without augmentation .6 and .5
    assert scores["MTT"] == pytest.approx((label_robust_score(0.8, 0.8, 0.5, 0.95), 0.3631393))


def test_the_order_of_cards_does_not_matter():
    cards = found(**whole())
    expected = scores_of(cards)[0]
    for order in itertools.permutations(cards):
        assert scores_of(list(order))[0] == expected


def test_soft_labels_need_a_card_under_hard_labels_and_hard_ones_do_not():
    cards = whole() | {name: card.model_copy(update={"labels": "soft"})
                       for name, card in whole().items() if card.method == "mtt"}  # fmt: skip
    scores, missing = scores_of(found(**cards))
    assert scores["MTT"] == (None, pytest.approx(0.3631393))
    (need,) = missing
    assert (need.kind, need.labels, need.augment, need.scores) == ("again", "hard", None, {"lrs"})
    assert need.like[0].parent.name == "mtt"
    cards["hard"] = make("mtt", 0.3, digest=ONE, told="hard", labels="soft")
    scores, missing = scores_of(found(**cards))
    assert not missing
    assert scores["MTT"][0] == pytest.approx(label_robust_score(0.8, 0.3, 0.5, 0.95))


def test_a_card_that_does_not_say_its_labels_needs_one_under_hard_labels():
    cards = whole()
    cards["mtt"] = cards["mtt"].model_copy(update={"labels": None})
    _, (need,) = scores_of(found(**cards))
    assert (need.kind, need.labels) == ("again", "hard")


def test_everything_missing_is_named_at_once():
    cards = found(mtt=make("mtt", 0.8, digest=ONE), dm=make("dm", 0.7, digest=OTHER))
    _, missing = scores_of(cards)
    assert {(need.kind, need.augment, tuple(sorted(need.scores))) for need in missing} == {
        ("again", "none", ("ars",)), ("random", None, ("ars", "lrs")), ("full", None, ("lrs",)),
    }  # fmt: skip
    assert sum(need.kind == "again" for need in missing) == 2
    _, missing = scores_of(cards, ["lrs"])
    assert sorted(need.kind for need in missing) == ["full", "random"]


def test_a_random_subset_without_augmentation_is_asked_for_where_no_set_brings_it():
    cards = whole()
    cards["plain"] = make("mtt", 0.6, digest=ONE, augment=NONE)
    _, (need,) = scores_of(found(**cards))
    assert (need.kind, need.augment, need.networks) == ("random", "none", {"convnet"})


def test_random_subsets_of_runs_serve_where_the_method_was_not_run_and_count_a_seed_once():
    cards = whole() | {
        "mtt": make("mtt", 0.8, digest=ONE, random=(0.3,)),
        "dm": make("dm", 0.8, digest=OTHER, random=(0.3,)),
        "dm_plain": make("dm", 0.6, 0.6, digest=OTHER, augment=NONE, random=(0.4, 0.6)),
        "mtt1": make("mtt", 0.8, digest="3" * 64, seed=1, random=(0.6,)),
        "mtt1_plain": make("mtt", 0.6, digest="3" * 64, seed=1, augment=NONE, random=(0.2,)),
    }  # fmt: skip
    del cards["random"]
    scores, missing = scores_of(found(**cards))
    assert not missing
    # random: seeds 0 and 1 once each, (.3 + .6) / 2; without augmentation (.4 + .6 + .2) / 3
    assert scores["MTT"][1] == pytest.approx(augmentation_robust_score(0.8, 0.45, 0.6, 0.4))
    assert scores["DM"] == scores["MTT"]


def test_seeds_are_pooled_and_each_needs_its_own_cards():
    cards = whole() | {"again": make("mtt", 0.5, digest=OTHER, seed=1)}
    _, (need,) = scores_of(found(**cards))
    assert need.like[0].parent.name == "again"
    cards["again_plain"] = make("mtt", 0.3, digest=OTHER, seed=1, augment=NONE)
    scores, missing = scores_of(found(**cards))
    assert not missing
    # set (.7 + .9 + .5) / 3, without augmentation (.6 + .6 + .3) / 3
    assert scores["MTT"][1] == pytest.approx(augmentation_robust_score(0.7, 0.5, 0.5, 0.5))


def test_sets_are_told_apart_by_their_digest():
    two = {"mtt": make("mtt", 0.8, digest=ONE), "dm": make("dm", 0.8, digest=OTHER)}
    rest = {"random": make("random", 0.5, random=(0.1,)), "full": make("full", 0.9, ipc=None),
            "random_plain": make("random", 0.5, augment=NONE)}  # fmt: skip
    plain = {"mtt_plain": make("mtt", 0.6, augment=NONE, digest=ONE),
             "dm_plain": make("dm", 0.2, augment=NONE, digest=OTHER)}  # fmt: skip
    scores, missing = scores_of(found(**two, **rest, **plain))
    assert not missing
    assert scores["MTT"][1] == pytest.approx(augmentation_robust_score(0.8, 0.5, 0.6, 0.5))
    assert scores["DM"][1] == pytest.approx(augmentation_robust_score(0.8, 0.5, 0.2, 0.5))
    for digest in ("3" * 64, None):
        cards = found(**two, **rest, **plain | {"mtt_plain": make("mtt", 0.6, augment=NONE, digest=digest)})
        _, missing = scored(tables_of(tabled(cards), None, None), cards, ["ars"])
        assert "mtt" in {need.like[0].parent.name for need in missing if need.kind == "again"}, digest


def test_two_variants_of_a_method_keep_their_scores_apart():
    cards = found(
        a=make("mtt", 0.8, digest=ONE), b=make("mtt", 0.8, digest=OTHER), random=make("random", 0.5),
        a_plain=make("mtt", 0.6, digest=ONE, augment=NONE), b_plain=make("mtt", 0.2, digest=OTHER, augment=NONE),
        random_plain=make("random", 0.5, augment=NONE),
    )  # fmt: skip
    scores, missing = scores_of(cards, ["ars"])
    assert not missing
    assert scores["MTT (a)"][1] == pytest.approx(augmentation_robust_score(0.8, 0.5, 0.6, 0.5))
    assert scores["MTT (b)"][1] == pytest.approx(augmentation_robust_score(0.8, 0.5, 0.2, 0.5))


@pytest.mark.parametrize("name", ["plain", "random", "full"])
@pytest.mark.parametrize("change", ["fingerprint", "epochs", "network", "augmentation"])
def test_what_was_judged_otherwise_is_never_used(name, change):
    cards = whole()
    card = cards[name]
    cards[name] = {
        "fingerprint": card.model_copy(update={"dataset": card.dataset.model_copy(update={"fingerprint": "e" * 64})}),
        "epochs": card.model_copy(update={"protocol": card.protocol | {"epochs": 101}}),
        "augmentation": card.model_copy(update={"protocol": card.protocol | {"augment": {"name": "dsa", "x": 1}}}),
        "network": card.model_copy(update={
            kind: each and (each[0].model_copy(update={"network": "vgg11"}),)
            for kind, each in (("evaluations", card.evaluations), ("random_subset", card.random_subset))
        }),
    }[change]  # fmt: skip
    listed = found(**cards)
    comparisons, missing = scored(tables_of(tabled(listed), None, None), listed, ["lrs", "ars"])
    wanted = {"plain": "again", "random": "random", "full": "full"}[name]
    assert any(need.kind == wanted and need.networks == {"convnet"} for need in missing)
    cell = next(cell for each in comparisons for cell in each.cells if cell.row == "MTT" and cell.mean == 0.8)
    assert None in (cell.lrs, cell.ars)


def test_labels_told_to_random_images_and_all_images_do_not_matter():
    cards = whole()
    cards["random"] = make("random", 0.5, told="hard")
    cards["full"] = make("full", 0.95, ipc=None, told="hard")
    assert not scores_of(found(**cards))[1]


def test_all_images_may_be_judged_by_fewer_networks_but_a_set_may_not():
    cards = {
        name: card.model_copy(update={"protocol": card.protocol | {"repeats": 5}}) for name, card in whole().items()
    }
    cards["full"] = cards["full"].model_copy(update={"protocol": cards["full"].protocol | {"repeats": 1}})
    scores, missing = scores_of(found(**cards))
    assert not missing
    assert scores["MTT"] == scores_of(found(**whole()))[0]["MTT"]
    cards["plain"] = cards["plain"].model_copy(update={"protocol": cards["plain"].protocol | {"repeats": 1}})
    listed = found(**cards)
    missing = scored(tables_of(tabled(listed), None, None), listed, ["ars"])[1]
    assert "again" in [need.kind for need in missing]


def test_the_moving_average_is_scored_by_its_own_cards_or_not_at_all():
    cards = whole() | {"mtt": make("mtt", 0.8, digest=ONE, averaged=(0.9,))}
    scores, missing = scores_of(found(**cards))
    assert not missing
    assert scores["MTT, EMA"] == (pytest.approx(label_robust_score(0.9, 0.9, 0.5, 0.95)), None)
    cards["plain"] = make("mtt", 0.6, digest=ONE, augment=NONE, random=(0.5,), averaged=(0.65,))
    ema = pytest.approx(augmentation_robust_score(0.9, 0.5, 0.65, 0.5))
    assert scores_of(found(**cards))[0]["MTT, EMA"][1] == ema
    cards["plain"] = make("mtt", 0.6, digest=ONE, augment=NONE, random=(0.5,), averaged=(0.65,),
                          protocol={"warm_start_average": True})  # fmt: skip
    assert scores_of(found(**cards))[0]["MTT, EMA"][1] is None


def test_an_evaluation_of_the_same_seed_is_preferred():
    cards = whole() | {"other": make("mtt", 0.1, digest=ONE, augment=NONE, seed=1, distillation_seed=0)}
    assert scores_of(found(**cards))[0]["MTT"][1] == pytest.approx(0.3631393)


def test_cards_for_scores_alone_are_no_tables_but_what_has_no_main_card_is():
    cards = found(**whole(), dm=make("dm", 0.4, digest=OTHER, augment=NONE))
    assert [path.parent.name for path, _ in tabled(cards)] == ["mtt", "random", "full", "dm"]
    plain, main_table = scored(tables_of(tabled(cards), None, None), cards, ["lrs"])[0]
    if plain.rows() != ["DM"]:
        plain, main_table = main_table, plain
    assert (plain.rows(), main_table.rows()) == (["DM"], ["MTT", "RANDOM"])
    assert main_table.notes == ("Scores read 1 more card, without augmentation or under hard labels.",)
    _, (need,) = scored(tables_of(tabled(cards), None, None), cards, ["ars"])
    assert (need.kind, need.augment) == ("again", "dsa")


def test_a_comparison_without_augmentation_has_label_robust_scores():
    cards = {name: card.model_copy(update={"protocol": {"epochs": 100, "augment": NONE}, "labels": "soft"})
             for name, card in whole().items() if name != "plain"}  # fmt: skip
    cards["hard"] = make("mtt", 0.3, digest=ONE, augment=NONE, told="hard", labels="soft")
    scores, missing = scores_of(found(**cards), ["lrs"])
    assert not missing
    assert scores["MTT"] == (pytest.approx(label_robust_score(0.8, 0.3, 0.5, 0.95)), None)


def test_a_set_judged_under_hard_labels_only_must_be_judged_under_its_own():
    cards = found(
        mtt=make("mtt", 0.8, digest=ONE, told="hard", labels="soft"), random=make("random", 0.5, told="hard"),
        full=make("full", 0.9, ipc=None),
    )  # fmt: skip
    _, (need,) = scored(tables_of(tabled(cards), None, None), cards, ["lrs"])
    assert (need.kind, need.labels) == ("again", "stored")
    hard = [(path, card.model_copy(update={"labels": "hard"})) for path, card in cards]
    assert not scored(tables_of(tabled(hard), None, None), hard, ["lrs"])[1], "hard labels are the same either way"
