"""Ways to a flattering table: each is marked, said below the table, or not pooled."""

from __future__ import annotations

import json

import pytest
from scored_cards import evaluations, make

from hoptm_plugin.cards.card import write_card
from hoptm_plugin.tables.compare import compare
from hoptm_plugin.tables.grids import accuracies

OTHER = {"name": "other", "fingerprint": "e" * 64, "test_images_seen": 7}
COLUMN = (1, "convnet")


def seeds(method, *accuracies, **changes):
    return [make(method, *values, seed=seed, **changes) for seed, values in enumerate(accuracies)]


def table(*cards, **options):
    (found,) = compare(cards, **options).tables
    return found


def notes(*cards, **options):
    return [note for note in table(*cards, **options).notes if "edited files" not in note]


def software(**changes):
    return make("mtt", 0.5).software.model_dump() | {"commit": "c" * 40} | changes


def test_rows_that_are_made_alike_need_no_note():
    assert notes(make("mtt", 0.5), make("dm", 0.6)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"software": software(hoptm_plugin="9.9")}, "Made with different versions of hoptm_plugin: "),
        ({"software": software(torch="1.0")}, "Made with different versions of torch: 1.0 (DM); "),
        ({"software": software(commit="d" * 40)},
         "Made with different commits of hoptm_plugin: cccccccccccc (MTT); dddddddddddd (DM)."),
        ({"software": software(commit=None)},
         "Made with different commits of hoptm_plugin: cccccccccccc (MTT); not known (DM)."),
        ({"cost": make("mtt", 0.5).cost.model_dump() | {"device": "H100, bf16"}},
         "Made with different devices: H100, bf16 (DM); cpu (MTT)."),
    ],
)  # fmt: skip
def test_what_rows_of_a_column_are_made_with_is_named_where_it_differs(changes, said):
    ours = {"software": software()}
    found = notes(make("mtt", 0.5, **ours), make("dm", 0.6, **(ours | changes)))
    assert len(found) == 1
    assert found[0].startswith(said)


def test_edited_files_are_told_even_where_all_have_them():
    dirty = {"software": software(commit=f"{'c' * 40}-dirty")}
    (said,) = table(make("mtt", 0.5, **dirty), make("dm", 0.6, **dirty)).notes
    assert said == "Made with edited files of hoptm_plugin, so by what code is not known: DM, MTT."


def test_lower_precision_has_a_row_of_its_own():
    cards = [*seeds("mtt", (0.5,), (0.6,)), *seeds("mtt", (0.4,), (0.45,), lower_precision="bf16 experts")]
    assert table(*cards).rows() == ["MTT", "MTT, bf16 experts"]


def test_scales_are_named_and_never_pooled():
    laptop, none = {"scale": "laptop"}, {"scale": None}
    assert "Made at scale laptop." in notes(make("mtt", 0.5, **laptop), make("dm", 0.6, **laptop))
    assert notes(make("mtt", 0.5, **none), make("dm", 0.6, **none)) == []
    mixed = table(*seeds("mtt", (0.5,), (0.6,), **laptop), make("mtt", 0.4, seed=7, **none), make("dm", 0.3, **laptop))
    assert mixed.rows() == ["DM, scale laptop", "MTT, no scale", "MTT, scale laptop"]
    assert ("Made at different scales: laptop (\"DM, scale laptop\", \"MTT, scale laptop\"); "
            "none, or not known (\"MTT, no scale\").") in mixed.notes  # fmt: skip


def test_diverged_networks_are_told_beside_the_figure_also_of_the_best():
    def broken(card):
        figures = card.evaluations[0].model_dump() | {"macro_auroc": {"mean": None, "std": None, "values": [0.5, None]}}
        return card.model_copy(update={"evaluations": (type(card.evaluations[0]).model_validate(figures),)})

    cards = [*map(broken, seeds("mtt", (0.9, 0.8), (0.95, 0.7))), *seeds("dm", (0.2, 0.3), (0.1, 0.3))]
    found = table(*cards)
    entries = dict(accuracies(found).rows)
    assert entries["MTT"][0].best
    assert entries["MTT"][0].text == "83.75 ± 9.60 (4, 2 diverged)"
    assert entries["DM"][0].text.startswith("22.50 ± 8.29 (4)")
    assert [row["diverged"] for row in json.loads(compare(cards).text("json"))] == [0, 2]


def test_a_set_of_other_data_is_named_and_never_the_best():
    cards = [*seeds("dm", (0.2,), (0.3,)), *seeds("idm", (0.1,), (0.2,))]
    found = table(*cards, *seeds("mtt", (0.9,), (0.95,), distilled_from=OTHER))
    assert found.rows() == ["DM", "IDM", "MTT (distilled from other)"]
    assert [cell.row for cell in found.cells if cell.best] == ["DM"]
    data = "distilled from other data (other, fingerprint eeeeeeeeeeee)"
    seen = "7 of the 10 test images were among them, pixel for pixel; it is never marked as best."
    assert f"MTT (distilled from other): {data}: {seen}" in found.notes
    (unknown,) = notes(make("mtt", 0.9, distilled_from=OTHER | {"test_images_seen": None}))
    assert "how many of the images that networks were tested on were among them is not known" in unknown


def test_random_subsets_beside_a_set_of_other_data_are_of_the_data_it_is_judged_on():
    other = make("mtt", 0.5, 0.5, seed=5, random=(0.6, 0.7), distilled_from=OTHER)
    found = table(*seeds("dm", (0.1, 0.2), (0.15, 0.2), random=(0.6, 0.7)), other)
    assert not any(note.startswith("fresh random subsets*: distilled from") for note in found.notes)
    assert {cell.row: cell.from_other_data for cell in found.cells} == {
        "DM": False, "MTT (distilled from other)": True, "fresh random subsets*": False,
    }  # fmt: skip


def test_that_none_was_recognised_is_not_that_none_was_there():
    (said,) = notes(make("mtt", 0.9, distilled_from=OTHER | {"test_images_seen": 0}))
    assert "0 of the 10 test images were among them, pixel for pixel (re-encoded or resized ones are not" in said


def test_sets_of_other_data_and_of_these_are_not_pooled():
    assert len(table(make("mtt", 0.9, distilled_from=OTHER), make("mtt", 0.8, seed=1)).rows()) == 2


def test_images_that_networks_are_trained_on_are_told_where_they_are_not_ipc_times_classes():
    idm = [make("idm", 0.5, images_stored=2, images_trained_on=8),
           make("idm", 0.6, ipc=10, images_stored=20, images_trained_on=80)]  # fmt: skip
    assert notes(*idm, make("mtt", 0.4, images_stored=2, images_trained_on=2)) == [
        "IDM is trained on other numbers of images than IPC x classes: IPC 1: 8 images, of 2 stored, instead of 2; "
        "IPC 10: 80 images, of 20 stored, instead of 20."
    ]


@pytest.mark.parametrize("same", ["accuracies", "set"])
def test_one_result_under_two_names_is_noticed(same):
    digest = "a" * 64 if same == "set" else None
    accuracies = (0.7, 0.8) if same == "set" else (0.5, 0.6)
    assert notes(make("mtt", 0.5, 0.6, digest=digest), make("mine", *accuracies, digest=digest)) == [
        "MTT, IPC 1, convnet, and MINE have the same set, or the same accuracies network for network (seeds 0)."
    ]


def test_unequal_searches_are_told():
    tuning = {"split": "validation", "networks": 1, "seed": 9, "chosen": "a",
              "candidates": [{"settings": name, "accuracy": 0.5} for name in "abc"]}  # fmt: skip
    assert notes(make("mtt", 0.5, tuning=tuning), make("dm", 0.6), make("random", 0.2)) == [
        "Settings were searched for unequally: 3 candidates (MTT); no search on record (DM)."
    ]


def test_names_with_commas_can_be_told_apart():
    cards = [make("mtt", 0.5, title="MTT, wide"), make("dm", 0.6, seed=1)]
    assert notes(*cards) == ['Rows have different seeds: 0 ("MTT, wide"); 1 (DM).']


@pytest.mark.parametrize("title", ["fresh random subsets*", "MTT, EMA"])
def test_no_title_passes_for_a_row_of_another_kind(title):
    cards = [make("mine", 0.9, title=title), make("mtt", 0.5, random=(0.2,), averaged=(0.6,))]
    found = table(*cards)
    assert f"{title} [mine]" in found.rows()
    assert found.cell(title, COLUMN).method in ("random", "mtt")
    assert not found.cell(f"{title} [mine]", COLUMN).floor


def test_what_was_reported_stands_beside_the_official_data_only_and_says_what_it_was_trained_on():
    reported = {"accuracy": 0.8, "source": "Table 1"}

    def judged(name, carved):
        data = make("mtt", 0.5).dataset.model_dump() | {"name": name, "validation": 10, "validation_carved": carved}
        return table(make("mtt", 0.5, reported=reported, dataset=data))

    official = judged("blood", 10)
    assert official.cell("MTT", COLUMN).reported.accuracy == 0.8
    (said,) = official.notes
    assert said == "What was reported had all 100 training images; here 10 of them are the validation split."
    assert judged("blood", 0).notes == ()
    assert judged("blood", None).notes[0].startswith("If the 10 validation images were carved")
    other = judged("blood (unofficial file)", 0)
    assert other.cell("MTT", COLUMN).reported is None
    assert "what was reported is not shown, since it is of the official data set" in other.notes[0]


def test_results_of_other_networks_of_one_run_share_a_note_once():
    both = [evaluations((0.5,)), evaluations((0.4,), network="vgg11")]
    assert len(notes(make("mtt", 0.5, evaluations=both), make("dm", 0.3, seed=1))) == 1


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\tb", "a\u202eb", "a\u2028b"])
def test_control_characters_in_a_folder_s_name_are_escaped_in_every_format(name, tmp_path):
    for number, folder in enumerate((name, "other")):
        write_card(make("mtt", 0.5 + number / 10), tmp_path / folder / "result.json")
    comparison = compare(tmp_path)
    escaped = ascii(name)[1:-1]
    assert f"MTT ({escaped})" in comparison.tables[0].rows()
    for text in (*map(comparison.text, ("markdown", "latex", "csv", "json")), comparison._repr_html_()):
        assert name not in text
        assert all(char not in text for char in "\x1b\t\u202e\u2028")
