"""The page of audits is that which its table gives."""

from __future__ import annotations

import pytest
from audit import table


def test_the_committed_page_is_made_of_the_committed_rows():
    rows = table.read()
    assert rows, "benchmarks/audit/table.csv is missing"
    assert table.PAGE.read_text(encoding="utf-8") == table.page(rows), "python benchmarks/audit/table.py --page"


def test_every_row_was_audited_with_all_its_controls():
    for each in table.read():
        if each.verdict is None:
            assert each.controls == 4, "copies, barely changed, aside and noise, by ranks"
            assert each.loss is each.standard_s is None
            continue
        assert each.controls == 8, "these, and by shadows"
        assert 0 <= each.loss_low <= each.loss <= each.loss_high <= 1
        assert each.verdict in ("none_found", "leak_found", "invalid")


def test_a_control_that_was_judged_wrongly_is_named():
    from dataclasses import replace

    rows = table.read()
    wrong = replace(rows[0], passed=rows[0].controls - 1)
    assert f"Controls: wrong in {wrong.name}." in table.page([wrong])
    assert "as they must be" in table.page([replace(wrong, passed=wrong.controls)])


@pytest.mark.parametrize("name", table.ROWS)
def test_every_row_composes(name):
    from hoptm_plugin import compose

    assert compose(*table.ROWS[name], table.ASIDE, "dataset=digits", ipc=1).dataset["holdout_fraction"] == 0.3
