"""Folders crafted to execute code, write elsewhere or fill the memory do nothing but get refused, or shown as text."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import zipfile

import command_line
import numpy as np
import pytest
import torch
from hostile import ESCAPE, Bomb, Place, pickled

from hoptm_plugin.storage.files import sha256


@pytest.fixture(scope="module")
def exported(tmp_path_factory, finished_run):
    """An export of the finished run as PNG images."""
    folder = tmp_path_factory.mktemp("export")
    done = command_line.invoke("export", str(finished_run), "--format", "folder", "-o", "export", cwd=folder)
    assert done.code == 0, done.err
    return folder / "export"


def sampled(cases, *quick):
    """Return all cases as parameters; those that are not ``quick`` go the same ways, and are a campaign."""
    cases = list(cases)
    assert set(quick) <= set(cases)
    marks = {case: () if case in quick else pytest.mark.campaign for case in cases}
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks[case]) for case in cases]


@pytest.fixture
def place(tmp_path, finished_run, exported):
    return Place.make(tmp_path, finished_run, exported)


def zipped(place):
    stream = io.BytesIO()
    torch.save(Bomb(place.sentinel), stream)
    return stream.getvalue()


ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

# --- pickles and other code ------------------------------------------------------------------------------------------

READ_BY = {
    "synthetic.safetensors": ("eval", "export"), "checkpoint.safetensors": ("resume",), "metrics.jsonl": ("resume",),
    "result.json": ("eval", "export", "report", "compare"), "config.yaml": ("resume", "eval"),
    "evaluations.json": ("resume",),
}  # fmt: skip


@pytest.mark.parametrize("name", READ_BY)
@pytest.mark.parametrize(
    "disguise", [pytest.param(pickled, id="pickle"), pytest.param(zipped, id="torch", marks=pytest.mark.campaign)]
)
def test_pickles_in_disguise(place, name, disguise):
    place.replace(name, disguise(place))
    for command in READ_BY[name]:
        place.check(command, refused=True, says=name)


@pytest.mark.parametrize("name", sampled(["config.yaml", "metrics.jsonl", "synthetic.png", "initial.png"]))
def test_a_report_leaves_pickles_out(place, name):
    place.replace(name, pickled(place))
    assert f"{name} is left out: it is not the file that result.json names" in place.check("report", refused=False)
    place.forget(name)
    assert name in place.check("report", refused=False)


def test_object_arrays_in_data_and_exports(place):
    bomb = np.array([Bomb(place.sentinel)] * 3, dtype=object)
    np.savez(place.work / "data.npz", **dict.fromkeys(ARRAYS, bomb))
    np.save(place.work / "data.npy", bomb)
    for name in ("data.npz", "data.npy"):
        run = f"run dataset=npz dataset.root={name} method=random hydra.run.dir=new"
        place.check(run, refused=True, says=name)
    shutil.rmtree(place.work / "export")
    place.check("export run --format medmnist -o export", refused=False)
    np.savez(place.work / "export/distilled.npz", train_images=bomb, train_labels=bomb)
    digest = sha256(place.work / "export/distilled.npz")
    place.change_json("export/export.json", lambda manifest: manifest["files"].update({"distilled.npz": digest}))
    place.check("eval synthetic=export dataset=digits hydra.run.dir=new", refused=True, says="distilled.npz")


TAGS = ("!!python/object/apply:os.system ['touch {}']", "!!python/object/new:os.system ['touch {}']",
        "a: !!python/name:os.system", "a: !!python/module:os", "? !!python/object/apply:os.system ['touch {}']\n: 1",
        "a: !!binary aGFsbG8=", "a: 2020-01-01", "1: a", "a: !!set {{x}}")  # fmt: skip


@pytest.mark.parametrize("text", sampled(TAGS))
def test_tags_in_a_configuration(place, text):
    place.replace("config.yaml", text.format(place.sentinel).encode())
    place.forget("config.yaml")
    for command in ("resume", "eval"):
        place.check(command, refused=True, says="config.yaml")
    assert "config.yaml is no readable configuration" in place.check("report", refused=False)


def put(*keys, value):
    """Return a change that sets one setting."""

    def change(config):
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


TARGET = "os.system"
INSTANCES = {
    "at the top": put("_target_", value=TARGET),
    **{f"in {group}": put(group, "_target_", value=TARGET)
       for group in ("method", "dataset", "network", "augment", "experts", "distillation", "protocol", "runtime")},
    "in preprocessing": put("dataset", "preprocess", "_target_", value=TARGET),
    "in a matcher": put("method", "matchers", "endpoint", "_target_", value=TARGET),
    "in experts' training": put("experts", "training", "_target_", value=TARGET),
    "a method's name": put("method", "name", value="os.system"),
    "a network's name": put("network", "name", value="builtins.eval"),
    "a reader's name": put("dataset", "name", value="hoptm_plugin.data.npz.Npz"),
    "an augmentation's name": put("augment", "name", value="subprocess.Popen"),
    "a network to judge on": put("networks", value=["builtins.exec"]),
    "hydra's folder": put("hydra", value={"run": {"dir": "../outside"}, "searchpath": ["file:///tmp"]}),
    "hydra's sweeper": put("hydra", value={"sweeper": {"_target_": "os.system"}}),
    "defaults": put("defaults", value=[{"override hydra/launcher": "joblib"}]),
    "a number that is text": put("ipc", value="1); import os"),
    "an interpolation for a number": put("seed", value="${oc.decode:${oc.env:HOPTM_SECRET}}"),
    "an interpolation for a path": put("dataset", "root", value="${oc.env:HOPTM_SECRET}"),
    "escapes in a key": put(f"{ESCAPE}key", value=1),
    "escapes in a name": put("method", "name", value=ESCAPE),
    "escapes in the title": put("method_title", value=f"{ESCAPE}title"),
    "a number without end": put("seed", value=10**4000),
}  # fmt: skip


QUICK = ("in method",)


@pytest.mark.parametrize("name", sampled(INSTANCES, *QUICK))
def test_settings_that_name_code_or_what_is_no_setting(place, name):
    place.configure(INSTANCES[name])
    place.check("resume", refused=True)
    place.check("eval", refused=True)
    place.check("report", refused=False)


LOGGERS = {"a path": [{"name": "tensorboard", "log_dir": "../outside"}], "a class": ["subprocess.Popen"],
           "a target": [{"name": "tensorboard", "_target_": "os.system"}]}  # fmt: skip


@pytest.mark.parametrize("loggers", LOGGERS.values(), ids=LOGGERS)
def test_loggers_with_paths_and_classes(place, loggers):
    place.configure(put("loggers", value=loggers))
    place.check("resume", refused=True, says="loggers[0]")


def test_interpolations_stay_text(place):
    place.configure(put("method_title", value="${oc.env:HOPTM_SECRET}"))
    assert "${oc.env:HOPTM_SECRET}" in place.check("report", refused=False)


# --- elsewhere -------------------------------------------------------------------------------------------------------


def test_experts_are_not_trained_where_a_file_says(place):
    other = place.outside / "abc"
    other.mkdir()
    (other / "manifest.json").write_text("{}")  # of a browser's extension, say
    place.configure(put("experts", "root", value=str(place.outside)))
    place.check("resume", refused=True, says="where no experts lie; to train them there give experts.root=")


def test_nothing_is_downloaded_where_a_file_says(place):
    place.configure(put("dataset", value={"name": "medmnist", "flag": "pathmnist", "root": str(place.outside),
                                          "download": True, "preprocess": {}}))  # fmt: skip
    place.check("resume", refused=True, says="pathmnist.npz: no such file")


PATHS = ("../../precious", "/etc/hostname", "train/../../../outside/precious", "C:\\x", "a\nb")


@pytest.mark.parametrize("name", sampled(PATHS, *PATHS[:2]))
def test_paths_out_of_an_export(place, name):
    place.change_json("export/export.json", lambda manifest: manifest["files"].update({name: "0" * 64}))
    place.check("eval synthetic=export dataset=digits hydra.run.dir=new", refused=True, says="export.json")


def test_paths_out_of_the_labels_of_an_export(place):
    labels = place.work / "export/labels.csv"
    labels.write_text(labels.read_text().replace("train/0_0/0000.png", "../../outside/precious"))
    place.change_json("export/export.json", lambda manifest: manifest["files"].update({"labels.csv": sha256(labels)}))
    place.check("eval synthetic=export dataset=digits hydra.run.dir=new", refused=True, says="labels.csv")


@pytest.mark.slow
def test_paths_in_the_artefacts_of_a_card_are_names_alone(place):
    for name in ("../../outside/precious", "/etc/hostname"):
        place.change_json("run/result.json", lambda card, name=name: card["artefacts"].update({name: "0" * 64}))
    (place.work / "begun/split.json").write_text('{"train": ["../../../outside/x"]}')
    for command in ("report", "compare", "export", "eval", "resume"):
        place.check(command, refused=False)


def test_links_to_another_set(place, finished_run):
    place.change_tensors("synthetic.safetensors", lambda tensors, content: tensors["images"].mul_(0.5))
    (place.work / "run/synthetic.safetensors").rename(place.outside / "other.safetensors")
    shutil.copy(finished_run / "result.json", place.work / "run")
    (place.work / "run/synthetic.safetensors").symlink_to(place.outside / "other.safetensors")
    for command in ("eval", "export", "eval synthetic=run/synthetic.safetensors hydra.run.dir=new"):
        place.check(command, refused=True, says="is not the set that result.json beside it judges")


def test_links_are_written_beside_and_not_through(place):
    written = ("synthetic.safetensors", "synthetic.png", "initial.png", "metrics.jsonl", "evaluations.json",
               "result.json", "checkpoint.safetensors", "trained_on.safetensors")  # fmt: skip
    for name in written:
        link = place.work / "begun" / name
        target = place.outside / (name if link.exists() else f"new-{name}")
        if link.exists():
            link.rename(target)
        link.symlink_to(target)
    place.check("resume", refused=False)
    assert not any((place.work / "begun" / name).is_symlink() for name in written if name != "checkpoint.safetensors")


def test_a_lock_that_leads_elsewhere(place):
    (place.work / "begun/.lock").symlink_to(place.outside / "precious")
    place.check("resume", refused=None)
    assert (place.work / "begun/.lock").is_symlink()
    assert not (place.work / "begun/result.json").exists()


def test_a_card_that_leads_elsewhere_is_read_as_a_card(place):
    (place.work / "run/result.json").unlink()
    (place.work / "run/result.json").symlink_to(place.outside / "precious")
    for command in ("eval", "export", "report", "compare"):
        place.check(command, refused=True, says="not a result card")


# --- what is no file -------------------------------------------------------------------------------------------------

USED_BY = {**READ_BY, "config.yaml": ("resume", "eval", "report"), "metrics.jsonl": ("resume", "report"),
           "initial.png": ("report",), "split.json": ("resume",), ".lock": ("resume",)}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    sampled(
        itertools.product(USED_BY, ("pipe", "folder", "device")),
        ("synthetic.safetensors", "device"), ("split.json", "pipe"),
    ),
)  # fmt: skip
def test_what_is_no_file_is_not_waited_for(place, name, kind):
    for folder in place.runs:
        (folder / name).unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(folder / name)
        elif kind == "folder":
            (folder / name).mkdir()
        else:
            (folder / name).symlink_to("/dev/zero")
    for command in USED_BY[name]:
        place.check(command, refused=None)


def test_a_pipe_for_a_manifest(place):
    (place.work / "export/export.json").unlink()
    os.mkfifo(place.work / "export/export.json")
    place.check("eval synthetic=export dataset=digits hydra.run.dir=new", refused=True, says="export")


# --- too much --------------------------------------------------------------------------------------------------------

DEEP = b"[" * 100_000


@pytest.mark.parametrize("name", sampled(["result.json", "evaluations.json", "config.yaml"], "result.json"))
def test_deep_nesting(place, name):
    for content in (DEEP, b'{"a":' * 900 + b"1" + b"}" * 900):
        place.replace(name, content)
        for command in READ_BY[name][:2]:
            place.check(command, refused=True, says=name)


LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))


@pytest.mark.parametrize("text", sampled([LAUGHS, MERGES, "a: &a [*a]", "a: " + "[" * 3000], LAUGHS))
def test_aliases_and_merges(place, text):
    place.replace("config.yaml", text.encode())
    place.forget("config.yaml")
    for command in ("resume", "eval"):
        place.check(command, refused=True, says="config.yaml")
    assert "config.yaml is no readable configuration" in place.check("report", refused=False)


@pytest.mark.parametrize("length", sampled([2**63 - 1, 2**40, 99_000_000, 2, 0], 2**63 - 1, 0))
def test_headers_that_promise_too_much(place, length):
    for name in ("synthetic.safetensors", "checkpoint.safetensors"):
        place.replace(name, length.to_bytes(8, "little") + b"{}")
    place.forget("synthetic.safetensors")
    place.check("eval", refused=True, says="synthetic.safetensors")
    place.check("resume", refused=True, says="checkpoint.safetensors")


def test_an_array_that_promises_more_than_its_file_holds(place):
    header = {"descr": "|u1", "fortran_order": False, "shape": (2**40, 16, 16)}
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(place.work / "data.npz", "w") as archive:
        for name in ARRAYS:
            archive.writestr(f"{name}.npy", stream.getvalue())
    run = "run dataset=npz dataset.root=data.npz method=random hydra.run.dir=new"
    place.check(run, refused=True, says="another number of bytes than its header says")
