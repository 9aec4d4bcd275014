"""A thousand damaged files of every kind: each is refused with one message, or gives what the whole file gives."""

import hashlib
import shutil
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from command_line import TINY_RUN, invoke
from damages import damages
from generated import NPZ, write_images, write_npz

from hoptm_plugin.cards.card import read_card
from hoptm_plugin.core.errors import HopTMError
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import load
from hoptm_plugin.engine.checkpoint import read_checkpoint
from hoptm_plugin.exchange.loading import load_distilled
from hoptm_plugin.experts import ExpertRecipe, ExpertStore, ExpertTraining
from hoptm_plugin.experts.store import Begun
from hoptm_plugin.loggers import JsonLines
from hoptm_plugin.pages.reading import read_run
from hoptm_plugin.runs.finished import KeptNetworks
from hoptm_plugin.storage.run_files import read_config

DAMAGES, LEAST = 42, 1000


def values(item):
    """Return anything that was read as something that can be compared, every bit of it."""
    if isinstance(item, torch.Tensor):
        return str(item.dtype), tuple(item.shape), hashlib.sha256(item.contiguous().numpy().tobytes()).hexdigest()
    if isinstance(item, dict):
        return {key: values(each) for key, each in item.items()}
    if isinstance(item, list | tuple):
        return [values(each) for each in item]
    if hasattr(item, "model_dump"):
        return item.model_dump(mode="json")
    if hasattr(item, "__dataclass_fields__"):
        return {name: values(getattr(item, name)) for name in item.__dataclass_fields__}
    return repr(item)


@dataclass
class Kind:
    """A file, and how it is read."""

    name: str
    path: object
    read: object


RECIPE = ExpertRecipe(data="abc", network={"name": "convnet"}, augmentation={"name": "none"},
                      training=ExpertTraining(), seed=0)  # fmt: skip


def stores(root):
    store, generator = ExpertStore(root, RECIPE, 50), torch.Generator().manual_seed(0)
    store.write(0, torch.randn(6, 50, generator=generator), [0.5] * 5, 1.5)
    store.write_begun(1, Begun(torch.randn(3, 50, generator=generator), torch.randn(50), [0.4, 0.3], 0.5))
    yield Kind("expert", store.path(0), lambda: (store.missing(1, 5), store.read(0, 0, 5), store.seconds(0)))
    yield Kind("begun expert", store.begun_path(1), lambda: store.begun(1))
    yield Kind("manifest of a store", store.folder / "manifest.json", store.begin)


def runs(run):
    """Return the files of a finished run, by whom they are read."""
    from safetensors import safe_open

    mark = read_checkpoint(run / "checkpoint.safetensors")["metrics"]
    metrics = (run / "metrics.jsonl").read_bytes()
    assert mark["length"] == len(metrics)

    def resumed():
        from hoptm_plugin.loggers import Mark

        logger = JsonLines(Mark(mark["length"], mark["sha256"]))
        logger.begin(run, 0)
        logger.close()
        return (run / "metrics.jsonl").read_bytes()

    def reported():
        found = read_run(run / "result.json", read_card(run))
        if found.missing:
            raise HopTMError(f"{run}: {found.missing[0]}")
        return found.config, found.curves, found.pictures

    yield Kind("checkpoint", run / "checkpoint.safetensors", lambda: read_checkpoint(run / "checkpoint.safetensors"))
    for name in ("synthetic", "synthetic_average"):
        path = run / f"{name}.safetensors"
        yield Kind(name, path, lambda path=path: load_distilled(path))
    yield Kind("metrics, resumed", run / "metrics.jsonl", resumed)
    for name in ("metrics.jsonl", "synthetic.png", "initial.png", "config.yaml"):
        yield Kind(f"{name}, reported", run / name, reported)
    yield Kind("configuration", run / "config.yaml", lambda: read_config(run / "config.yaml"))
    yield Kind("card", run / "result.json", lambda: read_card(run))
    with safe_open(run / "synthetic.safetensors", framework="pt") as stream:
        assert stream.keys()


def evaluations(folder, card):
    """Return the files of an evaluation that was interrupted."""
    kept = KeptNetworks(folder / "evaluations.json", "id")
    metrics = {"accuracy": 0.5, "balanced_accuracy": 0.5, "macro_auroc": 0.5, "macro_f1": 0.5,
               "calibration": {"ece": 0.0, "counts": [4], "confidence": [0.5], "accuracy": [0.5]},
               "recall_per_class": [0.5, 0.5], "support": [2, 2], "confusion": [[1, 1], [1, 1]]}  # fmt: skip
    kept.keep("synthetic set", "convnet", {0: metrics, 1: metrics})
    kept.keep_begun("key", {"done": 3, "stack": {"parameters": torch.arange(30.0)}})
    again = lambda: KeptNetworks(folder / "evaluations.json", "id")  # noqa: E731
    yield Kind("evaluated networks", folder / "evaluations.json",
               lambda: [again().known("synthetic set", "convnet", repeat) for repeat in range(2)])  # fmt: skip
    yield Kind("begun evaluation", folder / "evaluating.safetensors", lambda: again().begun("key"))


def exports(run, root, bench):
    for form in ("medmnist", "folder", "safetensors"):
        folder = root / form
        assert bench("export", str(run), "--format", form, "-o", str(folder)).code == 0
        for path in sorted(each for each in folder.rglob("*") if each.is_file() and each.name != "README.md")[:3]:
            yield Kind(f"{form}: {path.name}", path, lambda folder=folder: load_distilled(folder))


def datasets(root):
    """Damaged data may be read as other data: what matters is that their fingerprint says so."""
    write_npz(root / "data.npz")
    write_images(root / "images/train", ("disc", "square"), 6)
    write_images(root / "images/test", ("disc", "square"), 3)

    def read(spec):
        data = load(spec, Seeds(0), torch.device("cpu"))
        seen[data.fingerprint] = values([data.train.images, data.train.labels, data.test.images, data.test.labels])
        if seen[data.fingerprint] != seen[first.setdefault(spec["name"], data.fingerprint)]:
            raise HopTMError(f"{spec['root']}: other data, and another fingerprint")
        return seen[data.fingerprint]

    seen, first = {}, {}
    spec = {"name": "npz", "root": str(root / "data.npz"), "preprocess": {"image_size": 16}}
    yield Kind("npz of data", root / "data.npz", lambda: read(spec))
    other = {"name": "folder", "root": str(root / "images"), "preprocess": {"image_size": 16}}
    yield Kind("image of data", next((root / "images/train/disc").iterdir()), lambda: read(other))


@pytest.fixture(scope="module")
def run(tmp_path_factory, experts_root, npz_file):
    """A finished run with a moving average."""
    folder = tmp_path_factory.mktemp("corruption")
    more = ("distillation.average_decay=0.9", "distillation.log_every=1", f"hydra.run.dir={folder}/run")
    done = invoke("run", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_RUN, *more, cwd=folder,
                  environment={"HOPTM_EXPERTS": str(experts_root)})  # fmt: skip
    assert done.code == 0, done.err
    return folder / "run"


def attempted(kind):
    """Return why reading was refused, or None and what was read; anything but a refusal goes through."""
    try:
        return None, values(kind.read())
    except HopTMError as error:
        return str(error), None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_thousand_damages(run, bench, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    kinds = [*stores(tmp_path / "store"), *runs(folder), *evaluations(tmp_path, read_card(run)),
             *exports(folder, tmp_path, bench), *datasets(tmp_path)]  # fmt: skip
    outcomes = Counter()
    for kind in kinds:
        content, expected = kind.path.read_bytes(), values(kind.read())
        for damage in damages(content, DAMAGES, kind.name):
            kind.path.write_bytes(damage.content)
            before = {path: path.stat().st_mtime_ns for path in kind.path.parent.iterdir() if path != kind.path}
            refusal, found = attempted(kind)
            if refusal is None:
                outcomes[kind.name, "harmless"] += 1
                assert found == expected, f"{kind.name}: another result, and nothing said"
            else:
                outcomes[kind.name, "refused"] += 1
                assert kind.path.name in refusal or str(kind.path.parent) in refusal, refusal
                assert refusal.count("\n") <= 2, refusal
            after = {path: path.stat().st_mtime_ns for path in kind.path.parent.iterdir() if path != kind.path}
            assert after == before
            kind.path.write_bytes(content)
        assert outcomes[kind.name, "refused"] > DAMAGES // 4, outcomes
    assert outcomes.total() >= LEAST
    with capsys.disabled():
        table = {kind.name: (outcomes[kind.name, "refused"], outcomes[kind.name, "harmless"]) for kind in kinds}
        print(f"\n{outcomes.total()} damages; refused, harmless: {table}")  # noqa: T201


def test_the_damages_are_many_kinds():
    """Guards the test above: a check that damages nothing would pass."""
    content = bytes(range(256)) * 8
    made = [damage.content for damage in damages(content, 300, "guard")]
    assert len(made) == 300
    assert content not in made
    assert {len(each) < len(content) for each in made} == {True, False}
    bits = [np.unpackbits(np.frombuffer(each, np.uint8) ^ np.frombuffer(content, np.uint8)).sum()
            for each in made if len(each) == len(content)]  # fmt: skip
    assert Counter(map(int, bits))[1] > 60
