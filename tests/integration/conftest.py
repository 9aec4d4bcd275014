"""Fixtures of the command line's tests: generated data, one store of experts, one finished run."""

from __future__ import annotations

import command_line
import disturbed
import pytest
from generated import NPZ, write_images, write_npz


@pytest.fixture(scope="session")
def experts_root(tmp_path_factory):
    """A store of experts that all tests of a session share."""
    return tmp_path_factory.mktemp("experts")


@pytest.fixture
def bench(tmp_path, experts_root):
    """Run a command in this process, in the folder ``tmp_path``, with the shared experts."""

    def run(*arguments, cwd=tmp_path, experts=experts_root):
        return command_line.invoke(*arguments, cwd=cwd, environment={"HOPTM_EXPERTS": str(experts)})

    return run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, experts_root, npz_file):
    """The folder of a finished run of HoP-TM on the generated npz; read it only."""
    folder = tmp_path_factory.mktemp("finished")
    result = command_line.invoke(
        "run", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *command_line.TINY_RUN,
        f"hydra.run.dir={folder / 'run'}", cwd=folder, environment={"HOPTM_EXPERTS": str(experts_root)},
    )  # fmt: skip
    assert result.code == 0, result.err
    return folder / "run"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, npz_file):
    """The folder of a run that nothing disturbed; read it only."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    result = command_line.invoke(*disturbed.command(npz_file, folder), cwd=folder.parent)
    assert result.code == 0, result.err
    return folder


@pytest.fixture(scope="session")
def npz_file(tmp_path_factory):
    """An npz in MedMNIST layout: 3 classes, 12/3/6 images."""
    path = tmp_path_factory.mktemp("npz") / "generated.npz"
    write_npz(path)
    return path


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Image folders train/CLASS and test/CLASS with two classes."""
    root = tmp_path_factory.mktemp("folder") / "shapes"
    write_images(root / "train", ("disc", "square"), 6)
    write_images(root / "test", ("disc", "square"), 3)
    return root


@pytest.fixture(scope="session")
def covid_folder(tmp_path_factory):
    """Three classes of the COVID-19 Radiography Database, images/ and masks/ in each."""
    root = tmp_path_factory.mktemp("covid")
    for name in ("COVID", "Normal", "Viral Pneumonia"):
        write_images(root / name, ("images", "masks"), 10)
    return root
