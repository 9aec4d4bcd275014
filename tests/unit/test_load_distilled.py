"""Reading distilled sets back: what was exported comes back, and nothing else is believed."""

from __future__ import annotations

import json
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_export_formats import INFO, NAMES, make_set, write
from torch.utils.data import DataLoader

import hoptm_plugin
from hoptm_plugin import SyntheticSet, load_distilled
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.exchange import loading
from hoptm_plugin.exchange.formats import taken_apart
from hoptm_plugin.storage.files import sha256, with_checksum
from hoptm_plugin.storage.sets import write_set


@pytest.mark.parametrize("form", ["medmnist", "folder"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("mosaic", [1, 2])
def test_pixels_and_labels_come_back(tmp_path, form, channels, soft, mosaic):
    before = make_set(channels, soft, mosaic, spread=0.1)
    manifest = write(before, form, tmp_path / "out")
    after = load_distilled(tmp_path / "out")
    expected = taken_apart(before)
    assert len(after) == len(expected) == manifest.images
    step = 0.5 / 255 / min(before.normalisation.std)
    assert float((after.images - expected.images).abs().max()) <= step + 1e-5
    assert after.images.dtype == torch.float32
    torch.testing.assert_close(after.targets, expected.targets, rtol=1e-5, atol=1e-7)
    info = INFO | ({"taken_apart": mosaic} if mosaic > 1 else {})
    assert (after.class_names, after.normalisation, after.info) == (NAMES, before.normalisation, info)
    assert (after.soft, after.mosaic) == (soft, 1)
    assert after.step_size is not None
    assert after.step_size.shape == ()
    assert float(after.step_size) == pytest.approx(0.02)
    images, targets = next(iter(DataLoader(after, batch_size=4)))
    assert images.shape == (4, channels, 8, 6)
    assert targets.shape == ((4, 4) if soft else (4,))


@pytest.mark.parametrize("as_text", [False, True])
def test_native_files_run_folders_and_native_exports_come_back_to_the_last_bit(tmp_path, as_text):
    before = make_set(3, soft=True, mosaic=2, kind="zca")
    write(before, "safetensors", tmp_path / "export")
    (tmp_path / "run").mkdir()
    write_set(before, tmp_path / "run/synthetic.safetensors")
    for place in ("export", "export.safetensors", "run", "run/synthetic.safetensors"):
        path = tmp_path / place
        after = load_distilled(str(path) if as_text else path)
        assert torch.equal(after.images, before.images)
        assert torch.equal(after.labels, before.labels)
        assert (after.mosaic, after.normalisation) == (2, before.normalisation)


def test_it_is_public():
    assert hoptm_plugin.load_distilled is loading.load_distilled
    assert "load_distilled" in hoptm_plugin.__all__


def test_certain_soft_labels_stay_finite(tmp_path):
    before = make_set(soft=True)
    before.labels[0] = torch.tensor([1000.0, 0.0, 0.0, 0.0])
    write(before, "medmnist", tmp_path / "out")
    after = load_distilled(tmp_path / "out")
    assert bool(torch.isfinite(after.labels).all())
    assert after.targets[0].tolist() == pytest.approx([1, 0, 0, 0])


def refused(path, *says):
    with pytest.raises(FileFormatError) as caught:
        load_distilled(path)
    message = str(caught.value)
    assert "\n" not in message
    for said in says:
        assert said in message, message


def test_what_is_no_distilled_set(tmp_path):
    refused(tmp_path / "nothing", "no such synthetic set")
    refused(tmp_path, "neither synthetic.safetensors nor export.json")
    (tmp_path / "text").write_text("text")
    refused(tmp_path / "text", "not a synthetic set")


def test_tensors_for_ddranking_are_not_read(tmp_path):
    write(make_set(), "ddranking", tmp_path / "out")
    refused(tmp_path / "out", "pickles", "safetensors")


def edit(folder, change, name="export.json"):
    """Change the manifest as a dict, or replace it by text."""
    values = json.loads((folder / name).read_text())
    changed = change(values)
    if name == "export.json" and not isinstance(changed, str):
        values = with_checksum(values)  # or it would be refused for that alone
    (folder / name).write_text(changed if isinstance(changed, str) else json.dumps(values))


def resealed(folder, name):
    """Let the manifest name the file as it is now: what a forger would do."""
    edit(folder, lambda values: values["files"].update({name: sha256(folder / name)}))


BAD_MANIFESTS = {
    "no JSON": (lambda values: "{", ("not a manifest",)),
    "no mapping": (lambda values: "[]", ("not a manifest",)),
    "no checksum": (lambda values: json.dumps(values | {"sha256": None}), ("damaged or edited", "export the set")),
    "another schema": (lambda values: values.update(schema=2), ("schema",)),
    "an unknown key": (lambda values: values.update(run="rm -rf"), ("run", "Extra")),
    "a missing key": (lambda values: values.pop("labels") and None, ("labels", "required")),
    "a number as text": (lambda values: values.update(images="8"), ("images", "integer")),
    "an unknown format": (lambda values: values.update(format="pickle"), ("format",)),
    "infinity": (lambda values: json.dumps(values | {"step_size": float("inf")}), ("step_size",)),
    "std zero": (lambda values: values["normalisation"].update(std=[0.0]), ("normalisation.std",)),
    "too few means": (lambda values: values["normalisation"].update(mean=[]), ("normalisation", "1 channels")),
    "too many pixels": (lambda values: values.update(image_shape=[1, 2**20, 2**20]), ("pixel values",)),
    "a class name of two lines": (lambda values: values["class_names"].__setitem__(0, "a\nb"), ("class_names.0",)),
    "no files": (lambda values: values.update(files={}), ("files",)),
    "no npz": (lambda values: values.update(files={"x.npz": "0" * 64}), ("x.npz", "no such file")),
    "no digest": (lambda values: values["files"].update({"distilled.npz": "0"}), ("files.distilled.npz",)),
    "another digest": (lambda values: values["files"].update({"distilled.npz": "0" * 64}), ("changed since",)),
    "more images": (lambda values: values.update(images=9), ("train_images is uint8 (8, 8, 6)", "(9, 8, 6)")),
    "another shape": (lambda values: values.update(image_shape=[1, 6, 8]), ("expected uint8 (8, 6, 8)",)),
    "fewer classes": (lambda values: values.update(class_names=["a", "b"]), ("labels must lie in 0..1",)),
    "soft, but is hard": (lambda values: values.update(labels="soft"), ("train_soft_labels",)),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_MANIFESTS)
def test_manifests_are_checked(tmp_path, fault):
    write(make_set(), "medmnist", tmp_path / "out")
    change, says = BAD_MANIFESTS[fault]
    edit(tmp_path / "out", change)
    refused(tmp_path / "out", *says)


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "a/../../secret", "..", "a\\b", "C:x", "a//b", "./a", "a/", "", "x\ny", ".hidden"],
)
def test_no_path_leads_out_of_the_folder(tmp_path, name):
    (tmp_path / "secret").write_text("secret")
    write(make_set(), "medmnist", tmp_path / "out")
    digest = sha256(tmp_path / "secret")
    edit(tmp_path / "out", lambda values: values["files"].update({name: digest}))
    refused(tmp_path / "out", "not a manifest", "files")


def test_no_link_leads_out_of_the_folder(tmp_path):
    write(make_set(), "medmnist", tmp_path / "out")
    (tmp_path / "out/distilled.npz").rename(tmp_path / "elsewhere.npz")
    (tmp_path / "out/distilled.npz").symlink_to(tmp_path / "elsewhere.npz")
    refused(tmp_path / "out", "leads out of the exported folder")


def test_a_huge_manifest_is_not_read(tmp_path):
    write(make_set(), "medmnist", tmp_path / "out")
    with (tmp_path / "out/export.json").open("r+b") as stream:
        stream.truncate(2**31)  # sparse
    refused(tmp_path / "out", "larger than 32 MiB")


def rewrite(folder, **arrays):
    """Replace arrays of the npz, None drops one, and seal it again."""
    with np.load(folder / "distilled.npz") as stored:
        kept = {name: stored[name] for name in stored.files}
    changed = {name: array for name, array in (kept | arrays).items() if array is not None}
    np.savez(folder / "distilled.npz", **changed)
    resealed(folder, "distilled.npz")


class Touch:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


BAD_ARRAYS = {
    "missing images": ({"train_images": None}, "train_images"),
    "float images": ({"train_images": np.zeros((8, 8, 6))}, "train_images is float64"),
    "flat labels": ({"train_labels": np.zeros(8, np.uint8)}, "train_labels is uint8 (8,)"),
    "a label too high": ({"train_labels": np.full((8, 1), 4, np.uint8)}, "labels must lie in 0..3"),
    "no probabilities": ({"train_soft_labels": np.full((8, 4), 0.5, np.float32)}, "sum to 1"),
    "negative probabilities": ({"train_soft_labels": np.tile(np.float32([2, -1, 0, 0]), (8, 1))}, "sum to 1"),
    "NaN": ({"train_soft_labels": np.full((8, 4), np.nan, np.float32)}, "sum to 1"),
}


@pytest.mark.parametrize("fault", BAD_ARRAYS)
def test_arrays_are_checked(tmp_path, fault):
    arrays, says = BAD_ARRAYS[fault]
    write(make_set(soft="train_soft_labels" in arrays), "medmnist", tmp_path / "out")
    rewrite(tmp_path / "out", **arrays)
    refused(tmp_path / "out", "distilled.npz", says)


def test_a_pickle_in_the_npz_is_never_read(tmp_path):
    write(make_set(), "medmnist", tmp_path / "out")
    trap = np.empty((8, 8, 6), dtype=object)
    trap[:] = 0
    trap[0, 0, 0] = Touch(str(tmp_path / "touched"))
    rewrite(tmp_path / "out", train_images=trap)
    refused(tmp_path / "out", "train_images is object")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("size", [10**12, 8 * 8 * 6 - 1, 8 * 8 * 6 + 1])
def test_a_header_that_promises_another_size_allocates_nothing(tmp_path, size):
    write(make_set(), "medmnist", tmp_path / "out")
    shape = "(8, 8, 6)" if size < 10**6 else f"({size},)"
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    body = b"\0" * min(size, 1000)
    with zipfile.ZipFile(tmp_path / "out/distilled.npz", "w") as archive:
        start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
        archive.writestr("train_images.npy", start + body)
    resealed(tmp_path / "out", "distilled.npz")
    refused(tmp_path / "out", "train_images", "expected" if size > 10**6 else "another number of bytes")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + b"\0" * 40])
def test_a_damaged_npz(tmp_path, content):
    write(make_set(), "medmnist", tmp_path / "out")
    (tmp_path / "out/distilled.npz").write_bytes(content)
    refused(tmp_path / "out", "has changed since it was exported")
    resealed(tmp_path / "out", "distilled.npz")
    refused(tmp_path / "out", "not the npz of an exported set")


def first_picture(folder):
    return sorted((folder / "train").glob("*/*.png"))[0].relative_to(folder).as_posix()


def as_jpeg(path):
    Image.new("L", (6, 8)).save(path, format="jpeg")


BAD_PICTURES = {
    "a JPEG": (as_jpeg, "not a PNG"),
    "text": (lambda path: path.write_text("text"), "not a PNG"),
    "half a PNG": (lambda path: path.write_bytes(path.read_bytes()[:50]), "not a PNG"),
    "RGB, not grey": (lambda path: Image.new("RGB", (6, 8)).save(path), "expected L"),
    "another size": (lambda path: Image.new("L", (8, 6)).save(path), "expected L (6, 8)"),
}


@pytest.mark.parametrize("fault", BAD_PICTURES)
def test_pictures_are_checked(tmp_path, fault):
    write(make_set(), "folder", tmp_path / "out")
    spoil, says = BAD_PICTURES[fault]
    name = first_picture(tmp_path / "out")
    spoil(tmp_path / "out" / name)
    refused(tmp_path / "out", name, "has changed since it was exported")
    resealed(tmp_path / "out", name)
    refused(tmp_path / "out", name, says)


def test_a_missing_picture(tmp_path):
    write(make_set(), "folder", tmp_path / "out")
    name = first_picture(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    refused(tmp_path / "out", name, "no such file")


BAD_LABELS = {
    "another header": (lambda text: text.replace("label", "target", 1), "columns must be file, label, class"),
    "a row too few": (lambda text: text[: text.rindex("train/")], "7 images, but export.json says 8"),
    "a row twice": (lambda text: text[: text.rindex("train/")] + text.splitlines()[1] + "\n", "each picture"),
    "a label that is none": (lambda text: text.replace(".png,0,", ".png,x,", 1), "labels of an exported set"),
    "a huge label": (lambda text: text.replace(".png,0,", f".png,{10**30},", 1), "labels of an exported set"),
    "a label out of range": (lambda text: text.replace(".png,0,", ".png,9,", 1), "labels must lie in 0..3"),
    "another folder": (lambda text: text.replace("train/", "../train/", 1), "each picture"),
    "nothing": (lambda text: "", "columns must be"),
    "an open quote": (lambda text: text + '"', "labels of an exported set"),
}


@pytest.mark.parametrize("fault", BAD_LABELS)
def test_labels_are_checked(tmp_path, fault):
    write(make_set(names=("a", "b", "c", "d")), "folder", tmp_path / "out")
    change, says = BAD_LABELS[fault]
    path = tmp_path / "out/labels.csv"
    path.write_text(change(path.read_text()))
    resealed(tmp_path / "out", "labels.csv")
    refused(tmp_path / "out", "labels.csv", says)


def test_a_native_export_must_be_the_set_its_manifest_describes(tmp_path):
    write(make_set(), "safetensors", tmp_path / "out")
    other = make_set(names=("a", "b", "c", "d"))
    write_set(other, tmp_path / "out/synthetic.safetensors")
    refused(tmp_path / "out", "has changed since")
    resealed(tmp_path / "out", "synthetic.safetensors")
    refused(tmp_path / "out", "not those of export.json")


@pytest.mark.parametrize(
    "change",
    [{"step_size": 0.5}, {"labels": "soft"}, {"mosaic": 10**18}, {"images": 3}],
    ids=lambda change: next(iter(change)),
)
def test_a_native_export_must_agree_with_its_manifest_in_all(change, tmp_path):
    write(make_set(), "safetensors", tmp_path / "out")
    load_distilled(tmp_path / "out")
    edit(tmp_path / "out", lambda values: values.update(change))
    refused(tmp_path / "out", "not those of export.json")


@pytest.mark.parametrize(
    "change", [{"step_size": 1e308}, {"normalisation": {"mean": [0.0], "std": [5e-324], "kind": "none"}}]
)
def test_numbers_that_overflow_are_refused(change, tmp_path):
    write(make_set(channels=1), "medmnist", tmp_path / "out")
    edit(tmp_path / "out", lambda values: values.update(change))
    refused(tmp_path / "out", "not finite")


def test_a_name_that_is_too_long_and_a_header_that_is_too_deep(tmp_path):
    refused("a" * 5000, "File name too long")
    deep = {"hoptm": "[" * 100_000 + "]" * 100_000}
    save_file({"images": torch.zeros(1, 1, 2, 2)}, tmp_path / "deep.safetensors", metadata=deep)
    refused(tmp_path / "deep.safetensors", "not a synthetic set")


def test_the_card_may_be_edited(tmp_path):
    write(make_set(), "medmnist", tmp_path / "out")
    (tmp_path / "out/README.md").write_text("Licence: CC0\n")
    assert isinstance(load_distilled(tmp_path / "out"), SyntheticSet)
