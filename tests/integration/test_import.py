"""``hoptm-bench import``: sets of other software become runs that every command takes, and that say what they are."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from command_line import TINY_NETWORK, TINY_PROTOCOL
from generated import NPZ
from test_run import names, succeed

from hoptm_plugin import Arrays, ConfigurationError, export, import_set, load_distilled, verify
from hoptm_plugin.cards.card import read_card
from hoptm_plugin.storage.run_files import read_config

NOT_KNOWN = "the set does not say what data it was distilled from, nor how its iteration was chosen"
TINY = (*TINY_NETWORK, *TINY_PROTOCOL)


@pytest.fixture(scope="module")
def shape(npz_file):
    with np.load(npz_file) as arrays:
        channels = arrays["train_images"].shape[3] if arrays["train_images"].ndim == 4 else 1
    return channels


@pytest.fixture
def data(npz_file):
    return ("dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY)


@pytest.fixture
def saved(tmp_path, finished_run):
    """Files as DATM's code saves them: images, logits, learning rate."""
    synthetic = load_distilled(finished_run)
    logits = 4 * torch.eye(3)[synthetic.labels] + torch.rand(3, 3)
    for name, content in (("images", synthetic.images), ("labels", logits), ("lr", torch.tensor(0.02))):
        torch.save(content, tmp_path / f"{name}_best.pt")
    return [f"{name}_best.pt" for name in ("images", "labels", "lr")]


def test_an_imported_set_is_a_run_for_every_command(bench, tmp_path, data, saved, finished_run):
    done = succeed(bench("import", *saved, *data, "name=DATM", "hydra.run.dir=run"))
    said = ("images_best.pt, labels_best.pt, lr_best.pt; 3 images, normalised as generated is here; soft labels, "
            "taken for logits; learning rate 0.02")  # fmt: skip
    assert f"mported: {said}" in done.err, "said before the work"
    for line in (f"imported: {said}", f"note: {NOT_KNOWN}", "chosen: not known, since the set was imported"):
        assert line in done.out
    card = read_card(tmp_path / "run")
    assert (card.method, card.title, card.ipc, card.imported) == ("DATM", "DATM (imported)", 1, said)
    assert (card.note, card.distilled_from, card.distillation_seed) == (NOT_KNOWN, None, None)
    assert (card.labels, card.images_are, card.cost.distill_s) == ("soft", "unknown", None)
    assert names(tmp_path / "run") == {"checkpoint.safetensors", "config.yaml", "metrics.jsonl", "result.json",
                                       "synthetic.png", "synthetic.safetensors"}  # fmt: skip
    info = load_distilled(tmp_path / "run").info
    assert not {"dataset", "fingerprint", "splits", "seed"} & set(info), "what nobody knows is not said"
    assert "verified" in succeed(bench("verify", "run")).out
    for name in saved:  # the run needs them no more
        (tmp_path / name).unlink()
    assert "verified" in succeed(bench("verify", "run")).out
    judged = succeed(bench("eval", "synthetic=run", "augment=none", "hydra.run.dir=judged"))
    assert "the set does not say what data it was distilled from" in judged.err
    assert read_card(tmp_path / "judged").imported == said
    compared = succeed(bench("compare", "run", str(finished_run))).out
    assert "DATM (imported)" in compared
    assert NOT_KNOWN in compared
    succeed(bench("report", "run", str(finished_run), "-o", "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert "DATM (imported)" in page
    assert NOT_KNOWN in page


def test_an_export_of_it_says_what_is_not_known(bench, tmp_path, data, saved):
    succeed(bench("import", *saved, *data, "name=DATM", "hydra.run.dir=run"))
    succeed(bench("export", "run", "--format", "medmnist", "-o", "set"))
    text = (tmp_path / "set/README.md").read_text()
    assert text.startswith("# a data set that is not recorded, distilled by DATM (imported)\n")
    assert "The settings are not recorded." in text
    assert "**This set was made by other software and imported**: images_best.pt, labels_best.pt" in text
    assert "Iteration: not known, since the set was imported." in text
    assert "method.sha256" not in text
    assert json.loads((tmp_path / "set/export.json").read_text())["info"]["imported"]
    judged = succeed(bench("eval", "synthetic=set", *data, "hydra.run.dir=judged"))
    assert NOT_KNOWN in judged.err


def test_other_constants_are_those_of_the_test_images_too(bench, tmp_path, data, saved):
    channels = load_distilled_channels(tmp_path / saved[0])
    given = (f"mean={[0.3] * channels}".replace(" ", ""), f"std={[0.2] * channels}".replace(" ", ""))
    succeed(bench("import", *saved, *data, *given, "hydra.run.dir=run"))
    found = load_distilled(tmp_path / "run").normalisation
    assert (found.mean, found.std) == ((0.3,) * channels, (0.2,) * channels)
    assert read_config(tmp_path / "run/config.yaml")["dataset"]["preprocess"]["mean"] == [0.3] * channels
    assert read_card(tmp_path / "run").title == "Imported set"
    assert "verified" in succeed(bench("verify", "run")).out


def load_distilled_channels(path):
    return torch.load(path, weights_only=True).shape[1]


@pytest.mark.slow
def test_whitened_sets_are_judged_on_whitened_images(bench, tmp_path, data, saved):
    succeed(bench("import", *saved, *data, "values=whitened", "hydra.run.dir=run"))
    assert load_distilled(tmp_path / "run").normalisation.kind == "zca"
    assert "verified" in succeed(bench("verify", "run")).out


def test_what_is_refused_leaves_nothing_behind(bench, tmp_path, data, saved):
    before = names(tmp_path)

    def refuse(*arguments, says):
        result = bench("import", *arguments, "hydra.run.dir=run")
        assert (result.code, result.err.count("error: ")) == (2, 1), result.err
        assert "Traceback" not in result.err
        assert says in result.err

    refuse(saved[0], *data, says="give the images per class with ipc=NUMBER")
    refuse("nowhere.pt", *data, says="nowhere.pt: cannot be read: No such file")
    refuse(*saved, *data, "values=nonsense", says="method.values")
    refuse(*saved, *data, "mosaic=0", says="mosaic must be at least 1")
    refuse(*saved, "dataset=digits", says="its images are 3x")
    refuse(*saved, *data, "ipc=2", says="but ipc=2 is 2 of each of its 3 classes")
    refuse(*data, says="name the files of one set")
    assert names(tmp_path) == before


def test_help_and_settings(bench, tmp_path, data, saved):
    assert "values=pixels" in succeed(bench("import", "--help")).out
    printed = succeed(bench("import", *saved, *data, "--cfg", "job")).out
    assert "name: imported" in printed
    assert names(tmp_path) == set(saved)


def test_from_python(tmp_path):
    labels = torch.arange(20) % 2
    images = (120 * labels.view(-1, 1, 1) + torch.randint(0, 60, (20, 8, 8))).to(torch.uint8)
    arrays = Arrays(train=(images, labels), test=(images, labels), validation=(images, labels), class_names=["a", "b"])
    np.savez(tmp_path / "set.npz", images=images[:4].numpy(), labels=labels[:4].numpy(), lr=0.02)
    settings = ("network.width=4", "network.depth=2", *TINY_PROTOCOL, "runtime.device=cpu")
    card = import_set(tmp_path / "set.npz", *settings, dataset=arrays, name="Theirs", folder=tmp_path / "run")
    assert (card.title, card.ipc) == ("Theirs (imported)", 2)
    assert verify(tmp_path / "run", dataset=arrays).verified
    assert export(tmp_path / "run", "safetensors", tmp_path / "out").images_are == "unknown"
    with pytest.raises(ConfigurationError, match="mosaics of 3x3"):
        import_set([tmp_path / "set.npz"], *settings, dataset=arrays, mosaic=3, folder=tmp_path / "other")


def test_loggers_are_told_of_a_run_and_one_that_fails_ends_none(bench, tmp_path, data, saved):
    given = f"loggers=[csv,{{name:mlflow,tracking_uri:'file:{tmp_path / saved[0]}'}}]"  # a file, and no store
    pytest.importorskip("mlflow")
    done = succeed(bench("import", *saved, *data, given, "hydra.run.dir=run"))
    assert done.err.count("warning: logger mlflow failed and is left out from here on") == 1
    with (tmp_path / "run/metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    accuracy = read_card(tmp_path / "run").evaluations[0].accuracy.mean
    assert [row["step"] for row in rows] == ["0", "1"]
    assert float(rows[-1]["evaluation/evaluations/convnet(depth=2,width=4)"]) == accuracy
