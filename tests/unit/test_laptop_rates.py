"""The page of the laptop's rates is made from what was tried, and the scales take what it says."""

from __future__ import annotations

import pytest
from laptop import search

from hoptm_plugin.runs.composition import compose


def test_the_page_is_made_of_the_results():
    assert search.PAGE.read_text() == search.page(), "python benchmarks/laptop/search.py --page"


def test_rows_that_are_not_whole_do_not_count():
    rows = [{1.0: 0.5, 10.0: 0.6}, {1.0: 0.9, 10.0: 0.7}, {10.0: 0.1}]
    chosen, below = search.best(rows, (1.0, 10.0))
    assert chosen == 1
    assert below == {1.0: pytest.approx(0.05), 10.0: pytest.approx(0.1)}


@pytest.mark.parametrize("method", ["mtt", "dm", "idm"])
@pytest.mark.parametrize("ipc", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_the_scales_take_the_rates_of_the_page(method, ipc):
    rates = {(title, each): rate for title, each, rate in chosen()}
    rate = 500 if (method, ipc) == ("mtt", 10) else rates[search.NAMES[method], ipc]
    settings = compose(f"method={method}", "dataset=npz", "scale=laptop", f"ipc={ipc}")
    assert settings.distillation.images.learning_rate == rate


def chosen():
    for line in search.PAGE.read_text().splitlines():
        if line.startswith("## "):
            title, _, rest = line.removeprefix("## ").rpartition(", IPC ")
            ipc, _, rate = rest.partition(": ")
            yield title, int(ipc), float(rate)
