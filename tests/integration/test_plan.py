"""Before the work: what a run says of it, that it changes nothing, and the command that says it without a run."""

from __future__ import annotations

import json
import re

import pytest
from command_line import TINY_RUN, card
from generated import NPZ

from hoptm_plugin import Plan, compose, plan, run
from hoptm_plugin.cli import plans
from hoptm_plugin.runs import planning
from hoptm_plugin.runtime.progress import silent

TOLD = re.compile(r"^plan: .*evaluation about \d+ s; memory about [\d.]+ [GM]iB, disk \d+ MiB; .*done about", re.M)


@pytest.fixture
def tiny(npz_file):
    """The settings of a run of seconds."""
    return ("dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_RUN)


def test_a_run_says_what_it_will_do_and_its_bits_stay(bench, tiny, tmp_path):
    said = bench("run", *tiny, "hydra.run.dir=said", "experts.root=a")
    assert said.code == 0, said.err
    assert len(TOLD.findall(said.err)) == 1
    assert re.search(r"^plan: 2 experts about \d+ s, 4 iterations about", said.err, re.M)
    told = []
    run(compose(*tiny, f"experts.root={tmp_path / 'b'}"), tmp_path / "silent", silent)
    run(compose(*tiny, f"experts.root={tmp_path / 'a'}"), tmp_path / "told", silent, told.append)
    assert [type(each) for each in told] == [Plan]
    cards = [card(tmp_path / name) for name in ("said", "silent", "told")]
    for name in ("synthetic.safetensors", "metrics.jsonl"):
        assert len({json.dumps(each["artefacts"].get(name)) for each in cards}) == 1, name
    assert len({json.dumps(each["evaluations"]) for each in cards}) == 1


def test_a_run_that_goes_on_says_what_is_left_and_one_at_its_end_nothing(bench, tiny, tmp_path, monkeypatch):
    from hoptm_plugin.runs import running

    def stop(*what):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(running, "judging", stop)
        assert bench("run", *tiny, "hydra.run.dir=own").code == 130
    ended = bench("run", "hydra.run.dir=own", "resume=true")
    assert (ended.code, "plan:" in ended.err) == (0, False), ended.err


def test_stored_experts_are_done(bench, tiny, tmp_path):
    bench("experts", *tiny, "experts.root=own")
    assert "plan: 2 experts stored, 4 iterations" in bench("plan", *tiny, "experts.root=own").out
    more = bench("plan", *tiny, "experts.root=own", "experts.count=5")
    assert re.search(r"plan: 3 experts about \d+ s \(2 stored\)", more.out), more.err


def test_the_command_starts_nothing_and_lays_a_sweep_out(bench, tiny, tmp_path):
    done = bench("plan", "-m", *tiny, "experts.root=own", "ipc=1,2", "seed=0,1", "method=hoptm,ftd")
    assert done.code == 0, done.err
    rows = [line.split("  ")[1:] for line in done.out.splitlines() if "method=" in line]
    assert [row[0].strip() for row in rows] == [f"ipc={ipc} seed={seed} method={method}" for ipc in (1, 2)
                                                for seed in (0, 1) for method in ("hoptm", "ftd")]  # fmt: skip
    experts = [next(cell for cell in row[1:] if cell.strip()).strip() for row in rows]
    assert experts[0] != "-"
    assert set(experts[1:]) == {"-"}, "one store for all"
    assert "total, 8 runs" in done.out
    assert done.err.count("Planning 8/8") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_said_as_by_a_run(bench, tiny):
    refused = bench("plan", *tiny, "ipc=99")
    assert refused.code == 2
    assert refused.err.count("error: ipc=99: class ") == 1
    assert bench("plan", "-m", *tiny, "ipc=1,x").code == 2
    assert "Traceback" not in bench("plan", "-m", "ipc=1,").err


def test_a_method_that_cannot_be_tried_does_not_stop_a_run(bench, tiny, monkeypatch):
    def iteration(*what):
        raise ZeroDivisionError("of experts that nobody trained")

    monkeypatch.setattr(planning.timing, "iteration", iteration)
    done = bench("run", *tiny)
    assert done.code == 0, done.err
    assert re.search(r"^plan: .*, 4 iterations that cannot be told beforehand, evaluation about", done.err, re.M)


def test_where_a_smaller_scale_exists_it_is_named(tiny, monkeypatch):
    tiny = [each for each in tiny if not each.startswith("scale=")]
    settings = compose(*tiny, "experts.root=nowhere")
    found = plan(settings, silent)
    assert plans.lines(found, tiny) == [str(found)], "seconds"
    monkeypatch.setattr(plans, "LONG", 0)
    asked = []

    def composed(*overrides):
        asked.append(overrides[-1])
        return settings.changed(protocol=settings.protocol.model_dump() | {"epochs": 1})

    monkeypatch.setattr(plans, "compose", composed)
    long = Plan(found.experts, found.distillation, type(found.evaluation)(1, 0, 1e6), found.device)
    said = plans.lines(long, tiny)
    assert said[0] == str(long)
    assert re.fullmatch(r"scale=laptop would take about \d+ s instead", said[1])
    assert asked == ["scale=laptop"]
    assert plans.lines(long, [*tiny, "scale=published"]) == [str(long)], "chosen by hand"
