"""A disk that is full at every stage of every command: one message, nothing lost, and the run goes on to the same."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import command_line
import pytest
from command_line import TINY_RUN, card
from generated import NPZ
from small_disk import FULL, PAGE, contents, mounted, nothing_partial, only_error, pages

from hoptm_plugin.storage.tensors import read_tensors

BEFORE = ("config.yaml", "initial.png", "metrics.jsonl", "checkpoint.safetensors", "trained_on.safetensors",
          "synthetic.safetensors", "synthetic.png", "evaluations.json", "result.json")  # fmt: skip
EVALUATED = 1200  # bytes of evaluations.json, which a finished run removes: one page
INTACT = "What was stored before is intact"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(npz_file):
    return ("dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_RUN)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny):
    """A folder with a run and its experts that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result = command_line.fork("run", *tiny, "hydra.run.dir=run", "experts.root=experts", cwd=folder)
    assert result.code == 0, result.err
    return folder


@pytest.fixture
def disk(tmp_path):
    with mounted(tmp_path / "disk") as small:
        yield small


def same_result(run: Path, undisturbed: Path) -> None:
    name = "synthetic.safetensors"
    assert (run / name).read_bytes() == (undisturbed / "run" / name).read_bytes()
    mine, theirs = card(run), card(undisturbed / "run")
    assert mine["evaluations"] == theirs["evaluations"]
    assert mine["artefacts"].keys() == theirs["artefacts"].keys()


def expert_files(undisturbed: Path) -> list[Path]:
    return sorted((undisturbed / "experts").rglob("*.safetensors"))


def few(values, *kept):
    """Return the parameters of a test, of which every gate tries those ``kept``, and the campaigns all."""
    return [pytest.param(each, marks=() if each in kept else pytest.mark.campaign) for each in values]


def pages_before(stage: str, undisturbed: Path) -> int:
    """Return the pages in use when the first file of a stage is written, with the run's lock."""
    taken = 1
    for name in BEFORE[: BEFORE.index(stage)]:
        if name == "evaluations.json":
            taken += pages([EVALUATED])
        else:
            taken += pages([(undisturbed / "run" / name).stat().st_size])
    return taken


@pytest.mark.parametrize("stage", few(BEFORE, "config.yaml", "checkpoint.safetensors", "evaluations.json"))
def test_a_run_stops_with_one_message_and_goes_on_to_the_same_result(stage, disk, tiny, undisturbed, tmp_path):
    disk.resize(pages_before(stage, undisturbed))
    run = (*tiny, f"hydra.run.dir={disk / 'run'}", f"experts.root={undisturbed / 'experts'}")
    result = command_line.fork("run", *run, cwd=tmp_path)
    named = disk / "run" / stage
    again = "" if stage == "config.yaml" else f"go on with: hoptm-bench run hydra.run.dir={disk / 'run'} resume=true"
    error = only_error(result, named, f"cannot be written: {FULL}; free some space there", INTACT, again)
    assert error.count("\n") == 0
    assert ("go on with" in error) == bool(again)
    nothing_partial(disk.path)
    kept = disk.files()
    assert {Path(name).name for name in kept if name.startswith("run")} >= set(BEFORE[: BEFORE.index(stage)])
    for path in disk.path.rglob("*.safetensors"):
        read_tensors(path, path.stem)

    disk.resize(256)
    result = command_line.fork("run", *run, "resume=auto" if stage == "config.yaml" else "resume=true", cwd=tmp_path)
    assert result.code == 0, result.err
    assert "was killed" not in result.err
    same_result(disk / "run", undisturbed)


@pytest.mark.parametrize("command", few(["experts", "run"], "run"))
@pytest.mark.parametrize(("room", "named", "stored"), [(1, "manifest.json", 0), (2, "expert-00000.safetensors", 0),
                                                       (5, "expert-00001.safetensors", 1)])  # fmt: skip
def test_experts_that_fit_stay_and_the_others_are_trained_when_there_is_space(
    command, room, named, stored, disk, tiny, undisturbed, tmp_path
):
    disk.resize(room)
    command = (command, *tiny, f"experts.root={disk / 'experts'}", "hydra.run.dir=out")
    result = command_line.fork(*command, cwd=tmp_path)
    again = f"go on with: hoptm-bench run hydra.run.dir={tmp_path / 'out'} resume=true"
    if command[0] == "experts":
        again = "; the same command goes on"
    elif named == "manifest.json":  # the store is begun before the run is, so nothing is there to go on with
        again = ""
    only_error(result, named, f"cannot be written: {FULL}; free some space there", INTACT, again)
    nothing_partial(disk.path)
    kept = {name: content for name, content in disk.files().items() if name.endswith(".safetensors")}
    assert len(kept) == stored
    disk.resize(256)
    result = command_line.fork(*command, *(["resume=auto"] if command[0] == "run" else []), cwd=tmp_path)
    assert result.code == 0, result.err
    if command[0] == "run":
        same_result(tmp_path / "out", undisturbed)
    assert disk.files().items() >= kept.items()
    for mine, other in zip(sorted(disk.path.rglob("*.safetensors")), expert_files(undisturbed), strict=True):
        mine, other = read_tensors(mine, "expert")[0], read_tensors(other, "expert")[0]
        assert mine["parameters"].equal(other["parameters"])


def test_no_space_for_so_much_as_a_folder(disk, tiny, undisturbed, tmp_path):
    disk.resize(1)
    (disk / "ballast").write_bytes(bytes(PAGE))
    experts = f"experts.root={undisturbed / 'experts'}"
    result = command_line.fork("run", *tiny, experts, f"hydra.run.dir={disk / 'run'}", cwd=tmp_path)
    only_error(result, disk / "run/.lock", FULL, "free some space")
    assert set(disk.files()) == {"ballast"}


@pytest.mark.parametrize("free", few(range(4), 0, 2))
def test_eval_stops_with_one_message_and_goes_on(free, disk, undisturbed, tmp_path):
    disk.resize(max(1, free))
    if not free:
        (disk / "ballast").write_bytes(bytes(PAGE))
    judge = ("eval", f"synthetic={undisturbed / 'run'}", f"hydra.run.dir={disk / 'judged'}")
    result = command_line.fork(*judge, cwd=tmp_path)
    named = [".lock", "config.yaml", "evaluations.json", "result.json"][free]
    begun = free > 1
    error = only_error(result, disk / "judged" / named, FULL, "free some space")
    going_on = (
        f"go on with: hoptm-bench eval synthetic={undisturbed / 'run'} hydra.run.dir={disk / 'judged'} resume=true"
    )
    assert (going_on in error) == begun
    nothing_partial(disk.path)
    disk.resize(64)
    result = command_line.fork(*judge, f"resume={'true' if begun else 'false'}", cwd=tmp_path)
    assert result.code == 0, result.err
    assert card(disk / "judged")["evaluations"] == card(undisturbed / "run")["evaluations"]


@pytest.mark.parametrize("form", ["medmnist", "folder", "safetensors", "ddranking"])
def test_export_leaves_nothing_behind(form, disk, undisturbed, tmp_path):
    before = contents(undisturbed)
    for room in (1, 2):
        disk.resize(room)
        result = command_line.fork(
            "export", str(undisturbed / "run"), "--format", form, "-o", str(disk / "new/set"), cwd=tmp_path
        )
        only_error(result, disk / "new/set", FULL, "name a new folder with -o FOLDER", code=2)
        assert list(disk.path.iterdir()) == []
    disk.resize(64)
    result = command_line.fork(
        "export", str(undisturbed / "run"), "--format", form, "-o", str(disk / "new/set"), cwd=tmp_path
    )
    assert result.code == 0, result.err
    assert contents(undisturbed) == before


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        (("report", "-o", "page.html"), "name another output file"),
        (("compare", "--format", "csv", "--output", "table.csv"), "name another file"),
    ],
)
def test_a_page_or_table_that_does_not_fit_leaves_the_old_one(command, remedy, disk, undisturbed, tmp_path):
    disk.resize(1)
    name = disk / command[-1]
    name.write_text("old")
    arguments = (command[0], str(undisturbed / "run"), *command[1:-1], str(name))
    only_error(command_line.fork(*arguments, cwd=tmp_path), name, FULL, remedy, code=2)
    assert disk.files() == {command[-1]: b"old"}
    disk.resize(1024)
    assert command_line.fork(*arguments, cwd=tmp_path).code == 0
    assert len(name.read_bytes()) > len("old")


def test_a_sweep_on_a_full_disk(disk, tiny, undisturbed, tmp_path):
    """Hydra writes multirun.yaml itself."""
    disk.resize(1)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(PAGE))
    sweep = ("run", "-m", *tiny, f"experts.root={undisturbed / 'experts'}", "seed=choice(0)", "resume=auto",
             f"hydra.sweep.dir={disk / 'runs'}")  # fmt: skip
    result = command_line.fork(*sweep, cwd=tmp_path)
    only_error(result, f"the sweep's folder: {FULL}; choose another folder with hydra.sweep.dir=PATH", code=2)


def test_a_job_of_a_sweep_that_finds_the_disk_full_says_how_the_sweep_goes_on(disk, tiny, undisturbed, tmp_path):
    disk.resize(8)  # enough for multirun.yaml and for the job to begin
    sweep = ("run", "-m", *tiny, f"experts.root={undisturbed / 'experts'}", "seed=choice(0)", "resume=auto",
             f"hydra.sweep.dir={disk / 'runs'}")  # fmt: skip
    result = command_line.fork(*sweep, cwd=tmp_path)
    assert result.code == 1, result.err
    assert "Traceback" not in result.err
    (job,) = (disk / "runs").glob("*/")
    said = [line for line in result.err.splitlines() if line.startswith(f"job {job.name} failed: {job}/")]
    assert len(said) == 1, result.err
    assert FULL in said[0]
    assert f"by the same command, hydra.sweep.dir={job.parent} and resume=auto" in said[0]
    nothing_partial(disk.path)
    disk.resize(64)
    result = command_line.fork(*sweep, cwd=tmp_path)
    assert result.code == 0, result.err
    same_result(job, undisturbed)


@pytest.mark.campaign
def test_tensorboard_without_space_is_left_out_with_one_line(disk, tmp_path):
    disk.resize(1)
    (disk / "ballast").write_bytes(bytes(PAGE))
    program = (sys.executable, "-c", TENSORBOARD)
    result = command_line.call(str(disk.path), cwd=tmp_path, program=program)
    assert result.code == 0, result.err
    lines = [line for line in result.err.splitlines() if "TensorFlow" not in line]
    assert lines == [f"warning: logger tensorboard failed and is left out from here on (OSError: [Errno 28] {FULL})"]


TENSORBOARD = """
import sys
from pathlib import Path
from hoptm_plugin.cli.streams import plain_warnings
from hoptm_plugin.loggers import GuardedLoggers, TensorBoard
plain_warnings()
logger = GuardedLoggers([("tensorboard", TensorBoard())])
logger.begin(Path(sys.argv[1]), 0)
logger.scalars(0, {"loss": 1.0})
logger.close()
"""


def full_stdout() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def full_stderr() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)


needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


@pytest.mark.campaign
@needs_dev_full
def test_a_result_that_cannot_be_printed_has_not_failed(tiny, undisturbed, tmp_path):
    run = ("run", *tiny, f"experts.root={undisturbed / 'experts'}", "hydra.run.dir=out")
    result = command_line.fork(*run, cwd=tmp_path, before=full_stdout)
    assert result.code == 0, result.err
    card_file = tmp_path / "out/result.json"
    assert result.err.endswith(f"warning: the result cannot be printed: {FULL}; it is in {card_file}\n")
    same_result(tmp_path / "out", undisturbed)
    result = command_line.fork("compare", "out", cwd=tmp_path, before=full_stdout)
    only_error(result, f"standard output: {FULL}")


@needs_dev_full
def test_a_log_that_cannot_be_written_ends_no_run_and_hides_no_exit_code(tiny, undisturbed, tmp_path):
    run = ("run", *tiny, f"experts.root={undisturbed / 'experts'}", "hydra.run.dir=out")
    result = command_line.fork(*run, cwd=tmp_path, before=full_stderr)
    assert result.code == 0
    assert "accuracy" in result.out
    same_result(tmp_path / "out", undisturbed)
    assert command_line.fork(*run, cwd=tmp_path, before=full_stderr).code == 2, "the folder is occupied"


@needs_dev_full
@pytest.mark.campaign
def test_a_whole_process_whose_output_caches_and_temporary_files_find_no_space(disk, tiny, undisturbed, tmp_path):
    disk.resize(1)
    (disk / "ballast").write_bytes(bytes(PAGE))
    places = dict.fromkeys(("TMPDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "HOME"), str(disk.path))
    program = ("sh", "-c", f'exec "{sys.executable}" -m hoptm_plugin.cli "$@" >/dev/full', "sh")
    result = command_line.call(
        "run", *tiny, f"experts.root={undisturbed / 'experts'}", "hydra.run.dir=out", cwd=tmp_path, program=program,
        environment={**places, "PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "Exception ignored" not in result.err
    assert "Traceback" not in result.err
    same_result(tmp_path / "out", undisturbed)
