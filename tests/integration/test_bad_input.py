"""Everything a user can get wrong: exit code 2, one clear message with a remedy, no traceback, nothing left behind."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import command_line
import numpy as np
import pytest
import torch
from generated import NPZ, write_images, write_npz

RUN = ("run", *command_line.TINY_RUN, "hydra.run.dir=new_run")


class Bad:
    """One kind of bad input.

    Args:
        arguments: the command line, after ``prepare`` has made what it names; {run} stands for a finished run.
        says: what the message must contain: the setting or file at fault, and the remedy.
        prepare: makes files in the working folder.
    """

    def __init__(
        self, *arguments: str, says: tuple[str, ...], prepare: Callable[[Path], None] = lambda folder: None
    ) -> None:
        self.arguments, self.says, self.prepare = arguments, says, prepare


def npz(**replaced) -> Callable[[Path], None]:
    return lambda folder: write_npz(folder / "data.npz", **replaced)


def truncated_npz(folder: Path) -> None:
    write_npz(folder / "data.npz")
    whole = (folder / "data.npz").read_bytes()
    (folder / "data.npz").write_bytes(whole[: len(whole) // 2])


def images(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Make an image folder ``data`` of two classes and let ``change`` spoil it."""

    def prepare(folder: Path) -> None:
        for split in ("train", "test"):
            write_images(folder / "data" / split, ("disc", "square"), 4)
        change(folder / "data")

    return prepare


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def covid(folders: tuple[str, ...]) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        for name in ("COVID", "Normal"):
            write_images(folder / "data" / name, folders, 5)

    return prepare


def occupied(folder: Path) -> None:
    (folder / "new_run").mkdir()
    (folder / "new_run" / "mine.txt").write_text("mine")


def damaged_configuration(folder: Path) -> None:
    (folder / "new_run").mkdir()
    (folder / "new_run" / "config.yaml").write_text("a: [1")


def text_file(name: str, text: str = "not what it should be") -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


NPZ_RUN = (*RUN, "dataset=npz", "dataset.root=data.npz", *NPZ)
FOLDER_RUN = (*RUN, "dataset=folder", "dataset.root=data", *NPZ)
COVID_RUN = (*RUN, "dataset=covid19cxr", "dataset.root=data", "dataset.classes=[COVID,Normal]", *NPZ)

CASES = {
    "unknown command": Bad("rnu", says=("'rnu'", "did you mean 'run'")),
    "no command": Bad(says=("a command is missing", "--help")),
    "unknown setting": Bad(*RUN, "method.student_stepz=3", says=("method.student_stepz", "'student_steps'")),
    "unknown setting in a sweep": Bad("run", "-m", "method=herding,kcenter", "method.teacher_epoch=3",
                                      says=("method.teacher_epoch", "must exist for the default one")),
    "unknown setting at the top": Bad(*RUN, "ipcc=3", says=("ipcc", "'ipc'")),
    "unknown method": Bad(*RUN, "method=hoptn", says=("method", "hoptn", "hoptm")),
    "unknown data set": Bad(*RUN, "dataset=pathmnits", says=("dataset", "pathmnits", "pathmnist")),
    "unknown matcher": Bad(*RUN, "method.matchers.endpoint.name=endpiont",
                           says=("method.matchers.endpoint.name", "'endpiont'", "did you mean 'endpoint'")),
    "unknown keyword of a matcher": Bad(*RUN, "+method.matchers.endpoint.sharpness=2",
                                        says=("method.matchers.endpoint.sharpness", "known: ", "reduction")),
    "a part of a method deleted": Bad(*RUN, "~method.sampler", says=("method.sampler: missing",)),
    "a number for a part": Bad(*RUN, "method.matchers.endpoint=3",
                               says=("method.matchers.endpoint", "must be a mapping with a 'name'", "got 3")),
    "an infinite step size": Bad(*RUN, "method.step_size=inf", says=("method.step_size", "finite")),
    "no matcher left": Bad(*RUN, "method.matchers.endpoint=null", "method.matchers.shape=null",
                           says=("method", "at least one matcher")),
    "wrong type": Bad(*RUN, "ipc=abc", says=("ipc", "integer", "'abc'")),
    "ipc of zero": Bad(*RUN, "ipc=0", says=("ipc", "greater than 0")),
    "ipc above a class's images": Bad(*NPZ_RUN, "ipc=9", prepare=npz(), says=("ipc=9", "'0'", "use ipc=8 or fewer")),
    "negative learning rate": Bad(*RUN, "distillation.images.learning_rate=-1",
                                  says=("distillation.images.learning_rate", "greater than or equal to 0")),
    "negative seed": Bad(*RUN, "seed=-1", says=("seed", "greater than or equal to 0")),
    "number that is none": Bad(*RUN, "distillation.images.learning_rate=nan",
                               says=("distillation.images.learning_rate", "finite number")),
    "ipc of text where a recipe asks for it": Bad(*RUN, "dataset=pathmnist", "ipc=abc", says=("ipc", "integer")),
    "malformed override": Bad(*RUN, "networks=[convnet", says=("networks=[convnet", "KEY=VALUE", "quote")),
    "not an override": Bad(*RUN, "ipc", says=("ipc", "KEY=VALUE")),
    "several values without a sweep": Bad(*RUN, "ipc=1,2", says=("ipc=1,2", "--multirun")),
    "group chosen as null": Bad(*RUN, "method=null", says=("method=", "hoptm-bench list settings")),
    "unknown interpolation": Bad(*RUN, "method.step_size=${nosuch}", says=("method.step_size", "'nosuch' not found")),
    "unknown flag": Bad(*RUN, "--ipc", "1", says=("--ipc", "--help")),
    "settings of a whole sweep": Bad("run", "-m", "--cfg", "job", says=("--cfg", "not allowed", "--help")),
    "missing root": Bad(*RUN, "dataset=npz", says=("dataset.root is missing", "dataset.root=PATH")),
    "root does not exist": Bad(*NPZ_RUN, says=("data.npz", "no such file", "set dataset.root")),
    "MedMNIST file missing": Bad(*RUN, "dataset=pathmnist", "dataset.root=.",
                                 says=("pathmnist.npz", "dataset.download=true")),
    "npz with wrong keys": Bad(*NPZ_RUN, prepare=npz(test_labels=None, y_test=np.zeros(12)),
                               says=("data.npz", "arrays missing: test_labels", "layout needs")),
    "npz truncated": Bad(*NPZ_RUN, prepare=truncated_npz, says=("data.npz", "truncated", "fetch it again")),
    "npz with Python objects": Bad(*NPZ_RUN, prepare=npz(train_labels=np.array([{"a": 1}] * 24, dtype=object)),
                                   says=("data.npz", "Python objects", "plain arrays")),
    "not an npz": Bad(*NPZ_RUN, prepare=text_file("data.npz"), says=("data.npz", "cannot be read as npz", "again")),
    "label out of range": Bad(*NPZ_RUN, "dataset.class_names=[a,b]", prepare=npz(),
                              says=("data.npz", "label 2 at index 2", "mend the labels or name all classes")),
    "unreadable image": Bad(*FOLDER_RUN, prepare=images(lambda root: text_file("disc-1.png")(root / "train/disc")),
                            says=("disc-1.png", "cannot be read", "replace or remove")),
    "truncated image": Bad(*FOLDER_RUN, prepare=images(lambda root: truncate(root / "test/square/square-2.png")),
                           says=("square-2.png", "cannot be read", "replace or remove")),
    "class folder missing": Bad(*FOLDER_RUN, prepare=images(lambda root: shutil.rmtree(root / "train/square")),
                                says=("'square' is missing", "add it, or choose classes")),
    "masks inside a class folder": Bad(
        *FOLDER_RUN, prepare=images(lambda root: write_images(root / "train/disc", ("masks",), 2)),
        says=("train/disc", "masks", "move everything else away")),
    "COVID19-CXR with masks only": Bad(*COVID_RUN, prepare=covid(("masks",)),
                                       says=("COVID", "holds no images", "unpack the whole archive")),
    "COVID19-CXR without Lung_Opacity": Bad(*COVID_RUN, "dataset.classes=null", prepare=covid(("images", "masks")),
                                            says=("Lung_Opacity", '"dataset.classes=[COVID,Normal]"')),
    "COVID19-CXR still zipped": Bad(
        *COVID_RUN, prepare=lambda folder: zipfile.ZipFile(folder / "data", "w").close(), says=("data", "unpack it")),
    "multi-label data set": Bad(*RUN, "dataset=chestmnist", says=("chestmnist", "multi-label", "choose another")),
    "network too deep for the images": Bad(*RUN, "network.depth=9", says=("convnet", "use network.depth=")),
    "BatchNorm under trajectory matching": Bad(*RUN, "network.norm=batch",
                                               says=("network.norm", "BatchNorm", "use network.norm=instance")),
    "shape term without a middle": Bad(*RUN, "method.expert_epochs=1",
                                       says=("method.matchers.shape", "set method.expert_epochs")),
    "no start epoch": Bad(*RUN, "method.sampler.min_start_epoch=5",
                          says=("method.sampler", "min_start_epoch=5", "max_start_epoch=1")),
    "scheduler beyond the sampler": Bad(
        *RUN, "+method.schedulers.open={name: sequential_start_epochs, first: 3, last: 5, expansion_end: 10}",
        says=("method.schedulers.open", "raise method.sampler.max_start_epoch")),
    "resume without a run": Bad(*RUN, "resume=true", says=("new_run", "no run to resume", "hydra.run.dir=PATH")),
    "run folder occupied": Bad(*RUN, prepare=occupied, says=("new_run", "not empty", "choose another hydra.run.dir")),
    "run folder is a file": Bad(*RUN, prepare=text_file("new_run"), says=("new_run", "choose another folder")),
    "experts in a file": Bad(*RUN, "experts.root=file", prepare=text_file("file"),
                             says=("experts.root", "is a file", "name a folder")),
    "resume of a sort": Bad(*RUN, "resume=maybe", says=("resume", "valid boolean", "'maybe'")),
    "run folder's configuration damaged": Bad(
        *RUN, "resume=true", prepare=damaged_configuration, says=("config.yaml", "damaged or edited", "restore it")),
    "eval without a set": Bad("eval", says=("synthetic", "missing", "synthetic=PATH")),
    "eval of a missing set": Bad("eval", "synthetic=nowhere", says=("nowhere", "does not exist", "synthetic=PATH")),
    "eval of another file": Bad("eval", "synthetic=set.safetensors", prepare=text_file("set.safetensors"),
                                says=("set.safetensors", "damaged, or not a synthetic set", "synthetic=PATH")),
    "eval of a checkpoint": Bad("eval", "synthetic={run}/checkpoint.safetensors",
                                says=("checkpoint.safetensors", "not a synthetic set", "synthetic=PATH")),
    "eval on another data set": Bad("eval", "synthetic={run}", "dataset=digits",
                                    says=("synthetic.safetensors", "distilled from generated", "choose the data set")),
    "eval into the run folder": Bad("eval", "synthetic={run}", "hydra.run.dir={run}",
                                    says=("not empty", "choose another hydra.run.dir")),
    "comparing what is not there": Bad("compare", "nowhere", says=("nowhere", "no such result card", "finished run")),
    "comparing a folder without runs": Bad("compare", ".", says=("result.json", "name folders of finished runs")),
    "damaged card": Bad("compare", "result.json", prepare=text_file("result.json", '{"schema": 1'),
                        says=("result.json", "not a result card")),
    "unknown format": Bad("compare", "{run}", "--format", "xml", says=("--format", "'xml'", "markdown")),
    "unknown kind to list": Bad("list", "matchres", says=("matchres", "matchers")),
    "no networks": Bad(*RUN, "networks=[]", says=("networks", "at least one architecture")),
    "unknown network": Bad(*RUN, "networks=[convnet,resnet]",
                           says=("networks[1]", "'resnet'", "did you mean 'resnet18'")),
    "tf32 on the CPU": Bad(*RUN, "runtime.precision=tf32", says=("runtime.precision", "use float32")),
    "two wrong values": Bad(*RUN, "ipc=0", "distillation.iterations=-1", says=("ipc:", "distillation.iterations:")),
    "two wrong parts": Bad(*RUN, "dataset=npz", "networks=[resnet]", says=("dataset.root is missing", "networks[0]")),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_bad_input_is_refused(kind, bench, tmp_path, finished_run):
    case = CASES[kind]
    case.prepare(tmp_path)
    before = contents(tmp_path)
    result = bench(*(argument.replace("{run}", str(finished_run)) for argument in case.arguments))
    check(result, case.says)
    assert tmp_path.is_dir()
    assert contents(tmp_path) == before, "something was left behind, changed or removed"


def test_at_least_twenty_kinds_are_covered():
    assert len(CASES) >= 20


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(bench, tmp_path):
    check(bench(*RUN, "runtime.device=cuda"), ("runtime.device", "torch sees no CUDA device", "use cpu or auto"))
    assert contents(tmp_path) == {}


def test_resuming_with_other_settings(bench, finished_run):
    before = contents(finished_run)
    result = bench("run", f"hydra.run.dir={finished_run}", "resume=true", "distillation.iterations=9", "ipc=2")
    changed = ("distillation.iterations: 4 in the folder, 9 now", "ipc: 1 in the folder, 2 now")
    check(result, ("was made with other settings", "give the same ones", *changed))
    assert contents(finished_run) == before


def test_damaged_expert(bench, tmp_path, npz_file):
    dataset = ("dataset=npz", f"dataset.root={npz_file}", *NPZ)
    store = tmp_path / "store"
    assert bench("experts", *dataset, *command_line.TINY_RUN, experts=store).code == 0
    (damaged,) = store.rglob("expert-00001.safetensors")
    truncate(damaged)
    before = contents(tmp_path)
    check(bench(*RUN, *dataset, "experts.count=3", experts=store), (str(damaged), "delete"))
    assert contents(tmp_path) == before


def test_damaged_checkpoint(bench, tmp_path, finished_run):
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    truncate(tmp_path / "run" / "checkpoint.safetensors")
    before = contents(tmp_path)
    check(
        bench("run", "hydra.run.dir=run", "resume=true"),
        ("checkpoint.safetensors", "damaged, or not a distillation checkpoint"),
    )
    (tmp_path / "run" / "failure.txt").unlink()  # why the work in it failed, for `hoptm-bench runs`
    assert contents(tmp_path) == before


@pytest.mark.campaign
def test_plug_in_that_cannot_be_imported_is_named(tmp_path):
    information = tmp_path / "site" / "broken-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[hoptm_plugin.plugins]\nmine = broken_module\n")
    (tmp_path / "site" / "broken_module.py").write_text("import a_package_that_is_not_there\n")
    before = contents(tmp_path)
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
    for arguments in (("list", "matchers"), RUN):
        result = command_line.call(*arguments, cwd=tmp_path, environment=environment)
        check(result, ("plug-in 'mine' (broken_module, from broken 1.0)", "a_package_that_is_not_there", "uninstall"))
        assert contents(tmp_path) == before


def check(result, says):
    assert result.code == 2, result
    assert "Traceback" not in result.err + result.out
    told = re.compile(r"recipe |scale |plan: |[\d,]+ images of ")  # what is said before the work
    lines = [line for line in result.err.splitlines() if not told.match(line)]
    assert lines[0].startswith("error: ")
    assert result.err.count("error: ") == 1
    for text in says:
        assert text in result.err


def contents(folder):
    """Return every path below ``folder`` with its bytes."""
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
