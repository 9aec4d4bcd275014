"""Run folders that are damaged, linked, or written to be harmful are listed, and never obeyed."""

import os

import pytest
from test_results_compare import make

from hoptm_plugin import compose
from hoptm_plugin.cards.card import write_card
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.engine.checkpoint import write_checkpoint
from hoptm_plugin.storage.locks import Lock, held_by
from hoptm_plugin.storage.run_files import write_config
from hoptm_plugin.tables.states import list_runs, unfinished_in


@pytest.fixture
def begun(tmp_path):
    def put(name, *overrides, done=None):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        write_config(compose("dataset=digits", *overrides).plain(), folder / "config.yaml")
        if done is not None:
            write_checkpoint(folder / "checkpoint.safetensors", {"done": done})
        return folder

    return put


def test_states_are_told_by_card_lock_note_and_checkpoint(begun, tmp_path):
    begun("a", "distillation.iterations=1500", done=1000)
    begun("b")
    held = Lock(begun("c") / ".lock")
    assert held.acquire()
    (begun("d") / ".lock").write_text("process 999999999 on nowhere\n")
    killed = begun("e") / ".lock"
    killed.write_text(f"process {2**22 + 1} on {os.uname().nodename}\n")
    (begun("f", done=3) / "failure.txt").write_text("too large")
    write_card(make(), begun("g") / "result.json")
    found = {run.folder.name: (run.state, run.told) for run in list_runs(tmp_path)}
    held.close()
    assert found["a"] == ("interrupted", "at iteration 1,000 of 1,500")
    assert found["b"] == ("interrupted", "before its first checkpoint")
    assert found["c"][0] == "running"
    assert found["d"] == ("running", "before its first checkpoint, by process 999999999 on nowhere")
    assert found["e"][0] == "interrupted"
    assert held_by(killed) is None
    assert (found["f"][0], found["f"][1].rpartition(": ")[2]) == ("failed", "too large")
    assert found["g"] == ("finished", "")
    assert [folder.name for folder in unfinished_in([tmp_path, tmp_path / "runs"])] == list("abcdef")


def test_cards_without_a_configuration_are_listed_by_what_they_hold(tmp_path):
    for name, weight in (("one", 1), ("two", 2)):
        write_card(make(settings={"method": {"weight": weight}}), tmp_path / name / "result.json")
    assert [dict(run.settings) for run in list_runs(tmp_path)] == [{"weight": "1"}, {"weight": "2"}]
    (run,) = list_runs(tmp_path, "weight=2.0")
    assert (run.folder.name, run.method, run.dataset, run.result) == ("two", "MTT", "digits", "50.00")


def test_what_cannot_be_read_is_listed_as_damaged(begun, tmp_path):
    (begun("a") / "config.yaml").write_text("# SHA-256 of all below: " + "0" * 64 + "\n!!python/object:os.system {}\n")
    (begun("b") / "result.json").write_text("[" * 100_000)
    (begun("c") / "checkpoint.safetensors").write_bytes(b"\xff" * 4096)
    (begun("d") / "failure.txt").write_text("x" * 100_000)
    found = {run.folder.name: run for run in list_runs(tmp_path)}
    assert [found[name].state for name in "abcd"] == ["damaged", "damaged", "interrupted", "failed"]
    assert found["c"].told == "before its first checkpoint"
    assert all(len(run.told) < 1000 for run in found.values())


def test_links_and_pipes_are_not_followed(begun, tmp_path):
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    begun("a").rename(outside / "a")
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "config.yaml").symlink_to(outside / "a" / "config.yaml")
    (tmp_path / "runs" / "c").mkdir()
    os.mkfifo(tmp_path / "runs" / "c" / "config.yaml")
    (tmp_path / "runs" / "d").symlink_to(outside / "a")
    assert list_runs(tmp_path / "runs") == []


def test_a_folder_that_is_none_and_an_unknown_state_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no such folder"):
        list_runs(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="did you mean 'finished'"):
        list_runs(tmp_path, state="finish")
