"""Data as people have them, from the command line to the card: what is said, what is kept, what is refused."""

from __future__ import annotations

import json
import re
import shutil

import command_line
import numpy as np
import pytest
from generated import NPZ, write_images, write_npz
from PIL import Image

FAST = ("method=random", "networks=null", *command_line.TINY_NETWORK, *command_line.TINY_PROTOCOL,
        "distillation.iterations=1", *NPZ, "hydra.run.dir=made")  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """Run on data in the working folder, and return what was said, the card and the folder."""

    def start(*arguments, environment=None):
        shutil.rmtree(tmp_path / "made", ignore_errors=True)
        result = command_line.invoke("run", *FAST, *arguments, cwd=tmp_path, environment=environment)
        card = command_line.card(tmp_path / "made") if result.code == 0 else None
        return result, card

    return start


@pytest.fixture
def folders(tmp_path):
    for split, count in (("train", 8), ("Test", 4)):
        write_images(tmp_path / "scans" / split, ("disc", "square", "star"), count)
    return tmp_path / "scans"


def test_the_line_before_the_work_stands_in_the_log_and_in_the_card(run, folders):
    Image.new("L", (40, 10), 200).save(folders / "train/disc/wide.png")
    (folders / "README.txt").write_text("text")
    (folders / "train/disc/Smith^John.md").write_text("text")
    result, card = run("dataset=folder", "dataset.root=scans")
    assert result.code == 0, result.err
    said = ("37 images of 16x16 to 40x10, PNG grey 8-bit -> centre square, 16x16, 1 channel; 1 resized up; the crop "
            "keeps at least 25 % of a picture's area; 2 left out that are no picture of a class")  # fmt: skip
    assert card["dataset"]["read"] == said
    first = result.err.splitlines()[0]
    assert first == f"{said}: README.txt, train/disc/Smith^John.md"
    assert "Smith" not in json.dumps(card), "a card travels, and files may be called after people"


def test_a_class_without_test_images_is_a_row_with_none(run, folders, tmp_path):
    shutil.rmtree(folders / "Test/star")
    result, card = run("dataset=folder", "dataset.root=scans")
    assert result.code == 0, result.err
    assert "no test images of star" in result.err.splitlines()[0]
    (evaluation,) = card["evaluations"]
    assert evaluation["support"] == [4, 4, 0]
    assert evaluation["recall_per_class"][2] is None
    assert evaluation["balanced_accuracy"]["mean"] == pytest.approx(np.mean(evaluation["recall_per_class"][:2]))
    rows = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "star 0 -" in rows
    over = "balanced accuracy, macro F1 and AUROC are over 2 of 3 classes: no test images of star"
    assert over in rows
    page = command_line.invoke("report", "made", "-o", "page.html", cwd=tmp_path)
    assert page.code == 0, page.err
    assert over in (tmp_path / "page.html").read_text()


def test_class_folders_without_splits_store_their_file_list(run, tmp_path):
    write_images(tmp_path / "cells", ("disc", "square"), 10)
    result, card = run("dataset=folder", "dataset.root=cells")
    assert result.code == 0, result.err
    assert "no test split there: 4 of 20 images were drawn as one" in card["dataset"]["read"]
    split = json.loads((tmp_path / "made/split.json").read_text())
    assert {name: len(files) for name, files in split.items()} == {"train": 14, "test": 4, "validation": 2}
    assert set().union(*split.values()) == {f"{name}/{name}-{index}.png" for name in ("disc", "square")
                                            for index in range(10)}  # fmt: skip


def test_a_table_with_groups(run, tmp_path):
    write_images(tmp_path / "cells", ("disc", "square"), 20)
    lines = [f"cells/{name}/{name}-{index}.png\t{name}\tpatient {name}{index // 4}"
             for name in ("disc", "square") for index in range(20)]  # fmt: skip
    (tmp_path / "cells.tsv").write_text("\n".join(["image\tfinding\tgroup", *lines]))
    result, card = run("dataset=table", "dataset.root=cells.tsv", "dataset.columns.file=image",
                       "dataset.columns.label=finding")  # fmt: skip
    assert result.code == 0, result.err
    split = json.loads((tmp_path / "made/split.json").read_text())
    patients = {name: {(file.split("/")[1], int(re.findall(r"-(\d+)\.", file)[0]) // 4) for file in files}
                for name, files in split.items()}  # fmt: skip
    assert sum(map(len, patients.values())) == len(set().union(*patients.values())) == 10
    assert card["dataset"]["test"] == 8
    assert "patient" not in (tmp_path / "made/config.yaml").read_text() + json.dumps(card)


def test_leaks_from_warning_to_refusal(run, tmp_path):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    leaking = np.concatenate([draw.integers(0, 256, (10, 16, 16, 3), dtype=np.uint8), images[4:6]])
    write_npz(tmp_path / "data.npz", train_images=images, test_images=leaking)
    result, card = run("dataset=npz", "dataset.root=data.npz")
    assert result.code == 0, result.err
    assert "(test[10] = train[4], test[11] = train[5])" in result.err
    found = card["dataset"]["duplicates"]
    assert (found["across"], found["near"], found["pairs"]) == (2, 0, ["test[10] = train[4]", "test[11] = train[5]"])
    dropped = run("dataset=npz", "dataset.root=data.npz", "dataset.duplicates=drop")[1]
    assert (dropped["dataset"]["train"], dropped["dataset"]["duplicates"]["dropped"]) == (22, 2)
    assert dropped["config_sha256"] != card["config_sha256"]
    refused, _ = run("dataset=npz", "dataset.root=data.npz", "dataset.duplicates=refuse")
    assert refused.code == 2
    (error,) = refused.err.splitlines()
    assert error.startswith("error: data set data: 2 validation and test images equal one of another split")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("labels", "said"), [
    (lambda count: 1 + np.arange(count) % 3, "labels 1..3 taken as 0..2"),
    (lambda count: np.array(["disc", "square", "star"])[np.arange(count) % 3], "3 classes numbered by their names"),
])  # fmt: skip
def test_labels_as_people_store_them(run, tmp_path, labels, said):
    write_npz(tmp_path / "data.npz", **{f"{split}_labels": labels(count)
                                        for split, count in (("train", 24), ("val", 6), ("test", 12))})  # fmt: skip
    result, card = run("dataset=npz", "dataset.root=data.npz")
    assert result.code == 0, result.err
    assert said in card["dataset"]["read"]
    assert len(card["dataset"]["classes"]) == 3


def test_a_size_is_distilled_at_and_named_as_it_is(run, tmp_path):
    draw = np.random.default_rng(0)
    write_npz(tmp_path / "breastmnist_64.npz", **{
        f"{split}_{what}": draw.integers(0, 256, (count, 64, 64), dtype=np.uint8) if what == "images" else
        (np.arange(count) % 2).astype(np.uint8)[:, None]
        for split, count in (("train", 8), ("val", 4), ("test", 6)) for what in ("images", "labels")
    })  # fmt: skip
    at = ("dataset=breastmnist", "dataset.root=.", "dataset.size=64")
    result, card = run(*at, "dataset.preprocess.image_size=auto")
    assert result.code == 0, result.err
    assert card["dataset"]["name"] == "breastmnist_64 (unofficial file)"
    assert "64x64, grey -> as they are, 64x64" in card["dataset"]["read"]
    _, smaller = run(*at, "dataset.preprocess.image_size=32")
    assert smaller["dataset"]["name"] == "breastmnist_64 (unofficial file) as 32x32"


def test_variables_that_are_set_to_nothing_name_no_folder(run, tmp_path, monkeypatch):
    write_npz(tmp_path / "train.npz")
    refused, _ = run("dataset=folder", "dataset.root=")
    assert refused.code == 2
    assert "dataset.root is missing" in refused.err
    monkeypatch.setenv("HOME", str(tmp_path))
    result, _ = run("dataset=npz", "dataset.root='~/train.npz'", "method=mtt", *command_line.TINY_EXPERTS,
                    *command_line.TINY_LOOP, environment={"HOPTM_EXPERTS": ""})  # fmt: skip
    assert result.code == 0, result.err
    assert (tmp_path / "experts").is_dir()
    there, _ = run("dataset=npz", "dataset.root=train.npz", "method=mtt", *command_line.TINY_EXPERTS,
                   *command_line.TINY_LOOP, environment={"HOPTM_EXPERTS": "~/mine"})  # fmt: skip
    assert there.code == 0, there.err
    assert (tmp_path / "mine").is_dir()
