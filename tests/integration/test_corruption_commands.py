"""Damaged files on the command line: one message or a result, and never a traceback."""

from __future__ import annotations

import shutil

import pytest
from command_line import TINY_RUN
from damages import damages
from generated import write_images
from hostile import COMMANDS
from PIL import Image

READ_BY = {
    "synthetic.safetensors": ("eval", "export"), "checkpoint.safetensors": ("resume",), "metrics.jsonl": ("resume",),
    "result.json": ("compare", "report"), "config.yaml": ("resume", "eval", "report"), "synthetic.png": ("report",),
}  # fmt: skip
TRIES = 3


@pytest.mark.parametrize("name", READ_BY)
@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [pytest.param(each, marks=pytest.mark.campaign if each else ()) for each in range(TRIES)]
)
def test_damaged_files_end_no_command_in_a_traceback(name, number, bench, finished_run, tmp_path):
    damage = damages((finished_run / name).read_bytes(), TRIES, f"commands {name}")[number]
    for folder in ("run", "begun"):
        shutil.copytree(finished_run, tmp_path / folder)
    (tmp_path / "begun/result.json").unlink()
    for folder in ("run", "begun"):
        if (tmp_path / folder / name).exists():
            (tmp_path / folder / name).write_bytes(damage.content)
    for command in READ_BY[name]:
        result = bench(*COMMANDS[command])
        assert "Traceback" not in result.err, damage.name
        if command == "report" and name != "result.json":
            assert result.code == 0, result.err
            page = (tmp_path / "page.html").read_text(encoding="utf-8")
            assert f"{name} is left out: it is not the file that result.json names" in page, damage.name
        elif result.code == 0:  # what it changes was not there when the checkpoint was written, or is read by nobody
            assert (command, name) == ("resume", "metrics.jsonl"), damage.name
        else:
            assert result.code == 2, result.err
            assert name in result.err
            assert result.err.count("error: ") == 1


def test_a_damaged_card_beside_a_set_is_said(bench, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    card = tmp_path / "run/result.json"
    card.write_bytes(card.read_bytes()[:-100])
    for command in ("eval", "export"):
        result = bench(*COMMANDS[command])
        assert (result.code, result.out) == (2, "")
        assert "result.json: not a result card" in result.err


@pytest.mark.slow
def test_a_run_is_not_resumed_with_pictures_that_have_changed(bench, tmp_path):
    """A bitmap has no checksum: a changed one is another picture, which only the data's fingerprint tells."""
    for split, count in (("train", 6), ("test", 3)):
        write_images(tmp_path / "data" / split, ("disc", "square"), count)
    for picture in list((tmp_path / "data").rglob("*.png")):
        Image.open(picture).save(picture.with_suffix(".bmp"))
        picture.unlink()
    run = ("run", "dataset=folder", "dataset.root=data", "scale=published", *TINY_RUN, "hydra.run.dir=begun")
    assert bench(*run).code == 0
    (tmp_path / "begun/result.json").unlink()
    changed = tmp_path / "data/train/disc/disc-0.bmp"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    result = bench("run", "hydra.run.dir=begun", "resume=true")
    assert result.code == 2
    assert "was made with other data" in result.err
    assert "Traceback" not in result.err
