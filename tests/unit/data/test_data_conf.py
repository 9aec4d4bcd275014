from __future__ import annotations

import inspect
from importlib.resources import files

import medmnist
import pytest
import torch
import yaml

from hoptm_plugin.core.errors import ConfigurationError, DataError
from hoptm_plugin.core.interfaces import datasets
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import Preprocess, check_spec, load

FOLDER = files("hoptm_plugin.conf") / "dataset"
# "defaults" is for Hydra, which takes it out while composing.
SPECS = {
    file.name.removesuffix(".yaml"): {k: v for k, v in yaml.safe_load(file.read_text()).items() if k != "defaults"}
    for file in FOLDER.iterdir()
    if file.name.endswith(".yaml")
}
FLAT = {flag for flag, info in medmnist.INFO.items() if not info["python_class"].endswith("3D")}


def test_every_source_has_its_file():
    assert (
        set(SPECS)
        == {"arrays", "digits", "npz", "covid19cxr", "cifar10", "cifar100", "tinyimagenet", "folder", "table"} | FLAT
    )


@pytest.mark.parametrize("name", sorted(set(SPECS) - {"arrays", "chestmnist"}))
def test_file_builds_its_reader_and_names_every_setting(name):
    spec = dict(SPECS[name])
    preprocess = spec.pop("preprocess")
    assert spec.pop("duplicates") == "warn"
    assert spec.pop("holdout_fraction") is None
    assert set(preprocess) == set(Preprocess.model_fields)
    sized = preprocess["image_size"] == "auto"
    Preprocess.model_validate(preprocess | ({"image_size": 1} if sized else {}))
    reader = datasets.build(spec, "dataset")
    assert sized == (reader.image_size is not None)
    assert set(spec) - {"name"} == set(inspect.signature(type(reader)).parameters)


def test_chestmnist_explains_why_not():
    with pytest.raises(ConfigurationError, match="chestmnist is multi-label"):
        check_spec(SPECS["chestmnist"])


@pytest.mark.parametrize("name", ["npz", "covid19cxr", "cifar10", "cifar100", "tinyimagenet", "folder", "table"])
def test_missing_root_is_found_before_reading(name):
    with pytest.raises(DataError, match=r"dataset.root is missing: give .* with dataset.root=PATH"):
        check_spec(SPECS[name])


@pytest.mark.parametrize("name", ["pathmnist", "covid19cxr"])
def test_released_settings(name):
    given = SPECS[name]["preprocess"]
    preprocess = Preprocess.model_validate(given | {"image_size": 1})
    assert (preprocess.normalisation, preprocess.antialias, preprocess.resize_order, preprocess.zca) == (
        "released", False, "after_normalise", False)  # fmt: skip
    assert given["image_size"] == {"pathmnist": "auto", "covid19cxr": 112}[name]


@pytest.mark.parametrize(("size", "side"), [(28, 32), (64, 64), (128, 128), (224, 224)])
def test_a_release_is_distilled_at_its_own_size_but_for_the_smallest(size, side):
    assert datasets.build({"name": "medmnist", "flag": "pathmnist", "size": size}).image_size == side


def test_all_problems_are_reported_at_once():
    spec = {"name": "npz", "rot": "x", "preprocess": {"image_size": 0, "antialis": True, "mean": [0.5]}}
    with pytest.raises(ConfigurationError) as caught:
        check_spec(spec)
    text = "\n".join(sorted(caught.value.problems))
    assert "dataset.preprocess.antialis: Extra inputs are not permitted" in text
    assert "dataset.preprocess.image_size: Input should be greater than 0, got 0" in text
    assert "dataset.rot: unknown setting; did you mean 'root'?" in text


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        ({"mean": [0.5]}, "dataset.preprocess: mean and std must be given together"),
        ({"mean": [0.5], "std": [0.0]}, r"dataset.preprocess.std.0: Input should be greater than 0"),
        ({"channels": 2}, "dataset.preprocess.channels: Input should be 1 or 3, got 2"),
        ({"resize_order": "after"}, "dataset.preprocess.resize_order: Input should be"),
        ({"validation_fraction": 0}, "dataset.preprocess.validation_fraction: Input should be greater than 0"),
        ({"validation_fraction": 1}, "dataset.preprocess.validation_fraction: Input should be less than 1"),
        ({"zca_eps": 0}, "dataset.preprocess.zca_eps: Input should be greater than 0"),
        ([1], "dataset.preprocess: Input should be a valid dictionary"),
    ],
)
def test_bad_preprocessing(preprocess, message):
    with pytest.raises(ConfigurationError, match=message):
        check_spec({"name": "digits", "preprocess": preprocess})


def test_unknown_reader():
    with pytest.raises(ConfigurationError, match="did you mean 'digits'"):
        check_spec({"name": "digit"})


def test_digits_from_its_file():
    data = load(SPECS["digits"], Seeds(0), torch.device("cpu"))
    assert data.image_shape == (1, 32, 32)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [1293, 145, 359]
    assert data.class_names == tuple("0123456789")
    assert data.normalisation.kind == "measured"


def test_digits_pixels_are_rounded_half_up_and_invertible():
    from sklearn.datasets import load_digits

    raw = datasets.build({"name": "digits"}).read(Seeds(0))
    pixels = torch.cat([raw.train[0], raw.test[0]])
    assert pixels.unique().tolist() == [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    back = (pixels.double() * 16 / 255).round().flatten(1)
    source = torch.from_numpy(load_digits().images).flatten(1)
    assert sorted(back.tolist()) == sorted(source.tolist())
    assert torch.equal(raw.test[0], datasets.build({"name": "digits"}).read(Seeds(0)).test[0])
