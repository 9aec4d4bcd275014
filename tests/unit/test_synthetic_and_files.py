"""The synthetic set on disk: round trips, equal bytes, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from hoptm_plugin.core.dataset import Normalisation
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.checkpoint import write_checkpoint
from hoptm_plugin.storage.files import read_json, sha256, write_atomically, write_bytes, write_json
from hoptm_plugin.storage.sets import read_set, write_set
from hoptm_plugin.storage.tensors import read_tensors, write_tensors

NORMALISATION = Normalisation((0.5, 0.4), (0.25, 0.125), "released")
NAMES = ("lymph", "mucus", "tumour")


def make_set(soft=False, step_size=0.0123, **info):
    generator = torch.Generator().manual_seed(0)
    images = 5 * torch.randn(4, 2, 3, 3, generator=generator)
    labels = torch.randn(4, 3, generator=generator) if soft else torch.tensor([0, 1, 2, 0])
    alpha = None if step_size is None else torch.tensor(step_size)
    return SyntheticSet(images, labels, alpha, NAMES, NORMALISATION, {"steps": 1, "method": "hoptm", **info})


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("step_size", [0.0123, None, -0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_to_the_last_bit(tmp_path, soft, step_size, dtype):
    before = make_set(soft, step_size, nested={"a": [1, 2.5, None, "ü"]})
    before.images = before.images.to(dtype)
    write_set(before, tmp_path / "set.safetensors")
    after = read_set(tmp_path / "set.safetensors")
    assert torch.equal(after.images, before.images)
    assert after.images.dtype == dtype
    assert torch.equal(after.labels, before.labels)
    assert after.labels.dtype == before.labels.dtype
    assert after.soft == soft
    assert (after.step_size is None) == (step_size is None)
    if step_size is not None:
        assert torch.equal(after.step_size, before.step_size)
        assert after.step_size.shape == ()
    assert (after.class_names, after.normalisation, after.info) == (NAMES, NORMALISATION, before.info)


def test_learned_tensors_can_be_saved_and_come_back_without_gradients(tmp_path):
    before = make_set(soft=True)
    for tensor in (before.images, before.labels, before.step_size):
        tensor.requires_grad_()
    write_set(before, tmp_path / "set.safetensors")
    after = read_set(tmp_path / "set.safetensors")
    assert not after.images.requires_grad
    assert torch.equal(after.images, before.images)


def test_a_stored_set_is_an_ordinary_torch_data_set(tmp_path):
    for soft in (False, True):
        before = make_set(soft)
        write_set(before, tmp_path / "set.safetensors")
        loaded = read_set(tmp_path / "set.safetensors")
        images, targets = next(iter(DataLoader(loaded, batch_size=4)))
        assert torch.equal(images, before.images)
        want = before.labels.softmax(1) if soft else before.labels
        torch.testing.assert_close(targets, want)
        assert len(loaded) == 4
        assert torch.nn.functional.cross_entropy(torch.zeros(4, 3), targets).item() == pytest.approx(1.0986, abs=1e-4)


def test_a_detached_copy_does_not_follow_later_steps():
    original = make_set(soft=True)
    copy = original.detached()
    kept = copy.images.clone(), copy.labels.clone(), copy.step_size.clone()
    with torch.no_grad():
        for tensor in (original.images, original.labels, original.step_size):
            tensor.add_(1)
    original.info["steps"] = 9
    assert torch.equal(copy.images, kept[0])
    assert torch.equal(copy.labels, kept[1])
    assert torch.equal(copy.step_size, kept[2])
    assert copy.info["steps"] == 1


SAVE = """
import sys, torch
from pathlib import Path
from hoptm_plugin.core.dataset import Normalisation
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.checkpoint import write_checkpoint
from hoptm_plugin.storage.sets import write_set
folder = Path(sys.argv[1]); folder.mkdir()
images = torch.arange(36.0).view(2, 2, 3, 3)
info = {name: {"value": i} for i, name in enumerate(sorted({"ipc", "method", "data", "title", "seed"}))}
write_set(SyntheticSet(images, torch.tensor([0, 1]), torch.tensor(.5), ("a", "b"),
                       Normalisation((0., 0.), (1., 1.), "none"), info), folder / "set")
write_checkpoint(folder / "checkpoint", {"done": 3, "method": {f"part {i}": {"mask": images[0] > i, "x": i}
                                                               for i in range(9)}})
"""


@pytest.mark.slow
def test_equal_bytes_from_two_processes(tmp_path):
    for name, seed in (("a", "1"), ("b", "2")):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", SAVE, str(tmp_path / name)], check=True, env=environment, timeout=120)
    for file in ("set", "checkpoint"):
        assert sha256(tmp_path / "a" / file) == sha256(tmp_path / "b" / file)


def test_saving_over_a_set_replaces_it_whole(tmp_path):
    path = tmp_path / "new folder" / "set.safetensors"
    write_set(make_set(), path)
    first = path.read_bytes()
    write_set(make_set(soft=True), path)
    assert read_set(path).soft
    write_set(make_set(), path)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["set.safetensors"]


IMAGES, HARD = torch.zeros(4, 2, 3, 3), torch.tensor([0, 1, 2, 0])
UNFIT = {
    "images of three axes": {"images": IMAGES[0]},
    "integer images": {"images": IMAGES.to(torch.uint8)},
    "too few labels": {"labels": HARD[:3]},
    "labels of another integer type": {"labels": HARD.to(torch.int32)},
    "logits for two of three classes": {"labels": torch.zeros(4, 2)},
    "one probability per image": {"labels": torch.zeros(4)},
    "label too high": {"labels": HARD + 1},
    "label below zero": {"labels": HARD - 1},
    "channels without normalisation": {"images": torch.zeros(4, 3, 3, 3)},
    "step size of three numbers": {"step_size": torch.zeros(3)},
    "integer step size": {"step_size": torch.tensor(3)},
}


@pytest.mark.parametrize("change", UNFIT)
def test_values_that_do_not_fit_together_are_refused_in_memory_and_on_disk(tmp_path, change):
    write_set(make_set(), tmp_path / "set.safetensors")
    tensors, metadata = read_tensors(tmp_path / "set.safetensors", "synthetic set")
    write_tensors(tmp_path / "unfit.safetensors", tensors | UNFIT[change], metadata)
    with pytest.raises(FileFormatError, match=r"unfit.safetensors: not a valid synthetic set"):
        read_set(tmp_path / "unfit.safetensors")
    fields = {"images": IMAGES, "labels": HARD, "step_size": torch.tensor(0.1)} | UNFIT[change]
    with pytest.raises(ValueError, match="must"):
        SyntheticSet(**fields, class_names=NAMES, normalisation=NORMALISATION)


@pytest.mark.parametrize("name", ["images", "labels", "step_size"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(tmp_path, name, value):
    broken = make_set(soft=True)
    getattr(broken, name).view(-1)[0] = value
    write_set(broken, tmp_path / "set.safetensors")
    with pytest.raises(FileFormatError, match=f"{name} hold NaN or infinite"):
        read_set(tmp_path / "set.safetensors")


METADATA = {
    "another kind": ("kind", "expert", "it is a expert|kind|synthetic set"),
    "a later version": ("version", 3, "version"),
    "no class names": ("class_names", None, "class_names"),
    "an unknown entry": ("colour", "red", "colour"),
    "info is no mapping": ("info", [1], "info"),
    "mean of another length": ("mean", [0.5], "channels"),
    "std of words": ("std", ["a", "b"], "std"),
}


@pytest.mark.parametrize("which", METADATA)
def test_metadata_that_does_not_fit_is_refused(tmp_path, which):
    key, value, message = METADATA[which]
    write_set(make_set(), tmp_path / "set.safetensors")
    tensors, metadata = read_tensors(tmp_path / "set.safetensors", "synthetic set")
    write_tensors(tmp_path / "set.safetensors", tensors, metadata | {key: value})
    with pytest.raises(FileFormatError, match=message) as caught:
        read_set(tmp_path / "set.safetensors")
    assert str(tmp_path / "set.safetensors") in str(caught.value)


@pytest.mark.parametrize("metadata", [[1, 2], "text", None, 3])
def test_metadata_that_is_no_mapping_is_refused(tmp_path, metadata):
    write_tensors(tmp_path / "set", {"images": IMAGES, "labels": HARD}, metadata)
    with pytest.raises(FileFormatError, match="not a synthetic set"):
        read_set(tmp_path / "set")


@pytest.mark.parametrize(
    "tensors", [{"images": IMAGES}, {"labels": HARD}, {"images": IMAGES, "labels": HARD, "x": HARD + 0}]
)
def test_missing_and_unknown_tensors_are_refused(tmp_path, tensors):
    write_set(make_set(), tmp_path / "set")
    _, metadata = read_tensors(tmp_path / "set", "synthetic set")
    write_tensors(tmp_path / "set", tensors, metadata)
    with pytest.raises(FileFormatError, match="not a valid synthetic set"):
        read_set(tmp_path / "set")


class Bomb:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def pickled(path):
    torch.save({"images": IMAGES, "bomb": Bomb(path.with_suffix(".exploded"))}, path)


def huge_header(path):
    path.write_bytes((2**62).to_bytes(8, "little") + b"{" + b" " * 100)


def long_header(path):
    path.write_bytes((200_000_000).to_bytes(8, "little") + b"{}")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-5])


def text(path):
    path.write_text("images, labels\n1, 2\n")


def empty(path):
    path.write_bytes(b"")


def metadata_not_json(path):
    save_file({"images": IMAGES, "labels": HARD}, path, metadata={"hoptm": "{not json"})


def no_metadata(path):
    save_file({"images": IMAGES, "labels": HARD}, path)


def checkpoint(path):
    write_checkpoint(path, {"done": 1, "images": IMAGES})


@pytest.mark.parametrize("spoil", [pickled, huge_header, long_header, truncated, text, empty, metadata_not_json,
                                   no_metadata, checkpoint], ids=lambda spoil: spoil.__name__)  # fmt: skip
def test_files_of_another_kind_are_refused_and_never_executed(tmp_path, spoil):
    path = tmp_path / "set.safetensors"
    write_set(make_set(), path)
    spoil(path)
    with pytest.raises(FileFormatError, match=r"set\.safetensors") as caught:
        read_set(path)
    assert "\n" not in str(caught.value)
    assert not path.with_suffix(".exploded").exists()


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path, says in ((tmp_path / "nothing", "no such synthetic set"), (tmp_path, "not a file")):
        with pytest.raises(FileFormatError, match=says):
            read_set(path)


def test_the_header_is_safetensors_own_with_one_json_string(tmp_path):
    """Anybody can read a set with safetensors alone."""
    write_set(make_set(), tmp_path / "set")
    with safe_open(tmp_path / "set", framework="pt") as stream:
        assert sorted(stream.keys()) == ["images", "labels", "step_size"]
        (only,) = stream.metadata().values()
    assert json.loads(only)["content"]["class_names"] == list(NAMES)


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half of the n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file", "old")]


def test_json_refuses_nan_and_damage(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []
    write_json(tmp_path / "a.json", {"x": [1, None]})
    assert read_json(tmp_path / "a.json", "card") == {"x": [1, None]}
    (tmp_path / "a.json").write_text('{"x": [1,')
    with pytest.raises(FileFormatError, match=r"a.json: not a readable card"):
        read_json(tmp_path / "a.json", "card")
    with pytest.raises(FileFormatError, match=r"b.json: no such card"):
        read_json(tmp_path / "b.json", "card")


def test_files_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(old)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_an_interrupt_just_after_the_temporary_file_was_made_leaves_nothing(tmp_path, monkeypatch):
    touch = Path.touch

    def interrupted(self, *arguments, **more):
        touch(self, *arguments, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "touch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == []
