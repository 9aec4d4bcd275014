"""Rows of one method are named by the settings in which its runs differ."""

from typing import Annotated

import pytest
import yaml
from test_results_compare import make, store, table

from hoptm_plugin import Matcher, Symbol, compose, register
from hoptm_plugin.cards.card import write_card
from hoptm_plugin.core.plugins import PluginError
from hoptm_plugin.core.registry import registry
from hoptm_plugin.settings import symbols
from hoptm_plugin.storage.files import sha256
from hoptm_plugin.storage.run_files import write_config
from hoptm_plugin.tables import labels
from hoptm_plugin.tables.compare import compare
from hoptm_plugin.tables.labels import differing, flat, label, names_of, natural, value_text

__all__ = ["store"]
KAPPA, SHAPE = "method.schedulers.pace.kappa", "method.matchers.shape.weight"


def run_of(accuracy=0.5, *overrides, known=True, method="hoptm", **fields):
    """A card as a run with these overrides writes it."""
    settings = compose(f"method={method}", "dataset=digits", *overrides)
    made_with = settings.deciding(["result"]) if known else None
    return make(method, (accuracy,), ipc=settings.ipc, seed=settings.seed, settings=made_with,
                distillation_sha256=settings.set_digest(), **fields)  # fmt: skip


def rows(*cards):
    (comparison,) = compare(cards, tests=None).tables
    return comparison.rows()


def test_rows_are_named_by_symbols_and_seeds_are_pooled():
    cards = [run_of(0.5 + seed / 10, f"{KAPPA}.start={kappa}", f"{SHAPE}={weight}", f"seed={seed}")
             for kappa in ("1e-6", "1e-7") for weight in (0.5, 1) for seed in (0, 1)]  # fmt: skip
    (comparison,) = compare(cards, tests=None).tables
    assert comparison.rows() == [
        "HoP-TM, κ 1e-7, λ 0.5", "HoP-TM, κ 1e-7, λ 1", "HoP-TM, κ 1e-6, λ 0.5", "HoP-TM, κ 1e-6, λ 1",
    ]  # fmt: skip
    assert [len(cell.runs) for cell in comparison.cells] == [2] * 4
    assert comparison.cells[0].settings == {f"{KAPPA}.start": 1e-6, SHAPE: 0.5}


def test_a_value_that_nobody_changed_is_named_as_well():
    assert rows(run_of(0.5), run_of(0.6, f"{SHAPE}=2")) == ["HoP-TM, λ 0.5", "HoP-TM, λ 2"]


def test_settings_that_would_share_a_name_have_names_of_their_own():
    linear = "{name:linear,start:1e-9,end:1e-6,over:100}"
    cards = [run_of(0.5, f"{KAPPA}.start=1e-6"), run_of(0.6, f"{KAPPA}.start=1e-7"), run_of(0.7, f"{KAPPA}={linear}")]
    found = rows(*cards)
    assert len(set(found)) == 3
    assert [name for name in found if "geometric" in name and "1e-7" in name]
    assert [name for name in found if "linear" in name]


def test_scales_are_named_and_not_all_that_they_set():
    cards = [run_of(0.5, "scale=laptop", scale="laptop"), run_of(0.6, "scale=workstation", scale="workstation")]
    assert rows(*cards) == ["HoP-TM, scale laptop", "HoP-TM, scale workstation"]


def test_what_differs_between_sizes_alone_is_no_label():
    """A recipe may have settings for each IPC: they are one row."""
    cards = [run_of(0.5, "ipc=1"), run_of(0.6, "ipc=10", f"{KAPPA}.growth=2")]
    assert rows(*cards) == ["HoP-TM"]
    more = run_of(0.7, "ipc=10", f"{KAPPA}.growth=3")
    assert rows(*cards, more) == ["HoP-TM, κ growth 1.5", "HoP-TM, κ growth 2", "HoP-TM, κ growth 3"]


def test_an_exchanged_part_is_named_and_not_its_keywords():
    linear = f"{KAPPA}={{name: linear, start: 1e-9, end: 1e-7, over: 50}}"
    exchanged = rows(run_of(0.5), run_of(0.6, f"~{KAPPA}", f"+{linear}"))
    assert exchanged == ["HoP-TM, κ geometric", "HoP-TM, κ linear"]
    plain = rows(run_of(0.5), run_of(0.6, f"{KAPPA}=null", "method.schedulers.pace.quantile=0.5"))
    assert plain == ["HoP-TM, quantile 0.5, κ none", "HoP-TM, quantile none, κ geometric"]


def test_a_number_is_named_where_others_have_a_schedule():
    pace, falling = "method.schedulers.pace", "{name: linear, start: 0.9, end: 0.0, over: 9}"
    ranges = ("{quantile: 1.0}", "{lower: 0.25, quantile: 0.75}", f"{{lower: {falling}, quantile: 1.0}}")
    assert rows(*(run_of(0.5, f"{KAPPA}=null", f"{pace}={each}") for each in ranges)) == [
        "HoP-TM, lower 0.25, quantile 0.75", "HoP-TM, lower linear, quantile 1", "HoP-TM, lower none, quantile 1",
    ]  # fmt: skip


def test_settings_without_a_symbol_go_by_as_much_of_their_path_as_tells_them_from_others():
    one, other = ((f"distillation.images.learning_rate={rate}", f"distillation.iterations={steps}")
                  for rate, steps in ((3, 7), (10, 7)))  # fmt: skip
    assert rows(run_of(0.5, *one), run_of(0.6, *other)) == [
        "HoP-TM, images.learning_rate 3",
        "HoP-TM, images.learning_rate 10",
    ]
    variants = [flat(compose("dataset=digits", f"distillation.images.learning_rate={rate}").deciding(["result"]))
                for rate in (1, 2)]  # fmt: skip
    paths = differing(variants, [1, 1])
    assert paths == ["distillation.images.learning_rate"]
    assert names_of(paths, [compose("dataset=digits").deciding(["result"])]) == {paths[0]: "images.learning_rate"}


def test_cards_that_do_not_tell_their_settings_go_by_their_folders(store):
    folder = store(a=run_of(0.5, known=False), b=run_of(0.6, f"{SHAPE}=2", known=False))
    assert sorted(table(folder)) == ["HoP-TM (a)", "HoP-TM (b)"]
    mixed = store(a=run_of(0.5, known=False), b=run_of(0.6, f"{SHAPE}=2"), c=run_of(0.6, f"{SHAPE}=3"))
    assert sorted(table(mixed)) == ["HoP-TM (a)", "HoP-TM, λ 2", "HoP-TM, λ 3"]


def test_older_cards_are_told_apart_by_the_configuration_beside_them(tmp_path):
    for name, weight in (("a", 1), ("b", 2)):
        settings = compose("method=hoptm", "dataset=digits", f"{SHAPE}={weight}")
        folder = tmp_path / name
        folder.mkdir()
        write_config(settings.plain(), folder / "config.yaml")
        card = run_of(0.5, f"{SHAPE}={weight}", known=False, artefacts={"config.yaml": sha256(folder / "config.yaml")})
        write_card(card, folder / "result.json")
    assert sorted(table(tmp_path)) == ["HoP-TM, λ 1", "HoP-TM, λ 2"]
    write_config(compose("method=mtt", "dataset=digits").plain(), tmp_path / "a" / "config.yaml")
    assert sorted(table(tmp_path)) == ["HoP-TM (a)", "HoP-TM (b)"], "it is not the file that the card names"


def test_runs_of_equal_settings_and_seed_are_never_one_row():
    """Two runs that nothing tells apart, as on two machines."""
    one, other = run_of(0.5, f"{SHAPE}=2"), run_of(0.6, f"{SHAPE}=2", config_sha256="1" * 64)
    assert rows(one, other, run_of(0.7)) == ["HoP-TM, λ 0.5", "HoP-TM, λ 2 (card 1)", "HoP-TM, λ 2 (card 2)"]


def test_a_broken_plug_in_spoils_no_table(monkeypatch):
    def broken(settings):
        raise PluginError("x")

    monkeypatch.setattr(labels, "symbols", broken)
    assert rows(run_of(0.5), run_of(0.6, f"{SHAPE}=2")) == ["HoP-TM, shape.weight 0.5", "HoP-TM, shape.weight 2"]


def test_a_plug_in_gives_its_own_symbols():
    @register("symbolic")
    class Symbolic(Matcher):
        weight_symbol = "μ"

        def __init__(self, tau: Annotated[float, Symbol("τ")] = 1.0) -> None:
            self.tau = tau

        def loss(self, pair):
            return pair.student.sum()

    try:
        spec = {"name": "trajectory_matching", "matchers": {"mine": {"name": "symbolic", "tau": 2.0, "weight": 3.0}}}
        assert symbols({"method": spec}) == {"method.matchers.mine.tau": "τ", "method.matchers.mine.weight": "μ"}
    finally:
        del registry(Matcher)._classes["symbolic"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-6, "1e-6"), (1e20, "1e20"), (10.0, "10"), (0.25, "0.25"), (True, "true"), (None, "none"), ({}, "none"),
     ([1, 2.0], "[1 2]"), ("a\nb", "a\\nb"), ("x" * 50, "x" * 39 + "…")],
)  # fmt: skip
def test_values_are_short(value, text):
    assert value_text(value) == text


def test_numbers_in_names_are_sorted_as_numbers():
    names = ["b3", "B10", "B2", "A, κ 10", "A, κ 0.5", "A, κ 2e-9", "A, κ 1e-10"]
    assert sorted(names, key=natural) == ["A, κ 1e-10", "A, κ 2e-9", "A, κ 0.5", "A, κ 10", "B2", "b3", "B10"]


def test_hostile_settings_are_no_markup_and_no_crash():
    hostile = {"method": {"name": "x", "a.b": 1, "a": {"b": "<script>"}}, "m\u2028n": [[[]]]}
    other = {"method": {"name": "x", "a.b": 2, "a": 3}}
    variants = [flat(hostile), flat(other)]
    names = names_of(differing(variants, [1, 1]), [hostile, other])
    assert label(variants[0], names) != label(variants[1], names)
    assert yaml.safe_dump(list(names.values()))
