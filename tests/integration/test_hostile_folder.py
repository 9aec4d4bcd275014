"""Run folders and exports made to run code, to write elsewhere or to fill the memory: refused, and nothing happens."""

import json
import os
import pickle
import shutil
import signal
import time
import zipfile

import numpy as np
import pytest
import torch
import yaml
from command_line import forked

from hoptm_plugin.core.files import with_checksum
from hoptm_plugin.core.tensors import METADATA_KEY


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def hostile(finished_run, tmp_path):
    """A copy of a finished run without its card, to be spoiled; and where nothing may appear."""
    (tmp_path / "here").mkdir()
    shutil.copytree(finished_run, tmp_path / "here/run")
    return tmp_path / "here/run"


def refused(arguments, folder, *says, code=2):
    """Run a command on the folder; it must end soon, with one message and nothing left anywhere."""
    outside = folder.parent.parent
    before = snapshot(outside)
    began = time.monotonic()
    with forked(*arguments, cwd=folder.parent, environment={"HOPTM_EXPERTS": str(outside / "experts")}) as running:
        result = running.result()
    assert time.monotonic() - began < 60
    assert result.code == code, result
    assert "Traceback" not in result.err + result.out
    assert result.err.count("error: ") == 1, result.err
    assert "\x1b" not in result.err
    for said in says:
        assert said in result.err, result.err
    assert snapshot(outside) == before, "something was written or made"
    return result


def snapshot(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if not path.is_dir()}


def everything(folder):
    """Return the commands that read a run folder."""
    return {
        "resume": ("run", f"hydra.run.dir={folder}", "resume=true"),
        "eval": ("eval", f"synthetic={folder}", "hydra.run.dir=judged"),
        "verify": ("verify", str(folder)),
        "export": ("export", str(folder), "--format", "safetensors", "-o", "exported"),
    }


def pickled(path, sentinel):
    path.write_bytes(pickle.dumps({"images": Bomb(sentinel)}))


def torch_pickled(path, sentinel):
    torch.save({"images": Bomb(sentinel)}, path)


def objects(path, sentinel):
    np.save(path.with_suffix(".npy"), np.array([Bomb(sentinel)], dtype=object), allow_pickle=True)
    path.with_suffix(".npy").rename(path)


def huge_header(path, sentinel):
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")


def header_that_promises(path, sentinel):
    """A tensor of 64 TiB in a file of a few bytes."""
    header = json.dumps({"images": {"dtype": "F32", "shape": [2**44], "data_offsets": [0, 2**46]},
                         "__metadata__": {METADATA_KEY: "{}"}}).encode()  # fmt: skip
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def deep_metadata(path, sentinel):
    from safetensors.torch import save_file

    save_file({"images": torch.zeros(1)}, path, {METADATA_KEY: "[" * 100_000})


@pytest.mark.parametrize("command", ["resume", "eval", "verify", "export"])
@pytest.mark.parametrize("make", [pickled, torch_pickled, objects, huge_header, header_that_promises, deep_metadata],
                         ids=lambda make: make.__name__)  # fmt: skip
def test_files_in_disguise(make, command, hostile, tmp_path):
    (hostile / "result.json").unlink()
    name = "checkpoint.safetensors" if command == "resume" else "synthetic.safetensors"
    make(hostile / name, tmp_path / "sentinel")
    says = ("is not finished",) if command == "verify" else (name,)
    refused(everything(hostile)[command], hostile, *says)
    assert not (tmp_path / "sentinel").exists()


CONFIGURATIONS = {
    "a tag that calls": "!!python/object/apply:os.system ['touch {sentinel}']",
    "a tag within": "method: !!python/object/apply:os.system ['touch {sentinel}']",
    "a name": "method: !!python/name:os.system",
    "a bomb of aliases": "\n".join(
        ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    ),
    "depth": "[" * 5000,
    "a list": "[1, 2]",
}


@pytest.mark.parametrize("command", ["resume", "eval", "verify"])
@pytest.mark.parametrize("kind", list(CONFIGURATIONS))
def test_configurations_that_call(kind, command, hostile, tmp_path):
    (hostile / "config.yaml").write_text(CONFIGURATIONS[kind].replace("{sentinel}", str(tmp_path / "sentinel")))
    if command == "resume":
        (hostile / "result.json").unlink()
    refused(everything(hostile)[command], hostile, "config.yaml")
    assert not (tmp_path / "sentinel").exists()


SETTINGS = {
    "_target_ at the top": ({"_target_": "os.mkdir", "path": "{sentinel}"}, ("_target_",)),
    "_target_ in a part": ({"augment": {"_target_": "os.mkdir", "name": "dsa"}}, ("augment",)),
    "a class path": ({"augment": {"name": "os.system"}}, ("os.system",)),
    "a network by path": ({"network": {"name": "builtins.eval"}}, ("builtins.eval",)),
    "Hydra's own": ({"hydra": {"run": {"dir": "{sentinel}"}}}, ("hydra",)),
    "a logger": ({"loggers": [{"name": "subprocess.Popen", "args": "touch {sentinel}"}]}, ("subprocess.Popen",)),
    "experts elsewhere": ({"experts.root": "{sentinel}"}, ("experts.root", "where no experts lie")),
    "a secret of the environment": ({"method_title": "${oc.env:HOME}", "ipc": "${oc.env:HOME}"}, ("ipc",)),
}


@pytest.mark.parametrize("kind", list(SETTINGS))
def test_settings_of_a_run_folder_pass_the_same_validation(kind, hostile, tmp_path):
    changes, says = SETTINGS[kind]
    (hostile / "result.json").unlink()
    values = yaml.safe_load((hostile / "config.yaml").read_text())
    text = json.dumps(changes).replace("{sentinel}", str(tmp_path / "sentinel"))
    for key, value in json.loads(text).items():
        group, _, name = key.rpartition(".")
        if group:
            values[group][name] = value
        else:
            values[key] = value
    (hostile / "config.yaml").write_text(yaml.safe_dump(values))
    result = refused(everything(hostile)["resume"], hostile, *says)
    assert os.environ["HOME"] not in result.err.replace(str(hostile.parent.parent), "")
    assert not (tmp_path / "sentinel").exists()


def test_a_setting_of_the_environment_is_never_looked_up(hostile, bench):
    """Text in a stored configuration stays text."""
    values = yaml.safe_load((hostile / "config.yaml").read_text())
    values["method_title"] = "${oc.env:HOME}"
    (hostile / "config.yaml").write_text(yaml.safe_dump(values))
    (hostile / "result.json").unlink()
    result = bench("run", f"hydra.run.dir={hostile}", "resume=true")
    assert result.code == 0, result.err
    assert "${oc.env:HOME} on generated" in result.out


def test_experts_of_a_store_that_is_there_are_read(hostile, bench, experts_root, tmp_path):
    (hostile / "result.json").unlink()
    result = bench("run", f"hydra.run.dir={hostile}", "resume=true", experts=tmp_path / "other")
    assert result.code == 0, result.err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["../../sentinel", "/sentinel", "a/../../../sentinel", "C:\\sentinel"])
def test_names_that_lead_out_of_an_export(name, hostile, bench, tmp_path):
    assert bench("export", str(hostile), "--format", "folder", "-o", str(hostile.parent / "set")).code == 0
    manifest = json.loads((hostile.parent / "set/export.json").read_text())
    manifest["files"][name] = "0" * 64
    (hostile.parent / "set/export.json").write_text(json.dumps(with_checksum(manifest)))
    for command in (("verify", "set"), ("eval", "synthetic=set", "dataset=digits", "hydra.run.dir=judged")):
        refused(command, hostile, "export.json")


def test_a_card_whose_files_lead_elsewhere(hostile, tmp_path):
    """They are compared and nothing more; what is not there is missing."""
    (tmp_path / "secret").write_text("secret")
    card = json.loads((hostile / "result.json").read_text())
    card["artefacts"]["../../secret"] = "0" * 64
    (hostile / "result.json").write_text(json.dumps(with_checksum(card)))
    with forked("verify", "--checksums", str(hostile), cwd=hostile.parent) as running:
        result = running.result()
    assert result.code == 1
    assert "Traceback" not in result.err
    assert "NOT verified: ../../secret is " in result.out


@pytest.mark.parametrize("name", ["result.json", "config.yaml", "synthetic.safetensors", "metrics.jsonl"])
@pytest.mark.parametrize("command", ["resume", "eval", "verify", "export", "report", "compare"])
def test_pipes_are_not_waited_for(command, name, hostile):
    (hostile / name).unlink()
    os.mkfifo(hostile / name)
    commands = everything(hostile) | {
        "report": ("report", str(hostile), "-o", "page.html"),
        "compare": ("compare", str(hostile)),
    }
    began = time.monotonic()
    with forked(*commands[command], cwd=hostile.parent) as running:
        result = running.result()
    assert time.monotonic() - began < 60
    assert result.code != -signal.SIGKILL
    assert "Traceback" not in result.err, result.err


@pytest.mark.parametrize("name", ["synthetic.safetensors", "result.json", "config.yaml"])
def test_escape_sequences_do_not_reach_the_terminal(name, hostile):
    (hostile / name).write_bytes(b'{"\x1b]0;title\x07\x1b[31m": "\x1b[2J"}')
    command = "compare" if name == "result.json" else "eval"
    arguments = ("compare", str(hostile)) if command == "compare" else everything(hostile)["eval"]
    refused(arguments, hostile, name)


def test_a_compressed_bomb_is_not_unpacked(hostile, bench, tmp_path):
    """A gibibyte of zeros in a megabyte: refused by its header, before memory is taken."""
    assert bench("export", str(hostile), "--format", "medmnist", "-o", str(hostile.parent / "set")).code == 0
    path = hostile.parent / "set/distilled.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("train_images.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "|u1", "fortran_order": False, "shape": (2**30, 1, 1, 1)}
        )
        for _ in range(2**10):
            stream.write(bytes(2**20))
    manifest = json.loads((hostile.parent / "set/export.json").read_text())
    from hoptm_plugin.core.files import sha256

    manifest["files"]["distilled.npz"] = sha256(path)
    (hostile.parent / "set/export.json").write_text(json.dumps(with_checksum(manifest)))
    refused(("verify", "set"), hostile, "distilled.npz", "expected")
