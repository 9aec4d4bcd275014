"""The pages of the laptop's rates and runs are made from what was tried, and the scales take what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from laptop import search, table

from hoptm_plugin.runs.composition import compose


def test_the_page_is_made_of_the_results():
    assert search.PAGE.read_text() == search.page(), "python benchmarks/laptop/search.py --page"


@pytest.fixture
def row():
    """A run of HoP-TM as it should be."""
    return table.Row("cells", 1, "hoptm", 0.5, 0.02, 0.4, 0.03, 0.01, 0.05, None, 300.0, 100.0, 50.0, "a CPU")


def test_the_table_s_page_is_made_of_its_results():
    assert table.PAGE.read_text() == table.page(), "python benchmarks/laptop/table.py --page"


def test_what_is_not_as_it_should_be_is_said_below_the_table(row, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "RESULTS", tmp_path / "table.csv")
    for each in (row, replace(row, method="dm", step_size=None), replace(row, method="mtt", accuracy=0.4),
                 replace(row, method="att", note="stopped at 120 of 300: the loss only grew", step_size=-1.0,
                         saturated=0.2), replace(row, method="idm", accuracy=0.44)):  # fmt: skip
        table.add(each)
    assert table.read()[0] == row
    page = table.page()
    assert page.startswith("# Every method")
    assert "5 of 168 runs, 0.3 hours on a CPU, shared experts counted once" in page
    assert "| HoP-TM | 50.0 ± 2.0 | 40.0 ± 3.0 | 0.0100 | 5.0 % | 300 s | 100 s | 50 s |" in page
    assert page.rpartition("|\n\n")[2].splitlines() == [
        "- MTT is no better than random images.",
        "- ATT: stopped at 120 of 300: the loss only grew",
        "- ATT: 20 % of the pixel values are out of range.",
        "- ATT: its step size is not positive.",
        "- IDM is better than random images by less than the networks scatter.",
    ]


def test_ours_beside_published_figures_is_what_the_table_has():
    text = (table.HERE.parent / "README.md").read_text().partition("### Published figures beside ours")[2]
    lines = [line.split("|")[1:-1] for line in text.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    known = {(table.METHODS[each.method], each.ipc): f"{100 * each.accuracy:.1f} ± {100 * each.std:.1f}"
             for each in table.read() if each.data == "cifar"}  # fmt: skip
    rows = {name.strip(): (first.strip(), tenth.strip()) for name, _, first, _, tenth, _ in lines[2:]}
    assert set(rows) == {table.METHODS[name] for name in ("dc", "dsa", "tgdd", "ncfm", "pad", "mct", "rded")}
    for name, ours in rows.items():
        assert ours == (known.get((name, 1), "not run"), known.get((name, 10), "not run"))


def test_rows_that_are_not_whole_do_not_count():
    rows = [{1.0: 0.5, 10.0: 0.6}, {1.0: 0.9, 10.0: 0.7}, {10.0: 0.1}]
    chosen, below = search.best(rows, (1.0, 10.0))
    assert chosen == 1
    assert below == {1.0: pytest.approx(0.05), 10.0: pytest.approx(0.1)}


@pytest.mark.parametrize("method", search.RATES)
@pytest.mark.parametrize("ipc", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_the_scales_take_the_rates_of_the_page(method, ipc):
    rates = {(title, each): rate for title, each, rate in chosen()}
    rate = {("mtt", 10): 500, ("dc", 10): 10}.get((method, ipc), rates[search.NAMES[method], ipc])
    settings = compose(f"method={method}", "dataset=npz", "scale=laptop", f"ipc={ipc}")
    assert settings.distillation.images.learning_rate == rate


def chosen():
    for line in search.PAGE.read_text().splitlines():
        if line.startswith("## "):
            title, _, rest = line.removeprefix("## ").rpartition(", IPC ")
            ipc, _, rate = rest.partition(": ")
            yield title, int(ipc), float(rate)
