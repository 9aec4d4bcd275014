"""Every method by its name on the command line, from real files to its card, and what is special about each."""

from __future__ import annotations

import json

import pytest
import torch
from command_line import SHORT_LOOP, TINY_NETWORK, TINY_PROTOCOL, TINY_RUN, call, card, start
from generated import NPZ
from safetensors import safe_open
from test_reproducibility import kill_when

from hoptm_plugin.cards.card import read_card
from hoptm_plugin.storage.sets import read_set

PLAIN = (*NPZ, *TINY_NETWORK, *TINY_PROTOCOL)
ONE_EXPERT = ("experts.count=1", "experts.training.batch=8", "method.teacher_epoch=1")
CROPS = ("method.initial_images.name=scored_crops", "++method.initial_images.teacher_epoch=1")
QUEUE = ("method.training_steps=1", "method.training_batch=8", "method.new_network_every=2", "method.queue_size=5")
ALONG = ("method.real_batch=4", "method.last_epoch=2", "experts.count=2", "experts.training.batch=8")
GRADIENTS = ("method.real_batch=4", "method.outer_steps=2", "method.inner_epochs=2")
FAR_EXPERTS = ("experts.training.batch=8", "distillation.skip_above=100")
BUDGETS = {
    "random": (), "herding": ONE_EXPERT, "kcenter": ONE_EXPERT, "full": ("protocol.epochs=3",),
    "dm": (*SHORT_LOOP, "method.real_batch=4"), "dp": SHORT_LOOP, "idm": (*SHORT_LOOP, "method.real_batch=4", *QUEUE),
    "rded": ("experts.count=1", "experts.training.batch=512", *CROPS, "method.labels.teacher_epoch=1"),
    "dc": (*SHORT_LOOP, *GRADIENTS), "dsa": (*SHORT_LOOP, *GRADIENTS),
    "mtt": TINY_RUN, "ftd": TINY_RUN, "att": TINY_RUN, "hoptm": TINY_RUN, "tesla": TINY_RUN,
    "mct": (*TINY_RUN, "method.view.waypoints=[0,1,2]"),
    "datm": (*TINY_RUN, *FAR_EXPERTS, "method.schedulers.sequential.first=1", "method.schedulers.sequential.last=1",
             "method.labels.teacher_epoch=2", "method.initial_images.name=real",
             "~method.initial_images.teacher_epoch"),
    "tgdd": (*SHORT_LOOP, *ALONG), "ncfm": (*SHORT_LOOP, *ALONG, "method.matcher.frequencies=32"),
}  # fmt: skip
BUDGETS["pad"] = (*BUDGETS["datm"], "experts.training.curriculum.all_at=1",
                  "experts.training.curriculum.scoring_networks=1",
                  "experts.training.curriculum.scoring_epochs=1")  # fmt: skip


@pytest.fixture
def run(bench, npz_file):
    """Run a method on the generated npz on a tiny budget."""

    def go(method, *more, command="run"):
        return bench(command, f"method={method}", "dataset=npz", f"dataset.root={npz_file}", *PLAIN, *BUDGETS[method],
                     *more)  # fmt: skip

    return go


def succeed(result):
    assert result.code == 0, result.err
    assert "Traceback" not in result.err
    return result


@pytest.mark.parametrize("method", BUDGETS)
def test_every_method_runs_from_files_to_card(run, tmp_path, method):
    result = succeed(run(method, "hydra.run.dir=out", "ipc=2"))
    found = read_card(tmp_path / "out")
    assert found.method == method
    assert found.title in result.out
    assert found.ipc == (None if method == "full" else 2)
    assert (found.averaged is not None) == (method in ("ftd", "att"))
    assert found.reported is None
    assert len(found.evaluations) == 1
    counts = {"full": (24, 24), "idm": (6, 24), "ncfm": (6, 24)}.get(method, (6, 6))
    assert (found.images_stored, found.images_trained_on) == counts


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("dataset.preprocess.normalisation=measured", "measured constants are made of the data"),
        ("method.initial_images.name=real", "real images void the guarantee"),
        ("distillation.selection=validation", "distillation.selection=validation: chooses by looking at the data"),
    ],
)
def test_what_voids_a_guarantee_is_refused(run, tmp_path, setting, said):
    refused = run("dp", setting, "hydra.run.dir=out")
    assert (refused.code, refused.err.count("error: ")) == (2, 1)
    assert said in refused.err
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", BUDGETS)
def test_every_method_runs_on_a_gpu(run, tmp_path, method):
    succeed(run(method, "runtime.device=cuda", "hydra.run.dir=out", "ipc=2"))
    assert "CPU" not in card(tmp_path / "out")["cost"]["device"]


def test_no_method_of_the_command_line_is_left_out(bench):
    listed = succeed(bench("list", "methods")).out
    assert all(f"\n{method} " in listed for method in BUDGETS), listed
    papers = (
        "2203.11932", "2211.11004", "2310.05773", "2110.04181", "2307.09742", "2509.24177", "2312.03526", "2406.19827",
        "2408.03360", "2512.02469", "2502.20653", "2006.05929", "2102.08259",
    )  # fmt: skip
    for paper in papers:
        assert paper in listed


def test_full_data_copies_no_images_into_the_run_folder(run, tmp_path):
    succeed(run("full", "hydra.run.dir=out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.yaml", "result.json"}
    assert card(tmp_path / "out")["cost"]["distill_s"] is None
    assert card(tmp_path / "out")["random_subset"] is None


def test_idm_stores_mosaics_that_eval_takes_apart(run, bench, tmp_path):
    succeed(run("idm", "hydra.run.dir=out", "protocol.epochs=4"))
    stored = read_set(tmp_path / "out/synthetic.safetensors")
    assert (stored.mosaic, len(stored.images), len(stored)) == (2, 3, 12)
    succeed(bench("eval", f"synthetic={tmp_path / 'out'}", "hydra.run.dir=again"))
    assert card(tmp_path / "again")["evaluations"] == card(tmp_path / "out")["evaluations"]
    assert card(tmp_path / "again")["ipc"] == 1


@pytest.mark.parametrize("method", ["dm", "mtt"])
def test_crops_that_experts_find_easy_start_other_methods(run, tmp_path, method):
    succeed(run("rded", "hydra.run.dir=rded", "ipc=2"))
    still = ("distillation.images.learning_rate=0", "experts.count=2", "experts.training.batch=512")
    succeed(run(method, "hydra.run.dir=out", "ipc=2", *CROPS, *still))
    crops, started = (read_set(tmp_path / name / "synthetic.safetensors") for name in ("rded", "out"))
    assert crops.soft
    assert torch.equal(started.images, crops.images)
    assert read_card(tmp_path / "out").images_are == read_card(tmp_path / "rded").images_are == "from_real"


@pytest.mark.parametrize("name", ["correct", "scored_crops"])
def test_missing_experts_are_trained_for_initial_images_of_a_method_without_experts(run, tmp_path, name):
    """Whoever asks experts without gradients must not train them so."""
    begun = (f"method.initial_images.name={name}", "+method.initial_images.teacher_epoch=5", "experts.count=4",
             f"experts.root={tmp_path / 'none-yet'}")  # fmt: skip
    succeed(run("dm", "hydra.run.dir=out", *begun, "experts.training.batch=8"))
    assert len(list((tmp_path / "none-yet").rglob("expert-*.safetensors"))) == 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("ipc=3", "method.initial_images.factor=2"), "takes crops of 12 images of each class, but looks at 8 of"),
        (("ipc=3", "method.initial_images.candidates=2"), "method.initial_images.candidates: factor=1 with ipc=3"),
        (("method.initial_images.factor=3",), "images of 16x16 pixels are no 3x3 equal tiles"),
        (("method.initial_images.area=[0.5,0.1]",), "method.initial_images: area must be two shares"),
        (("network.norm=batch",), "no expert can score crops: network Classifier: keeps running"),
        (("method.initial_images.observers=2",), "images.observers: 2 experts are to score, but there are 1; set"),
    ],
)
def test_crops_that_there_are_not_are_refused(run, tmp_path, settings, said):
    refused = run("rded", "hydra.run.dir=out", *settings)
    assert (refused.code, refused.err.count("error: ")) == (2, 1)
    assert said in refused.err
    assert not (tmp_path / "out").exists()


def test_datm_learns_labels(run, tmp_path):
    succeed(run("datm", "hydra.run.dir=out"))
    stored = read_set(tmp_path / "out/synthetic.safetensors")
    assert stored.soft
    rows = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    assert all(row["skipped"] == 0 for row in rows)


@pytest.mark.slow
def test_the_average_is_stored_judged_and_judged_again(run, bench, tmp_path):
    result = succeed(run("ftd", "hydra.run.dir=out", "distillation.average_decay=0.5"))
    assert "FTD, EMA" in result.out
    found = card(tmp_path / "out")
    assert "synthetic_average.safetensors" in found["artefacts"]
    with (
        safe_open(tmp_path / "out/synthetic_average.safetensors", "pt") as average,
        safe_open(tmp_path / "out/synthetic.safetensors", "pt") as plain,
    ):
        assert torch.equal(average.get_tensor("step_size"), plain.get_tensor("step_size"))
        assert not torch.equal(average.get_tensor("images"), plain.get_tensor("images"))
    succeed(bench("eval", f"synthetic={tmp_path / 'out'}", "hydra.run.dir=again"))
    again = card(tmp_path / "again")
    assert [again[key] for key in ("evaluations", "averaged")] == [found[key] for key in ("evaluations", "averaged")]
    succeed(bench("eval", f"synthetic={tmp_path / 'out'}", "protocol.warm_start_average=true", "hydra.run.dir=warm"))
    warm = card(tmp_path / "warm")
    assert warm["evaluations"] == found["evaluations"]
    assert warm["averaged"] != found["averaged"]
    table = succeed(bench("compare", "out", "--format", "json")).out
    assert {cell["method"] for cell in json.loads(table)} == {"FTD", "FTD, EMA"}


def test_tesla_changes_the_result_and_bad_gradients_are_named(run, tmp_path):
    for name in ("exact", "tesla"):
        succeed(run("mtt", f"method.gradient={name}", f"hydra.run.dir={name}", "method.step_size=0.1"))
    sets = [read_set(tmp_path / name / "synthetic.safetensors").images for name in ("exact", "tesla")]
    assert not torch.equal(*sets)
    refused = run("mtt", "method.gradient=approximate", "hydra.run.dir=no")
    assert refused.code == 2
    assert "method.gradient" in refused.err


@pytest.mark.slow
def test_resume_auto_begins_and_then_leaves_a_sweep_as_it_is(run, tmp_path):
    sweep = ("hydra.sweep.dir=sweep", "resume=auto", "-m", "ipc=1,2")
    succeed(run("random", *sweep))
    cards = sorted((tmp_path / "sweep").glob("*/result.json"))
    assert len(cards) == 2
    before = [path.stat().st_mtime_ns for path in cards]
    cards[1].unlink()
    succeed(run("random", *sweep))
    assert cards[0].stat().st_mtime_ns == before[0]
    assert cards[1].exists()


def test_one_table_from_a_sweep_over_methods(run, bench, tmp_path):
    for method in ("random", "dm", "full"):
        succeed(run(method, f"hydra.run.dir=runs/{method}", "protocol.repeats=2"))
    result = succeed(bench("compare", "runs"))
    assert result.out.count("IPC 1") >= 1
    for name in ("Random subset", "DM", "Upper bound, Full data"):
        assert name in result.out
    latex = succeed(bench("compare", "runs", "--format", "latex", "--output", "table.tex"))
    assert "\\toprule" in (tmp_path / "table.tex").read_text()
    assert not latex.out.count("\\toprule")
    refused = bench("compare", "runs", "--against", "nobody")
    assert refused.code == 2
    assert "DM" in refused.err
    assert "Traceback" not in refused.err


def test_cite_prints_the_sources_of_the_composition(bench):
    out = succeed(bench("cite", "method=ftd")).out
    for wanted in ("@inproceedings{du2023ftd", "gsam", "dsa"):
        assert wanted in out
    refused = bench("cite", "method=nobody")
    assert refused.code == 2
    assert "nobody" in refused.err


@pytest.mark.campaign
@pytest.mark.parametrize("method", ["idm", "ftd", "ncfm"])
def test_killed_and_resumed_equals_uninterrupted(method, npz_file, tmp_path):
    """IDM's queue of networks in training, FTD's average and AdamW's averages are what must survive."""
    arguments = ("run", f"method={method}", "dataset=npz", f"dataset.root={npz_file}", *PLAIN, *BUDGETS[method],
                 f"experts.root={tmp_path / 'experts'}", "distillation.iterations=40",
                 "distillation.checkpoint_every=3", "distillation.log_every=1")  # fmt: skip
    whole = call(*arguments, "hydra.run.dir=whole", cwd=tmp_path)
    assert whole.code == 0, whole.err
    killed = tmp_path / "killed"
    kill_when(start(*arguments, "hydra.run.dir=killed", cwd=tmp_path), (killed / "checkpoint.safetensors").exists)
    assert not (killed / "result.json").exists()
    resumed = call(*arguments, "hydra.run.dir=killed", "resume=auto", cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    for name in ("synthetic.safetensors", "metrics.jsonl"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for key in ("evaluations", "averaged"):
        assert card(killed)[key] == card(tmp_path / "whole")[key]


@pytest.mark.slow
def test_what_is_judged_without_its_run_has_no_reported_figure_and_an_average_is_named(run, bench, npz_file, tmp_path):
    succeed(run("ftd", "hydra.run.dir=out", "seed=3"))
    (tmp_path / "elsewhere").mkdir()
    for name in ("synthetic", "synthetic_average"):
        (tmp_path / f"elsewhere/{name}.safetensors").write_bytes((tmp_path / f"out/{name}.safetensors").read_bytes())
        succeed(bench("eval", f"synthetic=elsewhere/{name}.safetensors", "dataset=npz", f"dataset.root={npz_file}",
                      *PLAIN, f"hydra.run.dir={name}"))  # fmt: skip
    plain, average = (card(tmp_path / name) for name in ("synthetic", "synthetic_average"))
    assert (plain["title"], average["title"]) == ("FTD", "FTD (moving average)")
    assert plain["reported"] is None
    assert average["reported"] is None
    assert (plain["seed"], plain["distillation_seed"]) == (0, 3)
    assert plain["averaged"] is None


def test_a_run_without_a_set_says_so(run, bench, tmp_path):
    succeed(run("full", "hydra.run.dir=out"))
    refused = bench("eval", "synthetic=out")
    assert refused.code == 2
    assert "since its method trained on all images and distils nothing" in refused.err


@pytest.mark.parametrize("setting", ["experts.training=null", "method=null", "networks=3", "method.matcher=null"])
def test_cite_refuses_what_cannot_run(bench, setting):
    refused = bench("cite", "method=idm", setting)
    assert refused.code == 2
    assert "Traceback" not in refused.err
