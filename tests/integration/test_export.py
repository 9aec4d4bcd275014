"""``hoptm-bench export`` and what is done with what it writes: judged again, trained on without this package."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import command_line
import pytest
import torch
from command_line import TINY_EXPERTS, TINY_LOOP, TINY_NETWORK, TINY_PROTOCOL
from generated import NPZ
from test_run import names, sha256, succeed

from hoptm_plugin import Normalisation, SyntheticSet, load_distilled
from hoptm_plugin.cards.card import read_card
from hoptm_plugin.storage.sets import read_set, write_set

FORMATS = ("medmnist", "folder", "safetensors", "ddranking")
SCORES = ("protocol.repeats=3", "protocol.epochs=60", "protocol.random_subset=false", "network.width=16",
          "network.depth=2", "runtime.device=cpu")  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory, finished_run):
    """The folder that holds one export of the finished run in each format, and what the commands printed."""
    folder = tmp_path_factory.mktemp("exports")
    printed = {
        form: succeed(command_line.invoke("export", str(finished_run), "--format", form, cwd=folder)).out
        for form in FORMATS
    }
    return folder, printed


def test_one_folder_per_format(exported):
    folder, printed = exported
    assert names(folder) == {f"run-{form}" for form in FORMATS}, "whole folders, and nothing temporary"
    for form, out in printed.items():
        assert f"3 images of 3 classes, format {form}" in out
        assert f"folder: run-{form}" in out
        assert ("8-bit pixels: " in out) == (form in ("medmnist", "folder"))
        assert "source of the original data: not stated; give it with --source TEXT" in out
        assert "started as real training images" in out
        assert {"README.md", "export.json"} < names(folder / f"run-{form}")


def test_the_card_tells_accuracy_recipe_and_publication(exported, finished_run):
    text = (exported[0] / "run-medmnist/README.md").read_text()
    found = read_card(finished_run)
    assert text.startswith("# generated, distilled by HoP-TM\n")
    accuracy = found.evaluations[0].accuracy
    row = f"| convnet(depth=2,width=4) | HoP-TM | 1 | {100 * accuracy.mean:.2f} ± {100 * accuracy.std:.2f} |"
    assert row in text
    assert "Protocol: split=test; repeats=1; epochs=3;" in text
    for setting in ("| method.student_steps | 4 |", "| distillation.iterations | 4 |", "| experts.count | 2 |"):
        assert setting in text
    assert "HoP-TM (BibTeX: dong2025hoptm), seed 0." in text
    assert "@inproceedings{dong2025hoptm," in text


def test_no_export_names_a_path_a_host_or_a_user(exported, finished_run, npz_file):
    for path in exported[0].rglob("*"):
        if not path.is_file():
            continue
        content = path.read_bytes()
        for private in (npz_file.parent, finished_run.parent, Path.home(), Path.cwd(), socket.gethostname()):
            assert str(private).encode() not in content, path
        if path.suffix in (".md", ".json", ".csv", ".yaml"):
            assert not re.search(r"(^|[\s\"'|(])/[A-Za-z]", content.decode()), path
            user = getpass.getuser()
            assert user in ("root", "runner") or user not in content.decode(), path


def test_source_and_licence_come_from_the_run_or_from_the_command_line(bench, tmp_path):
    succeed(bench("run", "method=random", *TINY_NETWORK, *TINY_PROTOCOL, "hydra.run.dir=digits"))
    out = succeed(bench("export", "digits", "--format", "medmnist")).out
    assert "not stated" not in out
    assert "these ARE real training images" in out
    text = (tmp_path / "digits-medmnist/README.md").read_text()
    assert "Optical Recognition of Handwritten Digits" in text
    assert "- Licence of the original data: CC BY 4.0\n" in text
    assert "**These are real images.**" in text
    assert "experts." not in text, "random reads none"
    said = ("--source", "my | clinic", "--licence", "ask me")
    succeed(bench("export", "digits/synthetic.safetensors", "--format", "folder", "-o", "deep/given", *said))
    text = (tmp_path / "deep/given/README.md").read_text()
    assert "- Source: my \\| clinic\n" in text
    assert "- Licence of the original data: ask me\n" in text
    assert "Not known: the set was exported without the result of its run." in text


@pytest.mark.campaign
def test_exported_sets_are_judged_as_the_native_one(bench, tmp_path):
    """Real images lose little in 8 bits, so that the accuracies hardly differ."""
    succeed(bench("run", "method=random", "ipc=5", *SCORES, "hydra.run.dir=native"))
    native = read_card(tmp_path / "native")
    before = native.evaluations[0].accuracy
    assert before.mean > 0.3, "a set on which nothing is learned shows nothing"
    for form in ("medmnist", "folder"):
        printed = succeed(bench("export", "native", "--format", form)).out
        assert "no value lay outside [0, 1]" not in printed, "digits are enlarged after they were normalised"
        place = f"hydra.run.dir=judged-{form}"
        succeed(bench("eval", f"synthetic=native-{form}", "dataset=digits", *SCORES, place))
        again = read_card(tmp_path / f"judged-{form}")
        after = again.evaluations[0].accuracy
        assert abs(before.mean - after.mean) <= max(before.std, after.std), (form, before, after)
        assert (again.method, again.title, again.ipc, again.distillation_seed) == ("random", native.title, 5, 0)
        assert again.artefacts["export.json"] == sha256(tmp_path / f"native-{form}/export.json")
        assert set(again.artefacts) == {"config.yaml", "export.json"}


@pytest.mark.campaign
def test_distilled_images_keep_their_accuracy_in_8_bits(bench, tmp_path):
    """HoP-TM's images leave [0, 1]: clipping them must not cost more than a standard deviation."""
    distilled = ("experts.count=2", "distillation.iterations=40", *SCORES, "protocol.repeats=5")
    succeed(bench("run", "method=hoptm", *distilled, "hydra.run.dir=native"))
    native = read_card(tmp_path / "native").evaluations[0].accuracy
    for form in ("medmnist", "folder"):
        printed = succeed(bench("export", "native", "--format", form)).out
        assert "of values lay outside [0, 1]" in printed
        assert "hoptm-bench eval synthetic=" in printed
        judged = ("dataset=digits", *SCORES, "protocol.repeats=5")
        succeed(bench("eval", f"synthetic=native-{form}", *judged, f"hydra.run.dir=judged-{form}"))
        again = read_card(tmp_path / f"judged-{form}").evaluations[0].accuracy
        assert abs(native.mean - again.mean) <= max(native.std, again.std), (form, native, again)


@pytest.mark.slow
def test_eval_of_exports_keeps_its_checks(bench, tmp_path, exported, npz_file):
    folder = exported[0]
    dataset = ("dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_NETWORK, *TINY_PROTOCOL)
    succeed(bench("eval", f"synthetic={folder / 'run-safetensors'}", *dataset, "hydra.run.dir=native"))
    assert "export.json" in read_card(tmp_path / "native").artefacts
    wrong = bench("eval", f"synthetic={folder / 'run-medmnist'}", "dataset=digits", *TINY_PROTOCOL)
    assert wrong.code == 2
    assert "was distilled from generated" in wrong.err
    pickles = bench("eval", f"synthetic={folder / 'run-ddranking'}", *dataset)
    assert pickles.code == 2
    assert "pickles" in pickles.err
    assert "synthetic=PATH" in pickles.err
    other = bench("eval", f"synthetic={folder / 'run-folder'}", *dataset, "dataset.preprocess.normalisation=none")
    assert other.code == 2
    assert "its normalisation is" in other.err


def refuse(result, *says):
    assert result.code == 2, result.out
    assert "Traceback" not in result.err
    for said in says:
        assert said in result.err, result.err


def test_what_is_refused(bench, tmp_path, finished_run, exported):
    shutil.copytree(finished_run, tmp_path / "copy")
    other = read_set(tmp_path / "copy/synthetic.safetensors")
    other.images += 1
    write_set(other, tmp_path / "copy/synthetic.safetensors")
    refuse(bench("export", "copy", "--format", "folder"), "is not the set that result.json beside it judges")
    succeed(bench("export", "copy/synthetic.safetensors", "--format", "folder", "-o", "set"))
    refuse(
        bench("export", "copy/synthetic.safetensors", "--format", "folder", "-o", "set"), "set: exists already", "-o"
    )
    refuse(bench("export", "nowhere", "--format", "folder"), "nowhere: no such synthetic set")
    (tmp_path / "empty").mkdir()
    refuse(bench("export", "empty", "--format", "folder"), "synthetic.safetensors: does not exist", "finished run")
    refuse(bench("export", str(exported[0] / "run-folder"), "--format", "medmnist"), "is an exported set already")
    refuse(bench("export", str(finished_run), "--format", "tar"), "invalid choice")
    refuse(bench("export", str(finished_run), "--format", "folder", "--licence", "a\nb"), "licence: must be one line")
    whitened = SyntheticSet(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), None, ("a", "b"),
                            Normalisation((0.0,) * 3, (1.0,) * 3, "zca"))  # fmt: skip
    write_set(whitened, tmp_path / "whitened.safetensors")
    refuse(bench("export", "whitened.safetensors", "--format", "medmnist"), "ZCA-whitened", "safetensors or ddranking")
    assert names(tmp_path) == {"copy", "set", "empty", "whitened.safetensors"}


def test_full_data_has_nothing_to_export(bench):
    quick = (*TINY_NETWORK, *TINY_PROTOCOL, "protocol.epochs=1")
    succeed(bench("run", "method=full", *quick, "hydra.run.dir=full"))
    refuse(bench("export", "full", "--format", "folder"), "since its method trained on all images and distils nothing")


def test_the_folder_of_an_evaluation_holds_no_set(bench, finished_run):
    succeed(bench("eval", f"synthetic={finished_run}", *TINY_PROTOCOL, "hydra.run.dir=judged"))
    for command in (("export", "judged", "--format", "folder"), ("eval", "synthetic=judged")):
        refuse(bench(*command), "the folder is of an evaluation, not of a run")


def test_soft_labels_travel(bench, tmp_path, npz_file):
    data = ("dataset=npz", f"dataset.root={npz_file}", *NPZ)
    soft = ("method.labels.name=soft", "+method.labels.teacher_epoch=2", *TINY_NETWORK, *TINY_PROTOCOL, *TINY_EXPERTS,
            *TINY_LOOP)  # fmt: skip
    succeed(bench("run", *data, *soft, "hydra.run.dir=run"))
    native = load_distilled(tmp_path / "run")
    for form in ("medmnist", "folder"):
        succeed(bench("export", "run", "--format", form))
        torch.testing.assert_close(load_distilled(tmp_path / f"run-{form}").targets, native.targets)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A function that runs code with all installed packages but this one."""
    site = tmp_path_factory.mktemp("site")
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            if "hoptm" not in entry.name and entry.suffix != ".pth" and not (site / entry.name).exists():
                (site / entry.name).symlink_to(entry)
    environment = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}

    def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        # -S: no site-packages of the interpreter's own, and no .pth files
        command = [sys._base_executable, "-S", "-c", code]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    return run


def test_this_package_is_not_importable_there(foreign, tmp_path):
    for name in ("hoptm_plugin", "hoptm_baselines"):
        assert f"No module named '{name}'" in foreign(f"import {name}", tmp_path).stderr
    assert foreign("import numpy, PIL, yaml; print('fine')", tmp_path).stdout == "fine\n"


KINDS = {"grey": (1, False, 1), "soft": (3, True, 1), "mosaic": (3, True, 2)}
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)
MANY = """\
import json, os, sys
for folder in json.loads({folders!r}):
    os.chdir(folder)
    code = open("README.md", encoding="utf-8").read().split("```python\\n")[1].split("```")[0]
    print(os.path.basename(folder), end=" ")
    exec(compile(code, folder, "exec"), {{}})
assert not any("hoptm" in name for name in sys.modules)
"""


@pytest.mark.slow
def test_the_cards_code_trains_without_this_package(foreign, bench, tmp_path):
    generator = torch.Generator().manual_seed(0)
    folders = []
    for kind, (channels, soft, mosaic) in KINDS.items():
        labels = torch.arange(3).repeat_interleave(2)
        images = 0.3 * torch.randn(6, channels, 12, 12, generator=generator) + labels.view(6, 1, 1, 1) - 1
        targets = 5 * torch.eye(3)[labels] if soft else labels
        normalisation = Normalisation((0.5,) * channels, (0.25,) * channels, "measured")
        synthetic = SyntheticSet(
            images, targets, torch.tensor(0.02), ('a, "b"', "c/d", "#é"), normalisation, {}, mosaic
        )
        write_set(synthetic, tmp_path / f"{kind}.safetensors")
        for form in FORMATS:
            succeed(bench("export", f"{kind}.safetensors", "--format", form))
            folders.append(str(tmp_path / f"{kind}-{form}"))
            (code,) = SNIPPET.findall((tmp_path / f"{kind}-{form}/README.md").read_text(encoding="utf-8"))
            lines = [line for line in code.splitlines() if line and not re.match(r"import |from ", line)]
            assert len(lines) <= 13, code
            assert max(map(len, lines)) <= 125
            assert "hoptm" not in code
    done = foreign(MANY.format(folders=json.dumps(folders)), tmp_path)
    assert done.returncode == 0, done.stderr
    accuracies = dict(re.findall(r"^(\S+) training accuracy: ([\d.]+)$", done.stdout, re.MULTILINE))
    assert set(accuracies) == {Path(folder).name for folder in folders}
    assert all(float(accuracy) == 1 for accuracy in accuracies.values()), accuracies


def test_help_teaches(bench, tmp_path):
    result = succeed(bench("export", "--help"))
    for form in FORMATS:
        assert form in result.out
    assert names(tmp_path) == set()
