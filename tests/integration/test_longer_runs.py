"""A finished run is made longer, starts from another's set, is stopped where it diverges, and says how it chose."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from command_line import TINY_EXPERTS, TINY_NETWORK, TINY_PROTOCOL, card
from generated import NPZ

from hoptm_plugin import load_distilled, read_run
from hoptm_plugin.core.errors import RunFolderError
from hoptm_plugin.runs.composition import compose
from hoptm_plugin.runs.folder import RunFolder

LOOP = ("distillation.checkpoint_every=7", "distillation.log_every=7", "distillation.evaluate_every=4",
        "distillation.images.learning_rate=0.1", "runtime.threads=1")  # fmt: skip
MATCHING = (*TINY_EXPERTS, "method.student_steps=4", "distillation.step_size.learning_rate=1e-6")


@pytest.fixture
def run(bench, npz_file):
    def start(folder, *more):
        data = ("dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_NETWORK, *TINY_PROTOCOL, *LOOP)
        return bench("run", *data, f"hydra.run.dir={folder}", *more)

    return start


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


KINDS = {
    "hoptm": MATCHING,
    "dm": ("method.real_batch=4",),
    "ncfm": (
        "experts.count=2",
        "experts.training.batch=8",
        "method.real_batch=4",
        "method.last_epoch=2",
        "method.matcher.frequencies=32",
    ),
    "hoptm, chosen on validation": (*MATCHING, "distillation.selection=validation"),
    "ftd, chosen on validation": (*MATCHING, "distillation.selection=validation", "distillation.average_decay=0.5"),
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind == "hoptm, chosen on validation" else pytest.mark.campaign) for kind in KINDS],
)
def test_a_run_made_longer_is_to_the_bit_one_that_was_planned_so_long(kind, run, bench, tmp_path):
    """10 and 17 iterations, logged every 7th and scored every 4th, so that the first end is off both beats."""
    method = (f"method={kind.partition(',')[0]}", *KINDS[kind])
    for folder, iterations in (("long", 17), ("made longer", 10)):
        result = run(f"'{folder}'", *method, f"distillation.iterations={iterations}")
        assert result.code == 0, result.err
    first = rows(tmp_path / "made longer")
    assert first[-1]["step"] == 9
    result = bench("run", "hydra.run.dir='made longer'", "resume=true", "distillation.iterations=17")
    assert result.code == 0, result.err
    assert "goes on from 10 iterations to 17; its result so far is replaced" in result.err
    for name in ("synthetic.safetensors", "metrics.jsonl", "initial.png", "synthetic.png"):
        assert (tmp_path / "made longer" / name).read_bytes() == (tmp_path / "long" / name).read_bytes(), name
    mine, theirs = card(tmp_path / "made longer"), card(tmp_path / "long")
    for each in (mine, theirs):
        del each["cost"], each["sha256"], each["artefacts"]["config.yaml"], each["software"]["commit"]
    assert mine == theirs
    again = bench("verify", "made longer")
    assert again.code == 0, again.err
    assert "verified" in again.out


def test_what_was_said_of_the_total_cannot_be_made_longer(run, bench, tmp_path):
    linear = "{name:linear,start:0.1,end:1.0,over:'${distillation.iterations}'}"
    paced = ("method.schedulers.pace.kappa=null", f"method.schedulers.pace.quantile={linear}")
    assert run("run", *MATCHING, *paced, "distillation.iterations=3").code == 0
    assert read_run(tmp_path / "run").settings.method["schedulers"]["pace"]["quantile"]["over"] == 3
    result = bench("run", "hydra.run.dir=run", "resume=true", "distillation.iterations=5")
    assert result.code == 2
    assert (
        "cannot be made longer, since the run was told method.schedulers.pace.quantile.over as a function" in result.err
    )
    assert (tmp_path / "run/result.json").exists()
    shorter = bench("run", "hydra.run.dir=run", "resume=true", "distillation.iterations=2")
    assert (shorter.code, "distillation.iterations: 3 in the folder, 2 now" in shorter.err) == (2, True)


def test_a_run_whose_checkpoint_is_gone_cannot_be_made_longer(tmp_path):
    settings = compose("method=dm", "distillation.iterations=3")
    folder = RunFolder(tmp_path / "run")
    folder.begin(settings)
    (tmp_path / "run/result.json").write_text("{}")
    longer = settings.changed(resume=True, distillation=settings.distillation.model_dump() | {"iterations": 5})
    with pytest.raises(RunFolderError, match=r"cannot be made longer without checkpoint\.safetensors; restore it"):
        folder.check(longer, resume=True)
    (tmp_path / "run/result.json").unlink()
    folder.check(longer, resume=True)  # nothing was done yet


# --- choosing --------------------------------------------------------------------------------------------------------


def test_the_choice_and_its_curve_are_in_log_card_console_set_and_report(run, bench, tmp_path):
    result = run("run", *MATCHING, "distillation.selection=validation", "distillation.iterations=10",
                 "protocol.epochs=20")  # fmt: skip
    assert result.code == 0, result.err
    selected = card(tmp_path / "run")["selected"]
    assert selected["iterations"] == [4, 8, 10]
    logged = {row["step"] + 1: row["validation_accuracy"] for row in rows(tmp_path / "run")
              if "validation_accuracy" in row}  # fmt: skip
    assert logged == dict(zip(selected["iterations"], selected["accuracies"], strict=True))
    best = max(selected["accuracies"])
    assert selected["iteration"] == selected["iterations"][selected["accuracies"].index(best)]
    assert load_distilled(tmp_path / "run").info["iteration"] == selected["iteration"]
    assert f"best on the validation split: iteration {selected['iteration']} of 10 ({100 * best:.2f} %" in result.out
    curves = read_run(tmp_path / "run").curves
    assert list(curves["validation_accuracy"].dropna().index) == [3, 7, 9]
    assert bench("report", "run", "--out=page.html").code == 0
    assert f"chosen: iteration {selected['iteration']}" in (tmp_path / "page.html").read_text()


# --- diverging -------------------------------------------------------------------------------------------------------


def test_a_run_that_diverges_stops_with_one_line_and_keeps_its_best(run, bench, tmp_path):
    wild = (*MATCHING, "distillation.iterations=60", "distillation.step_size.learning_rate=1e3",
            "distillation.step_size.constraint=none", "distillation.images.learning_rate=0")  # fmt: skip
    result = run("run", *wild)
    assert result.code == 1
    assert len([line for line in result.err.splitlines() if line.startswith("error: ")]) == 1
    assert "the step size would go from" in result.err
    assert "Lower distillation.step_size.learning_rate from 1000 to 100" in result.err
    assert "constraint=damped" in result.err
    assert "judge it by: hoptm-bench eval synthetic=" in result.err
    assert not (tmp_path / "run/result.json").exists()
    judged = bench("eval", "synthetic=run", "hydra.run.dir=judged")
    assert judged.code == 0, judged.err
    assert "stopped since it diverged; this is iteration 0 of 60" in card(tmp_path / "judged")["note"]


def test_a_step_size_that_explodes_is_noticed_and_may_be_let_go(run, tmp_path):
    """A free step size that climbs: the loss falls with it at first, so nothing else would stop it."""
    climbing = (*MATCHING, "distillation.iterations=20", "distillation.images.learning_rate=0",
                "distillation.guard.window=5", "distillation.guard.step_size=1.0001",
                "method.step_size=1e-4")  # fmt: skip
    result = run("run", *climbing)
    assert result.code == 1
    assert "the step size has grown from 0.0001 to " in result.err
    assert torch.isfinite(load_distilled(tmp_path / "run").images).all()
    assert run("run", *climbing, "resume=true", "distillation.guard=off").code == 0
    assert run("other", *climbing, "distillation.guard=off").code == 0
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (tmp_path / "other/metrics.jsonl").read_bytes()


def test_images_that_saturate_are_warned_of_and_told_in_the_card(run, tmp_path):
    result = run("run", "method=dm", "method.real_batch=4", "distillation.images.learning_rate=1e5",
                 "distillation.iterations=25", "distillation.guard.loss=null")  # fmt: skip
    assert result.code == 0, result.err
    assert "the images saturate: " in result.err
    found = card(tmp_path / "run")["saturation"]
    assert found["end"] > 0.5 + found["start"]
    assert "saturated: " in result.out


# --- starting from a stored set --------------------------------------------------------------------------------------


def test_a_run_starts_from_another_one_s_set(run, bench, finished_run, npz_file, tmp_path):
    stored = load_distilled(finished_run)
    still = ("method=dm", "method.real_batch=4", "distillation.images.learning_rate=0", "distillation.iterations=1")
    start = f"method.initial_images={{name:stored,path:'{finished_run}'}}"
    result = run("run", *still, start)
    assert result.code == 0, result.err
    made = load_distilled(tmp_path / "run")
    assert torch.equal(made.images, stored.images)
    assert made.info["images_are"] == stored.info["images_are"]
    refused = run("other", *still, start, "ipc=2")
    assert refused.code == 2
    assert "method.initial_images.path: " in refused.err
    assert "ipc=2 needs so many of every class" in refused.err
    sized = run("other", *still, start, "dataset.preprocess.image_size=8")
    assert (sized.code, "the image shape of" in sized.err) == (2, True)
    # its images may be test images there, and the card would name the wrong data
    with np.load(npz_file) as arrays:
        np.savez(tmp_path / "other.npz", **{**arrays, "test_images": 255 - arrays["test_images"]})
    elsewhere = run("other", *still, start, f"dataset.root={tmp_path / 'other.npz'}")
    assert (elsewhere.code, "was not distilled from" in elsewhere.err) == (2, True)
    labels = run("other", "method=datm", f"method.labels={{name:stored,path:'{finished_run}'}}")
    assert (labels.code, "holds the labels of other images than the run starts from" in labels.err) == (2, True)
    missing = run("other", *still, "method.initial_images.name=stored", "method.initial_images.path=nowhere")
    assert (missing.code, "nowhere" in missing.err) == (2, True)
    assert not (tmp_path / "other").exists()
