"""Damaged files of every kind: refused with a message that names the file, or read as if they were whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damages import damages
from generated import write_images, write_npz
from PIL import Image

from hoptm_plugin import SyntheticSet, load_distilled
from hoptm_plugin.commands.evaluate import _Judged
from hoptm_plugin.commands.export import export
from hoptm_plugin.commands.folder import read_config
from hoptm_plugin.commands.report import read_run
from hoptm_plugin.core.errors import HopTMError
from hoptm_plugin.core.files import sha256
from hoptm_plugin.core.progress import silent
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import load
from hoptm_plugin.engine.checkpoint import read_checkpoint
from hoptm_plugin.engine.distil import Distiller
from hoptm_plugin.engine.metrics import classification_metrics
from hoptm_plugin.engine.settings import Distillation
from hoptm_plugin.experts import ExpertRecipe, ExpertStore, ExpertTraining
from hoptm_plugin.experts.store import Begun
from hoptm_plugin.loggers import JsonLines
from hoptm_plugin.matchers import Endpoint, ShapeWisePotential
from hoptm_plugin.results.card import read_card, write_card
from hoptm_plugin.results.finished import KeptNetworks
from hoptm_plugin.results.images import read_grid
from hoptm_plugin.schedulers import Geometric, SelfPaced
from hoptm_plugin.testing import example_task
from hoptm_plugin.trajectory import RealImages, SoftLabels, TrajectoryMatching, UniformSegments, WeightedMatcher

LONGEST = 2000  # characters of a message
RUN = ("config.yaml", "metrics.jsonl", "synthetic.png", "initial.png")


class LeftOutError(Exception):
    """The report does without a file, and says so."""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        file: its path below the folder of all files.
        read: reads it as the software does, given the folder of all files.
        tries: how many damages are tried.
        harmless: that no damage is ever seen, because nothing of it is read.
        other: whether a damaged file may be another one of the same kind, known by its fingerprint, which experts,
            checkpoints and cards are tied to.
    """

    file: str
    read: Callable[[Path], Any]
    tries: int = 50
    harmless: bool = False
    other: bool = False


# --- the files -------------------------------------------------------------------------------------------------------


def method() -> TrajectoryMatching:
    return TrajectoryMatching(
        {"endpoint": WeightedMatcher(Endpoint()), "shape": WeightedMatcher(ShapeWisePotential(), 0.5)},
        UniformSegments(max_start_epoch=3), SoftLabels(start="one_hot"), RealImages(), student_steps=2,
        expert_epochs=2, student_batch=2, step_size=0.05, schedulers={"pace": SelfPaced(Geometric(1e-7, 1.5, 1))},
    )  # fmt: skip


LOOP = Distillation(iterations=4, images={"learning_rate": 0.1}, step_size={"learning_rate": 1e-6},
                    labels={"learning_rate": 0.1}, checkpoint_every=2, log_every=1, average_decay=0.9,
                    average_labels=True)  # fmt: skip


def store(root: Path) -> ExpertStore:
    recipe = ExpertRecipe(data="abc", network={"name": "convnet"}, augmentation={"name": "dsa"},
                          training=ExpertTraining(), seed=0)  # fmt: skip
    return ExpertStore(root / "experts", recipe, 7)


def kept(root: Path) -> KeptNetworks:
    return KeptNetworks(root / "kept" / "evaluations.json", "identity")


@pytest.fixture(scope="module")
def files(finished_run, tmp_path_factory):
    """A folder with files of all kinds."""
    root = tmp_path_factory.mktemp("whole")
    generator = torch.Generator().manual_seed(0)
    experts = store(root)
    experts.write(0, torch.randn(6, 7, generator=generator), [0.5] * 5, 1.5)
    trajectory, velocity = torch.randn(3, 7, generator=generator), torch.randn(7, generator=generator)
    experts.write_begun(1, Begun(trajectory, velocity, [0.5, 0.25], 1.5))
    experts.folder.rename(root / "experts" / "store")
    (root / "distilling").mkdir()
    Distiller(method(), example_task(), LOOP, root / "distilling", silent).run()
    labels = torch.tensor([0, 1, 2, 0])
    kept(root).keep("synthetic set", "convnet", {0: classification_metrics(labels, torch.eye(3)[labels])})
    shutil.copytree(finished_run, root / "run")
    average = SyntheticSet.load(root / "run/synthetic.safetensors")
    average.images = average.images * 0.5
    average.save(root / "run/synthetic_average.safetensors")
    (root / "run/split.json").write_text(json.dumps({"train": ["a.png"]}))
    card = read_card(root / "run")
    judged = {name: sha256(root / "run" / name) for name in ("synthetic_average.safetensors", "split.json")}
    write_card(card.model_copy(update={"artefacts": card.artefacts | judged}), root / "run/result.json")
    shutil.copytree(root / "run", root / "shown")
    for form in ("medmnist", "folder", "safetensors"):
        export(root / "run", form, root / form)
    write_npz(root / "cells.npz")
    for split, count in (("train", 6), ("test", 3)):
        write_images(root / "pictures" / split, ("disc", "square"), count)
    shutil.copytree(root / "pictures", root / "bitmaps")
    for picture in list((root / "bitmaps").rglob("*.png")):  # without a checksum, unlike PNG
        Image.open(picture).save(picture.with_suffix(".bmp"))
        picture.unlink()
    return root


# --- how each is read ------------------------------------------------------------------------------------------------


def experts(root: Path) -> Any:
    found = store(root)
    found.folder = root / "experts" / "store"
    assert found.missing(1, 5) == []
    return found.read(0, 0, 5), found.read(0, 2, 3), found.epochs(0), found.seconds(0)


def begun_expert(root: Path) -> Any:
    found = store(root)
    found.folder = root / "experts" / "store"
    return found.begun(1)


def checkpoint(root: Path) -> Any:
    resumed = Distiller(method(), example_task(), LOOP, root / "distilling", silent)
    return read_checkpoint(root / "distilling/checkpoint.safetensors"), resumed.first, resumed.synthetic, (
        resumed.optimisers.state_dict(), resumed.method.state_dict(), resumed.average.state_dict())  # fmt: skip


def log_on_resuming(root: Path) -> Any:
    """Read the log as a resumed run does, which writes it anew."""
    resumed = Distiller(method(), example_task(), LOOP, root / "distilling", silent)
    with_mark = JsonLines(resumed._mark)
    with_mark.begin(root / "distilling", resumed.first)
    with_mark.close()
    return (root / "distilling/metrics.jsonl").read_bytes()


def reported(name: str) -> Callable[[Path], Any]:
    def read(root: Path) -> Any:
        run = read_run(root / "shown/result.json", read_card(root / "shown"))
        if run.missing:
            assert len(run.missing) == 1
            raise LeftOutError(run.missing[0])
        if name.endswith(".png"):
            read_grid(root / "shown" / name)
        return run

    return read


def judged(root: Path) -> Any:
    read = _Judged.read(root / "run")
    return read.synthetic, read.average


def exported(form: str) -> Callable[[Path], Any]:
    return lambda root: load_distilled(root / form)


def data(spec: dict[str, Any]) -> Callable[[Path], Any]:
    def read(root: Path) -> Any:
        found = load({**spec, "root": str(root / spec["root"])}, Seeds(0), torch.device("cpu"))
        return found.fingerprint, found

    return read


KINDS = {
    "expert": Kind("experts/store/expert-00000.safetensors", experts, 70),
    "begun expert": Kind("experts/store/expert-00001.begun.safetensors", begun_expert),
    "manifest of a store": Kind("experts/store/manifest.json", experts),
    "checkpoint": Kind("distilling/checkpoint.safetensors", checkpoint, 70),
    "log on resuming": Kind("distilling/metrics.jsonl", log_on_resuming),
    "evaluated networks": Kind("kept/evaluations.json", lambda root: kept(root)._rows),
    "synthetic set": Kind("run/synthetic.safetensors", lambda root: load_distilled(root / "run"), 70),
    "synthetic set to be judged": Kind("run/synthetic.safetensors", judged),
    "moving average": Kind("run/synthetic_average.safetensors", judged),
    "card": Kind("run/result.json", lambda root: read_card(root / "run"), 70),
    "card beside a set": Kind("run/result.json", judged),
    "configuration": Kind("run/config.yaml", lambda root: read_config(root / "run/config.yaml"), 70),
    "picture": Kind("run/synthetic.png", lambda root: read_grid(root / "run/synthetic.png"), 30),
    **{f"{name} in a report": Kind(f"shown/{name}", reported(name), 40) for name in RUN},
    "split": Kind("shown/split.json", reported("split.json"), 10, harmless=True),
    "manifest of an export": Kind("medmnist/export.json", exported("medmnist")),
    "exported npz": Kind("medmnist/distilled.npz", exported("medmnist")),
    "exported labels": Kind("folder/labels.csv", exported("folder"), 30),
    "exported picture": Kind("folder/train/0_0/0000.png", exported("folder"), 30),
    "exported native file": Kind("safetensors/synthetic.safetensors", exported("safetensors"), 30),
    "data in an npz": Kind("cells.npz", data({"name": "npz", "root": "cells.npz"}), 100, other=True),
    "data in pictures": Kind("pictures/train/disc/disc-0.png", data({"name": "folder", "root": "pictures"}), 100,
                             other=True),
    "data in bitmaps": Kind("bitmaps/train/disc/disc-0.bmp", data({"name": "folder", "root": "bitmaps"}), 100,
                            other=True),
}  # fmt: skip


def digest(value: Any) -> str:
    """Return a hash of nested values, tensors and arrays included, to the last bit."""
    found = hashlib.sha256()

    def add(each: Any) -> None:
        found.update(type(each).__name__.encode())
        if isinstance(each, torch.Tensor):
            add(each.detach().numpy())
        elif isinstance(each, np.ndarray):
            found.update(f"{each.dtype} {each.shape}".encode() + each.tobytes())
        elif is_dataclass(each):
            for field in fields(each):
                add(getattr(each, field.name))
        elif isinstance(each, dict):
            for key, item in each.items():
                add((str(key), item))
        elif isinstance(each, list | tuple):
            for item in each:
                add(item)
        else:
            found.update(repr(each).encode())

    add(value)
    return found.hexdigest()


def state(root: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


# --- the tests -------------------------------------------------------------------------------------------------------


def test_a_thousand_damages_of_every_kind_are_tried():
    assert sum(kind.tries for kind in KINDS.values()) >= 1000


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_refused_or_read_as_if_it_were_whole(name, files, request):
    kind, refused, harmless, others = KINDS[name], 0, 0, 0
    file = files / kind.file
    whole, stat = file.read_bytes(), file.stat()
    expected = kind.read(files)
    expected_digest, before = digest(expected), state(files)
    try:
        for damage in damages(whole, kind.tries, name):
            file.write_bytes(damage.content)
            try:
                found = kind.read(files)
            except (HopTMError, LeftOutError) as error:
                refused += 1
                check_message(str(error), file, damage.name)
            else:
                same = digest(found) == expected_digest
                harmless += same
                others += not same
                assert same or (kind.other and found[0] != expected[0]), f"{damage.name}: another result in silence"
            after = state(files)
            assert {path for path in before | after if before.get(path) != after.get(path)} <= {file}, damage.name
    finally:
        file.write_bytes(whole)
    request.node.user_properties.append(("damages", (name, refused, harmless, others)))
    assert refused + harmless + others == kind.tries
    assert (refused == 0) == kind.harmless
    assert kind.read(files) is not None
    assert file.stat().st_size == stat.st_size


def check_message(text: str, file: Path, damage: str) -> None:
    assert file.name in text, f"{damage}: {text}"
    assert len(text) <= LONGEST, damage
    assert len(text.splitlines()) == 1, f"{damage}: {text}"
