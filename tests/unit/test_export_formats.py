"""What ``hoptm-bench export`` writes: files of each format, manifest, data-set card; and what it refuses."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scored_cards import make
from torchvision.datasets import ImageFolder

from hoptm_plugin import Exported, Normalisation, SyntheticSet, export, load_distilled
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError, RunFolderError, UserError
from hoptm_plugin.exchange import writing
from hoptm_plugin.exchange.datacard import text_of
from hoptm_plugin.exchange.formats import folder_names, taken_apart
from hoptm_plugin.exchange.manifest import read_manifest
from hoptm_plugin.exchange.origin import Origin, images_are, recipe
from hoptm_plugin.exchange.pixels import to_pixels
from hoptm_plugin.runs import running
from hoptm_plugin.runs.composition import compose
from hoptm_plugin.storage.files import sha256
from hoptm_plugin.storage.sets import write_set

FORMATS = ("medmnist", "folder", "safetensors", "ddranking")
NAMES = ("a/b\\c", "..", "Größe µ, \"x\"", "con")  # fmt: skip
INFO = {"method_id": "hoptm", "method_title": "HoP-TM", "dataset": "tiny", "ipc": 2, "seed": 0}
ORIGIN = Origin("HoP-TM", "tiny", "an archive (https://example.org/a_b)", "CC BY 4.0")


def make_set(channels=1, soft=False, mosaic=1, step_size=0.02, names=NAMES, spread=0.2, kind="measured"):
    """Return a class-major set of 2 images per class; ``spread`` of pixels around 0.5."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(len(names)).repeat_interleave(2)
    pixels = 0.5 + spread * torch.randn(len(labels), channels, 8, 6, generator=generator)
    normalisation = Normalisation((0.4, 0.5, 0.6)[:channels], (0.25, 0.2, 0.3)[:channels], kind)
    logits = torch.randn(len(labels), len(names), generator=generator) + 6 * torch.eye(len(names))[labels]
    alpha = None if step_size is None else torch.tensor(step_size)
    images = normalisation.apply(pixels)
    return SyntheticSet(images, logits if soft else labels, alpha, tuple(names), normalisation, dict(INFO), mosaic)


def write(synthetic, form, folder, origin=ORIGIN):
    stored = folder.parent / f"{folder.name}.safetensors"
    write_set(synthetic, stored)
    return writing.write_export(synthetic, stored, form, folder, origin)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("channels", [1, 3])
def test_manifest_describes_the_set_and_every_file(tmp_path, form, channels):
    synthetic = make_set(channels)
    manifest = write(synthetic, form, tmp_path / "out")
    assert read_manifest(tmp_path / "out") == manifest
    assert (manifest.class_names, manifest.normaliser()) == (NAMES, synthetic.normalisation)
    assert (manifest.images, manifest.image_shape) == (8, (channels, 8, 6))
    assert (manifest.step_size, manifest.info) == (pytest.approx(0.02), INFO)
    assert (manifest.pixels is None) == (form in ("safetensors", "ddranking"))
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {*manifest.files, "README.md", "export.json"}
    assert all(sha256(tmp_path / "out" / name) == digest for name, digest in manifest.files.items())


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("soft", [False, True])
def test_the_same_set_gives_the_same_bytes(tmp_path, form, soft):
    first = write(make_set(3, soft), form, tmp_path / "first")
    second = write(make_set(3, soft), form, tmp_path / "second")
    assert first == second
    for name in ("README.md", "export.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize("channels", [1, 3])
def test_medmnist_layout(tmp_path, channels):
    synthetic = make_set(channels)
    write(synthetic, "medmnist", tmp_path / "out")
    shape = (8, 8, 6) if channels == 1 else (8, 8, 6, 3)
    with np.load(tmp_path / "out/distilled.npz", allow_pickle=False) as arrays:
        assert arrays["train_images"].shape == shape
        assert arrays["train_images"].dtype == arrays["train_labels"].dtype == np.uint8
        assert arrays["train_labels"].tolist() == [[0], [0], [1], [1], [2], [2], [3], [3]]
        for split in ("val", "test"):
            assert arrays[f"{split}_images"].shape == (0, *shape[1:])
            assert arrays[f"{split}_labels"].shape == (0, 1)
        assert tuple(arrays["mean"]) == synthetic.normalisation.mean
        assert float(arrays["step_size"]) == pytest.approx(0.02)
        pixels = torch.from_numpy(arrays["train_images"]).view(8, 8, 6, channels).permute(0, 3, 1, 2) / 255
    error = (pixels - synthetic.normalisation.invert(synthetic.images).clamp(0, 1)).abs().max()
    assert error <= 0.5 / 255 + 1e-6


def test_medmnist_soft_labels_many_classes_and_no_step_size(tmp_path):
    synthetic = make_set(soft=True, step_size=None, names=[f"class {index}" for index in range(300)])
    write(synthetic, "medmnist", tmp_path / "out")
    with np.load(tmp_path / "out/distilled.npz", allow_pickle=False) as arrays:
        assert arrays["train_labels"].dtype == np.int64
        assert arrays["train_labels"][-1] == 299
        np.testing.assert_allclose(arrays["train_soft_labels"], synthetic.targets.numpy(), rtol=1e-6)
        assert arrays["train_soft_labels"].dtype == np.float32
        assert "step_size" not in arrays
    assert "none was learned" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("soft", [False, True])
def test_image_folder_gives_the_right_labels(tmp_path, soft):
    synthetic = make_set(3, soft)
    order = torch.tensor([5, 0, 7, 2, 3, 6, 1, 4])  # not class by class
    shuffled = replace(synthetic, images=synthetic.images[order], labels=synthetic.labels[order])
    write(shuffled, "folder", tmp_path / "out")
    data = ImageFolder(str(tmp_path / "out/train"))
    assert data.targets == [0, 0, 1, 1, 2, 2, 3, 3]
    with (tmp_path / "out/labels.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == [str(path).removeprefix(f"{tmp_path}/out/") for path, _ in data.samples]
    assert [(int(row["label"]), row["class"]) for row in rows] == [(label, NAMES[label]) for label in data.targets]
    assert ("p0" in rows[0]) == soft
    if soft:
        stable = synthetic.targets.reshape(8, 4)[order][shuffled.labels.argmax(1).argsort(stable=True)]
        found = [[float(row[f"p{index}"]) for index in range(4)] for row in rows]
        torch.testing.assert_close(torch.tensor(found), stable, rtol=1e-6, atol=1e-8)


def test_class_folders_are_safe_and_sort_as_indices_do(tmp_path):
    names = folder_names(NAMES)
    assert names == ["0_a-b-c", "1_class", "2_Groe-x", "3_con"]
    many = folder_names([f"{99 - index}" for index in range(100)])
    assert many == sorted(many)
    assert many[:2] == ["00_99", "01_98"]
    write(make_set(), "folder", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out/train").iterdir()) == names
    with Image.open(tmp_path / "out/train/0_a-b-c/0000.png") as picture:
        assert (picture.mode, picture.size, picture.info) == ("L", (6, 8), {})


def test_mosaics_are_taken_apart_class_by_class(tmp_path):
    synthetic = make_set(3, mosaic=2)
    apart = taken_apart(synthetic)
    assert apart.labels.tolist() == sorted(synthetic.labels.tolist() * 4)
    tiles = synthetic.expanded()
    assert torch.equal(apart.images[:4], tiles.images[0::8])
    manifest = write(synthetic, "medmnist", tmp_path / "out")
    assert (manifest.images, manifest.mosaic) == (32, 2)
    assert "They were taken apart" in (tmp_path / "out/README.md").read_text()
    assert write(synthetic, "safetensors", tmp_path / "native").images == 32
    assert "cut it into equal tiles" in (tmp_path / "native/README.md").read_text()


def test_native_file_is_copied_byte_for_byte(tmp_path):
    write(make_set(mosaic=2), "safetensors", tmp_path / "out")
    assert (tmp_path / "out/synthetic.safetensors").read_bytes() == (tmp_path / "out.safetensors").read_bytes()


def test_clipping_and_rounding_are_measured():
    synthetic = make_set(names=("a", "b"), spread=0)
    pixels = synthetic.normalisation.invert(synthetic.images).fill_(128 / 255)
    pixels[0, 0, 0, :2] = torch.tensor([-0.3, 1.5])
    pixels[1, 0, 0, 0] = 10.5 / 255
    found, loss = to_pixels(replace(synthetic, images=synthetic.normalisation.apply(pixels)))
    assert found[0, 0, 0, :3].tolist() == [0, 255, 128]
    total = pixels.numel()
    assert loss.clipped == 2 / total
    assert loss.overshoot == pytest.approx(0.5, abs=1e-6)
    assert loss.clipping_rms == pytest.approx(((0.3**2 + 0.5**2) / total) ** 0.5, rel=1e-5)
    assert loss.rounding_rms == pytest.approx((0.5 / 255) / total**0.5, rel=1e-3)
    assert f"{100 * loss.clipped:.3g}% of values lay outside [0, 1], by at most 0.5" in str(loss)


def test_real_pixels_lose_nothing():
    synthetic = make_set(3)
    pixels = torch.randint(0, 256, synthetic.images.shape, generator=torch.Generator().manual_seed(0))
    found, loss = to_pixels(replace(synthetic, images=synthetic.normalisation.apply(pixels.float() / 255)))
    assert torch.equal(found, pixels.to(torch.uint8))
    assert loss.clipped == 0
    assert loss.rounding_rms < 1e-6
    assert str(loss).startswith("no value lay outside [0, 1];")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("soft", [False, True])
def test_ddranking_tensors_and_configuration(tmp_path, channels, soft):
    synthetic = make_set(channels, soft)
    order = torch.tensor([5, 0, 7, 2, 3, 6, 1, 4])
    hard = replace(synthetic, images=synthetic.images[order], labels=synthetic.labels[order])
    config = config_with(
        network={"name": "convnet", "depth": 4, "norm": "batch"}, protocol={"epochs": 300, "repeats": 3},
        augment={"name": "dsa", "strategy": ["color", "crop"], "rotate_degrees": 7.5}, dataset={"name": "cifar10"},
    )  # fmt: skip
    write(synthetic if soft else hard, "ddranking", tmp_path / "out", replace(ORIGIN, config=config))
    images = torch.load(tmp_path / "out/images.pt", weights_only=True)
    expected = synthetic.images if soft else hard.images[hard.labels.argsort(stable=True)]
    assert images.dtype == torch.float32
    assert torch.equal(images, expected.expand(-1, 3, -1, -1))
    labels = torch.load(tmp_path / "out" / ("soft_labels.pt" if soft else "labels.pt"), weights_only=True)
    if soft:
        torch.testing.assert_close(labels.softmax(1), synthetic.targets)
    else:
        assert labels.dtype == torch.int64
        assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert float(torch.load(tmp_path / "out/syn_lr.pt", weights_only=True)) == pytest.approx(0.02)
    values = yaml.safe_load((tmp_path / "out/ddranking.yaml").read_text())
    read = {"dataset", "real_data_path", "ipc", "model_name", "data_aug_func", "aug_params", "optimizer",
            "lr_scheduler", "weight_decay", "momentum", "step_size", "num_eval", "im_size", "num_epochs",
            "real_batch_size", "syn_batch_size", "save_path", "use_zca", "custom_train_trans", "custom_val_trans",
            "num_workers", "device", "dist", "random_data_format", "random_data_path", "eval_full_data"}  # fmt: skip
    read |= {"soft_label_criterion", "soft_label_mode", "loss_fn_kwargs", "use_aug_for_hard", "stu_use_torchvision",
             "tea_use_torchvision", "teacher_dir", "teacher_model_names"} if soft else {"use_torchvision"}  # fmt: skip
    assert read <= set(values)
    assert (values["dataset"], values["model_name"], values["ipc"]) == ("CIFAR10", "ConvNet-4-BN", 2)
    assert (values["num_epochs"], values["num_eval"], values["im_size"]) == (300, 3, [8, 6])
    assert values["syn_lr"] == pytest.approx(0.02)
    assert (values["aug_params"]["rotate"], values["aug_params"]["flip"]) == (7.5, 0)
    assert set(values["aug_params"]) == {"flip", "rotate", "saturation", "brightness", "contrast", "scale", "crop",
                                         "cutout"}  # fmt: skip


@pytest.mark.parametrize("form", ["medmnist", "folder"])
def test_whitened_sets_have_no_pixels(tmp_path, form):
    synthetic = make_set(kind="zca")
    with pytest.raises(ConfigurationError, match=r"ZCA-whitened.*safetensors or ddranking"):
        write(synthetic, form, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"], "nothing half-written stays"
    write(synthetic, "ddranking", tmp_path / "tensors")
    assert yaml.safe_load((tmp_path / "tensors/ddranking.yaml").read_text())["use_zca"] is True
    assert "ZCA-whitened" in (tmp_path / "tensors/README.md").read_text()


@pytest.mark.parametrize("form", ["medmnist", "folder", "ddranking"])
def test_other_channels_are_refused(tmp_path, form):
    synthetic = make_set(3)
    two = replace(
        synthetic, images=synthetic.images[:, :2], normalisation=Normalisation((0.0, 0.0), (1.0, 1.0), "none")
    )
    with pytest.raises(ConfigurationError, match="2 channels"):
        write(two, form, tmp_path / "out")
    write(two, "safetensors", tmp_path / "native")


def test_an_occupied_place_is_refused_and_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    write(make_set(), "medmnist", tmp_path / "out")  # an empty folder will do
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(RunFolderError, match="exists already; name a new folder with -o"):
        write(make_set(3), "medmnist", tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="exists already"):
        write(make_set(), "medmnist", tmp_path / "file")
    with pytest.raises(RunFolderError, match="no folder can be made there"):
        writing.write_export(make_set(), tmp_path / "out.safetensors", "medmnist", tmp_path / "file/below", ORIGIN)


def test_an_error_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_record", fail)
    with pytest.raises(RunFolderError, match="No space left on device"):
        write(make_set(), "folder", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


@pytest.mark.parametrize("name", ["a\n## b", "a\u202eb"])
def test_names_of_several_lines_or_directions_are_refused(name, tmp_path):
    with pytest.raises(FileFormatError, match=r"cannot be exported: class_names"):
        write(make_set(names=(name, "c")), "medmnist", tmp_path / "out")


HOSTILE = "x | y `rm` <img src=x onerror=alert(1)> [a](javascript:b) **c** \u202eabc"


def test_card_neutralises_what_would_break_markdown(tmp_path):
    origin = replace(ORIGIN, method=HOSTILE, dataset=HOSTILE, source=HOSTILE,
                     config=config_with(method={"name": HOSTILE, "root": "/home/me/x"}), keys=(HOSTILE,))  # fmt: skip
    write(make_set(names=(HOSTILE.replace("\u202e", ""), "c")), "medmnist", tmp_path / "out", origin)
    text = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for broken in ("<img", "[a](", "**c**", "`rm`", "\u202e"):
        assert not re.search(rf"(?<!\\){re.escape(broken)}", plain), broken
    assert "/home/me" not in text
    for line in plain.splitlines():
        if line.startswith("| 0 |"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 4
    assert text_of("a_b _c_ https://x.org/a_b_ #1") == r"a_b \_c\_ https://x.org/a_b_ \#1"


def test_bibtex_cannot_close_its_fence(tmp_path):
    write(make_set(), "medmnist", tmp_path / "out", replace(ORIGIN, bibtex="@misc{a,\n```\n# title\n}"))
    assert "````bibtex\n@misc{a,\n```\n# title\n}\n````\n" in (tmp_path / "out/README.md").read_text()


def test_card_says_what_is_known_and_what_is_not(tmp_path):
    write(make_set(), "medmnist", tmp_path / "known")
    text = (tmp_path / "known/README.md").read_text()
    assert "- Source: an archive (https://example.org/a_b)\n" in text
    assert "- Licence of the original data: CC BY 4.0\n" in text
    assert "# tiny, distilled by HoP-TM\n" in text
    assert "| images per class (IPC) | 2 |" in text
    assert "Not known: the set was exported without the result of its run." in text
    assert "The settings are not recorded." in text
    manifest = read_manifest(tmp_path / "known")
    assert f"| distilled.npz | {manifest.files['distilled.npz']} |" in text
    unknown = replace(make_set(), info={})
    write(unknown, "medmnist", tmp_path / "unknown", Origin("a method that is not recorded", None, None, None))
    text = (tmp_path / "unknown/README.md").read_text()
    assert text.count("not stated; ask whoever gave you the data") == 2
    assert "a data set that is not recorded" in text
    assert "| images per class (IPC) | not recorded |" in text


def test_card_says_split_divergence_note_and_what_was_trained_on(tmp_path):
    card = make(
        "idm",
        0.5,
        0.9,
        note="reduced | here",
        images_stored=2,
        images_trained_on=8,
        protocol={"split": "validation"},
        dataset={**make("idm", 0.5).dataset.model_dump(), "validation": 10},
    )
    figures = card.evaluations[0].model_dump() | {"macro_auroc": {"mean": None, "std": None, "values": [0.5, None]}}
    diverged = card.model_copy(update={"evaluations": (type(card.evaluations[0]).model_validate(figures),)})
    write(make_set(), "medmnist", tmp_path / "out", replace(ORIGIN, card=diverged))
    text = (tmp_path / "out/README.md").read_text()
    assert "tested on 10 real validation images of blood, which is for choosing settings and no result; percent" in text
    assert "| convnet | HoP-TM | 2, 1 diverged |" in text
    assert "Each network is trained on 8 images, taken from 2 stored ones." in text
    assert "Note: reduced \\| here" in text
    write(make_set(), "medmnist", tmp_path / "plain", replace(ORIGIN, card=make("idm", 0.5, 0.9)))
    plain = (tmp_path / "plain/README.md").read_text()
    assert "tested once on 10 real test images of blood; percent" in plain
    assert not re.search("Note: |diverged|is trained on", plain)


def test_no_class_name_is_a_formula_in_a_spreadsheet(tmp_path):
    write(make_set(names=("=HYPERLINK(1)", "+b")), "folder", tmp_path / "out")
    rows = list(csv.reader((tmp_path / "out/labels.csv").open(encoding="utf-8")))
    assert {row[2] for row in rows[1:]} == {"'=HYPERLINK(1)", "'+b"}
    assert load_distilled(tmp_path / "out").class_names == ("=HYPERLINK(1)", "+b")


def test_card_lists_few_checksums_of_many_files(tmp_path):
    manifest = write(make_set(names=[f"c{index}" for index in range(30)]), "folder", tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert f"The other {len(manifest.files) - 20} are in `export.json`." in text


def config_with(**groups):
    """Return the settings that a run of HoP-TM stores, with other groups."""
    return compose("method=hoptm", "distillation.iterations=5").plain() | groups


CONFIG = config_with(method={"name": "trajectory_matching", "initial_images": {"name": "real"}})


SAYS = {
    "real": "**These are real images.**", "from_real": "began as real training images and were then changed",
    "made": "No real image was the start of these", "unknown": "is not recorded; many methods start from real",
}  # fmt: skip


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        *(({"images_are": word}, word) for word in SAYS),
        ({"method_id": "random"}, "unknown"),  # a name says nothing
        ({"images_are": "mine"}, "unknown"),
        ({"images_are": ["made"]}, "unknown"),
    ],
)
def test_real_images_are_named_as_such(info, expected, tmp_path):
    synthetic = replace(make_set(), info=info)
    assert images_are(synthetic) == expected
    write(synthetic, "medmnist", tmp_path / "out", replace(ORIGIN, config=CONFIG))
    text = (tmp_path / "out/README.md").read_text()
    assert [kind for kind, said in SAYS.items() if said in text] == [expected]


@pytest.mark.parametrize(
    ("declared", "moved", "expected"),
    [("real", 0, "real"), ("real", 1e-6, "real"), ("real", 0.01, "from_real"), ("from_real", 0, "from_real"),
     ("made", 1, "made"), ("unknown", 0, "unknown")],
)  # fmt: skip
def test_a_run_measures_whether_real_images_were_changed(declared, moved, expected):
    images = make_set().images
    assert running.images_made_of(SimpleNamespace(images_are=declared), images, images + moved) == expected


def test_recipe_has_no_paths_and_nothing_of_the_machine():
    data = {"name": "npz", "root": "data.npz", "class_names": ["a", "b"], "file": "/data/x.npz"}
    config = CONFIG | {"ipc": 1, "protocol": {"epochs": 3}, "dataset": data}
    without, whole = dict(recipe(config, reads_experts=False)), dict(recipe(config, reads_experts=True))
    expected = {
        "method.name": "trajectory_matching", "method.initial_images.name": "real", "distillation.iterations": "5",
        "ipc": "1", "dataset.name": "npz", "dataset.class_names": "a, b", "seed": "0", "runtime.precision": "float32",
    }  # fmt: skip
    assert without.items() >= expected.items()
    assert not any(key.startswith("experts.") for key in without)
    assert whole.items() - without.items() >= {("experts.count", str(config["experts"]["count"]))}
    groups = {key.partition(".")[0] for key in whole}
    assert groups == {"method", "distillation", "ipc", "dataset", "seed", "data_seed", "runtime", "network", "augment",
                      "experts"}  # fmt: skip
    assert not {"dataset.root", "dataset.file", "experts.root", "runtime.device", "method_id"} & set(whole)


def test_no_member_of_the_npz_is_a_pickle_or_dated(tmp_path):
    write(make_set(soft=True), "medmnist", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "out/distilled.npz") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        for member in archive.infolist():
            assert b"'|O'" not in archive.read(member)[:200]
    assert json.loads((tmp_path / "out/export.json").read_text())["labels"] == "soft"


def test_a_set_in_memory_is_exported_without_a_word(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    synthetic = make_set(3, mosaic=2, spread=1)
    synthetic.images.requires_grad_()
    for form in FORMATS:
        exported = export(synthetic, form)
        assert exported == Exported(Path(f"distilled-{form}"), read_manifest(Path(f"distilled-{form}")), None, None,
                                    "unknown")  # fmt: skip
        assert (exported.clipped > 0.1) == (form in ("medmnist", "folder"))
        assert "the set was exported without the result of its run" in (exported.folder / "README.md").read_text()
    assert torch.equal(load_distilled("distilled-safetensors").images, synthetic.images)
    assert capsys.readouterr() == ("", "")


def test_a_run_is_exported_by_its_folder_or_as_an_object(tmp_path):
    info = INFO | {"images_are": "real", "source": "an archive", "licence": "CC0"}
    write_set(replace(make_set(), info=info), tmp_path / "synthetic.safetensors")
    by_folder = export(str(tmp_path), "medmnist", tmp_path / "first", licence="mine")
    by_object = export(SimpleNamespace(folder=tmp_path), "medmnist", str(tmp_path / "second"), licence="mine")
    assert by_folder.manifest == by_object.manifest
    assert (by_object.folder, by_object.source, by_object.licence) == (tmp_path / "second", "an archive", "mine")
    assert by_object.images_are == "real"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": torch.full((8, 1, 8, 6), torch.nan)}, "images hold NaN or infinite values"),
        ({"images": torch.zeros(0, 1, 8, 6), "labels": torch.zeros(0, dtype=torch.int64)}, "holds no images"),
        ({"images": torch.zeros(8, 1, 8, 6, dtype=torch.float16)}, "expected float32"),
        ({"normalisation": Normalisation((0.0,), (0.0,), "none")}, "normalisation"),
    ],
)
def test_a_set_in_memory_must_be_one_that_could_be_stored(tmp_path, change, says):
    with pytest.raises(UserError, match=says):
        export(replace(make_set(), **change), "medmnist", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_asked_for_must_be_known(tmp_path):
    with pytest.raises(ConfigurationError, match="format: 'tar' is none of medmnist, folder, safetensors, ddranking"):
        export(make_set(), "tar", tmp_path / "out")
    with pytest.raises(ConfigurationError, match="source: must be one line of 1 to 500 characters"):
        export(make_set(), "folder", tmp_path / "out", source="a\nb")


def test_the_working_folder_itself_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFolderError, match="cannot be written"):
        export(make_set(), "folder", ".")
    assert list(tmp_path.iterdir()) == []
