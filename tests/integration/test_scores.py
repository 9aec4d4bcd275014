"""``compare --scores``: what it refuses names the runs that make it succeed."""

from __future__ import annotations

import json

import command_line
import pytest
from command_line import TINY_NETWORK, TINY_PROTOCOL, TINY_RUN
from generated import NPZ

from hoptm_plugin.cards.card import read_card
from hoptm_plugin.tables.robust import augmentation_robust_score, label_robust_score

SOFT = ("method.labels.name=soft", "+method.labels.teacher_epoch=2")


def accuracy(folder):
    (evaluation,) = read_card(folder).evaluations
    return evaluation.accuracy.mean


def missing(result):
    """Return what a refusal names, up to the card that it is to be like."""
    assert result.code == 2, result.err
    assert result.out == ""
    first, *lines, hint = result.err.splitlines()
    assert first.startswith("error: scores")
    assert str(len(lines)) in first or len(lines) == 1
    assert "make them with `hoptm-bench eval synthetic=RUN" in hint
    return [line.partition(", else as ")[0].strip() for line in lines]


def make(bench, *commands):
    """Run commands, each in a folder of its own below ``more``."""
    for number, arguments in enumerate(commands):
        result = bench(*arguments, f"hydra.run.dir=more/{number}")
        assert result.code == 0, (arguments, result.err)


@pytest.fixture(scope="module")
def soft_run(tmp_path_factory, experts_root, npz_file):
    """A finished run with soft labels; read it only."""
    folder = tmp_path_factory.mktemp("soft")
    result = command_line.invoke(
        "run", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_RUN, *SOFT, "networks=[convnet,alexnet]",
        "seed=3", "hydra.run.dir=run", cwd=folder, environment={"HOPTM_EXPERTS": str(experts_root)},
    )  # fmt: skip
    assert result.code == 0, result.err
    return folder / "run"


@pytest.mark.slow
def test_both_scores_of_a_set_with_hard_labels(bench, tmp_path, finished_run, npz_file):
    data = ("dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_NETWORK, *TINY_PROTOCOL)
    runs = {
        "random": ("run", "method=random", *data), "full": ("run", "method=full", *data),
        "plain": ("eval", f"synthetic={finished_run}", "augment=none"),
        "random_plain": ("eval", "synthetic=runs/random", "augment=none"),
    }  # fmt: skip
    for name, arguments in runs.items():
        result = bench(*arguments, f"hydra.run.dir=runs/{name}")
        assert result.code == 0, result.err
    result = bench("compare", str(finished_run), "runs", "--scores", "all", "--format", "json")
    assert result.code == 0, result.err
    rows = {row["method"]: row for row in json.loads(result.out)}
    own, rest = accuracy(finished_run), {name: accuracy(tmp_path / "runs" / name) for name in runs}
    assert rows["HoP-TM"]["lrs"] == pytest.approx(label_robust_score(own, own, rest["random"], rest["full"]))
    ars = augmentation_robust_score(own, rest["random"], rest["plain"], rest["random_plain"])
    assert rows["HoP-TM"]["ars"] == pytest.approx(ars)
    assert rows["Random subset"]["lrs"] is rows["Full data"]["ars"] is None
    shown = bench("compare", str(finished_run), "runs", "--scores", "lrs").out
    assert "LRS" in shown
    assert "ARS" not in shown
    assert "scores" not in bench("compare", str(finished_run), "runs").out

    told = bench("report", str(finished_run), "runs", "--scores", "all", "-o", "report.html")
    assert told.code == 0, told.err
    page = (tmp_path / "report.html").read_text()
    assert all(f">{rows['HoP-TM'][name]:.3f}<" in page for name in ("lrs", "ars"))


@pytest.mark.slow
def test_what_is_missing_is_named_and_making_it_suffices(bench, tmp_path, soft_run, npz_file):
    networks = "alexnet, convnet(depth=2,width=4)"
    assert missing(bench("compare", str(soft_run), "--scores", "all")) == [
        f"HoP-TM, seed 3, IPC 1, generated: judged under hard labels on {networks}",
        f"HoP-TM, seed 3, IPC 1, generated: judged without augmentation on {networks}",
        f"all images, generated: judged on {networks}",
    ]
    data = ("dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_NETWORK, *TINY_PROTOCOL)
    again = ("eval", f"synthetic={soft_run}", "protocol.random_subset=true")
    make(bench, (*again, "protocol.labels=hard"), (*again, "augment=none"),
         ("run", "method=full", *data, "networks=[convnet,alexnet]"))  # fmt: skip
    result = bench("compare", str(soft_run), "more", "--scores", "all", "--format", "json")
    assert result.code == 0, result.err
    rows = [row for row in json.loads(result.out) if row["method"] == "HoP-TM"]
    assert [row["network"] for row in rows] == ["alexnet", "convnet(depth=2,width=4)"]
    hard, full = read_card(tmp_path / "more/0"), read_card(tmp_path / "more/2")
    assert (hard.labels, full.labels, read_card(soft_run).labels) == ("soft", "hard", "soft")
    for row in rows:
        means = [
            next(each.accuracy.mean for each in evaluations if each.network == row["network"])
            for evaluations in (hard.evaluations, hard.random_subset, full.evaluations)
        ]
        assert row["lrs"] == pytest.approx(label_robust_score(row["mean"], *means))
        assert 0 < row["ars"] < 1


@pytest.mark.campaign
def test_runs_are_to_be_made_like_an_evaluation_with_settings_of_its_own(bench, finished_run, npz_file):
    settings = ("protocol.epochs=5", "protocol.learning_rate=0.02", "networks=[alexnet]", "seed=1")
    augmented = (*settings, "augment.prob_flip=0.25")
    result = bench("eval", f"synthetic={finished_run}", *augmented, "hydra.run.dir=more/judged")
    assert result.code == 0, result.err
    # random images with augmentation take a run of their own, those without come along
    what = [each.partition(":")[0].partition(",")[0] for each in missing(bench("compare", "more", "--scores", "all"))]
    assert what == ["HoP-TM", "random subset", "all images"]
    data = ("dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_NETWORK, *TINY_PROTOCOL)
    plain = ("eval", f"synthetic={finished_run}", "augment=none", "protocol.random_subset=true", *settings)
    make(bench, plain, *(("run", f"method={method}", *data, *augmented) for method in ("random", "full")))
    result = bench("compare", "more", "--scores", "all", "--format", "json")
    assert result.code == 0, result.err
    (row,) = (row for row in json.loads(result.out) if row["method"] == "HoP-TM")
    assert 0 < row["lrs"] < 1
    assert 0 < row["ars"] < 1


def test_a_judged_set_keeps_the_digest_of_its_distillation(bench, tmp_path, finished_run):
    for name, setting in (("plain", "augment=none"), ("hard", "protocol.labels=hard")):
        assert bench("eval", f"synthetic={finished_run}", setting, f"hydra.run.dir={name}").code == 0
    run, plain, hard = map(read_card, (finished_run, tmp_path / "plain", tmp_path / "hard"))
    assert run.distillation_sha256 == plain.distillation_sha256 == hard.distillation_sha256
    assert len({run.config_sha256, plain.config_sha256, hard.config_sha256}) == 3
    assert run.protocol["augment"] != plain.protocol["augment"] == {"name": "none"}
    assert (run.protocol["labels"], hard.protocol["labels"]) == ("stored", "hard")
    assert run.labels == plain.labels == hard.labels == "hard"
    assert run.evaluations[0].accuracy == hard.evaluations[0].accuracy, "hard labels are the same either way"


def test_the_choice_of_a_score_is_checked(bench, finished_run):
    result = bench("compare", str(finished_run), "--scores", "both")
    assert result.code == 2
    assert "invalid choice: 'both'" in result.err
