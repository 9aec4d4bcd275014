"""The study's page and picture are those that the committed cards give."""

from __future__ import annotations

import json
import re

import pytest
from described import described
from study_narrow import tables
from study_narrow.cards import RESULTS, STUDY, studies
from study_narrow.figure import numbers
from suite_file import MAIN
from suite_plan import Plan
from suite_search import Search, searching, settled

from hoptm_plugin.cards.card import read_card

AGAIN = "rebuild with: python benchmarks/study_narrow/tables.py"


@pytest.fixture(scope="module")
def found():
    return studies()


def test_there_are_cards(found):
    assert tuple(study.name for study in found) == STUDY, "in the page's order"


@pytest.mark.campaign
@pytest.mark.parametrize("name", STUDY)
def test_every_run_of_a_suite_has_a_card_of_its_settings(name, found, monkeypatch):
    """So a suite that was changed after its runs does not pass for what made its cards."""
    (study,) = (study for study in found if study.name == name)
    plan = Plan(study.suite, ["dataset.root=elsewhere"], study.folder)
    searches = searching(plan)
    sweeps = [number for number, sweep in enumerate(study.suite.sweeps) if sweep.search]
    # these searches were made before `hoptm-bench tune`: what they found stands in the cards of the runs
    monkeypatch.setattr(Search, "found", lambda self, index: read_card(
        sorted(study.folder.glob(f"{sweeps[index]}/*"))[0]).tuning)  # fmt: skip
    plan = settled(plan, searches)
    assert [job.name for job in (*Plan.failed(searches), *plan.failed())] == []
    assert len(study.cards) == len(plan.jobs)


@pytest.mark.slow
def test_the_committed_page_is_generated_from_the_committed_cards(found):
    assert tables.PAGE.read_text(encoding="utf-8") == tables.page(found), AGAIN


def test_the_committed_picture_shows_the_committed_cards(found):
    shown = described(tables.FIGURE.read_text(encoding="utf-8"))
    assert shown == numbers([(study.data, study.tables[MAIN]) for study in found]), AGAIN


def test_every_card_says_that_its_setting_was_reduced_and_how_it_was_chosen(found):
    for study in found:
        for card in study.cards:
            assert card.note.startswith("reduced for a CPU: ")
            assert card.split == "test"
            assert (card.tuning is None) == (card.method in ("random", "full")), (card.title, card.ipc)
        for card in study.searched:
            assert card.split == "validation"


def test_committed_cards_name_no_place_on_a_machine():
    for path in RESULTS.rglob("result.json"):
        read_card(path)
        text = json.dumps(json.loads(path.read_text(encoding="utf-8"))["protocol"]) + path.read_text(encoding="utf-8")
        assert not re.search(r"""["'\s=:]/\w|file://""", text), path
