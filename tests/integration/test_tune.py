"""`tune` from its command line: real runs, through launchers, stopped and gone on with, down to the run of the best."""

from __future__ import annotations

import json
import shlex
import signal
import time

import pandas as pd
import pytest
from command_line import HANG, TINY_NETWORK, call, card, forked
from generated import NPZ

RATE = "distillation.images.learning_rate"
SMALL = ("protocol.epochs=2", "protocol.repeats=1", "distillation.iterations=9", "runtime.threads=1")


@pytest.fixture
def tuning(npz_file, tmp_path):
    """Return the arguments of a tuning of DM on the generated npz, in the folder ``tuned``."""

    def arguments(*more, folder="tuned"):
        return ("tune", "method=dm", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_NETWORK, *SMALL,
                f"hydra.sweep.dir={tmp_path / folder}", *more)  # fmt: skip

    return arguments


def test_candidates_are_runs_and_the_printed_command_runs_the_best(bench, tuning, npz_file, tmp_path):
    result = bench(*tuning(f"over.{RATE}=1,10,1e40", "over.augment=dsa,none"))
    assert result.code == 0, result.err
    assert "Traceback" not in result.err
    assert (
        "Tuning: 6 candidates, 6 for 9 iterations; seed 100, judged by 1 network each on the validation" in result.err
    )
    cards = {path.parent.name: card(path.parent) for path in sorted((tmp_path / "tuned").glob("*/result.json"))}
    assert [(each["seed"], each["protocol"]["split"]) for each in cards.values()] == [(100, "validation")] * 4
    assert list(cards) == [f"candidate-{number}" for number in range(4)]
    table = pd.read_csv(tmp_path / "tuned/candidates.csv")
    assert list(table["failed"].notna()) == [False] * 4 + [True] * 2
    means = [each["evaluations"][0]["accuracy"]["mean"] for each in cards.values()]
    assert list(table["accuracy"][:4]) == means
    assert "one network" not in result.out
    assert "not sure" in result.out
    (command,) = (line.partition(": ")[2] for line in result.out.splitlines() if line.startswith("run it with: "))
    program, *arguments = shlex.split(command)
    assert program == "hoptm-bench"
    done = bench(*arguments, "hydra.run.dir=best", "protocol.repeats=1")
    assert done.code == 0, done.err
    best = card(tmp_path / "best")
    assert (best["seed"], best["protocol"]["split"], best["ipc"]) == (0, "test", 1)
    record = best["tuning"]
    assert [each["accuracy"] for each in record["candidates"]] == [*means, None, None]
    (chosen,) = (each for each in record["candidates"] if each["settings"] == record["chosen"])
    assert chosen["accuracy"] == max(means)
    assert "the best of 6 on the validation split (seed 100, networks for each: 1)" in done.out
    assert str(npz_file) not in (tmp_path / "tuned/best.yaml").read_text(), "where data lie is no setting to pass on"
    again = bench(*tuning(f"over.{RATE}=1,10", "over.augment=dsa,none"))
    assert again.code == 2
    assert "holds a tuning; to go on with it add resume=auto" in again.err


def test_halving_and_the_python_call_give_the_same(bench, tuning, tmp_path, npz_file, experts_root, monkeypatch):
    result = bench(*tuning(f"over.{RATE}=1,2,3,4", "strategy=halving"))
    assert result.code == 0, result.err
    assert "Tuning: 4 candidates, 4 for 3 iterations, then 2 for 9 iterations" in result.err
    table = pd.read_csv(tmp_path / "tuned/candidates.csv")
    assert list(table["iterations"]) == [3] * 4 + [9] * 2
    from hoptm_plugin import tune

    monkeypatch.setenv("HOPTM_EXPERTS", str(experts_root))
    overrides = [each for each in tuning()[1:] if not each.startswith("hydra.")]
    found = tune(*overrides, over={RATE: [1, 2, 3, 4]}, folder=tmp_path / "python", strategy="halving")
    mine = json.loads((tmp_path / "tuned/tuning.json").read_text())
    assert mine["found"] == found.record.model_dump(mode="json")


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 20])
def test_candidates_side_by_side_are_those_of_one_after_the_other(side, tuning, tmp_path):
    """As one computation, and with images of 20x20, which are no faster so, by processes; a round goes on if it can."""
    over = (f"over.{RATE}=1,2,1e40,4", "strategy=halving", f"dataset.preprocess.image_size={side}")
    for folder, more in (("alone", ()), ("beside", ("hydra/launcher=side_by_side",))):
        done = call(*tuning(*over, *more, f"experts.root={tmp_path / folder}-experts", folder=folder), cwd=tmp_path)
        assert done.code == 0, done.err
        assert "Traceback" not in done.err
        assert ("no faster as one computation" in done.err) == (bool(more) and side == 20)
    alone, beside = (table(tmp_path / folder) for folder in ("alone", "beside"))
    assert list(alone["iterations"]) == [3] * 4 + [9] * 2
    assert list(alone["failed"].notna()) == [False, False, True, False] + [False] * 2
    pd.testing.assert_frame_equal(alone, beside, rtol=0.02)
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {
        path.name for path in (tmp_path / "beside").iterdir()
    }


def test_mistakes_are_one_line(bench, tuning):
    for more, named in (
        ((f"over.{RATE}=1,2", "hydra.run.dir=x"), "a tuning's folder is chosen with hydra.sweep.dir"),
        ((f"over.{RATE}=1,2", "resume=perhaps"), "resume=perhaps: must be true, false or auto"),
        ((f"over.{RATE}=[1",), "not a setting of the form KEY=VALUE"),
        ((f"over.{RATE}=1,2", "strategy=luck"), "strategy: must be grid or halving"),
        ((), "over: names no setting with values to try"),
        ((f"over.{RATE}=1,2", "hydra/launcher=nowhere"), "nowhere"),
        ((f"over.{RATE}=interval(1,2)",), "interval"),
        ((f"over.{RATE}=1,2", "hydra/launcher=side_by_side", "hydra.launcher.n_jobs=2"), "no settings of its own"),
    ):
        result = bench(*tuning(*more))
        assert result.code == 2, (more, result.err)
        assert "Traceback" not in result.err
        assert named in result.err
        assert result.err.count("error: ") == 1


def of_runs(folder):
    """Return the cards of a tuning's runs without their cost and the commit."""
    found = {path.parent.name: card(path.parent) for path in folder.glob("*/result.json")}
    for each in found.values():
        del each["cost"], each["sha256"], each["software"]["commit"], each["artefacts"]["config.yaml"]
    return found


def table(folder):
    return pd.read_csv(folder / "candidates.csv").drop(columns="folder")


@pytest.mark.campaign
def test_side_by_side_gives_the_same(tuning, tmp_path):
    pytest.importorskip("joblib")
    over = (f"over.{RATE}=1,10,1e40", "strategy=halving", "runtime.compile=false")
    for folder, more in (("alone", ()), ("beside", ("hydra/launcher=processes",))):
        done = call(*tuning(*over, *more, f"experts.root={tmp_path / folder}-experts", folder=folder), cwd=tmp_path)
        assert done.code == 0, done.err
        assert "Traceback" not in done.err
    tables = [
        pd.read_csv(tmp_path / folder / "candidates.csv").drop(columns="folder") for folder in ("alone", "beside")
    ]
    pd.testing.assert_frame_equal(*tables)
    assert of_runs(tmp_path / "alone") == of_runs(tmp_path / "beside")


@pytest.mark.campaign
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_tuning_goes_on_to_the_same_end(number, tuning, tmp_path):
    over = (f"over.{RATE}=1,2,3,4", "strategy=halving", "protocol.epochs=150", f"experts.root={tmp_path / 'experts'}")
    whole = call(*tuning(*over, folder="whole"), cwd=tmp_path)
    assert whole.code == 0, whole.err
    with forked(*tuning(*over), cwd=tmp_path) as running:
        end = time.monotonic() + HANG
        while not (tmp_path / "tuned/candidate-1/metrics.jsonl").exists():
            assert running.process.is_alive()
            assert time.monotonic() < end
            time.sleep(0.02)
        running.process.kill() if number == signal.SIGKILL else running.process.terminate()
        stopped = running.result()
    if number == signal.SIGTERM:
        assert stopped.code == 75, stopped.err
        assert f"stopped by SIGTERM; the same command with hydra.sweep.dir={tmp_path}/tuned and resume" in stopped.err
    assert "Traceback" not in stopped.err
    done = call(*tuning(*over, "resume=auto"), cwd=tmp_path)
    assert done.code == 0, done.err
    assert of_runs(tmp_path / "tuned") == of_runs(tmp_path / "whole")
    pd.testing.assert_frame_equal(*(table(tmp_path / folder) for folder in ("whole", "tuned")))
