"""What is printed and written survives where it lands: other encodings, odd names, odd outputs, and a shell."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import subprocess
from contextlib import redirect_stderr, redirect_stdout

import command_line
import pytest
from generated import NPZ
from hydra.core.override_parser.overrides_parser import OverridesParser

from hoptm_plugin.cards.card import read_card, write_card
from hoptm_plugin.cards.evaluation import Evaluation, Summary
from hoptm_plugin.cli import main
from hoptm_plugin.core.errors import StorageError
from hoptm_plugin.core.text import pasted

ODD = 'it\'s ü=1, [a] {b} (c) ~ $HOME "q" `d` #e\\'
NAMES = ["a b", "a=b", "it's", 'q"q', "ü 日本", "~", "~/x", "a,b", "[c]", "{d}", "(e)", "$HOME", "${x}", "new\nline",
         "a\x1b[1m", "t\tt", "#c", ";&|<>", "*?", "back\\slash", "end\\", "-dash", "a:b", "null", ODD]  # fmt: skip


@pytest.fixture
def compared(tmp_path, finished_run):
    """A folder of runs of two methods and three seeds each; the names are of many alphabets."""
    card = read_card(finished_run)
    support = card.evaluations[0].support
    for method, accuracies in (("Zürich ≈ 日本", (0.25, 0.3, 0.36)), ("naïve", (0.26, 0.29, 0.38))):
        for seed, accuracy in enumerate(accuracies):
            one = Summary(mean=accuracy, std=0.0, values=(accuracy,))
            judged = Evaluation(network="convnet", accuracy=one, balanced_accuracy=one, macro_auroc=one, macro_f1=one,
                                support=support, recall_per_class=[accuracy for _ in support])  # fmt: skip
            write_card(card.model_copy(update={
                "title": method, "method": method, "seed": seed, "distillation_seed": seed, "artefacts": {},
                "evaluations": (judged,), "random_subset": None,
            }), tmp_path / "runs" / f"{method}-{seed}" / "result.json")  # fmt: skip
    return tmp_path / "runs"


def printed(encoding, *arguments):
    """Return what a command prints in an encoding, and on stderr."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for _ in range(2)]
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        main([*map(str, arguments)])
    return [stream.buffer.getvalue().decode(encoding) for stream in streams]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "gbk", "ascii", "utf-8"])
@pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "csv", "json"])
def test_a_table_loses_characters_that_an_encoding_lacks_and_nothing_else(encoding, form, compared):
    out, err = printed(encoding, "compare", compared, "--format", form)
    lost = {"ascii": "Z?rich", "gbk": "Z"}.get(encoding, "Zürich")
    assert lost in out or form in ("json", "csv", "latex")
    assert err == ""
    if form == "markdown":
        mark = "≈" if encoding in ("gbk", "utf-8") else "~"
        assert f"{mark} not significantly different from" in out
        assert "? no test is possible" not in out, "a lost character is no other mark"


def test_what_goes_to_stderr_is_lost_no_more(tmp_path):
    streams = [io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True) for _ in range(2)]
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]), pytest.raises(SystemExit) as ended:
        main(["compare", str(tmp_path / "日本")])
    assert ended.value.code == 2
    assert "/??: no such result card" in streams[1].buffer.getvalue().decode("ascii")


@pytest.mark.campaign
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_process_of_another_encoding_ends_well(encoding, compared):
    command = [*command_line.PROGRAM, "compare", str(compared)]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "accuracy in percent" in done.stdout.decode(encoding).lower()


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_can_be_pasted_into_a_shell_whatever_a_path_is_called(name):
    word = pasted("hydra.run.dir", f"/a/{name}")
    assert all(char.isprintable() for char in word)
    typed = in_a_shell(word)
    (override,) = OverridesParser.create().parse_overrides(typed)
    assert override.value() == f"/a/{name}".replace("${", "\\${"), "which OmegaConf takes for no interpolation"


def in_a_shell(command):
    """Return the arguments that bash gives to hoptm-bench for a command that was printed."""
    script = f"hoptm-bench() {{ printf '%s\\0' \"$@\"; }}; hoptm-bench {command.removeprefix('hoptm-bench ')}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


def fails_once(monkeypatch, place):
    """Let the card of a job be refused by the disk the first time that it is written."""
    failed = []

    def write(card, path):
        if not failed:
            failed.append(path)
            raise StorageError(path, "No space left on device", "free some space")
        write_card(card, path)

    monkeypatch.setattr(f"{place}.write_card", write)


def test_the_command_that_goes_on_can_be_pasted(bench, npz_file, tmp_path, monkeypatch):
    fails_once(monkeypatch, "hoptm_plugin.runs.running")
    place = pasted("hydra.run.dir", tmp_path / ODD)
    first = bench("run", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *command_line.TINY_RUN, *in_a_shell(place))
    assert first.code == 1, first.err
    command = re.search(r"go on with: (hoptm-bench .*)", first.err)[1]
    again = bench(*in_a_shell(command))
    assert again.code == 0, again.err
    assert (tmp_path / ODD / "result.json").is_file()
    assert f"folder: {tmp_path / ODD}" in again.out


def test_the_commands_that_judge_a_set_can_be_pasted(bench, finished_run, tmp_path, monkeypatch):
    """Of an exported set, printed by export and by verify; and the one that goes on with it."""
    small = command_line.TINY_PROTOCOL
    exported = tmp_path / ODD
    made = bench("export", str(finished_run), "--format", "safetensors", "--output", str(exported))
    assert made.code == 0, made.err
    verified = bench("verify", str(exported), "--checksums")
    assert verified.code == 0, verified.err
    command = re.search(r"use (hoptm-bench eval .*)", verified.out)[1]
    assert in_a_shell(command)[0] == "eval"
    fails_once(monkeypatch, "hoptm_plugin.runs.judging")
    where = pasted("synthetic", finished_run), pasted("hydra.run.dir", tmp_path / f"{ODD} 2")
    first = bench("eval", *in_a_shell(" ".join(where)), *small)
    assert first.code == 1, first.err
    again = bench(*in_a_shell(re.search(r"go on with: (hoptm-bench .*)", first.err)[1]), *small)
    assert again.code == 0, again.err


def test_an_export_that_clips_names_the_command_that_judges_it(bench, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr("hoptm_plugin.cli.exported.MUCH", -1)
    made = bench("export", str(finished_run), "--format", "medmnist", "--output", str(tmp_path / ODD))
    command = re.search(r"judge the export itself with: (hoptm-bench eval .*); --format", made.out)[1]
    typed = in_a_shell(command)
    (override,) = OverridesParser.create().parse_overrides(typed[1:])
    assert override.value() == str(tmp_path / ODD).replace("${", "\\${")


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\nb", "a\u202eb"])
def test_control_characters_in_names_of_folders_reach_no_terminal(name, bench, finished_run, tmp_path):
    folder = tmp_path / name
    shutil.copytree(finished_run, folder)
    shown = ascii(name)[1:-1]
    outputs = [
        bench("export", str(folder), "--format", "safetensors"), bench("report", str(folder), "-o", f"{name}.html"),
        bench("compare", str(folder), str(finished_run), "--format", "markdown"),
        bench("verify", "--checksums", str(folder)),
    ]  # fmt: skip
    for result in outputs:
        assert result.code == 0, result.err
        assert name not in result.out
        assert "\x1b" not in result.out
    assert f"folder: {shown}-safetensors" in outputs[0].out
    assert f"{shown}.html: 1 run" in outputs[1].out
    assert name not in (tmp_path / f"{name}.html").read_text(encoding="utf-8")


@pytest.fixture
def outputs(tmp_path):
    """Names that are no place for a file: by kind."""
    os.mkfifo(tmp_path / "pipe.html")
    (tmp_path / "device.html").symlink_to("/dev/null")
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").write_text("x")
    return tmp_path


@pytest.mark.parametrize("command", ["compare", "report"])
@pytest.mark.parametrize(
    "name", ["pipe.html", "device.html", "folder.html", "", "  ", ".", "/", "file/x.html", "x" * 300]
)
def test_an_output_that_cannot_be_is_one_message(command, name, bench, finished_run, outputs):
    result = bench(command, str(finished_run), "--output", name)
    assert result.code == 2
    errors = [line for line in result.err.splitlines() if not line.startswith(("See ", "real training"))]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert "Traceback" not in result.err
    assert result.out == ""
    assert stat.S_ISFIFO((outputs / "pipe.html").stat().st_mode)
    assert (outputs / "device.html").is_symlink()
    assert list((outputs / "folder.html").iterdir()) == []


def test_a_folder_that_is_missing_is_made_for_a_table_and_asked_for_a_page(bench, finished_run, tmp_path):
    assert bench("compare", str(finished_run), "--output", "new/t.md", "--format", "markdown").code == 0
    assert (tmp_path / "new" / "t.md").is_file()
    assert "there is no folder gone" in bench("report", str(finished_run), "-o", "gone/p.html").err


def test_the_home_folder_is_understood_and_a_folder_of_that_name_is_found(bench, finished_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(finished_run, tmp_path / "mine")
    assert bench("compare", "~/mine").code == 0
    shutil.copytree(finished_run, tmp_path / "~" / "mine")
    (tmp_path / "~" / "mine" / "result.json").unlink()
    assert "~/mine" in bench("compare", "~/mine").err
