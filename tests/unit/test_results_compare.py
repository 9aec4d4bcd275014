import csv
import io
import json
import re

import pytest

from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.results.card import Card, Evaluation, software_versions, write_card
from hoptm_plugin.results.compare import compare, find_cards
from hoptm_plugin.results.tables import print_comparison, render
from hoptm_plugin.results.console import output_console


def runs(*accuracies):
    rest = {
        "balanced_accuracy": 0.5,
        "macro_auroc": 0.5,
        "macro_f1": 0.5,
        "recall_per_class": [1, 0],
        "support": [5, 5],
    }
    return [{"accuracy": accuracy, **rest} for accuracy in accuracies]


def make(method="mtt", accuracies=(0.5,), random=None, **changes):
    networks = accuracies if isinstance(accuracies, dict) else {"convnet": accuracies}
    fields = {
        "schema": 1, "method": method, "title": {"mtt": "MTT", "hoptm": "HoP-TM"}.get(method, method.title()),
        "dataset": {"name": "digits", "fingerprint": "f" * 64, "classes": ["0", "1"], "train": 9, "validation": 1,
                    "test": 10},
        "ipc": 1, "seed": 0, "protocol": {"epochs": 100, "augment": {"name": "dsa"}},
        "evaluations": [Evaluation.from_metrics(name, runs(*values)) for name, values in networks.items()],
        "random_subset": None if random is None else [Evaluation.from_metrics("convnet", runs(*random))],
        "selection": "last", "software": software_versions(), "config_sha256": "0" * 64, "artefacts": {},
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


def tables(folder):
    return compare(find_cards([folder]))


def table(folder):
    (comparison,) = tables(folder)
    return {name: dict(zip(comparison.columns(), row, strict=True)) for name, row in comparison.rows()}


DIGITS = ("digits", 1, "convnet")


def test_find_cards_in_files_run_folders_and_trees_once_each(store):
    root = store(a=make(), sweep__0=make("hoptm"), sweep__1=make("dm"))
    (root / "copy").mkdir()
    (root / "copy" / "result.json").write_bytes((root / "a" / "result.json").read_bytes())
    found = find_cards([root / "a" / "result.json", root / "a", root / "sweep", root])
    assert [path.relative_to(root.resolve()).as_posix() for path, _ in found] == [
        "a/result.json", "sweep/0/result.json", "sweep/1/result.json",
    ]  # fmt: skip
    assert [card.method for _, card in found] == ["mtt", "hoptm", "dm"]


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
    assert cells["HoP-TM"][DIGITS] == ("80.00 ± 0.00 (2)", True)


def test_two_runs_of_one_seed_are_not_pooled_but_named_by_folder(store):
    cells = table(store(x__0=make(accuracies=(0.2,)), y__0=make(accuracies=(0.4,), config_sha256="1" * 64)))
    assert {name: row[DIGITS][0] for name, row in cells.items()} == {
        "MTT (x/0)": "20.00 ± 0.00 (1)",
        "MTT (y/0)": "40.00 ± 0.00 (1)",
    }


def test_two_methods_of_one_title_keep_their_rows(store):
    cells = table(store(a=make("mtt", title="TM"), b=make("mtt2", title="TM")))
    assert set(cells) == {"TM [mtt]", "TM [mtt2]"}


def test_columns_are_ipc_and_network_and_may_have_gaps(store):
    cells = table(store(a=make(accuracies={"convnet": (0.5,), "vgg11": (0.4,)}), b=make("hoptm", ipc=10)))
    assert list(cells["MTT"]) == [("digits", 1, "convnet"), ("digits", 1, "vgg11"), ("digits", 10, "convnet")]
    assert cells["MTT"][("digits", 10, "convnet")] == ("", False)
    assert cells["HoP-TM"][("digits", 10, "convnet")] == ("50.00 ± 0.00 (1)", True)


def test_random_subset_row_counts_a_seed_once_and_comes_first(store):
    root = store(
        a=make(random=(0.1, 0.3)), b=make("hoptm", random=(0.1, 0.3)), c=make("hoptm", seed=1, random=(0.5, 0.5))
    )
    cells = table(root)
    assert next(iter(cells)) == "random subset*"
    assert cells["random subset*"][DIGITS][0] == "35.00 ± 16.58 (4)"


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
    assert [name for name, _ in first.rows()] == ["MTT"]
    assert [name for name, _ in second.rows()] == ["HoP-TM"]
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


def test_printed_off_a_terminal_plain_and_on_it_the_best_in_bold(store):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    comparisons = tables(store(a=make(accuracies=(0.5,), random=(0.2,)), b=make("hoptm", (0.75,))))
    plain, terminal = io.StringIO(), Terminal()
    print_comparison(output_console(plain), comparisons)
    lines = [" ".join(line.split()) for line in plain.getvalue().splitlines() if line.strip()]
    assert lines[0] == "dataset digits"
    assert lines[1:3] == ["IPC 1", "method convnet"]
    assert lines[4:7] == ["random subset* 20.00 ± 0.00 (1)", "HoP-TM 75.00 ± 0.00 (1)", "MTT 50.00 ± 0.00 (1)"]
    assert lines[8].startswith("* random training images")
    assert "\x1b" not in plain.getvalue()
    print_comparison(output_console(terminal), comparisons)
    assert re.findall(r"\x1b\[1m(\d\S+)", terminal.getvalue()) == ["75.00"]


def test_render_markdown(store):
    text = render(tables(store(a=make(title="M|T", random=(0.2,)), b=make("hoptm", (0.75,)))), "markdown")
    assert text.splitlines() == [
        "dataset digits",
        "",
        "| method | IPC 1, convnet |",
        "| --- | --: |",
        r"| random subset\* | 20.00 ± 0.00 (1) |",
        "| HoP-TM | **75.00 ± 0.00 (1)** |",
        r"| M\|T | 50.00 ± 0.00 (1) |",
        "",
        r"\* random training images, evaluated within the other methods' runs, one set of networks a seed",
    ]


def test_render_csv_and_json_hold_exact_fractions(store):
    third = 1 / 3
    comparisons = tables(store(a=make(accuracies=(third, third)), b=make("hoptm", selection="validation")))
    expected = {
        "method": "MTT", "dataset": "digits", "ipc": 1, "network": "convnet", "mean": third, "std": 0.0,
        "networks": 2, "runs": 1, "group": "dataset digits; chosen: last iteration",
    }  # fmt: skip
    assert json.loads(render(comparisons, "json"))[0] == expected
    rows = list(csv.DictReader(io.StringIO(render(comparisons, "csv"))))
    assert [row["method"] for row in rows] == ["MTT", "HoP-TM"]
    assert rows[0] == {key: str(value) for key, value in expected.items()}
