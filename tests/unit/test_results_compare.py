from types import SimpleNamespace

import pytest
from scored_cards import evaluations

from hoptm_plugin.cards.card import Card, software_versions, write_card
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError
from hoptm_plugin.engine.significance import paired, welch
from hoptm_plugin.tables.compare import compare, find_cards
from hoptm_plugin.tables.grids import accuracies, bound_line, differences, said_of_tests


def make(method="mtt", accuracies=(0.5,), random=None, averaged=None, **changes):
    networks = accuracies if isinstance(accuracies, dict) else {"convnet": accuracies}
    fields = {
        "schema": 1, "method": method, "title": {"mtt": "MTT", "hoptm": "HoP-TM"}.get(method, method.title()),
        "dataset": {"name": "digits", "fingerprint": "f" * 64, "classes": ["0", "1"], "train": 9, "validation": 1,
                    "test": 10},
        "ipc": 1, "seed": 0, "floor": method == "random", "protocol": {"epochs": 100, "augment": {"name": "dsa"}},
        "evaluations": [evaluations(values, network=name) for name, values in networks.items()],
        "random_subset": None if random is None else [evaluations(random)],
        "averaged": None if averaged is None else [evaluations(averaged)],
        "selection": "last", "software": software_versions() | {"commit": None}, "config_sha256": "0" * 64,
        "artefacts": {},
        "cost": {"experts_s": None, "distill_s": 1, "evaluate_s": 1, "seconds_per_iteration": None,
                 "peak_memory_bytes": None, "device": "cpu"},
    }  # fmt: skip
    return Card.model_validate(fields | changes)


@pytest.fixture
def store(tmp_path):
    def put(**cards):
        for name, card in cards.items():
            write_card(card, tmp_path / name.replace("__", "/") / "result.json")
        return tmp_path

    return put


def tables(folder, **options):
    return compare(folder, **options).tables


def table(folder, **options):
    """Return {row: {(ipc, network): (text, best)}} of the only table."""
    (comparison,) = tables(folder, tests=None, **options)
    grid = accuracies(comparison)
    return {
        row: {column: (entry.text, entry.best) for column, entry in zip(comparison.columns(), entries, strict=True)}
        for row, entries in grid.rows
    }


DIGITS = (1, "convnet")


def test_find_cards_in_files_run_folders_and_trees_once_each(store):
    root = store(a=make(), sweep__0=make("hoptm"), sweep__1=make("dm"))
    (root / "copy").mkdir()
    (root / "copy" / "result.json").write_bytes((root / "a" / "result.json").read_bytes())
    found = find_cards([root / "a" / "result.json", root / "a", root / "sweep", root])
    assert [path.relative_to(root.resolve()).as_posix() for path, _ in found] == [
        "a/result.json", "sweep/0/result.json", "sweep/1/result.json",
    ]  # fmt: skip
    assert [card.method for _, card in found] == ["mtt", "hoptm", "dm"]


def test_cards_runs_and_paths_may_be_mixed_and_each_counts_once(store):
    folder = store(a=make(), b=make("hoptm"))
    run = SimpleNamespace(card=make("hoptm"), folder=folder / "b")
    comparison = compare([str(folder / "a"), run, make("dm"), make("dm"), folder])
    assert [place if isinstance(place, int) else place.parent.name for place, _ in comparison.cards] == ["a", "b", 3]
    assert comparison.tables[0].rows() == ["Dm", "HoP-TM", "MTT"]
    assert compare(make()).tables[0].rows() == compare(folder / "a").tables[0].rows() == ["MTT"]


def test_cards_without_files_are_told_apart_by_number(store):
    others = [make(accuracies=(0.2,), config_sha256="1" * 64), make(accuracies=(0.3,), config_sha256="2" * 64)]
    folder = store(x=make())
    assert compare([others[0], folder, others[1]]).tables[0].rows() == ["MTT (card 1)", "MTT (card 3)", "MTT (x)"]


@pytest.mark.parametrize(
    ("given", "options", "says"),
    [
        ([], {}, "nothing to compare"),
        ([3], {}, "compare takes cards, runs and paths, not int"),
        ([make()], {"tests": "t"}, r"tests 't': no such choice \(known: welch, paired, None\)"),
        ([make()], {"scores": "x"}, r"scores 'x': no such choice \(known: lrs, ars, all, None\)"),
        ([make()], {"tests": None, "against": "mtt"}, "against mtt: nothing is tested"),
    ],
)
def test_what_cannot_be_compared_is_refused(given, options, says):
    with pytest.raises(ConfigurationError, match=says):
        compare(given, **options)


def test_a_folder_without_cards_and_a_damaged_card_are_refused(store, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match=r"empty: no result\.json in this folder or below"):
        find_cards([tmp_path / "empty"])
    root = store(good=make())
    (root / "bad").mkdir()
    (root / "bad" / "result.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"bad/result\.json: not a result card"):
        find_cards([root])


def test_seeds_are_pooled_over_their_values(store):
    cells = table(store(a=make(accuracies=(0.2, 0.4)), b=make(accuracies=(0.6,), seed=1), c=make("hoptm", (0.8, 0.8))))
    # pooled: mean of .2 .4 .6, population variance (.04+0+.04)/3
    assert cells["MTT"][DIGITS] == ("40.00 ± 16.33 (3)", False)
    assert cells["HoP-TM"][DIGITS] == ("80.00 ± 0.00 (2)", False)


def test_two_runs_of_one_seed_are_not_pooled_but_named_by_folder(store):
    cells = table(store(x__0=make(accuracies=(0.2,)), y__0=make(accuracies=(0.4,), config_sha256="1" * 64)))
    assert {name: row[DIGITS][0] for name, row in cells.items()} == {
        "MTT (x/0)": "20.00 (1)",
        "MTT (y/0)": "40.00 (1)",
    }


def test_several_evaluations_of_one_distillation_are_not_several_distillations(store):
    cells = table(store(run=make(distillation_seed=0), again=make(accuracies=(0.6,), seed=1, distillation_seed=0)))
    assert sorted(cells) == ["MTT (again)", "MTT (run)"]


def test_seeds_of_different_settings_are_not_pooled(store):
    one, other = "1" * 64, "2" * 64
    folder = store(a=make(distillation_sha256=one), b=make(seed=1, distillation_sha256=other))
    assert sorted(table(folder)) == ["MTT (a)", "MTT (b)"]
    alike = store(a=make(distillation_sha256=one), b=make(seed=1, distillation_sha256=one))
    assert sorted(table(alike)) == ["MTT"]


def test_settings_may_differ_by_ipc(store):
    one, other = "1" * 64, "2" * 64
    assert sorted(table(store(a=make(distillation_sha256=one), b=make(ipc=10, distillation_sha256=other)))) == ["MTT"]


def test_two_methods_of_one_title_keep_their_rows(store):
    cells = table(store(a=make("mtt", title="TM"), b=make("mtt2", title="TM")))
    assert set(cells) == {"TM [mtt]", "TM [mtt2]"}


def test_columns_are_ipc_and_network_and_may_have_gaps(store):
    cells = table(store(a=make(accuracies={"convnet": (0.5,), "vgg11": (0.4,)}), b=make("hoptm", ipc=10)))
    assert list(cells["MTT"]) == [(1, "convnet"), (1, "vgg11"), (10, "convnet")]
    assert cells["MTT"][(10, "convnet")] == ("", False)
    assert cells["HoP-TM"][(10, "convnet")] == ("50.00 (1)", False)


def test_random_subset_row_counts_a_seed_once_and_comes_first(store):
    root = store(
        a=make(accuracies=(0.5, 0.6), random=(0.1, 0.3)),
        b=make("hoptm", (0.4, 0.5), random=(0.1, 0.3)),
        c=make("hoptm", (0.3, 0.4), seed=1, random=(0.5, 0.5)),
    )
    cells = table(root)
    assert next(iter(cells)) == "fresh random subsets*"
    assert cells["fresh random subsets*"][DIGITS][0] == "35.00 ± 16.58 (4)"


def test_a_card_of_the_random_method_replaces_the_random_subset_row(store):
    assert set(table(store(a=make(random=(0.1,)), b=make("random", (0.2,))))) == {"MTT", "Random"}


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"protocol": {"epochs": 100, "augment": {"name": "none"}}}, "protocol.augment.name none"),
        ({"protocol": {"epochs": 100}}, "protocol.augment.name (not set)"),
        ({"selection": "validation"}, "chosen: best on the validation split"),
    ],
)
def test_what_was_evaluated_otherwise_gets_its_own_table(store, changes, shown):
    first, second = tables(store(a=make(), b=make("hoptm", **changes)))
    assert first.rows() == ["MTT"]
    assert second.rows() == ["HoP-TM"]
    assert second.heading == f"dataset digits; {shown}"
    assert first.heading != second.heading


def test_other_pixels_under_the_same_name_get_their_own_table(store):
    other = make().dataset.model_copy(update={"fingerprint": "e" * 64})
    first, second = tables(store(a=make(), b=make("hoptm", dataset=other)))
    assert first.heading == "dataset digits; fingerprint ffffffffffff"
    assert second.heading == "dataset digits; fingerprint eeeeeeeeeeee"


def test_selection_on_the_test_split_is_always_marked(store):
    (only,) = tables(store(a=make(selection="test_leaky")))
    assert "TEST split (leaky" in only.heading


@pytest.mark.parametrize("key", ["random_subset", "warm_start_average"])
def test_flags_that_leave_the_evaluation_alone_do_not_separate(store, key):
    protocol = {"epochs": 100, "augment": {"name": "dsa"}}
    cells = table(store(a=make(protocol=protocol | {key: True}), b=make("hoptm", protocol=protocol | {key: False})))
    assert set(cells) == {"MTT", "HoP-TM"}


def test_the_moving_average_is_a_row_of_its_own(store):
    warm = {"epochs": 100, "augment": {"name": "dsa"}, "warm_start_average": True}
    cells = table(store(a=make("ftd", (0.5,), averaged=(0.7,)), b=make("att", (0.6,), averaged=(0.65,), protocol=warm)))
    assert {row: cell[DIGITS] for row, cell in cells.items()} == {
        "Att": ("60.00 (1)", False), "Att, EMA (warm)": ("65.00 (1)", False),
        "Ftd": ("50.00 (1)", False), "Ftd, EMA": ("70.00 (1)", False),
    }  # fmt: skip


def test_the_whole_split_stands_below_every_table_of_its_data_and_names_what_differs(store):
    full = {"ipc": None, "protocol": {"epochs": 30, "augment": {"name": "dsa"}, "batch": 64}}
    other = make().dataset.model_copy(update={"fingerprint": "e" * 64})
    root = store(
        a=make(), b=make("hoptm", selection="validation"), c=make("full", (0.9, 0.92), **full),
        d=make("full", (0.94,), seed=1, **full), e=make("dm", dataset=other),
    )  # fmt: skip
    last, validation, elsewhere = tables(root)
    for comparison in (last, validation):
        (bound,) = comparison.bounds
        assert bound_line(bound) == (
            "Upper bound, Full on all 9 training images, convnet: 92.00 ± 1.63 (3); "
            "protocol differs: epochs 30 instead of 100, batch 64 instead of (not set)"
        )
        assert comparison.columns() == [DIGITS]
    assert not elsewhere.bounds


def test_the_whole_split_alone_is_a_table(store):
    (only,) = tables(store(a=make("full", (0.9,), ipc=None), b=make("other", (0.8,), ipc=None)))
    assert only.heading == "dataset digits; upper bound: all 9 training images"
    assert only.columns() == [(None, "convnet")]
    assert only.rows() == ["Full", "Other"]


def test_reported_figures_stand_beside_their_row_only(store):
    reported = {"accuracy": 0.8, "std": 0.01, "source": "Table 1", "networks": {"vgg11": {"accuracy": 0.7}}}
    two = {"convnet": (0.5,), "vgg11": (0.4,), "alexnet": (0.3,)}
    root = store(a=make(accuracies=two, reported=reported), b=make("hoptm", two), c=make(accuracies=two, seed=1))
    (comparison,) = tables(root)
    asides = {row: [entry.aside for entry in entries] for row, entries in accuracies(comparison).rows}
    assert comparison.columns() == [(1, "alexnet"), (1, "convnet"), (1, "vgg11")]
    assert asides == {"MTT": ["", "[80.00 ± 1.00]", "[70.00]"], "HoP-TM": ["", "", ""]}


def test_conflicting_reported_figures_are_not_shown_and_a_note_says_so(store):
    first, second = ({"accuracy": accuracy, "source": "Table 1"} for accuracy in (0.8, 0.7))
    (comparison,) = tables(store(a=make(reported=first), b=make(accuracies=(0.6,), reported=second, seed=1)))
    assert comparison.cell("MTT", DIGITS).reported is None
    assert comparison.notes == (
        "MTT, IPC 1, convnet: the pooled runs name different reported accuracies, so none is shown",
    )


def test_the_order_of_cards_does_not_matter(store):
    found = find_cards([store(
        a=make(accuracies=(0.1, 0.2), random=(0.1, 0.3)), b=make("hoptm", (0.3, 0.5)),
        c=make("dm", (0.4,), random=(0.2,)),
        d=make("ftd", (0.4, 0.6), averaged=(0.5, 0.55)), e=make("full", (0.9,), ipc=None), f=make(seed=1),
        g=make("dm", selection="validation"),
    )])  # fmt: skip
    expected = compare([path for path, _ in found]).tables
    assert len(expected) == 2
    for order in (found[::-1], found[3:] + found[:3]):
        assert compare([path for path, _ in order]).tables == expected


def seeded(**rows):
    """Cards of methods by seed, each seed with the accuracies of its networks."""
    return {f"{method}{seed}": make(method, accuracies, seed=seed)
            for method, seeds in rows.items() for seed, accuracies in enumerate(seeds)}  # fmt: skip


def test_rows_are_tested_against_the_best_or_a_chosen_one(store):
    root = store(**seeded(mtt=((0.5,), (0.6,), (0.7,)), hoptm=((0.6,), (0.7,), (0.9,)), dm=((0.1,), (0.2,), (0.3,))))
    (best,) = tables(root)
    assert {cell.row: cell.against for cell in best.cells} == {"MTT": "HoP-TM", "HoP-TM": None, "Dm": "HoP-TM"}
    assert {cell.row: cell.indistinct for cell in best.cells} == {"MTT": True, "HoP-TM": False, "Dm": False}
    assert {cell.row: cell.best for cell in best.cells} == {"MTT": False, "HoP-TM": True, "Dm": False}
    for name in ("Dm", "dm"):
        (chosen,) = tables(root, against=name)
        assert {cell.row: cell.against for cell in chosen.cells} == {"MTT": "Dm", "HoP-TM": "Dm", "Dm": None}
        assert chosen.cell("MTT", DIGITS).difference.mean == pytest.approx(0.4)
        assert chosen.cell("HoP-TM", DIGITS).best
    (untested,) = tables(root, tests=None)
    assert not any(cell.against or cell.difference or cell.p_holm or cell.best for cell in untested.cells)


def test_an_unknown_or_ambiguous_row_to_test_against_is_named(store):
    root = store(x=make(accuracies=(0.2,)), y=make(accuracies=(0.4,), config_sha256="1" * 64), z=make("hoptm"))
    with pytest.raises(ConfigurationError, match=r"against nobody: .*\(known: HoP-TM, MTT \(x\), MTT \(y\)\)"):
        tables(root, against="nobody")
    with pytest.raises(ConfigurationError, match=r"against mtt: it has several rows, .*: MTT \(x\), MTT \(y\)"):
        tables(root, against="mtt")


def test_tables_without_the_chosen_row_are_shown_untested(store):
    first, second = tables(store(a=make(), b=make("hoptm", selection="validation")), against="mtt")
    assert (first.tested, second.tested) == ("paired", None)


def test_exported_sets_of_unknown_origin_are_never_seeds_of_one_method(store):
    cards = {f"r{seed}": make("hoptm", (0.5,), distillation_seed=seed, artefacts={"export.json": str(seed) * 64})
             for seed in (1, 2)}  # fmt: skip
    assert set(table(store(**cards))) == {"HoP-TM (r1)", "HoP-TM (r2)"}


def test_what_is_tested_are_the_means_of_distillation_seeds(store):
    """Pairs of seeds 0 to 2 differ by 0.1, 0.05 and 0.06: the networks' scatter within a seed, of 0.1, is no matter."""
    pairs = {"mtt": ((0.5, 0.6), (0.3, 0.3), (0.7, 0.8)), "hoptm": ((0.6, 0.7), (0.4, 0.3), (0.71, 0.91))}
    (comparison,) = tables(store(**seeded(**pairs)), against="mtt")
    found = comparison.cell("HoP-TM", DIGITS).difference
    expected = paired({0: 0.65, 1: 0.35, 2: 0.81}, {0: 0.55, 1: 0.3, 2: 0.75})
    assert [found.mean, found.low, found.p] == pytest.approx([expected.mean, expected.low, expected.p])
    assert found.pairs == 3
    (unpaired,) = tables(store(**seeded(**pairs)), against="mtt", tests="welch")
    found, expected = unpaired.cell("HoP-TM", DIGITS).difference, welch((0.65, 0.35, 0.81), (0.55, 0.3, 0.75))
    assert [found.mean, found.low, found.p] == pytest.approx([expected.mean, expected.low, expected.p])
    assert found.pairs is None


def test_rows_of_different_seeds_are_compared_unpaired_and_named(store):
    (comparison,) = tables(store(**seeded(mtt=((0.5,), (0.3,), (0.7,)), hoptm=((0.6,), (0.45,)))), against="mtt")
    cell = comparison.cell("HoP-TM", DIGITS)
    assert cell.difference == welch((0.6, 0.45), (0.5, 0.3, 0.7))
    assert cell.difference.mean == pytest.approx(cell.mean - comparison.cell("MTT", DIGITS).mean), "as the means say"
    assert "Rows have different seeds: 0, 1 (HoP-TM); 0, 1, 2 (MTT)." in comparison.notes


def test_one_seed_on_a_side_is_no_test_whatever_its_networks(store):
    """Ten networks each, far apart: a difference of two sets."""
    one, other = (tuple(base + n / 1000 for n in range(10)) for base in (0.1, 0.8))
    (comparison,) = tables(store(**seeded(mtt=(one,), hoptm=(other,))))
    cells = {cell.row: cell for cell in comparison.cells}
    assert cells["MTT"].untested
    assert cells["MTT"].difference.mean == pytest.approx(-0.7)
    assert cells["MTT"].difference.p is cells["MTT"].difference.low is None
    assert not any(cell.best for cell in cells.values()), "no mark without a test"
    assert differences(comparison) is None
    (said,) = said_of_tests(comparison)
    assert "a difference of two sets is not one of methods" in said


def test_the_best_is_marked_where_it_was_tested_only(store):
    """The highest mean has one seed: no test stands behind it."""
    rows = {"mtt": ((0.5,), (0.6,)), "dm": ((0.1,), (0.25,)), "hoptm": ((0.9,),)}
    (alone,) = tables(store(**seeded(**rows)))
    assert not any(cell.best for cell in alone.cells)
    (against,) = tables(store(**seeded(**rows)), against="dm")
    assert not any(cell.best for cell in against.cells)


def test_equal_means_are_all_best(store):
    (comparison,) = tables(store(**seeded(mtt=((0.5,), (0.75,)), hoptm=((0.75,), (0.5,)), dm=((0.1,), (0.2,)))))
    assert {cell.row for cell in comparison.cells if cell.best} == {"MTT", "HoP-TM"}


def test_one_set_or_one_result_under_two_seeds_is_one_distillation(store):
    digest = {"synthetic.safetensors": "a" * 64}
    same = ((0.5, 0.6), (0.5, 0.6), (0.7, 0.8))
    sets = {f"dm{seed}": make("dm", (0.1 + seed / 10,), seed=seed, artefacts=digest) for seed in (0, 1)}
    (comparison,) = tables(
        store(**seeded(mtt=same, hoptm=((0.6, 0.7), (0.3, 0.4), (0.8, 0.8))), **sets), against="hoptm"
    )
    assert comparison.cell("MTT", DIGITS).by_seed == {0: pytest.approx(0.55), 2: pytest.approx(0.75)}
    assert len(comparison.cell("Dm", DIGITS).distillations) == 1
    assert comparison.cell("Dm", DIGITS).untested
    assert comparison.cell("MTT", DIGITS).difference.pairs is None
    said = [note for note in comparison.notes if "count as one distillation" in note]
    assert [note.split(":")[0] for note in said] == ["Dm, IPC 1, convnet", "MTT, IPC 1, convnet"]
    assert all("seeds 0, 1 have the same set, or the same accuracies network for network" in note for note in said)


def test_results_on_the_validation_split_stand_apart_and_say_so(store):
    protocol = {"epochs": 100, "augment": {"name": "dsa"}}
    dataset = {
        "name": "digits",
        "fingerprint": "f" * 64,
        "classes": ["0", "1"],
        "train": 9,
        "validation": 10,
        "test": 10,
    }
    root = store(a=make(dataset=dataset), b=make("hoptm", dataset=dataset, protocol=protocol | {"split": "validation"}))
    headings = [comparison.heading for comparison in tables(root)]
    assert sum("VALIDATION split: for choosing settings, not a result" in heading for heading in headings) == 1
    assert len(headings) == 2


def test_notes_of_cards_stand_below_the_table(store):
    noted = {
        name: make(name, (accuracy,), note=note)
        for name, accuracy, note in (("mtt", 0.5, "reduced"), ("hoptm", 0.6, "reduced"), ("dm", 0.7, None))
    }
    (comparison,) = tables(store(**noted))
    assert comparison.notes == ("Note on HoP-TM, MTT: reduced",)


def test_the_upper_bound_of_one_split_stands_below_no_table_of_the_other(store):
    dataset = make().dataset.model_dump() | {"validation": 10}
    judged = {"epochs": 100, "augment": {"name": "dsa"}, "split": "validation"}
    root = store(a=make(), b=make("full", (0.9,), ipc=None, dataset=dataset, protocol=judged))
    assert [comparison.bounds for comparison in tables(root)] == [(), ()]
