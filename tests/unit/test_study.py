"""The study's generated page: what claims come to, and which cards stand where."""

from __future__ import annotations

from pathlib import Path

import pytest
import scored_cards
from described import described
from scipy.special import stdtr
from study_narrow import claims, tables
from study_narrow import rows as sections
from study_narrow.cards import Study, studies, take
from study_narrow.claims import Claim, outcomes, read_claims
from study_narrow.figure import draw, numbers
from suite_file import MAIN, SUITES, Suite, load_suite

from hoptm_plugin.cards.card import write_card
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.engine.significance import RULES
from hoptm_plugin.tables.compare import compare

TUNING = {"split": "validation", "networks": 3, "seed": 100, "chosen": f"{sections.RATE}100",
          "candidates": [{"settings": f"{sections.RATE}{rate}", "accuracy": accuracy}
                         for rate, accuracy in ((100, 0.5), (1000, 0.25), (10, None))]}  # fmt: skip
SUITE = {
    "title": "small", "data": {"train": 100, "classes": 2, "image": [1, 32, 32]},
    "sweeps": [{"title": "one", "overrides": ["method=mtt"], "tables": ["main", "pacing"]},
               {"title": "two", "overrides": ["method=dm"], "tables": ["pacing"]}],
    "tables": {"pacing": {"title": "Paced"}},
}  # fmt: skip


def rows(against=None, **accuracies):
    """Return the comparison of methods with one network for each seed, tested where a row is to be tested against."""
    cards = {f"{method}{seed}": scored_cards.make(method, value, seed=seed)
             for method, values in accuracies.items() for seed, value in enumerate(values)}  # fmt: skip
    tested = {"tests": None} if against is None else {"against": against}
    return compare(scored_cards.read(scored_cards.found(**cards)), **tested).tables


def claim(row="A", than="B", **changes):
    return Claim(**{"says": "A is better", "suite": "s", "row": row, "than": than} | changes)


def test_a_claim_s_outcome_is_what_its_table_says():
    """A beats B by 0.2 +- 0.01 over three seeds, and B and C are alike."""
    tables = {("s", MAIN): rows(a=(0.71, 0.62, 0.50), b=(0.5, 0.42, 0.31), c=(0.51, 0.4, 0.33))}
    better, worse, alike, absent = (
        outcomes([claim(*pair)], tables) for pair in (("A", "B"), ("B", "A"), ("B", "C"), ("A", "none"))
    )
    assert [each.verdict for (each,) in (better, worse, alike, absent)] == [
        "**holds**", "**the reverse**", "not shown", "cannot be tested"
    ]  # fmt: skip
    assert claims.rows(absent, {"s": "blood"})[0][3:] == ["cannot be tested", "1", "-", "-", "-", "-"]
    assert better[0].difference.mean == pytest.approx(0.2)
    standard_error = 0.01 / 3**0.5  # differences 0.21, 0.20, 0.19
    assert better[0].difference.p == pytest.approx(2 * stdtr(2, -0.2 / standard_error))
    assert better[0].p_holm == pytest.approx(2 * better[0].difference.p), "B is tested against A, and against C"


def test_a_claim_has_the_p_of_its_table_and_the_sign_of_its_own():
    values = {"a": (0.71, 0.62, 0.50), "b": (0.5, 0.42, 0.31), "c": (0.51, 0.4, 0.33), "d": (0.1, 0.3)}
    tested = rows("A", **values)
    (found,) = outcomes([claim("A", "B")], {("s", MAIN): tested})
    cell = tested[0].cell("B", (1, "convnet"))
    assert (found.p_holm, found.difference.p) == (cell.p_holm, cell.difference.p)
    assert found.difference.mean == pytest.approx(0.2)
    assert found.difference.low == -cell.difference.high
    (unpaired,) = outcomes([claim("A", "D")], {("s", MAIN): tested})
    assert claims.rows([unpaired], {"s": "blood"})[0][6] == "3 and 2"


@pytest.mark.campaign
def test_many_rows_make_each_claim_harder():
    values = {"a": (0.71, 0.62, 0.50), "b": (0.5, 0.42, 0.31)}
    more = {f"m{number}": [value + number / 1000 for value in (0.5, 0.41, 0.32)] for number in range(100)}
    (few,), (many,) = (outcomes([claim()], {("s", MAIN): rows("A", **each)}) for each in (values, values | more))
    assert (few.verdict, many.verdict) == ("**holds**", "not shown")
    (row,) = claims.rows([few], {"s": "blood"})
    assert row[:5] == ["A is better", "blood", "convnet", "**holds**", "1"]
    assert row[5].startswith("+20.00 [")
    assert row[6] == "3 pairs"


def test_no_committed_table_marks_as_alike_what_a_claim_says_holds():
    """One rule: a claim holds where its table shows a difference; the sentence that says it is everywhere the same."""
    found = studies()
    tables_ = {(study.name, name): each for study in found for name, each in study.tables.items()}
    compared = 0
    for each in outcomes(read_claims(), tables_):
        (table,) = tables_[each.claim.suite, each.claim.table]
        rows_ = {each.claim.row, each.claim.than}
        if table.against in rows_:
            (other,) = rows_ - {table.against}
            cell = table.cell(other, (each.ipc, each.network))
            assert (each.verdict == "not shown") == cell.indistinct
            compared += 1
    assert compared > 10
    for page in ("README.md", "study_narrow/TABLES.md"):
        said = " ".join((Path(claims.__file__).parents[1] / page).read_text(encoding="utf-8").split())
        assert RULES["paired"] in said, page


def test_a_claim_leaves_a_network_out():
    assert outcomes([claim(without="convnet")], {("s", MAIN): rows(a=(0.7, 0.6), b=(0.5, 0.3))}) == []


def test_a_single_pair_cannot_be_tested():
    (one,) = outcomes([claim()], {("s", MAIN): rows(a=(0.7,), b=(0.5,))})
    assert one.verdict == "cannot be tested"


def test_every_claim_names_rows_that_its_suite_makes():
    for each in read_claims():
        described_suite = load_suite(SUITES[each.suite])
        assert any(each.table in sweep.tables for sweep in described_suite.sweeps)
        titles = {part for sweep in described_suite.sweeps for part in (sweep.title, *sweep.overrides)}
        known = {"HoP-TM": "HoP-TM, IPC 10", "MTT": "MTT, IPC 10", "Random subset": "Random images"}
        for row in (each.row, each.than):
            assert known.get(row, f'method_title="{row}"') in titles, row


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of two runs of sweep 0, one of sweep 1, and a search."""
    monkeypatch.setattr("study_narrow.cards.RESULTS", tmp_path)
    cost = scored_cards.make("mtt", 0.5).cost.model_dump() | {"experts_s": 60.0, "distill_s": 120.0, "evaluate_s": 30}
    for seed in (0, 1):
        card = scored_cards.make("mtt", 0.5, 0.7, seed=seed, tuning=TUNING, cost=cost, title="MTT")
        write_card(card, tmp_path / f"small-full/0/{seed}-mtt/result.json")
    write_card(scored_cards.make("dm", 0.6), tmp_path / "small-full/1/0-dm/result.json")
    write_card(scored_cards.make("mtt", 0.4, cost=cost), tmp_path / "small-full-search/0/0-mtt/result.json")
    return Study("small", Suite.model_validate(SUITE))


def test_sections_say_what_the_cards_say(study):
    assert [len(study.files(name)) for name in (MAIN, "pacing")] == [2, 3]
    assert set(study.tables) == {MAIN, "pacing"}
    text = tables.page([study])
    assert "| blood | MTT | 1 | 10: failed; 100: 50.00; 1000: 25.00 | 100 |" in text
    assert "## What was checked" not in text, "nothing was measured"
    # the search's and the study's runs read the same experts: their minute counts once; DM distilled for a second
    assert "| blood | 1 + 3 | 1 | 2 | 0 | 4 | 1 | 9 |" in text
    assert "0.1 hours in all, of the runs whose cards are here" in text
    assert not sections.uneven(study)
    assert "### Balanced accuracy" not in text
    assert ["MTT", "60.00 ± 10.00"] in sections.balanced(study)
    assert "python benchmarks/suite.py small runtime.threads=1 dataset.root=PATH" in text
    assert "### Pilots" not in text
    write_card(scored_cards.make("mtt", 0.25, 0.75), study.folder.parent / "study_pilots/rate-10/result.json")
    assert "| rate-10 | MTT | 50.00 ± 25.00 |" in tables.page([study])


def test_the_picture_describes_its_numbers(study):
    panels = [("blood & <cells>", study.tables[MAIN])]
    found = numbers(panels)
    assert found == [{"data": "blood & <cells>", "methods": {"MTT": {"1": [60.0, 10.0]}}, "all images": []}]
    svg = draw(panels)
    assert described(svg) == found
    assert draw(panels) == svg


def test_checks_are_shown_of_the_studies_that_are_there():
    mine = {"suite": "small", "ipc": 1}
    curves = [mine | {"title": "HoP-TM", "runs": 2, "loss": [0.9, 0.456789], "step_size": [0.01, 0.02],
                      "mask": [0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.0]},
              mine | {"title": "DM", "runs": 1, "loss": [20.0, 4.0]},
              mine | {"suite": "other", "title": "MTT", "runs": 1, "loss": [1.0, 1.0]}]  # fmt: skip
    shape = {"start": {"ratio": 0.0116, "cosine": 0.022, "way": [0.001, 0.01, 0.1, 0.3, 0.6]},
             "end": {"ratio": 0.0142, "cosine": -0.1, "way": [0.002, 0.02, 0.2, 0.4, 0.7]}}  # fmt: skip
    known = {"curves": curves, "experts": [{"suite": "small", "experts": "gsam", "accuracy": [0.25, 0.5]}],
             "shape": [mine | shape | {"width": 32, "student_steps": 20}]}  # fmt: skip
    assert sections.checks(known, {"small": "blood"}) == {
        "masks": [["blood", "HoP-TM", "1", "10", "15", "20", "30", "50", "80", "100"]],
        "losses": [["blood", "HoP-TM", "1", "0.9 to 0.457", "0.01 to 0.02"], ["blood", "DM", "1", "20 to 4", ""]],
        "experts": [["blood", "GSAM", "25, 50"]],
        "shares": [["blood", "1", "32", "20", "start", "0.012", "0.022"],
                   ["blood", "1", "32", "20", "end", "0.014", "-0.1"]],
        "ways": [["blood", "1", "32", "20", "start", "0.1", "1", "10", "30", "60"],
                 ["blood", "1", "32", "20", "end", "0.2", "2", "20", "40", "70"]],
    }  # fmt: skip


def test_cards_are_taken_from_the_runs_and_nothing_else(study, tmp_path, monkeypatch):
    monkeypatch.setattr("study_narrow.cards.STUDY", ("small",))
    place = tmp_path / "runs"
    for folder in ("small-full/0/0-new", "small-full-search/0/0-new"):
        write_card(scored_cards.make("mtt", 0.25), place / folder / "result.json")
        (place / folder / "metrics.jsonl").write_text("{}")
    take(place)
    taken = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("small-full*/*/*/*")}
    assert taken == {"small-full/0/0-new/result.json", "small-full-search/0/0-new/result.json"}
    (place / "small-full-search/0/0-new/result.json").unlink()
    with pytest.raises(FileFormatError, match="small-full-search: holds no finished runs"):
        take(place)
    assert len(list(tmp_path.glob("small-full*/*/*/result.json"))) == 2, "nothing was lost"


def test_no_cards_are_one_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("study_narrow.cards.RESULTS", tmp_path)
    assert tables.main([]) == 2
    assert "holds no cards of the study; take some with --take FOLDER" in capsys.readouterr().err


def test_what_recipes_report_stands_beside_their_data_set(study):
    assert sections.published(study) == ([], []), "no recipe is of these data"
    card = study.cards[0].model_copy(update={"method": "hoptm", "title": "HoP-TM"})
    named = card.model_copy(update={"dataset": card.dataset.model_copy(update={"name": "covid19cxr"})})
    object.__setattr__(study, "cards", [named])
    reported, sources = sections.published(study)
    assert ["HoP-TM", "69.71 ± 0.87"] in reported
    assert "Dong et al. 2025 (HoP-TM), Table 2" in sources
