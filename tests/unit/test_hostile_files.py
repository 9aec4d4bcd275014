"""Files whose checksums are right and whose content is wrong on purpose: every reader refuses them."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.torch import save

from hoptm_plugin import SyntheticSet
from hoptm_plugin.core.dataset import Normalisation
from hoptm_plugin.core.errors import DataError, FileFormatError, StorageError
from hoptm_plugin.core.text import all_printable, printable
from hoptm_plugin.data import memory, npz
from hoptm_plugin.engine.checkpoint import read_checkpoint, write_checkpoint
from hoptm_plugin.experts import ExpertRecipe, ExpertStore, ExpertTraining
from hoptm_plugin.experts.store import Begun
from hoptm_plugin.runs.finished import KeptNetworks
from hoptm_plugin.runs.grid import LAYOUT, read_grid, write_grid
from hoptm_plugin.storage.files import read_json, with_checksum
from hoptm_plugin.storage.locks import Lock
from hoptm_plugin.storage.plain_yaml import load_plain
from hoptm_plugin.storage.run_files import read_config
from hoptm_plugin.storage.sets import read_set, write_set
from hoptm_plugin.storage.tensors import read_header, read_tensors, write_tensors


def synthetic():
    return SyntheticSet(torch.randn(2, 1, 4, 4), torch.tensor([0, 1]), torch.tensor(0.1), ("a", "b"),
                        Normalisation((0.5,), (0.5,), "measured"), {"seed": 0})  # fmt: skip


@pytest.fixture
def stored(tmp_path):
    """Return a function that writes a set after a change of its tensors and metadata, checksums and all."""
    path = tmp_path / "set.safetensors"

    def store(change):
        write_set(synthetic(), path)
        tensors, content = read_tensors(path, "synthetic set")
        change(tensors, content)
        write_tensors(path, tensors, content)
        return path

    return store


SETS = {
    "an older version": lambda t, c: c.update(version=1),
    "another kind": lambda t, c: c.update(kind="expert"),
    "an unknown key": lambda t, c: c.update(_target_="os.system"),
    "an unknown tensor": lambda t, c: t.update(more=torch.zeros(1)),
    "no images": lambda t, c: t.pop("images"),
    "no labels": lambda t, c: t.pop("labels"),
    "images of another rank": lambda t, c: t.update(images=torch.zeros(2, 4, 4)),
    "images that are one number": lambda t, c: t.update(images=torch.tensor(1.0)),
    "whole numbers for images": lambda t, c: t.update(images=torch.zeros(2, 1, 4, 4, dtype=torch.int64)),
    "half precision": lambda t, c: t.update(images=t["images"].half()),
    "NaN": lambda t, c: t["images"].fill_(torch.nan),
    "an infinite step": lambda t, c: t["step_size"].fill_(torch.inf),
    "two steps": lambda t, c: t.update(step_size=torch.zeros(2)),
    "labels out of range": lambda t, c: t["labels"].fill_(7),
    "labels of another number": lambda t, c: t.update(labels=torch.zeros(3, dtype=torch.int64)),
    "no classes": lambda t, c: (c.update(class_names=[]), t.update(labels=torch.zeros(2, 0))),
    "a mosaic that does not divide": lambda t, c: c.update(mosaic=3),
    "a mosaic without end": lambda t, c: c.update(mosaic=10**12),
    "a standard deviation of 0": lambda t, c: c.update(std=[0.0]),
    "a normalisation of other channels": lambda t, c: c.update(mean=[0.5, 0.5], std=[0.5, 0.5]),
    "metadata that are a list": lambda t, c: c.clear(),
}  # fmt: skip


@pytest.mark.parametrize("change", SETS.values(), ids=SETS)
def test_sets_that_are_none(stored, change):
    with pytest.raises(FileFormatError, match=r"set\.safetensors"):
        read_set(stored(change))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64, torch.uint16])
def test_types_that_are_never_written(tmp_path, dtype):
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {"a": torch.zeros(2).to(dtype)})
    with pytest.raises(FileFormatError, match="of a type that it does not write"):
        read_checkpoint(path)


def test_checksums_of_rows_for_what_has_none(tmp_path):
    content = {"content": {}, "tensors": {"a": {"dtype": "torch.float32", "shape": [], "sha256": ["x", "y"]}}}
    header = json.dumps(with_checksum(content))
    path = tmp_path / "file.safetensors"
    path.write_bytes(save({"a": torch.tensor(1.0)}, {"hoptm": header}))
    with pytest.raises(FileFormatError, match="neither one checksum nor one a row"):
        read_tensors(path, "file")


@pytest.mark.parametrize("value", [torch.nan, -torch.nan])
def test_checkpoints_that_hold_nan(tmp_path, value):
    write_checkpoint(tmp_path / "checkpoint.safetensors", {"a": {"b": torch.tensor([1.0, value])}})
    with pytest.raises(FileFormatError, match="a/b hold NaN"):
        read_checkpoint(tmp_path / "checkpoint.safetensors")


@pytest.fixture
def experts(tmp_path):
    recipe = ExpertRecipe(data="abc", network={"name": "convnet"}, augmentation={"name": "dsa"},
                          training=ExpertTraining(), seed=0)  # fmt: skip
    return ExpertStore(tmp_path, recipe, 3)


@pytest.mark.parametrize("trajectory", [torch.full((3, 3), torch.nan), torch.zeros(3, 3).double(), torch.zeros(3, 2)])
def test_experts_of_other_numbers(experts, trajectory):
    experts.write(0, trajectory, [0.5] * 2, 1.0)
    with pytest.raises(FileFormatError, match=r"expert-00000.*delete it and it is trained again"):
        experts.missing(1, 1) or experts.read(0, 0, 2)
    experts.write_begun(1, Begun(trajectory, torch.zeros(3), [0.5] * 2, 1.0))
    with pytest.raises(FileFormatError, match=r"expert-00001\.begun.*delete it and it is trained again"):
        experts.begun(1)


def test_an_expert_without_a_trajectory(experts):
    experts.folder.mkdir()
    write_tensors(experts.path(0), {"other": torch.zeros(3, 3)}, {}, by_row=True)
    with pytest.raises(FileFormatError, match="holds no parameters"):
        experts.read(0, 0, 1)


METRICS = {
    "a number without end": {"accuracy": 10**400},
    "text": {"accuracy": "high"},
    "none": {},
    "NaN": {"accuracy": "NaN"},
}


@pytest.mark.parametrize("metrics", METRICS.values(), ids=METRICS)
def test_metrics_that_are_none(tmp_path, metrics):
    names = ("accuracy", "balanced_accuracy", "macro_auroc", "macro_f1")
    usable = {**dict.fromkeys(names, 0.5), "recall_per_class": [], "support": [], "calibration": None}
    row = {"kind": "a", "network": "b", "repeat": 0, "metrics": usable | metrics}
    content = {"version": 1, "identity": "x", "seconds": 1.0, "rows": [row]}
    (tmp_path / "evaluations.json").write_text(json.dumps(with_checksum(content)))
    with pytest.raises(FileFormatError, match=r"evaluations.json: .*its networks are trained again"):
        KeptNetworks(tmp_path / "evaluations.json", "x")


@pytest.mark.parametrize("depth", range(100, 1500, 100))
def test_nesting_of_any_depth(tmp_path, depth):
    path = tmp_path / "evaluations.json"
    path.write_text('{"a":' * depth + "1" + "}" * depth)
    with pytest.raises(FileFormatError, match=r"evaluations.json"):
        KeptNetworks(path, "x")
    nested = json.dumps({"content": 0, "tensors": {}, "sha256": ""}).replace("0", "[" * depth + "]" * depth)
    (tmp_path / "a.safetensors").write_bytes(save({}, {"hoptm": nested}))
    with pytest.raises(FileFormatError, match=r"a.safetensors"):
        read_header(tmp_path / "a.safetensors", "file")


@pytest.mark.parametrize("read", [lambda path: read_json(path, "card"), read_config])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileFormatError, match="pipe: not a file"):
        read(tmp_path / "pipe")


def test_a_lock_is_not_written_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StorageError, match="is a link"):
        Lock(tmp_path / "lock").acquire()
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize(
    "layout", ["{}", "[]", '{"count": 1e999}', '{"columns": 0, "count": 1, "scale": 1}', "[" * 9999]
)
def test_pictures_whose_layout_is_none(tmp_path, layout):
    from PIL import Image, PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_text(LAYOUT, layout)
    Image.new("L", (8, 8)).save(tmp_path / "grid.png", pnginfo=text)
    with pytest.raises(FileFormatError, match=r"grid\.png: not a picture that hoptm-bench wrote"):
        read_grid(tmp_path / "grid.png")


def test_a_picture_whose_pixels_have_changed(tmp_path):
    path = tmp_path / "grid.png"
    write_grid(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), path, 2)
    content = bytearray(path.read_bytes())
    content[content.index(b"IEND") - 13] ^= 1  # of the deflated pixels' own checksum, which is not looked at
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="not a picture"):
        read_grid(path)


def test_arrays_that_do_not_fit_are_refused_before_they_are_made(tmp_path, monkeypatch):
    path, size = tmp_path / "bomb.npz", 2**24
    labels = np.zeros(2, np.uint8)
    np.savez_compressed(path, train_images=np.zeros((2, size // 2, 1), np.uint8), train_labels=labels,
                        test_images=np.zeros((2, 1, 1), np.uint8), test_labels=labels)  # fmt: skip
    assert path.stat().st_size < size / 100
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**20)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"bomb.npz: its arrays need .* GiB"):
        npz.read_npz(path, None)
    assert tracemalloc.get_traced_memory()[1] < size / 4
    tracemalloc.stop()


YAML = ("a: !!python/name:os.system", "a: !!python/object/apply:os.system [x]", "a: &a 1\nb: *a", "a: &a [*a]", "1: 2",
        "a: 2020-01-01", "a: !!binary aGk=", "a: !!set {x}", 'a: "\\0"', "null: 1", "a: 9223372036854775808",
        "a: !!omap [x: 1]", "x: &x {a: 1}\ny: {<<: *x}")  # fmt: skip


@pytest.mark.parametrize("text", YAML)
def test_yaml_that_is_more_than_plain_values(text, tmp_path):
    checksum = hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "config.yaml").write_text(f"# SHA-256 of all below: {checksum}\n{text}")
    with pytest.raises(FileFormatError, match=r"config.yaml: not a readable configuration"):
        read_config(tmp_path / "config.yaml")


def test_plain_yaml():
    text = "a: 1\nb: [1.5, null, true, x]\nc: {d: '1'}\n"
    assert load_plain(text) == {"a": 1, "b": [1.5, None, True, "x"], "c": {"d": "1"}}


def test_text_for_a_terminal():
    assert printable("a\x1b[31m\tü\n\x9b\u202e\ud800") == "a\\x1b[31m\tü\n\\x9b\\u202e\\ud800"
    assert all_printable({"a": ["ü", ("b",), 1, None]})
    for value in ({"a\x1b": 1}, [{"a": ("\x07",)}]):
        assert not all_printable(value)
