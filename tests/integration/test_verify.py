"""``hoptm-bench verify``: finished runs as they are, and as they must not be."""

import json
import shutil

import numpy as np
import pytest
import torch
from command_line import TINY_NETWORK, TINY_PROTOCOL
from generated import NPZ, write_npz

from hoptm_plugin.cards.card import read_card, write_card
from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.engine.metrics import classification_metrics


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def copied(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "copied")
    return tmp_path / "copied"


def test_a_run_is_verified_and_nothing_is_written(bench, finished_run, tmp_path):
    before = contents(finished_run)
    result = bench("verify", str(finished_run))
    assert result.code == 0, result.err
    assert result.out.count("agrees") == len(read_card(finished_run).artefacts)
    assert "identical" in result.out
    assert result.out.splitlines()[-1] == "verified"
    assert contents(finished_run) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["synthetic.safetensors", "metrics.jsonl", "initial.png"])
@pytest.mark.parametrize("change", ["changed", "missing"])
def test_a_changed_file(change, name, bench, copied):
    if change == "missing":
        (copied / name).unlink()
    else:
        (copied / name).write_bytes((copied / name).read_bytes() + b" ")
    result = bench("verify", str(copied))
    assert result.code == 1
    assert result.out.splitlines()[-1].startswith(f"NOT verified: {name} is {'missing' if change == 'missing' else ''}")
    assert "Evaluating" not in result.err, "nothing is trained on a set that was replaced"


def changed_card(folder, accuracy):
    """Let the card claim another accuracy, 0 or 1, with all its other figures and its checksum."""
    card = read_card(folder)
    evaluation = card.evaluations[0]
    targets = torch.arange(len(evaluation.support)).repeat_interleave(torch.tensor(evaluation.support))
    predicted = targets if accuracy else (targets + 1) % len(evaluation.support)
    metrics = classification_metrics(targets, torch.eye(len(evaluation.support))[predicted])
    changed = Evaluation.from_metrics(evaluation.network, [metrics for _ in evaluation.accuracy.values])
    write_card(card.model_copy(update={"evaluations": (changed,)}), folder / "result.json")


def test_an_accuracy_that_cannot_be_repeated(bench, copied):
    true = read_card(copied).evaluations[0].accuracy.mean
    changed_card(copied, 1.0 if true < 0.5 else 0.0)
    result = bench("verify", str(copied))
    assert result.code == 1, result.out
    assert "DIFFERS" in result.out
    assert "NOT verified: convnet(depth=2,width=4) on the synthetic set: " in result.out
    assert bench("verify", "--checksums", str(copied)).code == 0, "files alone do not tell"


def test_an_edited_card_is_refused(bench, copied):
    card = json.loads((copied / "result.json").read_text())
    card["title"] = "Mine"
    (copied / "result.json").write_text(json.dumps(card))
    result = bench("verify", str(copied))
    assert (result.code, result.err.count("error: ")) == (2, 1)
    assert "result.json: damaged or edited" in result.err


def test_an_evaluation_is_verified_by_the_set_that_it_judged(bench, finished_run, tmp_path):
    assert bench("eval", f"synthetic={finished_run}", "protocol.repeats=2", "hydra.run.dir=judged").code == 0
    result = bench("verify", "judged")
    assert result.code == 0, result.err
    assert result.out.count("agrees") == 2


def test_the_upper_bound_is_trained_again(bench, npz_file, tmp_path):
    data = ("dataset=npz", f"dataset.root={npz_file}", *NPZ)
    assert bench("run", "method=full", *data, *TINY_NETWORK, *TINY_PROTOCOL, "hydra.run.dir=full").code == 0
    result = bench("verify", "full")
    assert result.code == 0, result.err
    assert "identical" in result.out


def test_a_moving_average_and_a_random_subset(bench, npz_file, tmp_path):
    from command_line import TINY_RUN

    data = ("dataset=npz", f"dataset.root={npz_file}", *NPZ)
    more = ("distillation.average_decay=0.9", "protocol.random_subset=true", "protocol.repeats=2")
    assert bench("run", *data, *TINY_RUN, *more, "hydra.run.dir=run").code == 0
    result = bench("verify", "run")
    assert result.code == 0, result.err
    assert result.out.count("identical") == 3


def test_an_exported_set(bench, finished_run, tmp_path):
    assert bench("export", str(finished_run), "--format", "folder", "-o", "exported").code == 0
    result = bench("verify", "exported")
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == "checksums verified"
    (tmp_path / "exported/labels.csv").write_text("mine")
    result = bench("verify", "exported")
    assert result.code == 1
    assert "NOT verified: labels.csv is not what it was" in result.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere",), ("nowhere: holds no run", "result.json")),
        (("{run}", "ipc=2"), ("ipc: would make it another run", "dataset.root", "runtime")),
        (("{run}", "method=mtt"), ("method: would make it another run",)),
        (("{run}", "dataset.root=nowhere.npz"), ("nowhere.npz: no such file",)),
        (("{run}", "runtime.threads=["), ("runtime.threads=[: not a setting of the form KEY=VALUE",)),
        (("{run}", "worker=1"), ("worker: would make it another run",)),
        ((), ("run",)),
    ],
)
def test_what_cannot_be_verified(arguments, says, bench, finished_run):
    result = bench("verify", *(each.replace("{run}", str(finished_run)) for each in arguments))
    assert result.code == 2, result
    assert result.err.count("error: ") == 1
    assert "Traceback" not in result.err
    assert all(said in result.err for said in says), result.err


def test_other_data_are_named(bench, finished_run, tmp_path):
    write_npz(tmp_path / "other.npz")
    with np.load(tmp_path / "other.npz") as archive:
        images = archive["train_images"]
    images[0, 0, 0, 0] ^= 1
    write_npz(tmp_path / "other.npz", train_images=images)
    result = bench("verify", str(finished_run), f"dataset.root={tmp_path / 'other.npz'}")
    assert result.code == 2
    assert f"in the card {read_card(finished_run).dataset.fingerprint}" in result.err
    assert "dataset.root=PATH" in result.err


def test_a_run_that_is_not_finished(bench, copied):
    (copied / "result.json").unlink()
    result = bench("verify", str(copied))
    assert result.code == 2
    assert "the run in it is not finished" in result.err
