"""The real files under HOPTM_DATA_ROOT."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import check_ipc, check_spec, load

CPU = torch.device("cpu")


def real(name: str) -> Path:
    root = os.environ.get("HOPTM_DATA_ROOT")
    if root is None or not (Path(root) / name).is_file():
        pytest.skip(f"{name} is not under HOPTM_DATA_ROOT ({root or 'unset'})")
    return Path(root) / name


@pytest.mark.slow
@pytest.mark.data
def test_bloodcells():
    preprocess = {"image_size": 32, "normalisation": "measured", "antialias": True}
    data = load({"name": "npz", "root": real("bloodcells.npz"), "preprocess": preprocess}, Seeds(0), CPU)
    assert data.name == "bloodcells"
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8962, 995, 2487]
    assert data.image_shape == (3, 32, 32)
    assert len(data.class_names) == 4
    torch.testing.assert_close(data.train.images.mean((0, 2, 3)), torch.zeros(3), atol=0.02, rtol=0)
    torch.testing.assert_close(data.train.images.std((0, 2, 3)), torch.ones(3), atol=0.05, rtol=0)
    assert check_ipc(data, 50) == []


@pytest.mark.campaign
@pytest.mark.data
def test_covid19cxr(tmp_path):
    with zipfile.ZipFile(real("covid19cxr.zip")) as archive:
        archive.extractall(tmp_path)
    spec = {"name": "covid19cxr", "root": str(tmp_path), "preprocess": {"image_size": 32, "normalisation": "released"}}
    with pytest.raises(DataError, match="class folders missing: Lung_Opacity"):
        check_spec(spec)
    spec["classes"] = ["COVID", "Normal", "Viral Pneumonia"]
    data = load(spec, Seeds(0), CPU)
    assert torch.bincount(data.test.labels).tolist() == [570, 1020, 228]
    counts = torch.bincount(data.train.labels) + torch.bincount(data.validation.labels)
    assert counts.tolist() == [2278, 4080, 910]
    split = data.provenance["split"]
    assert len(set().union(*split.values())) == 9086
    assert all("/images/" in file for files in split.values() for file in files)
