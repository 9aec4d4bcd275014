"""Folders that cannot be written to: what is there can be read, and what cannot be written is one message."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys

import command_line
import pytest
from command_line import TINY_RUN, card
from generated import NPZ
from small_disk import READ_ONLY, contents, mounted, only_error

WRITABLE = "choose a folder that can be written to"


@pytest.fixture(scope="module")
def tiny(npz_file):
    return ("dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_RUN)


@pytest.fixture(scope="module")
def disk(tmp_path_factory, tiny):
    """A read-only disk with ``run`` and its ``experts``, and ``begun``, a run without its card."""
    folder = tmp_path_factory.mktemp("read-only")
    with mounted(folder / "disk") as small:
        result = command_line.invoke("run", *tiny, "hydra.run.dir=run", "experts.root=experts", cwd=small.path)
        assert result.code == 0, result.err
        shutil.copytree(small / "run", small / "begun")
        (small / "begun/result.json").unlink()
        small.read_only()
        yield small


def test_a_run_in_a_read_only_folder(disk, tiny, tmp_path):
    experts = f"experts.root={disk / 'experts'}"
    result = command_line.invoke("run", *tiny, experts, f"hydra.run.dir={disk / 'new'}", cwd=tmp_path)
    only_error(result, disk / "new", READ_ONLY, "hydra.run.dir=PATH", code=2)
    result = command_line.invoke("run", f"hydra.run.dir={disk / 'begun'}", "resume=true", cwd=tmp_path)
    only_error(result, disk / "begun/.lock", READ_ONLY, WRITABLE)
    sweep = f"hydra.sweep.dir={disk / 'runs'}"
    result = command_line.invoke("run", "-m", *tiny, experts, "seed=choice(0)", sweep, cwd=tmp_path)
    only_error(result, disk / "runs", READ_ONLY, "hydra.sweep.dir=PATH", code=2)


@pytest.mark.slow
def test_experts_are_read_from_a_read_only_store_and_missing_ones_are_one_message(disk, tiny, tmp_path):
    run = ("run", *tiny, f"experts.root={disk / 'experts'}")
    result = command_line.invoke(*run, "hydra.run.dir=out", cwd=tmp_path)
    assert result.code == 0, result.err
    name = "synthetic.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (disk / "run" / name).read_bytes()
    result = command_line.invoke(*run, "experts.count=3", "hydra.run.dir=more", cwd=tmp_path)
    only_error(result, disk / "experts", "expert-00002.lock", READ_ONLY, WRITABLE, "resume=true")
    result = command_line.invoke("experts", *run[1:], "experts.count=3", cwd=tmp_path)
    only_error(result, "expert-00002.lock", READ_ONLY, WRITABLE)
    result = command_line.invoke("experts", *run[1:], cwd=tmp_path)
    assert result.code == 0, result.err
    assert "2 experts of 2 epochs" in result.out


@pytest.mark.slow
def test_all_that_reads_a_finished_run_works_where_it_is_read_only(disk, tmp_path):
    run = str(disk / "run")
    before = contents(disk.path)
    for command in (
        ("run", f"hydra.run.dir={run}", "resume=true"),
        ("eval", f"synthetic={run}", "hydra.run.dir=judged"),
        ("compare", run, "--output", "table.txt"),
        ("report", run, "-o", "page.html"),
        ("export", run, "--format", "safetensors", "-o", "set"),
    ):
        result = command_line.invoke(*command, cwd=tmp_path)
        assert result.code == 0, (command, result.err)
    assert card(tmp_path / "judged")["evaluations"] == card(disk / "run")["evaluations"]
    assert contents(disk.path) == before


@pytest.mark.slow
def test_what_would_be_written_there_is_refused(disk, tmp_path):
    run = str(disk / "run")
    for command, named, remedy in (
        (("export", run, "--format", "folder", "-o", str(disk / "set")), disk.path, "-o FOLDER"),
        (("report", run, "-o", str(disk / "page.html")), disk / "page.html", "name another output file"),
        (("compare", run, "--output", str(disk / "table.txt")), disk / "table.txt", "name another file"),
        (("eval", f"synthetic={run}", f"hydra.run.dir={disk / 'judged'}"), disk / "judged", "hydra.run.dir=PATH"),
    ):
        only_error(command_line.invoke(*command, cwd=tmp_path), named, READ_ONLY, remedy, code=2)
    # the working folder itself: where nothing else is told, runs and pages are made there
    only_error(command_line.invoke("report", run, cwd=disk.path), "report.html", READ_ONLY, code=2)
    only_error(command_line.invoke("run", "method=random", cwd=disk.path), READ_ONLY, "hydra.run.dir=PATH", code=2)


def bound_by_modes() -> None:
    """Give up what lets root read and write everything, so that the modes of files count; others have it not."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    override_and_read_search = 0b110
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~override_and_read_search  # of the effective ones
    sets[1] &= ~override_and_read_search  # of the permitted ones
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


@pytest.mark.campaign
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="root is bound by modes on Linux only")
def test_a_user_without_permission(disk, tiny, tmp_path, npz_file):
    theirs = tmp_path / "theirs"
    for name in ("experts", "begun", "run"):
        shutil.copytree(disk / name, theirs / name)
    data = shutil.copy(npz_file, tmp_path / "data.npz")
    tiny = tuple(f"dataset.root={data}" if each.startswith("dataset.root=") else each for each in tiny)
    run = ("run", *tiny, f"experts.root={theirs / 'experts'}")
    folders = [theirs, *(path for path in theirs.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    before = contents(theirs)

    def refused(command, *parts, code):
        result = command_line.fork(*command, cwd=tmp_path, before=bound_by_modes)
        return only_error(result, *parts, code=code)

    def works(*command):
        result = command_line.fork(*command, cwd=tmp_path, before=bound_by_modes)
        assert result.code == 0, result.err

    denied, writable = "Permission denied", "make the folder writable, or choose another one"
    refused((*run, f"hydra.run.dir={theirs / 'new'}"), theirs / "new", denied, "hydra.run.dir=PATH", code=2)
    works(*run, "hydra.run.dir=mine")
    assert card(tmp_path / "mine")["evaluations"] == card(disk / "run")["evaluations"]
    refused((*run, "experts.count=3", "hydra.run.dir=more"), "expert-00002.lock", denied, writable, "resume=true",
            code=1)  # fmt: skip
    refused(("run", f"hydra.run.dir={theirs / 'begun'}", "resume=true"), theirs / "begun/.lock", denied, writable,
            code=1)  # fmt: skip
    works("run", f"hydra.run.dir={theirs / 'run'}", "resume=true")
    refused(("export", str(theirs / "run"), "--format", "folder", "-o", str(theirs / "set")), theirs, denied,
            "-o FOLDER", code=2)  # fmt: skip
    refused(("report", str(theirs / "run"), "-o", str(theirs / "page.html")), theirs / "page.html", denied,
            "name another output file", code=2)  # fmt: skip
    assert contents(theirs) == before

    for secret, command in (
        (theirs / "begun/config.yaml", ("run", f"hydra.run.dir={theirs / 'begun'}", "resume=true")),
        (theirs / "run/synthetic.safetensors", ("eval", f"synthetic={theirs / 'run'}", "hydra.run.dir=judged")),
        (theirs / "run/result.json", ("compare", str(theirs / "run"))),
        (next(theirs.rglob("expert-00001.safetensors")), (*run, "hydra.run.dir=again")),
        (tmp_path / "data.npz", (*run, "hydra.run.dir=again")),
    ):
        secret.chmod(0)
        refused(command, secret, denied, code=2)
        secret.chmod(0o644)
    for path in folders:
        path.chmod(0o755)
