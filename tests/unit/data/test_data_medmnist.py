from __future__ import annotations

import re

import medmnist
import numpy as np
import pytest

from hoptm_plugin.core.errors import ConfigurationError, DataError
from hoptm_plugin.core.interfaces import datasets
from hoptm_plugin.core.seeding import Seeds


def build(flag="bloodmnist", **keywords):
    return datasets.build({"name": "medmnist", "flag": flag, **keywords}, "dataset")


def write(folder, name, shape, classes):
    members = {}
    for split in ("train", "val", "test"):
        members[f"{split}_images"] = np.zeros((classes, *shape), np.uint8)
        members[f"{split}_labels"] = np.arange(classes, dtype=np.uint8)[:, None]
    np.savez(folder / name, **members)


def test_reads_all_splits_with_medmnists_names(tmp_path):
    write(tmp_path, "bloodmnist.npz", (28, 28, 3), 8)
    raw = build(root=tmp_path).read(Seeds(0))
    assert raw.class_names[0] == "basophil"
    assert len(raw.class_names) == 8
    assert raw.validation is not None
    assert raw.train[0].shape == (8, 3, 28, 28)
    assert raw.name == "bloodmnist (unofficial file)"
    assert raw.provenance == {
        "file": "bloodmnist.npz",
        "official_file": False,
        "official_images": 11_959 + 1_712 + 3_421,
        "source": "MedMNIST v2, bloodmnist (https://medmnist.com, https://zenodo.org/records/10519652)",
        "licence": "CC BY 4.0",
    }
    assert raw.released is None


def test_official_file_by_md5_and_released_constants(tmp_path, monkeypatch):
    import hashlib

    write(tmp_path, "pathmnist_64.npz", (64, 64, 3), 9)
    md5 = hashlib.md5((tmp_path / "pathmnist_64.npz").read_bytes()).hexdigest()
    monkeypatch.setitem(medmnist.INFO["pathmnist"], "MD5_64", md5)
    raw = build("pathmnist", root=tmp_path, size=64).read(Seeds(0))
    assert raw.name == "pathmnist_64"
    assert raw.provenance["official_file"] is True
    assert raw.released == ((0.741, 0.533, 0.706), (0.402, 0.821, 0.407))


def test_grey_set(tmp_path):
    write(tmp_path, "breastmnist.npz", (28, 28), 2)
    assert build("breastmnist", root=tmp_path).read(Seeds(0)).train[0].shape == (2, 1, 28, 28)


def test_missing_file_names_path_and_both_remedies(tmp_path):
    with pytest.raises(DataError) as caught:
        build(root=tmp_path, size=128).locate()
    text = str(caught.value)
    assert f"{tmp_path / 'bloodmnist_128.npz'}: no such file" in text
    assert medmnist.INFO["bloodmnist"]["url_128"] in text
    assert "dataset.download=true" in text


def test_default_root_is_medmnists_own(monkeypatch, tmp_path):
    monkeypatch.setattr("medmnist.info.DEFAULT_ROOT", str(tmp_path / "default"))
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "default" / "bloodmnist.npz"))):
        build().locate()


def test_download_uses_medmnist(tmp_path, monkeypatch):
    def fetch(url, root, filename, md5):
        assert (url, md5) == (medmnist.INFO["bloodmnist"]["url"], medmnist.INFO["bloodmnist"]["MD5"])
        write(root, filename, (28, 28, 3), 8)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    reader = build(root=tmp_path / "new", download=True)
    assert reader.locate() is None
    assert len(reader.read(Seeds(0)).train[0]) == 8
    assert reader.locate() == tmp_path / "new" / "bloodmnist.npz"


def test_failed_download_is_one_message_and_leaves_nothing(tmp_path, monkeypatch):
    def fetch(url, root, filename, md5):
        (root / filename).write_bytes(b"half")
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    with pytest.raises(DataError, match="medmnist could not download it; check the network") as caught:
        build(root=tmp_path, download=True).read(Seeds(0))
    assert medmnist.INFO["bloodmnist"]["url"] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_unfit_sets_and_sizes():
    with pytest.raises(ConfigurationError, match="chestmnist is multi-label"):
        build("chestmnist")
    with pytest.raises(ConfigurationError, match="no 2-D MedMNIST set is called 'organmnist3d'"):
        build("organmnist3d")
    with pytest.raises(ConfigurationError, match=re.escape("dataset.size: Input should be 28, 64, 128 or 224")):
        build(size=32)


def test_file_of_another_size_or_class_count(tmp_path):
    write(tmp_path, "bloodmnist.npz", (64, 64, 3), 8)
    with pytest.raises(DataError, match=re.escape("shape (C, H, W) (3, 64, 64), but bloodmnist has (3, 28, 28)")):
        build(root=tmp_path).read(Seeds(0))
    write(tmp_path, "bloodmnist.npz", (28, 28, 3), 9)
    with pytest.raises(DataError, match=re.escape("label 8 at index 8 lies outside 0..7")):
        build(root=tmp_path).read(Seeds(0))
