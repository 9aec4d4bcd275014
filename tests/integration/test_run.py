"""Every command from its arguments to what it prints and writes, on tiny budgets."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sys
import time
from pathlib import Path

import command_line
import pytest
import torch
import yaml
from command_line import TINY_EXPERTS, TINY_LOOP, TINY_NETWORK, TINY_PROTOCOL, TINY_RUN, card
from generated import NPZ, SIZE
from PIL import Image

from hoptm_plugin.cards.card import read_card
from hoptm_plugin.storage.sets import read_set

FILES = {"config.yaml", "metrics.jsonl", "checkpoint.safetensors", "synthetic.safetensors", "synthetic.png",
         "initial.png", "result.json", "trained_on.safetensors"}  # fmt: skip

THREE_CLASSES = ("dataset.classes=[COVID,Normal,Viral Pneumonia]",)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def succeed(result):
    assert result.code == 0, result.err
    assert "Traceback" not in result.err
    return result


def test_what_a_network_remarks_on_is_said_once_before_the_work(bench, npz_file):
    data = ("dataset=npz", f"dataset.root={npz_file}", *NPZ, "method=random", *TINY_NETWORK, *TINY_PROTOCOL)
    result = succeed(bench("run", *data, "network.depth=4", "networks=[convnet]"))
    assert result.err.count("network.depth=4 leaves maps of one pixel of 16x16 images") == 1
    assert "usual at this size is network.depth=2" in result.err


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("hoptm", (*TINY_EXPERTS, *TINY_LOOP, "protocol.random_subset=true")),
        pytest.param("mtt", (*TINY_EXPERTS, *TINY_LOOP), marks=pytest.mark.slow),
        ("random", ()),
    ],
)
def test_run_writes_a_whole_folder(method, settings, bench, tmp_path):
    budget = (*TINY_NETWORK, *TINY_PROTOCOL, *settings)
    result = succeed(bench("run", f"method={method}", *budget, "hydra.run.dir=out"))
    folder = tmp_path / "out"
    assert names(folder) == FILES
    assert names(tmp_path) == {"out"}

    found = read_card(folder)
    assert (found.method, found.ipc, found.dataset.name) == (method, 1, "digits")
    assert set(found.artefacts) == FILES - {"result.json", "checkpoint.safetensors"}
    for name, digest in found.artefacts.items():
        assert sha256(folder / name) == digest
    assert [evaluation.network for evaluation in found.evaluations] == ["convnet(depth=2,width=4)"]
    assert 0 <= found.evaluations[0].accuracy.mean <= 1

    synthetic = read_set(folder / "synthetic.safetensors")
    assert synthetic.images.shape == (10, 1, 32, 32)
    assert synthetic.labels.tolist() == list(range(10))
    assert (found.images_stored, found.images_trained_on, found.distilled_from) == (10, 10, None)
    expected = {"method_id": method, "dataset": "digits", "ipc": 1, "seed": 0, "selection": "last",
                "fingerprint": found.dataset.fingerprint}  # fmt: skip
    assert set(synthetic.info.pop("splits")) == {"train", "validation", "test"}
    origin = {key: synthetic.info.pop(key) for key in ("source", "licence")}
    floor = method == "random"
    assert synthetic.info == expected | {
        "method_title": found.title, "images_are": "real" if floor else "from_real", "floor": floor
    }  # fmt: skip
    assert "Optical Recognition of Handwritten Digits" in origin["source"]
    assert origin["licence"] == "CC BY 4.0"
    with Image.open(folder / "synthetic.png") as grid:
        assert min(grid.size) > 32
    pictures = [(folder / name).read_bytes() for name in ("initial.png", "synthetic.png")]
    assert (pictures[0] == pictures[1]) == (method == "random"), "distilling changes images, choosing does not"

    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == ([0] if method == "random" else [0, 3])
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert stored["recipe"].startswith(f"recipe {method}/digits"), "in words; its settings stand in their places"
    assert stored["method_id"] == method

    assert "accuracy" in result.out
    assert f"{100 * found.evaluations[0].accuracy.mean:.2f}" in result.out
    assert ("random subset" in result.out) == (method == "hoptm")
    assert (found.random_subset is not None) == (method == "hoptm")
    assert str(folder) in result.out


@pytest.mark.slow
def test_console_script_runs_in_a_default_folder(tmp_path, experts_root, npz_file):
    script = shutil.which("hoptm-bench", path=str(Path(sys.executable).parent))
    assert script is not None, "the package is not installed beside this Python"
    arguments = ("method=random", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_NETWORK, *TINY_PROTOCOL)
    result = succeed(command_line.call("run", *arguments, cwd=tmp_path, program=(script,)))
    (written,) = (tmp_path / "runs").glob("*/*/result.json")
    assert written.parent.name.endswith("-random-npz-ipc1-seed0")
    assert str(written.parent) in result.out


def test_npz_run(finished_run):
    found = read_card(finished_run)
    assert found.dataset.name == "generated"
    assert (found.dataset.train, found.dataset.validation, found.dataset.test) == (24, 6, 12)
    assert read_set(finished_run / "synthetic.safetensors").images.shape == (3, 3, SIZE, SIZE)


def test_folder_run(bench, tmp_path, image_folder):
    dataset = ("dataset=folder", f"dataset.root={image_folder}", *NPZ)
    succeed(bench("run", *dataset, *TINY_RUN, "ipc=2", "hydra.run.dir=out"))
    found = card(tmp_path / "out")
    assert (found["dataset"]["name"], found["dataset"]["classes"]) == ("shapes", ["disc", "square"])
    assert read_set(tmp_path / "out/synthetic.safetensors").labels.tolist() == [0, 0, 1, 1]


def test_covid19cxr_run_stores_its_split_and_never_reads_masks(bench, tmp_path, covid_folder):
    dataset = ("dataset=covid19cxr", f"dataset.root={covid_folder}", *THREE_CLASSES, *NPZ)
    succeed(bench("run", *dataset, *TINY_RUN, "hydra.run.dir=out"))
    found = card(tmp_path / "out")
    split = json.loads((tmp_path / "out/split.json").read_text())
    assert found["artefacts"]["split.json"] == sha256(tmp_path / "out/split.json")
    counts = {name: len(files) for name, files in split.items()}
    assert counts == {name: found["dataset"][name] for name in ("train", "validation", "test")}
    files = [file for part in split.values() for file in part]
    assert sorted(files) == sorted(
        path.relative_to(covid_folder).as_posix() for path in covid_folder.glob("*/images/*")
    )
    assert counts["test"] == 6


def test_checkpoint_chosen_on_the_validation_split_with_soft_labels(bench, tmp_path, npz_file):
    choices = ("distillation.selection=validation", "distillation.evaluate_every=2", "method.labels.name=soft",
               "+method.labels.teacher_epoch=2")  # fmt: skip
    result = succeed(
        bench("run", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_RUN, *choices, "hydra.run.dir=out")
    )
    assert card(tmp_path / "out")["selection"] == "validation"
    assert "best on the validation split" in result.out
    labels = read_set(tmp_path / "out/synthetic.safetensors").labels
    assert labels.shape == (3, 3)
    assert labels.dtype == torch.float32


def test_eval_judges_a_stored_set_on_other_architectures(bench, tmp_path, finished_run):
    before = {path: path.stat().st_mtime_ns for path in finished_run.iterdir()}
    networks = "networks=[convnet,alexnet]"
    result = succeed(bench("eval", f"synthetic={finished_run}", networks, "hydra.run.dir=judged"))
    found = read_card(tmp_path / "judged")
    assert [evaluation.network for evaluation in found.evaluations] == ["convnet(depth=2,width=4)", "alexnet"]
    assert "alexnet" in result.out
    assert "recipe" not in result.err, "the stored settings count, not the recipe"
    assert (found.method, found.title) == ("hoptm", "HoP-TM")
    assert found.artefacts["synthetic.safetensors"] == sha256(finished_run / "synthetic.safetensors")
    assert found.evaluations[0].accuracy == read_card(finished_run).evaluations[0].accuracy
    assert {path: path.stat().st_mtime_ns for path in finished_run.iterdir()} == before


def test_eval_takes_a_file_outside_of_any_run(bench, tmp_path, finished_run, npz_file):
    shutil.copy(finished_run / "synthetic.safetensors", tmp_path / "mine.safetensors")
    dataset = ("dataset=npz", f"dataset.root={npz_file}", *NPZ)
    succeed(bench("eval", "synthetic=mine.safetensors", *dataset, *TINY_NETWORK, *TINY_PROTOCOL, "hydra.run.dir=out"))
    assert names(tmp_path / "out") == {"config.yaml", "result.json"}


def test_experts_are_trained_once_and_served_to_runs(bench, tmp_path, npz_file):
    settings = ("dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_RUN, "experts.seed=5")
    experts = tmp_path / "store"
    result = succeed(bench("experts", *settings, experts=experts))
    files = sorted(experts.rglob("expert-*.safetensors"))
    assert len(files) == 2
    assert f"2 experts of 2 epochs in {files[0].parent}" in result.out
    assert names(tmp_path) == {"store"}, "no run folder is left behind"
    written = [file.stat().st_mtime_ns for file in files]
    assert "Experts" not in succeed(bench("run", *settings, "hydra.run.dir=out", experts=experts)).err
    assert [file.stat().st_mtime_ns for file in files] == written
    assert card(tmp_path / "out")["cost"]["experts_s"] > 0


def test_experts_of_a_method_that_reads_none(bench, tmp_path):
    result = succeed(bench("experts", "method=random", *TINY_NETWORK, experts=tmp_path / "store"))
    assert "reads no experts" in result.out
    assert names(tmp_path) == set()


@pytest.mark.slow
def test_sweep_runs_all_combinations(bench, tmp_path, npz_file):
    dataset = ("dataset=npz", f"dataset.root={npz_file}", *NPZ)
    succeed(bench("run", "-m", "method=hoptm,mtt", *dataset, *TINY_RUN, "hydra.sweep.dir=sweep"))
    folders = sorted(path.parent.name for path in (tmp_path / "sweep").glob("*/result.json"))
    assert folders == ["0-hoptm-npz-ipc1-seed0", "1-mtt-npz-ipc1-seed0"]
    result = succeed(bench("compare", "sweep"))
    assert "HoP-TM" in result.out
    assert "MTT" in result.out


def test_sweep_goes_on_after_a_failure_and_reports_it(bench, tmp_path, npz_file):
    dataset = ("dataset=npz", f"dataset.root={npz_file}", *NPZ)
    result = bench("run", "-m", "ipc=9,1", *dataset, *TINY_RUN, "hydra.sweep.dir=sweep")
    assert result.code == 2
    assert "Traceback" not in result.err
    assert "job 0-hoptm-npz-ipc9-seed0 failed: ipc=9" in result.err
    assert result.err.splitlines()[-3].startswith("error: ipc=9")
    assert names(tmp_path / "sweep") == {"multirun.yaml", "1-hoptm-npz-ipc1-seed0"}


@pytest.mark.campaign
def test_interrupted_run_says_how_to_go_on(tmp_path, experts_root, npz_file):
    dataset = ("dataset=npz", f"dataset.root={npz_file}", *NPZ)
    # so many iterations would be worth half a minute of compiling, which is not what is tested
    endless = ("distillation.iterations=1000000", "distillation.checkpoint_every=1", "hydra.run.dir=out",
               "runtime.compile=false")  # fmt: skip
    process = command_line.start("run", *dataset, *TINY_RUN, *endless, cwd=tmp_path,
                                 environment={"HOPTM_EXPERTS": str(experts_root)})  # fmt: skip
    try:
        while not (tmp_path / "out/checkpoint.safetensors").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=command_line.HANG)
    finally:
        process.kill()
    assert process.returncode == 130
    assert f"error: interrupted; go on with: hoptm-bench run hydra.run.dir={tmp_path / 'out'} resume=true" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("form", ["terminal", "markdown", "csv", "json"])
def test_compare(form, bench, finished_run):
    result = succeed(bench("compare", str(finished_run), "--format", form))
    assert "HoP-TM" in result.out
    assert "generated" in result.out
    if form == "json":
        json.loads(result.out)


def test_list_explains_every_kind(bench):
    out = succeed(bench("list")).out
    for word in ("method=", "pathmnist", "shape_wise_potential", "self_paced", "trajectory_matching", "random_subset",
                 "resnet18_ap", "covid19cxr", "baselines = hoptm_baselines"):  # fmt: skip
        assert word in out
    matchers = succeed(bench("list", "matchers")).out
    assert "HoP-TM Eq. 3" in matchers
    assert "trajectory_matching" not in matchers


@pytest.mark.parametrize("command", ["", "run", "experts", "eval", "list", "compare"])
def test_help_teaches(command, bench, tmp_path):
    result = succeed(bench(*filter(None, [command, "--help"])))
    assert f"hoptm-bench {command}".strip() in result.out
    assert not result.err
    assert names(tmp_path) == set()


def test_version(bench):
    from importlib.metadata import version

    assert succeed(bench("--version")).out == f"hoptm-bench {version('hoptm-plugin')}\n"


def settings(bench, *arguments):
    result = succeed(bench("run", "--cfg", "job", *arguments))
    return yaml.safe_load(result.out), result.err


def test_recipe_applies_by_itself_and_overrides_beat_it(bench, tmp_path):
    plain, note = settings(bench)
    assert note == "recipe hoptm/digits\n"
    assert (plain["network"]["width"], plain["experts"]["count"]) == (32, 5)
    assert plain["experts"]["training"] == plain["experts"]["training"] | {"algorithm": "gsam", "batch": 64}
    given, _ = settings(bench, "network.width=7", "method.sampler.max_start_epoch=9", "experts.training.rho=0.5")
    assert (given["network"]["width"], given["network"]["depth"]) == (7, 3)
    assert given["method"]["sampler"]["max_start_epoch"] == 9
    assert given["experts"]["training"] == plain["experts"]["training"] | {"rho": 0.5}
    assert given["experts"]["count"] == 5
    assert names(tmp_path) == set()


def test_a_chosen_group_shuts_out_the_recipes(bench):
    values, _ = settings(bench, "network=convnet_d4", "experts=sgd")
    assert values["network"] == values["network"] | {"depth": 4, "width": 128}
    assert values["experts"]["training"]["algorithm"] == "sgd"
    assert values["experts"]["training"]["batch"] == 256
    assert values["method"]["student_steps"] == 10, "the method's own settings still come from the recipe"


def test_recipe_by_ipc(bench):
    listed, note = settings(bench, "dataset=pathmnist", "ipc=100")
    assert note == "recipe hoptm/pathmnist, ipc 100\n"
    assert listed["method"]["student_batch"] == 100
    assert listed["reported"]["ipc"]["100"] == {"accuracy": 0.8482, "std": 0.004, "networks": {}}
    nearest, note = settings(bench, "dataset=pathmnist", "ipc=50")
    assert note == "recipe hoptm/pathmnist: none for ipc 50, that of ipc 10 is used\n"
    assert nearest["method"]["student_batch"] == 10
    assert "50" not in nearest["reported"]["ipc"], "what was published for IPC 10 says nothing of 50"
    changed, _ = settings(bench, "dataset=pathmnist", "dataset.size=64")
    assert changed["reported"] is None


def test_interpolations_on_the_command_line(bench):
    values, _ = settings(bench, "ipc=3", "method.student_batch=${ipc}")
    assert values["method"]["student_batch"] == 3
