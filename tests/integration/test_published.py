"""What was published stands beside a result on the official data alone."""

from __future__ import annotations

import hashlib
import warnings

import medmnist
import numpy as np
import pytest

from hoptm_plugin import compose, run

COUNTS = {"train": 20, "val": 4, "test": 8}
SETTINGS = ("method=random", "dataset=breastmnist", "network.width=4", "network.depth=2", "protocol.repeats=1",
            "protocol.epochs=1", "protocol.random_subset=false", "runtime.device=cpu")  # fmt: skip
PUBLISHED = {"source": "Table 9", "ipc": {1: {"accuracy": 0.75}}}


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A file of 32 images, which for this test is the official one."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in COUNTS.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    path = tmp_path / "breastmnist.npz"
    np.savez(path, **arrays)
    monkeypatch.setitem(medmnist.INFO["breastmnist"], "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setitem(medmnist.INFO["breastmnist"], "n_samples", COUNTS)
    return path


def reported(folder, ipc=1):
    settings = compose(*SETTINGS, f"ipc={ipc}", f"dataset.root={folder}", reported=PUBLISHED)
    return run(settings, folder / f"run-{ipc}").reported


def test_beside_official_data_it_stands(official, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert reported(tmp_path).accuracy == 0.75
        assert reported(tmp_path, ipc=2) is None, "nothing was published for two, and nothing dropped"


def test_beside_another_file_it_is_dropped_and_that_is_said(official, tmp_path, monkeypatch):
    monkeypatch.setitem(medmnist.INFO["breastmnist"], "MD5", "0" * 32)
    says = r"breastmnist \(unofficial file\): its file is not the official one, so that nothing published .*Table 9"
    with pytest.warns(UserWarning, match=says):
        assert reported(tmp_path) is None


def test_beside_other_counts_it_is_dropped_and_that_is_said(official, tmp_path, monkeypatch):
    """As where classes were chosen, or duplicates left out."""
    monkeypatch.setitem(medmnist.INFO["breastmnist"], "n_samples", {"train": 546, "val": 78, "test": 156})
    with pytest.warns(UserWarning, match="it has 32 images, and the official one 780, so that nothing published"):
        assert reported(tmp_path) is None


def test_beside_data_of_one_s_own_it_is_dropped_and_that_is_said(official, tmp_path):
    own = ("dataset=npz", "dataset.preprocess.image_size=null", *SETTINGS[2:])
    settings = compose("method=random", *own, f"dataset.root={official}", reported=PUBLISHED)
    with pytest.warns(UserWarning, match="nothing says that its images are those of the publication, so that nothing"):
        assert run(settings, tmp_path / "own").reported is None
