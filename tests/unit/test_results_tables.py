"""How comparisons are written: terminal, Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
import re

import pytest
from scored_cards import evaluations

from hoptm_plugin.cards.card import Card, software_versions, write_card
from hoptm_plugin.cli import main
from hoptm_plugin.cli.console import output_console
from hoptm_plugin.cli.tables import print_tables, show_comparison
from hoptm_plugin.core.errors import ConfigurationError, UserError
from hoptm_plugin.engine.significance import RULES
from hoptm_plugin.tables.compare import compare
from hoptm_plugin.tables.formats import latex_text, markdown_text
from hoptm_plugin.tables.metrics import METRICS

FORMATS = ["terminal", "markdown", "latex", "csv", "json"]


def make(method, accuracies, random=None, **changes):
    fields = {
        "schema": 1, "method": method, "title": method.upper(), "ipc": 1, "seed": 0, "protocol": {"epochs": 100},
        "dataset": {"name": "digits", "fingerprint": "f" * 64, "classes": ["0", "1"], "train": 9, "validation": 1,
                    "test": 10},
        "evaluations": [evaluations(accuracies)], "random_subset": random and [evaluations(random)],
        "selection": "last", "software": software_versions() | {"commit": None}, "config_sha256": "0" * 64,
        "artefacts": {},
        "cost": {"experts_s": None, "distill_s": 1, "evaluate_s": 1, "seconds_per_iteration": None,
                 "peak_memory_bytes": None, "device": "cpu"},
    }  # fmt: skip
    return Card.model_validate(fields | changes)


def tables(*cards, **options):
    return compare(cards, **options)


REPORTED = {"accuracy": 0.8, "std": 0.01, "source": "Table 1 & 2"}


def seeds(method, *accuracies, random=None, **changes):
    """Cards of one network each, by seed."""
    return [make(method, (value,), random if seed == 0 else None, seed=seed, **changes)
            for seed, value in enumerate(accuracies)]  # fmt: skip


CARDS = (make("dm", (0.5,)), *seeds("mtt", 0.4, 0.6, reported=REPORTED), *seeds("ftd", 0.74, 0.76),
         *seeds("att", 0.7, 0.8, random=(0.2,)), make("full", (0.9,), ipc=None))  # fmt: skip


def plain(comparison):
    stream = io.StringIO()
    print_tables(comparison.tables, output_console(stream))
    return [" ".join(line.split()) for line in stream.getvalue().splitlines() if line.strip()]


def test_off_a_terminal_plain_and_on_it_the_best_in_bold():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    cards = (*seeds("mtt", 0.45, 0.55, random=(0.2,)), *seeds("hoptm", 0.6, 0.9, reported=REPORTED))
    lines = plain(tables(*cards, against="mtt"))
    assert lines[:3] == ["dataset digits", "IPC 1", "method convnet"]
    assert lines[4:8] == ["fresh random subsets* 20.00 (1) ?", "HOPTM 75.00 ± 15.00 (2) ≈ ^", "[80.00 ± 1.00]",
                          "MTT 50.00 ± 5.00 (2)"]  # fmt: skip
    assert any(line.endswith("the highest mean of a column is marked ^ where it was tested.") for line in lines)
    assert any(line.startswith("* random training images") for line in lines)
    assert any(line.endswith("HOPTM: Table 1 & 2") for line in lines)
    untested = plain(tables(*cards, tests=None))
    assert not any("Differences" in line or "Welch" in line or "^" in line or "\x1b" in line for line in untested)
    terminal = Terminal()
    print_tables(tables(*cards).tables, output_console(terminal))
    assert re.findall(r"\x1b\[1m *(\d\S+)", terminal.getvalue()) == ["75.00"]


def test_differences_marks_and_undefined_tests():
    lines = plain(tables(*CARDS))
    assert "MTT 50.00 ± 10.00 (2) ≈" in lines
    start = next(i for i, line in enumerate(lines) if line.startswith("Differences to the best of each column"))
    assert lines[start].endswith("p corrected for 2 tests")
    below = dict(line.split(" ", 1) for line in lines[start + 4 :] if line.split()[0] in ("DM", "ATT", "FTD", "MTT"))
    assert below["ATT"] == "best"
    assert below["DM"] == "\N{MINUS SIGN}25.00 ?"
    assert below["FTD"].startswith("+0.00 [")
    assert "p 1.000, 2 pairs" in lines[start:]
    assert "nan" not in "\n".join(lines).lower()
    assert RULES["paired"] in lines
    assert any(line.startswith("? no test is possible: with one distillation on a side") for line in lines)


def test_against_a_chosen_row():
    lines = plain(tables(*CARDS, against="mtt"))
    assert any(line.startswith("Differences to MTT in percentage points") for line in lines)
    assert "MTT reference" in lines
    assert "≈ not significantly different from MTT." in lines


def test_markdown():
    text = tables(make("mtt", (0.5,), title="M|T", random=(0.2,), reported=REPORTED), make("hoptm", (0.75,)),
                  make("full", (0.9,), ipc=None), tests=None).text()  # fmt: skip
    assert text.splitlines()[:10] == [
        "dataset digits",
        "",
        "| method | IPC 1, convnet |",
        "| --- | --: |",
        r"| fresh random subsets\* | 20.00 (1) |",
        "| HOPTM | 75.00 (1) |",
        r"| M\|T | 50.00 (1) [80.00 ± 1.00] |",
        "",
        "Upper bound, FULL on all 9 training images, convnet: 90.00 (1)",
        "",
    ]
    assert r"\* random training images" in text
    best = tables(*seeds("mtt", 0.45, 0.55), *seeds("hoptm", 0.6, 0.9)).text()
    assert "| HOPTM | **75.00 ± 15.00 (2)** |" in best


def test_latex_has_booktabs_and_escapes_names():
    cards = (*seeds("mtt", 0.4, 0.6, title="[a_b] 50% & $x^{2}$ #1 ~\\"), *seeds("hoptm", 0.75, 0.85, random=(0.2,)))
    text = tables(*cards).text("latex")
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 2  # accuracies and differences
    assert (
        r"{[}a\_b{]} 50\% \& \$x\textasciicircum{}\{2\}\$ \#1 \textasciitilde{}\textbackslash{} & 50.00 $\pm$ 10.00 (2)"
        in text
    )
    assert r"HOPTM & \textbf{80.00 $\pm$ 5.00 (2)} \\" in text
    assert "±" not in text
    assert "≈" not in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert not re.search(r"(?<!\\)[#_]", text.replace("% needs \\usepackage{booktabs}", ""))


def test_latex_text_leaves_ordinary_text():
    assert latex_text("MTT, EMA (warm) 1.5") == "MTT, EMA (warm) 1.5"


@pytest.mark.parametrize("start", "=+-@\t")
def test_no_cell_of_a_csv_file_is_a_formula(start):
    title = f"{start}HYPERLINK(1)"
    cards = [make("a", (0.5,)), make("b", (0.25,), title="fine =1")]
    object.__setattr__(cards[0], "title", title)  # a card refuses a tab
    found = list(csv.DictReader(io.StringIO(tables(*cards).text("csv"))))
    assert {row["method"] for row in found} == {f"'{title}", "fine =1"}
    assert {row["against"] for row in found} == {f"'{title}", ""}
    assert {float(row["difference"]) for row in found if row["difference"]} == {-0.25}, "a number stays one"


@pytest.mark.parametrize("text", [
    "![x](http://a/b.png)", "[x](javascript:1)", "<img src=x>", "a <b", "`x`", "~~x~~", "_x_ __y__", "x\\", "$x$",
    "&lt;b&gt;", "[a]: http://b", "**x**", "<!-- x",
])  # fmt: skip
def test_names_stay_text_in_markdown(text):
    (name,) = [row.split(" | ")[0] for row in tables(make("a", (0.5,), title=text)).text().splitlines()
               if row.endswith(" 50.00 (1) |")]  # fmt: skip
    for special in (r"\]\(", r"\]:", "<img", "<b", "<!", "&lt", "~~"):
        assert not re.search(rf"(?<!\\){special}", name)
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*$]", name)
    assert re.sub(r"\\(.)", r"\1", name.removeprefix("| ")) == text


def test_ordinary_names_are_not_escaped_in_markdown():
    assert markdown_text("convnet_d4 (EMA) [80.00 ± 1.00] p < 0.001 #1") == (
        "convnet_d4 (EMA) [80.00 ± 1.00] p < 0.001 #1"
    )


def test_csv_and_json_hold_exact_fractions_and_one_record_per_cell():
    comparison = tables(*CARDS)
    rows = json.loads(comparison.text("json"))
    assert list(rows[0]) == [
        "group", "method", "settings", "dataset", "ipc", "network", "metric", "mean", "std", "networks", "diverged",
        "runs", "seeds", "values", "best", *(f"{name}{more}" for name in METRICS for more in ("", "_std")),
        "reported", "reported_std", "reported_source", "against", "difference", "ci_low", "ci_high",
        "pairs", "p", "p_holm", "notes",
    ]  # fmt: skip
    named = {row["method"]: row for row in rows}
    assert list(named) == ["fresh random subsets*", "ATT", "DM", "FTD", "MTT", "FULL"]
    assert named["MTT"]["values"] == [0.4, 0.6]
    assert (named["MTT"]["reported"], named["MTT"]["reported_source"]) == (0.8, "Table 1 & 2")
    assert (named["MTT"]["against"], named["MTT"]["p_holm"]) == ("ATT", pytest.approx(2 * named["MTT"]["p"]))
    assert named["DM"]["difference"] == pytest.approx(-0.25)
    assert named["DM"]["p"] is named["DM"]["ci_low"] is None
    assert (named["MTT"]["seeds"], named["MTT"]["pairs"], named["DM"]["pairs"]) == (2, 2, None)
    assert all(RULES["paired"] in row["notes"] for row in rows)
    assert (named["FULL"]["ipc"], named["FULL"]["group"]) == (None, "dataset digits; upper bound")
    read = list(csv.DictReader(io.StringIO(comparison.text("csv"))))
    for row, line in zip(rows, read, strict=True):
        assert line["ipc"] == ("" if row["ipc"] is None else str(row["ipc"]))
        assert json.loads(line["values"]) == row["values"]
        assert json.loads(line["notes"]) == row["notes"]
        assert line["mean"] == str(row["mean"])
        assert line["p"] == ("" if row["p"] is None else str(row["p"]))


def test_the_frame_has_numbers_to_compute_with():
    frame = tables(*CARDS).table()
    assert list(frame["method"]) == ["fresh random subsets*", "ATT", "DM", "FTD", "MTT", "FULL"]
    wide = frame.pivot(index="method", columns=["dataset", "ipc", "network"], values="mean")
    assert wide.loc["ATT", ("digits", 1, "convnet")] - wide.loc["MTT", ("digits", 1, "convnet")] == pytest.approx(0.25)
    kinds = {"ipc": "Int64", "pairs": "Int64", "mean": "float64", "std": "float64", "networks": "int64", "best": "bool",
             "difference": "float64", "p_holm": "float64"}  # fmt: skip
    assert {name: str(frame[name].dtype) for name in kinds} == kinds
    named = frame.set_index("method")
    assert named["ipc"].isna()["FULL"]
    assert named["p"].isna()["DM"]
    untested = tables(make("mtt", (0.5,)), tests=None).table()
    assert untested["p"].isna().all()
    assert untested["p"].dtype == float


def test_a_notebook_shows_all_tables_and_escapes_what_cards_say():
    hostile = "<script>alert(1)</script>" + "x" * 60
    html = tables(*seeds("mtt", 0.45, 0.55, title=hostile, reported=REPORTED), *seeds("hoptm", 0.6, 0.9))._repr_html_()
    assert html.count("<table") == 2  # accuracies and differences
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" + "x" * 60 in html
    assert "<b>75.00 ± 15.00 (2)</b>" in html
    assert "Table 1 &amp; 2" in html
    assert "population std" in html


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_gets_what_would_be_printed(form, tmp_path, capsys):
    comparison = tables(*CARDS)
    show_comparison(comparison, form, None)
    printed = capsys.readouterr().out
    show_comparison(comparison, form, tmp_path / "new" / "tables.txt")
    assert (tmp_path / "new" / "tables.txt").read_text(encoding="utf-8") == printed
    assert capsys.readouterr().out == ""
    if form != "terminal":
        comparison.write(tmp_path / "again.txt", form)
        assert (tmp_path / "again.txt").read_text(encoding="utf-8") == printed


def test_a_file_that_cannot_be_written_is_one_error(tmp_path):
    with pytest.raises(UserError, match=r"name another file"):
        tables(*CARDS).write(tmp_path, "csv")


def test_no_file_of_a_compared_run_is_written_over(tmp_path):
    write_card(CARDS[0], tmp_path / "a" / "result.json")
    (tmp_path / "a" / "config.yaml").write_text("x: 1")
    comparison = compare(tmp_path)
    for name in ("result.json", "config.yaml"):
        before = (tmp_path / "a" / name).read_bytes()
        with pytest.raises(UserError, match="is a file of a run; name another one"):
            comparison.write(tmp_path / "a" / name)
        assert (tmp_path / "a" / name).read_bytes() == before


def test_an_unknown_form_is_refused():
    with pytest.raises(ConfigurationError, match=r"form 'word': no such choice \(known: markdown, latex, csv, json\)"):
        tables(*CARDS).text("word")


def test_the_command(tmp_path, capsys):
    for name, card in zip("abcde", CARDS, strict=False):
        write_card(card, tmp_path / name / "result.json")
    main(["compare", str(tmp_path), "--format", "latex", "--against", "mtt", "--output", str(tmp_path / "t.tex")])
    assert "Differences to MTT" in (tmp_path / "t.tex").read_text(encoding="utf-8")
    assert capsys.readouterr().out == ""
    for bad, says in ((["--against", "x"], "against x: no row is called that (known: DM, FTD, MTT)"),
                      (["--against", "mtt", "--no-tests"], "not allowed with argument")):  # fmt: skip
        with pytest.raises(SystemExit) as caught:
            main(["compare", str(tmp_path), *bad])
        assert caught.value.code == 2
        assert says in capsys.readouterr().err
