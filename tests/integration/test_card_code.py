"""The code in a data-set card prepares real pictures as the run did, and gets the accuracy that the run got."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import chdir

import numpy as np
import pytest
import torch
from PIL import Image

from hoptm_plugin import compose, export, run
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import load
from hoptm_plugin.engine import evaluation

SNIPPETS = re.compile(r"```python\n(.*?)```", re.DOTALL)
TINY = ("method=random", "network.width=4", "network.depth=2", "protocol.repeats=1", "protocol.random_subset=false",
        "runtime.device=cpu", "ipc=2")  # fmt: skip
CLASSES = ("bright or not", "dark")


def write_pictures(root, sizes, modes=("L",), contrast=90):
    """Write train and test pictures of two classes, PNG and JPEG of the sizes and modes in turn."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 7)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                width, height = sizes[index % len(sizes)]
                levels = generator.integers(0, 140, (height, width, 3)) + contrast * (1 - label)
                picture = Image.fromarray(levels.astype(np.uint8)).convert(modes[index % len(modes)])
                exif = Image.Exif()
                exif[274] = 6 if index == 3 else 1  # turned
                suffix = "jpg" if index % 2 else "png"
                picture.save(root / split / name / f"{index}.{suffix}", exif=exif)
    return root


def code_of(folder):
    return SNIPPETS.findall((folder / "README.md").read_text(encoding="utf-8"))


def prepared(folder, test):
    """Return what the card's code makes of the pictures below ``test``, by class."""
    _, code = code_of(folder)
    names = {"torch": torch}
    with chdir(folder):
        exec(compile(code, "card", "exec"), names)
    files = sorted(test.glob("*/*"))
    assert names["names"] == list(CLASSES)
    return torch.stack([names["prepare"](Image.open(file)) for file in files])


MIXED, ONE, SQUARE = [(40, 30), (20, 50), (900, 700)], [(40, 30)], [(32, 32)]
AFTER, BEFORE = (f"dataset.preprocess.resize_order={order}_normalise" for order in ("after", "before"))
CASES = {
    "each by itself": (MIXED, ("L",), []),
    "padded": (MIXED, ("L",), ["dataset.preprocess.fit=pad"]),
    "stretched": (MIXED, ("RGB", "L"), ["dataset.preprocess.fit=stretch"]),
    "sizes differ": (MIXED, ("L",), [AFTER]),
    "as released": (ONE, ("RGB",), [AFTER, "dataset.preprocess.antialias=false"]),
    "before, padded": (ONE, ("RGB",), [BEFORE, "dataset.preprocess.fit=pad"]),
    "after, padded": (ONE, ("L",), [AFTER, "dataset.preprocess.fit=pad"]),
    "after, stretched": (ONE, ("L",), [AFTER, "dataset.preprocess.fit=stretch"]),
    "as they are": (SQUARE, ("L",), ["dataset.preprocess.image_size=null"]),
    "given constants": (SQUARE, ("L",), ["dataset.preprocess.mean=[0.3]", "dataset.preprocess.std=[0.1]"]),
    "grey shown as RGB": (MIXED, ("L",), ["dataset.preprocess.channels=3"]),
    "RGB read as grey": (MIXED, ("RGB",), ["dataset.channels=1"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_real_pictures_are_prepared_as_the_run_prepared_them(case, tmp_path):
    sizes, modes, given = CASES[case]
    root = write_pictures(tmp_path / "pictures", sizes, modes)
    if sizes != MIXED:  # a turned picture would have another size
        for file in root.rglob("3.jpg"):
            file.unlink()
    settings = compose(*TINY, "dataset=folder", f"dataset.root={root}", "protocol.epochs=1", *given)
    run(settings, tmp_path / "run")
    folder = export(tmp_path / "run", "safetensors", tmp_path / "set").folder
    data = load(settings.dataset, Seeds(settings.data_seed), torch.device("cpu"))
    wanted = data.test.batch(slice(None))
    found = prepared(folder, root / "test")
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_the_cards_code_gets_the_accuracy_of_the_run(tmp_path, monkeypatch, capsys):
    root = write_pictures(tmp_path / "pictures", MIXED, ("RGB", "L"), contrast=8)
    networks = []

    def kept(network, split):
        networks.append(network)
        return predict(network, split)

    predict = evaluation.predict
    monkeypatch.setattr(evaluation, "predict", kept)
    slow = ("protocol.epochs=40", "protocol.learning_rate=0.001")
    card = run(compose(*TINY, "dataset=folder", f"dataset.root={root}", *slow), tmp_path / "run")
    accuracy = card.evaluations[0].accuracy.values[0]
    assert accuracy not in (0, 0.5, 1), "what a constant guess would get as well shows nothing"
    for form in ("medmnist", "folder", "safetensors", "ddranking"):
        folder = export(tmp_path / "run", form, tmp_path / form).folder
        shutil.copytree(root / "test", folder / "test")
        names = {"network": networks[0], "torch": torch}
        with chdir(folder):
            exec(compile(code_of(folder)[1], "card", "exec"), names)
        said = capsys.readouterr().out
        assert f"accuracy on real pictures: {accuracy}" in said
        assert re.search(r"^bright or not: \d of 7 recognised$", said, re.MULTILINE)


def test_both_blocks_are_one_program(tmp_path, monkeypatch):
    root = write_pictures(tmp_path / "pictures", ONE)
    for file in root.rglob("3.jpg"):
        file.unlink()
    run(compose(*TINY, "dataset=folder", f"dataset.root={root}", "protocol.epochs=1"), tmp_path / "run")
    folder = export(tmp_path / "run", "ddranking", tmp_path / "set").folder
    shutil.copytree(root / "test", folder / "test")
    code = "\n".join(code_of(folder))
    assert "hoptm" not in code
    assert max(map(len, code.splitlines())) <= 140
    with chdir(folder):
        exec(compile(code, "card", "exec"), {})


def test_what_is_not_recorded_is_said_instead(tmp_path):
    root = write_pictures(tmp_path / "pictures", SQUARE)
    run(compose(*TINY, "dataset=folder", f"dataset.root={root}", "protocol.epochs=1"), tmp_path / "run")
    alone = export(tmp_path / "run/synthetic.safetensors", "safetensors", tmp_path / "alone").folder
    assert len(code_of(alone)) == 1
    assert "How the real images were prepared is not recorded" in (alone / "README.md").read_text()
    run(compose(*TINY, "dataset=folder", f"dataset.root={root}", "protocol.epochs=1", "dataset.preprocess.zca=true"),
        tmp_path / "white")  # fmt: skip
    white = export(tmp_path / "white", "safetensors", tmp_path / "whitened").folder
    assert len(code_of(white)) == 1
    assert "what whitens real ones was fitted on the original training data" in (white / "README.md").read_text()


def test_the_card_says_what_was_measured_of_privacy(tmp_path):
    root = write_pictures(tmp_path / "pictures", SQUARE)
    run(compose(*TINY, "dataset=folder", f"dataset.root={root}", "protocol.epochs=1"), tmp_path / "run")
    text = (export(tmp_path / "run", "medmnist", tmp_path / "set").folder / "README.md").read_text()
    assert "[nothing here measures](#what-was-measured) how much of a person the set gives away" in text
    assert "\n### What was measured\n" in text
    assert "membership inference" in text
    assert json.loads((tmp_path / "set/export.json").read_text())["class_names"] == list(CLASSES)
