"""Sets of other software: what each released code saves is read as what it is, and nothing else is believed."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import interpolate

from hoptm_plugin.core.dataset import Normalisation
from hoptm_plugin.core.errors import ConfigurationError, DataError, FileFormatError
from hoptm_plugin.exchange import imported
from hoptm_plugin.exchange.imported import Imported, read_files
from hoptm_plugin.runs.importing import import_overrides
from hoptm_plugin.storage import foreign
from hoptm_plugin.testing import example_task

TASK = example_task(ipc=2)
DATA = TASK.data
CLASSES, SHAPE = len(DATA.class_names), DATA.image_shape
IMAGES = torch.randn(CLASSES * 2, *SHAPE, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(CLASSES).repeat_interleave(2)
LOGITS = 3 * torch.randn(len(LABELS), CLASSES, generator=torch.Generator().manual_seed(1))
PIXELS = torch.rand(IMAGES.shape, generator=torch.Generator().manual_seed(2))


def made(*files, task=TASK, **settings):
    """Return the set that a run would judge."""
    return Imported(tuple(files), **settings).setup(task)


def saved(folder, **contents):
    """Save each with torch, as ``NAME.pt``, and return the paths."""
    paths = [folder / f"{name}.pt" for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        torch.save(content, path)
    return paths


def mtt(folder):
    return saved(folder, images_best=IMAGES, labels_best=LABELS), {}, (IMAGES, LABELS, None, 1)


def datm(folder):
    files = saved(folder, images_best=IMAGES, labels_best=LOGITS, lr_best=torch.tensor(0.02))
    return files, {}, (IMAGES, LOGITS, 0.02, 1)


def hoptm(folder):
    files = saved(folder, images_best=IMAGES, labels_best=LABELS, lr_best=torch.tensor(0.02))
    return files, {}, (IMAGES, LABELS, 0.02, 1)


def a_number(folder):
    files = saved(folder, images_best=IMAGES, labels_best=LABELS, lr_best=0.02)
    return files, {}, (IMAGES, LABELS, 0.02, 1)


def ftd(folder):
    files = saved(folder, ema_images_best=IMAGES, ema_labels_best=LABELS)
    return files, {"step_size": 0.03}, (IMAGES, LABELS, 0.03, 1)


def results(sets):
    """What DM's and IDM's code saves at its end: the sets of all its runs, and accuracies, which are numpy's."""
    return {"data": sets, "accs_all_exps": {"ConvNet": [np.float64(0.5), np.mean([0.25, 0.5])]}}


def dm(folder):
    sets = [[-IMAGES, LABELS], [IMAGES, LABELS]]
    return saved(folder, res_DM_CIFAR10_ConvNet_2ipc=results(sets)), {"experiment": 1}, (IMAGES, LABELS, None, 1)


def idm(folder):
    files = saved(folder, res_DM_CIFAR10_ConvNet_2ipc=results([[IMAGES, LABELS]]))
    return files, {"mosaic": 2}, (IMAGES, LABELS, None, 2)


def ncfm(folder):
    files = saved(folder, data_20000=[PIXELS, LABELS])
    settings = {"values": "pixels", "mosaic": 2}
    return files, settings, (DATA.normalisation.apply(PIXELS), LABELS, None, 2)


def medmnist(folder):
    pixels = (255 * PIXELS).to(torch.uint8)
    arrays = {"train_images": pixels.permute(0, 2, 3, 1).squeeze(-1).numpy(), "train_labels": LABELS[:, None].numpy()}
    np.savez_compressed(folder / "set.npz", **arrays)
    return [folder / "set.npz"], {}, (DATA.normalisation.apply(pixels / 255), LABELS, None, 1)


def numpy_files(folder):
    contents = {"x": IMAGES.permute(0, 2, 3, 1).numpy().astype(">f8"), "y": LABELS.numpy().astype(np.uint8)}
    for name, content in contents.items():
        np.save(folder / f"{name}.npy", content)
    np.save(folder / "lr.npy", np.float32(0.02))
    return [folder / f"{name}.npy" for name in ("x", "y", "lr")], {}, (IMAGES, LABELS, 0.02, 1)


def safetensors(folder):
    save_file({"images": IMAGES.half(), "soft_labels": LOGITS.softmax(1), "syn_lr": torch.tensor([0.02])},
              folder / "set.safetensors")  # fmt: skip
    return [folder / "set.safetensors"], {}, (IMAGES.half().float(), LOGITS.log_softmax(1), 0.02, 1)


def in_class_order(folder):
    return saved(folder, images=IMAGES), {}, (IMAGES, LABELS, None, 1)


LAYOUTS = [mtt, ftd, datm, hoptm, a_number, dm, idm, ncfm, medmnist, numpy_files, safetensors, in_class_order]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_read_as_what_it_is(layout, tmp_path):
    files, settings, (images, labels, step_size, mosaic) = layout(tmp_path)
    found = made(*files, **settings)
    torch.testing.assert_close(found.images, images)
    torch.testing.assert_close(found.labels, labels)
    assert (None if found.step_size is None else round(float(found.step_size), 6)) == step_size
    assert (found.class_names, found.normalisation) == (DATA.class_names, DATA.normalisation)
    assert found.mosaic == mosaic
    if layout is not in_class_order:
        assert read_files(files, settings.get("experiment", 0)).ipc() == 2


def test_tiles_are_enlarged_as_the_released_codes_do_it(tmp_path):
    """Of IDM's and NCFM's mosaics: quarters, bilinearly to full size, each with the label of the whole."""
    files, settings, _ = ncfm(tmp_path)
    apart = made(*files, **settings).expanded()
    half = SHAPE[1] // 2
    corner = interpolate(PIXELS[:, :, half:, :half], size=SHAPE[1:], mode="bilinear", align_corners=False)
    wanted = DATA.normalisation.apply(corner)
    assert len(apart) == 4 * len(LABELS)
    assert any(torch.allclose(part, wanted, atol=1e-5) for part in apart.images.split(len(LABELS)))
    assert apart.labels.tolist() == 4 * LABELS.tolist()


def test_what_is_read_is_said(tmp_path):
    method = Imported(tuple(datm(tmp_path)[0]))
    assert method.problems(TASK) == []
    assert method.imported == (
        f"images_best.pt, labels_best.pt, lr_best.pt; {len(LABELS)} images, normalised as {DATA.name} is here; soft "
        f"labels, taken for logits; learning rate 0.02"
    )


@pytest.mark.parametrize(("factor", "moved"), [(1, 0), (255, 0), (1.02, -0.01)])
def test_what_looks_like_pixels_is_doubted(factor, moved, tmp_path):
    """Of [0, 1], levels, and those of NCFM, which leave [0, 1] a little."""
    files = saved(tmp_path, images=factor * PIXELS.float() + moved, labels=LABELS)
    with pytest.warns(UserWarning, match="if they are pixels and no network input, give values=pixels"):
        made(*files)


@pytest.mark.parametrize("images", [torch.zeros(0, 4, 4), torch.zeros(0, 3, 8, 8), torch.zeros(0, 8, 8, 3)])
def test_no_images_are_refused(images, tmp_path):
    with pytest.raises(FileFormatError, match="holds no images"):
        read_files(saved(tmp_path, images=images, labels=LABELS))


def test_one_set_has_no_other_experiments(tmp_path):
    with pytest.raises(ConfigurationError, match=r"experiment=2: .* holds one set"):
        read_files(saved(tmp_path, images=IMAGES, labels=LABELS), 2)


def test_one_hot_labels_and_single_images(tmp_path):
    files = saved(tmp_path, images=IMAGES, labels=torch.eye(CLASSES)[LABELS])
    assert torch.equal(made(*files).labels, LABELS)
    files = saved(tmp_path, images=IMAGES, labels=LABELS.double())
    assert torch.equal(made(*files).labels, LABELS)


REFUSED = {
    "another shape": ({"images": IMAGES[:, :, :-1]}, {}, "its images are"),
    "another number of labels": ({"images": IMAGES, "labels": LABELS[:-1]}, {}, "images, but labels"),
    "other classes": ({"images": IMAGES, "labels": LABELS + 1}, {}, "its labels go from 1 to"),
    "halves of classes": ({"images": IMAGES, "labels": LABELS / 2}, {}, "no whole numbers"),
    "unequal classes": ({"images": IMAGES, "labels": torch.zeros_like(LABELS)}, {}, "ipc=2 is 2 of each"),
    "another ipc": ({"images": IMAGES[::2], "labels": LABELS[::2]}, {}, "but ipc=2 is 2 of each"),
    "NaN": ({"images": torch.full_like(IMAGES, torch.nan), "labels": LABELS}, {}, "images hold NaN"),
    "NaN labels": ({"images": IMAGES, "labels": torch.full_like(LOGITS, torch.nan)}, {}, "labels hold NaN"),
    "a negative rate": ({"images": IMAGES, "labels": LABELS, "lr": -0.002}, {}, "rate is -0.002.*step_size="),
    "an infinite rate": ({"images": IMAGES, "labels": LABELS, "lr": float("inf")}, {}, "learning rate is inf"),
    "no rate": ({"images": IMAGES, "labels": LABELS, "lr": LABELS}, {}, "no single number"),
    "levels as floats": ({"images": 255 * PIXELS, "labels": LABELS}, {"values": "pixels"}, "0 to 255 as uint8"),
    "whole numbers": ({"images": IMAGES.long(), "labels": LABELS}, {}, "torch.int64; save pixels as uint8"),
    "whitened": ({"images": IMAGES, "labels": LABELS}, {"values": "whitened"}, "give dataset.preprocess.zca=true"),
    "odd mosaics": ({"images": IMAGES, "labels": LABELS}, {"mosaic": 3}, "no mosaics of 3x3"),
    "no images": ({"images": {"a": 1.0, "b": 2.0}}, {}, "holds a, b, of which nothing is known; images as images"),
    "many pictures": ({"images": list(IMAGES)}, {}, f"holds a list of {len(IMAGES)}"),
    "a list as rate": ({"images": IMAGES, "labels": LABELS, "lr": [0.02]}, {}, "lr.pt: holds a list of 1"),
    "a number": ({"images": torch.tensor(1.0)}, {}, "holds no images"),
    "no labels": ({"images": IMAGES, "labels": LABELS[:0]}, {}, "no single number|labels 0"),
    "more than there is": ({"images": IMAGES, "labels": torch.zeros(1).expand(2**40)}, {}, "an array claims"),
    "text": ({"images": "hello"}, {}, "holds no images"),
    "no such set": ({"images": results([[IMAGES, LABELS]])}, {"experiment": 1}, "holds 1 sets, so experiment=1"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(fault, tmp_path):
    contents, settings, says = REFUSED[fault]
    method = Imported(tuple(saved(tmp_path, **contents)), **settings)
    with pytest.raises((ConfigurationError, FileFormatError), match=says) as caught:
        method.setup(TASK)
    assert method.problems(TASK) == [str(caught.value)]
    assert "\n" not in str(caught.value)


def test_whitened_data_take_whitened_images_alone(tmp_path):
    from dataclasses import replace

    white = replace(DATA, normalisation=Normalisation((0.0,) * SHAPE[0], (1.0,) * SHAPE[0], "zca"))
    task = replace(TASK, data=white)
    files = saved(tmp_path, images=IMAGES, labels=LABELS)
    assert torch.equal(made(*files, task=task, values="whitened").images, IMAGES)
    with pytest.raises(ConfigurationError, match="if the images are whitened as well, give values=whitened"):
        made(*files, task=task)
    with pytest.raises(ConfigurationError, match="nothing but the data it was distilled from can whiten them"):
        made(*files, task=task, values="pixels")


def test_a_file_that_changed_is_refused(tmp_path):
    files = saved(tmp_path, images=IMAGES, labels=LABELS)
    (given,) = [each for each in import_overrides(files, ["dataset=digits"]) if each.startswith("method.sha256=")]
    digests = tuple(given.partition("=")[2].strip("[]").replace("'", "").split(","))
    assert len(made(*files, sha256=digests)) == len(LABELS)
    torch.save(-IMAGES, files[0])
    with pytest.raises(FileFormatError, match="has changed since the run began"):
        made(*files, sha256=digests)


def test_short_settings_become_a_runs(tmp_path):
    files = saved(tmp_path, images=IMAGES, labels=LABELS)
    lines = import_overrides(
        files, ["dataset=digits", "name='Mine, 2'", "values=whitened", "mosaic=2", "mean=[0.5]", "seed=3"]
    )
    assert {"method=imported", "ipc=2", "method_id='Mine, 2'", "method_title='Mine, 2 (imported)'", "dataset=digits",
            "seed=3", "method.mosaic=2", "method.values=whitened", "dataset.preprocess.zca=true",
            "dataset.preprocess.mean=[0.5]"} <= set(lines)  # fmt: skip
    assert lines.index("dataset.preprocess.zca=true") < lines.index("dataset=digits"), (
        "what is given comes later, and wins"
    )
    with pytest.raises(ConfigurationError, match="give the images per class with ipc=NUMBER"):
        import_overrides(files[:1], [])
    assert "ipc=2" in import_overrides(files[:1], ["ipc=2"])
    with pytest.raises(ConfigurationError, match="name the files of one set"):
        import_overrides([], ["dataset=digits"])


# what may be made to mislead


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def pickled(path):
    path.write_bytes(pickle.dumps((IMAGES, LABELS)))  # as IDM's code saves its best set


def evil_pickle(path):
    path.write_bytes(pickle.dumps(Evil(), protocol=2))


def evil_torch(path):
    torch.save({"images": IMAGES, "labels": Evil()}, path)


def evil_npy(path):
    with path.open("wb") as stream:
        np.save(stream, np.array([Evil()], dtype=object), allow_pickle=True)


def evil_npz(path):
    with path.open("wb") as stream:
        np.savez(stream, images=np.array([Evil()], dtype=object))


def edited(path, change, compression=zipfile.ZIP_STORED, **more):
    """Rewrite what torch saved, with its description changed."""
    stream = io.BytesIO()
    torch.save(IMAGES, stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, "w", compression) as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry.filename, change(content) if entry.filename.endswith("data.pkl") else content)
        for name, content in more.items():
            new.writestr(name, content)


def too_large(path):
    """Claims 4 GiB of which 10 KiB are there."""
    shape = b"".join(b"K" + bytes([side]) for side in IMAGES.shape)
    assert len(IMAGES.shape) == 4
    edited(path, lambda text: text.replace(b"(" + shape, b"(J" + struct.pack("<i", 2**30) + shape[2:], 1))


def allocating(path):
    """Calls ``bytearray(10**12)``, which torch itself allows."""
    call = b"cbuiltins\nbytearray\n\x8a\x06" + (10**12).to_bytes(6, "little") + b"\x85R0"
    edited(path, lambda text: text[:2] + call + text[2:])


def bomb(path):
    edited(path, lambda text: text, zipfile.ZIP_DEFLATED)


def long_description(path):
    edited(path, lambda text: text[:2] + b"N0" * 2**20 + text[2:])


def npz_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as entry:
        np.lib.format.write_array_header_1_0(entry, {"descr": "|u1", "fortran_order": False, "shape": (2**27,)})
        for _ in range(2**7):
            entry.write(bytes(2**20))


def npy_of_another_size(path):
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})


def safetensors_of_another_size(path):
    header = b'{"images":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def strings(path):
    with path.open("wb") as stream:
        np.save(stream, np.array(["a", "b"]))


def growing(path):
    """Bytes that are written as hexadecimal digits again and again: each time there are twice as many."""
    encode = b"c_codecs\nencode\n"
    data = encode * 10 + b"C\x02ab" + b"X\x03\0\0\0hex\x86R" * 10
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x03" + data + b".")
        archive.writestr("archive/version", "3")


def long_header(path):
    """A header of 64 MiB, deflated to little."""
    content = b"\x93NUMPY\x02\x00" + (2**26).to_bytes(4, "little") + b" " * 2**26
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", content)


HOSTILE = {
    growing: "it names a codec", long_header: "described at too great a length",
    pickled: "is a plain pickle", evil_pickle: "is a plain pickle", evil_torch: r"holds (posix|nt)\.system",
    evil_npy: "Object arrays cannot be loaded", evil_npz: "Object arrays cannot be loaded", too_large: "not a readable",
    allocating: r"holds builtins\.bytearray", bomb: "compressed", long_description: "at too great a length",
    npz_bomb: "take more than", npy_of_another_size: "another number of bytes",
    safetensors_of_another_size: "not a readable", strings: "no numbers",
}  # fmt: skip


@pytest.mark.parametrize("write", HOSTILE)
def test_nothing_is_executed_and_no_memory_taken(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(imported, "LARGEST_BYTES", 2**26)
    write(tmp_path / "set.pt")
    with pytest.raises(FileFormatError, match=HOSTILE[write]) as caught:
        read_files([tmp_path / "set.pt"])
    assert not (tmp_path / "executed").exists()
    assert str(caught.value).startswith(f"{tmp_path / 'set.pt'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"\x93NUMPY", b"\x80\x02", b"hello world, this is no set", b"\0" * 100]
)
def test_what_is_none_of_these_files(content, tmp_path):
    (tmp_path / "set").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"not a readable|plain pickle"):
        read_files([tmp_path / "set"])
    with pytest.raises(FileFormatError, match="cannot be read: No such file"):
        read_files([tmp_path / "nowhere"])
    with pytest.raises(FileFormatError, match="is no file"):
        read_files([tmp_path])


@pytest.mark.parametrize("layout", [mtt, dm, medmnist, numpy_files, safetensors])
def test_damaged_files_are_refused(layout, tmp_path):
    files, _, _ = layout(tmp_path)
    whole = files[0].read_bytes()
    generator = np.random.default_rng(0)
    for length in generator.integers(1, len(whole), 20).tolist():
        files[0].write_bytes(whole[:length])
        with pytest.raises(FileFormatError):
            read_files(files)
    for at in generator.integers(0, len(whole), 60).tolist():
        files[0].write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            made(*files)
        except (FileFormatError, ConfigurationError, DataError):
            continue


def test_memory_is_asked_for_before_it_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("hoptm_plugin.data.memory.available_bytes", lambda device: 1000)
    for layout in (medmnist, numpy_files, mtt):
        files, settings, _ = layout(tmp_path)
        with pytest.raises(DataError, match=r"but 0\.0 GiB are free"):
            made(*files, **settings)


def test_numbers_of_numpys_are_passed_over(tmp_path):
    (path,) = saved(tmp_path, set=results([[IMAGES, LABELS]]))
    content = foreign.read_foreign(path, 2**30, lambda size: None)
    assert all(type(each).__name__ == "_PassedOver" for each in content["accs_all_exps"]["ConvNet"])
