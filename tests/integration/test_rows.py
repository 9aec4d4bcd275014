"""A sweep over settings: folders, tables, lists and pages name what differs."""

import csv
import io
import json
import shutil

import command_line
import pytest
from generated import NPZ

SHAPE, KAPPA = "method.matchers.shape.weight", "method.schedulers.pace.kappa.start"
ROWS = ["HoP-TM, κ 1e-7, λ 0.5", "HoP-TM, κ 1e-7, λ 1", "HoP-TM, κ 0.001, λ 0.5", "HoP-TM, κ 0.001, λ 1"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, experts_root, npz_file):
    """The folder of a sweep over kappa and lambda, two seeds each; read it only."""
    folder = tmp_path_factory.mktemp("rows") / "sweep"
    done = command_line.invoke(
        "run", "-m", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *command_line.TINY_RUN,
        "protocol.random_subset=true", f"{KAPPA}=1e-7,1e-3", f"{SHAPE}=0.5,1", "seed=0,1", f"hydra.sweep.dir={folder}",
        cwd=folder.parent, environment={"HOPTM_EXPERTS": str(experts_root)},
    )  # fmt: skip
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def begun(sweep, tmp_path):
    """A copy of the sweep in which runs are interrupted, failed, at work, and damaged."""
    folder = tmp_path / "runs"
    shutil.copytree(sweep, folder)
    interrupted, failed, running, damaged, *_ = sorted(folder.glob("*-hoptm-*"))
    for place in (interrupted, failed, running):
        (place / "result.json").unlink()
    (failed / "failure.txt").write_text("iteration 3: a loss became NaN\x1b[2J {0}\n")
    (running / ".lock").write_text("process 1 on another-machine\n")
    (damaged / "result.json").write_text("{")
    return folder


def test_folders_of_a_sweep_say_what_is_swept_over(sweep):
    names = sorted(path.name for path in sweep.iterdir() if path.is_dir())
    assert len(names) == 8
    assert names[0] == "0-hoptm-npz-ipc1-seed0-kappa.start_1e-07-shape.weight_0.5"
    assert names[-1] == "7-hoptm-npz-ipc1-seed1-kappa.start_0.001-shape.weight_1"


def test_rows_are_named_by_what_differs_and_pool_their_seeds(sweep, bench):
    result = bench("compare", str(sweep), "--format", "json")
    assert result.code == 0, result.err
    rows = [row for row in json.loads(result.out) if row["method"] != "fresh random subsets*"]
    assert [row["method"] for row in rows] == ROWS
    assert [row["seeds"] for row in rows] == [2] * 4
    assert rows[0]["settings"] == {KAPPA: 1e-7, SHAPE: 0.5}
    read = list(csv.DictReader(io.StringIO(bench("compare", str(sweep), "--format", "csv").out)))
    assert json.loads(read[1]["settings"]) == {KAPPA: 1e-7, SHAPE: 0.5}
    assert float(read[1]["balanced_accuracy"]) == rows[0]["balanced_accuracy"]


def test_cards_alone_name_their_rows(sweep, bench, tmp_path):
    for path in sweep.glob("*/result.json"):
        (tmp_path / "cards" / path.parent.name).mkdir(parents=True)
        shutil.copy(path, tmp_path / "cards" / path.parent.name)
    out = bench("compare", "cards", "--metric", "ece", "--sort", "result", "--best", "--no-tests").out
    shown = [line for line in out.splitlines() if line.strip().startswith(tuple(ROWS)) and ", IPC" not in line]
    assert len(shown) == 1, out
    assert "Only the best 1 of each method's settings is shown" in out
    assert "lower is better" in out


def test_a_page_names_its_runs_and_curves_by_the_rows(sweep, bench, tmp_path):
    result = bench("report", str(sweep))
    assert result.code == 0, result.err
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{ROWS[0]}, generated, IPC 1, seed 1" in page
    legend = page.partition('aria-label="Legend of')[2].partition("</ul>")[0]
    assert all(row in legend for row in ROWS)
    assert page.index("Best: <strong>HoP-TM, κ") < page.index("<nav")


def test_runs_are_listed_with_state_settings_and_result(begun, bench):
    result = bench("runs", "runs", "--json")
    assert result.code == 0, result.err
    interrupted, failed, running, damaged, *finished = json.loads(result.out)
    assert [interrupted["state"], interrupted["told"]] == ["interrupted", "at iteration 4 of 4"]
    assert failed["state"] == "failed"
    assert failed["told"].endswith("iteration 3: a loss became NaN\\x1b[2J {0}")
    assert [running["state"], running["told"]] == ["running", "at iteration 4 of 4, by process 1 on another-machine"]
    assert damaged["state"] == "damaged"
    assert {run["state"] for run in finished} == {"finished"}
    assert finished[-1]["settings"] == {KAPPA: 1e-3, SHAPE: 1}
    assert 0 <= finished[-1]["accuracy"] <= 1
    table = bench("runs", "runs").out
    assert "κ 0.001, λ 1" in table
    assert "\x1b" not in table


def test_lists_are_filtered_by_state_and_settings(begun, bench):
    def listed(*arguments):
        result = bench("runs", "runs", "--csv", *arguments)
        assert result.code == 0, result.err
        return [row["folder"].partition("-")[0] for row in csv.DictReader(io.StringIO(result.out))]

    assert listed("--state", "failed") == ["runs/1"]
    assert listed("kappa.start=0.001", "shape.weight=1.0") == ["runs/6", "runs/7"]
    assert listed("κ=1e-7", "seed=1") == ["runs/1", "runs/3"]
    assert listed("method=hoptm", "dataset=npz", "ipc=2") == []
    assert bench("runs", "runs", "ipc=2").out == "no such run\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere",), "nowhere: no such folder"),
        (("runs", "kapa.start=1"), "kapa.start=1: no run has such a setting"),
        (("runs", "learning_rate=1"), "may be any of distillation.images.learning_rate"),
        (("runs", "=1"), "no filter"),
        (("runs", "--state", "lost"), "invalid choice"),
    ],
)
def test_what_cannot_be_listed_is_one_error(arguments, says, begun, bench):
    result = bench("runs", *arguments)
    assert result.code == 2
    assert result.out == ""
    (line, *_) = result.err.splitlines()
    assert line.startswith("error: ")
    assert says in line


def test_nothing_is_written_by_listing(begun, bench):
    def files():
        return {path: path.stat().st_mtime_ns for path in begun.rglob("*")}

    before = files()
    assert bench("runs", "runs").code == 0
    assert files() == before


def test_unfinished_runs_are_said_to_be_left_out(begun, bench, tmp_path):
    damaged = sorted(begun.glob("3-*"))[0]
    shutil.rmtree(damaged)
    for command in ("compare", "report"):
        result = bench(command, "runs")
        assert result.code == 0, result.err
        (line,) = [line for line in result.err.splitlines() if "left out" in line]
        assert line.startswith("warning: left out, since not finished: runs/0-hoptm-")
        assert line.count("runs/") == 3
    assert "Left out, since not finished: 0-hoptm-" in (tmp_path / "report.html").read_text(encoding="utf-8")
    for place in begun.glob("*/result.json"):
        place.unlink()
    refused = bench("compare", "runs")
    assert refused.code == 2
    assert "none of the runs in it is finished" in refused.err


def test_a_failed_run_says_why_until_it_goes_on(bench, npz_file, tmp_path):
    tiny = ("run", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *command_line.TINY_RUN, "hydra.run.dir=runs/one")
    failed = bench(*tiny, "distillation.images.learning_rate=1e30", "distillation.iterations=3")
    assert failed.code == 1, failed.err
    (run,) = json.loads(bench("runs", "--json").out)
    assert run["state"] == "failed"
    assert "distillation.images.learning_rate" in run["told"]
    assert bench("runs", "--state", "finished").out == "no such run\n"
