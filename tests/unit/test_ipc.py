"""A set holds exactly ``ipc`` images of every class, or is refused wherever it comes from."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import count

import pytest
import torch

from hoptm_plugin import Normalisation, SyntheticSet, export, load_distilled
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError, PluginError
from hoptm_plugin.core.interfaces import LossTerm, Method
from hoptm_plugin.engine.distil import Distiller
from hoptm_plugin.engine.evaluation import real_subset
from hoptm_plugin.engine.settings import Distillation
from hoptm_plugin.runtime.progress import silent
from hoptm_plugin.storage.sets import read_set, write_set
from hoptm_plugin.testing.examples import example_task

NAMES = ("a", "b", "c")


def made(*labels, soft=False, mosaic=1, **info):
    labels = torch.tensor(labels)
    images = torch.rand(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = 5 * torch.eye(3)[labels]
    return SyntheticSet(images, logits if soft else labels, None, NAMES, Normalisation((0.0,), (1.0,), "none"),
                        {"method_id": "dm", **info}, mosaic)  # fmt: skip


FITTING = [
    made(0, 0, 1, 1, 2, 2), made(2, 1, 0, 0, 1, 2), made(0, 0, 1, 1, 2, 2, mosaic=2),
    made(0, 0, 0, 0, 0, 0, soft=True),  # labels that were learned may have become any class's
    made(*(label for label in range(3) for _ in range(8)), taken_apart=2),
]  # fmt: skip
WRONG = {
    "one too many": (made(0, 0, 1, 1, 2, 2, 2), "7 images (3 of 'c')"),
    "none of a class": (made(0, 0, 1, 1, 1, 1), "6 images (4 of 'b', 0 of 'c')"),
    "twice as many": (made(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2), "12 images (4 of 'a', 4 of 'b', 4 of 'c')"),
    "fewer": (made(0, 1, 2), "3 images (1 of 'a'"),
    "soft, one too many": (made(0, 0, 1, 1, 2, 2, 2, soft=True), "7 images, but"),
    "mosaics taken apart": (made(0, 0, 1, 1, 2, 2, taken_apart=2), "ipc=2 is 8 of each of its 3 classes"),
}


@pytest.mark.parametrize("synthetic", FITTING)
def test_as_many_as_asked_for(synthetic):
    synthetic.check_ipc(2)


@pytest.mark.parametrize("synthetic", [each for each, _ in WRONG.values()], ids=WRONG)
def test_stored_exported_and_read_sets_are_counted(synthetic, tmp_path):
    said = replace(synthetic, info=synthetic.info | {"ipc": 2})
    says = next(text for each, text in WRONG.values() if each is synthetic)
    with pytest.raises(ValueError, match=re.escape(says)):
        synthetic.check_ipc(2)
    write_set(said, tmp_path / "set.safetensors")
    for read in (read_set, load_distilled, lambda path: export(path, "medmnist", tmp_path / "out")):
        with pytest.raises(FileFormatError, match=r"it holds .* images"):
            read(tmp_path / "set.safetensors")
    with pytest.raises(ConfigurationError, match="cannot be exported: it holds"):
        export(said, "folder", tmp_path / "out")


@pytest.mark.parametrize("ipc", [0, -1, "2", 2.0, True, None, [2]])
def test_what_is_no_number_of_images(ipc, tmp_path):
    write_set(made(0, 0, 1, 1, 2, 2, ipc=ipc), tmp_path / "set.safetensors")
    with pytest.raises(FileFormatError, match="no number of images per class"):
        read_set(tmp_path / "set.safetensors")


@pytest.mark.parametrize("form", ["medmnist", "folder", "safetensors"])
def test_exported_mosaics_are_counted_as_what_they_were(form, tmp_path):
    export(made(0, 0, 1, 1, 2, 2, mosaic=2, ipc=2), form, tmp_path / "set")
    again = load_distilled(tmp_path / "set")
    again.check_ipc(2)
    assert len(again) == 24
    assert (len(again.images), again.mosaic) == ((6, 2) if form == "safetensors" else (24, 1))
    export(again, "medmnist", tmp_path / "twice")
    load_distilled(tmp_path / "twice").check_ipc(2)


class Odd(Method):
    """Makes sets of its own size, or changes them while it goes on."""

    def __init__(self, ipc=None, relabels=False):
        self.ipc, self.relabels, self.steps = ipc, relabels, count()

    def setup(self, task):
        return real_subset(task.data, self.ipc or task.ipc, task.seeds)

    def losses(self, synthetic, step):
        next(self.steps)
        if self.relabels:
            synthetic.labels[-1] = 0
        yield LossTerm(synthetic.images.square().sum())


def distilled(method, folder):
    optimisers = {"images": {"learning_rate": 1.0}, "step_size": {"learning_rate": 0}, "labels": {"learning_rate": 0}}
    return Distiller(method, example_task(ipc=2), Distillation(iterations=2, **optimisers), folder, silent).run()


def test_a_method_that_makes_another_number_is_refused_before_any_work(tmp_path):
    method = Odd(ipc=3)
    with pytest.raises(PluginError, match=r"Odd: .*it holds 9 images \(3 of 'class 0', .*ipc=2 is 2 of each"):
        distilled(method, tmp_path)
    assert next(method.steps) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_was_changed_on_the_way_is_refused(tmp_path):
    assert len(distilled(Odd(), tmp_path / "good").synthetic) == 6
    with pytest.raises(PluginError, match=r"it holds 6 images \(3 of 'class 0', 1 of 'class 2'\)"):
        distilled(Odd(relabels=True), tmp_path / "bad")
