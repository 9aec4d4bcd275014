"""What networks achieve on real images is computed once, checked on reading, and the same whoever computed it."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hoptm_plugin import compose
from hoptm_plugin.engine.distil import Distilled
from hoptm_plugin.engine.evaluation import Evaluator
from hoptm_plugin.runs.assembly import workbench
from hoptm_plugin.runs.running import judge
from hoptm_plugin.runs.shared import SharedEvaluations, code_sha256
from hoptm_plugin.runtime.progress import silent
from hoptm_plugin.storage.files import with_checksum

SMALL = (
    "method=full", "dataset=npz", "dataset.preprocess.image_size=8", "network.width=2", "network.depth=1",
    "protocol.repeats=2", "protocol.epochs=1", "protocol.batch=1000", "runtime.device=cpu", "runtime.threads=1",
)  # fmt: skip


@pytest.fixture
def trained(monkeypatch):
    """Which networks were trained, by what on."""
    found, scores = [], Evaluator._scores

    def counted(self, name, sets, split, warm_up, *rest):
        found.append((name, rest[-1] if rest else None, len(sets)))
        return scores(self, name, sets, split, warm_up, *rest)

    monkeypatch.setattr(Evaluator, "_scores", counted)
    return found


FOLDER = tempfile.TemporaryDirectory()  # until the tests end


@cache
def settings_of(*overrides):
    return compose(*SMALL, f"dataset.root={npz()}", *overrides)


@cache
def npz():
    """An npz of 3 classes, 24/6/12 images."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 24), ("val", 6), ("test", 12)):
        labels = np.arange(count, dtype=np.uint8)[:, None] % 3
        noise = rng.integers(0, 100, (count, 8, 8, 3)) + 50 * labels[:, :, None, None]
        arrays |= {f"{split}_images": noise.astype(np.uint8), f"{split}_labels": labels}
    path = Path(FOLDER.name) / "small.npz"
    np.savez(path, **arrays)
    return path


def judged(root, *overrides, shared=True):
    """Judge all images, or a set with a random subset beside it; return the results and what was shared."""
    with workbench(settings_of(*overrides), silent) as bench:
        store = SharedEvaluations(root, bench) if shared else None
        return judge(Distilled(bench.parts.method.setup(bench.task), None), bench, bench.evaluator(), store), store


def stored(root):
    return sorted(root.glob("judged/*.json"))


def test_all_images_and_a_random_subset_are_judged_once_to_the_same_bits(tmp_path, trained):
    both = '["convnet",{name: convnet, depth: 1, width: 3}]'
    for method in ("full", "random"):
        root, overrides = tmp_path / method, (f"method={method}", f"networks={both}")
        alone, _ = judged(root, *overrides, shared=False)
        first, store = judged(root, *overrides)
        assert store.reused_seconds is None
        assert len(stored(root)) == 2, "one for each architecture"
        trained.clear()
        again, store = judged(root, *overrides)
        assert alone == first == again
        shared = "synthetic set" if method == "full" else "random subset"
        assert not [each for each in trained if each[1] == shared]
        seconds = sum(json.loads(path.read_text())["seconds"] for path in stored(root))
        assert store.reused_seconds == pytest.approx(seconds)
        assert store.cost(1.0) == {"evaluate_s": pytest.approx(1 + seconds), "reused_s": pytest.approx(seconds)}
    assert [each[1] for each in trained] == ["synthetic set"] * 4, "what was distilled is judged by every run"
    trained.clear()
    judged(root, "method=random", 'networks=["convnet"]')
    assert [each[1] for each in trained] == ["synthetic set"] * 2, "of other runs' networks those that are wanted"


@pytest.mark.parametrize(
    "other",
    ["seed=1", "ipc=2", "protocol.epochs=2", "protocol.batch=64", "protocol.split=validation",
     "protocol.repeats=3", "protocol.learning_rate=0.02", "network.width=3", "augment=none",
     "dataset.preprocess.image_size=9", "runtime.parallel_networks=2"],
)  # fmt: skip
def test_what_decides_the_figures_makes_it_another_evaluation(other, tmp_path):
    judged(tmp_path, "method=random")
    assert judged(tmp_path, "method=random", other)[1].reused_seconds is None
    assert len(stored(tmp_path)) == 2


@pytest.mark.parametrize("other", ["method=herding", "protocol.random_subset=true", "method_title=again", "worker=1"])
def test_what_does_not_decide_them_does_not(other, tmp_path):
    judged(tmp_path, "method=random")
    assert judged(tmp_path, "method=random", other)[1].reused_seconds is not None


def halved(text):
    return text[: len(text) // 2]


def edited(change):
    def damage(text):
        content = json.loads(text)
        del content["sha256"]
        change(content)
        return json.dumps(with_checksum(content))

    return damage


def _flip(content):
    content["rows"][0]["metrics"]["confusion"][0][0] -= 1


def _other_images(content):
    for row in content["rows"]:  # consistent in itself: twice as many images of every class
        metrics = row["metrics"]
        metrics["support"] = [2 * count for count in metrics["support"]]
        metrics["confusion"] = [[2 * count for count in line] for line in metrics["confusion"]]
        metrics["calibration"]["counts"] = [2 * count for count in metrics["calibration"]["counts"]]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(halved, "not a readable"), (lambda text: text.replace('"accuracy": 0.', '"accuracy": 0.0', 1), "."),
     (lambda text: text.replace('"seconds": ', '"seconds": 1', 1), "damaged or edited"),
     (lambda text: "[]", "valid"), (lambda text: "", "not a readable"),
     (edited(_flip), "confusion"), (edited(lambda content: content["identity"].update(seed=7)), "another evaluation"),
     (edited(lambda content: content["rows"].pop()), "does not hold the 2 networks"),
     (edited(lambda content: content["rows"].reverse()), "does not hold the 2 networks"),
     (edited(_other_images), "other images"), (edited(lambda content: content.update(seconds=-1)), "seconds"),
     (edited(lambda content: content.update(seconds=float("inf"))), "finite"),
     (edited(lambda content: content.update(version=2)), "version"),
     (edited(lambda content: content.update(more=1)), "more"),
     (edited(lambda content: content["rows"][1]["metrics"].update(recall_per_class=[2.0] * 3)), "recall")],
)  # fmt: skip
def test_a_damaged_file_is_said_and_made_again(damage, reason, tmp_path, trained):
    before, _ = judged(tmp_path)
    (path,) = stored(tmp_path)
    whole = json.loads(path.read_text())
    path.write_text(damage(path.read_text()))
    trained.clear()
    with pytest.warns(UserWarning, match=rf"{path.name}: not a usable evaluation.*{reason}.*judged again"):
        after, store = judged(tmp_path)
    assert (before, store.reused_seconds) == (after, None)
    assert len(trained) == 2
    assert json.loads(path.read_text())["rows"] == whole["rows"]
    assert judged(tmp_path)[1].reused_seconds is not None


def test_of_two_at_once_one_computes_and_the_other_waits(tmp_path, monkeypatch, trained):
    entered, may_go_on = threading.Event(), threading.Event()
    said, results, evaluate = [], {}, Evaluator.evaluate_side_by_side

    def slow(self, *arguments):
        entered.set()
        assert may_go_on.wait(60)
        return evaluate(self, *arguments)

    monkeypatch.setattr(Evaluator, "evaluate_side_by_side", slow)
    monkeypatch.setattr("hoptm_plugin.runs.shared.LOOK_EVERY", 0.01)
    settings = settings_of()

    def work(name):
        def told(title, total, done=0):
            said.append(f"{name}: {title}")
            if "waiting" in title:
                may_go_on.set()
            return silent(title, total, done)

        with workbench(settings, told) as bench:
            store = SharedEvaluations(tmp_path, bench)
            distilled = Distilled(bench.parts.method.setup(bench.task), None)
            results[name] = judge(distilled, bench, bench.evaluator(), store), store

    first, second = (threading.Thread(target=work, args=(name,)) for name in ("first", "second"))
    first.start()
    assert entered.wait(60)
    second.start()
    for thread in (first, second):
        thread.join(120)
        assert not thread.is_alive()
    assert len(trained) == 2, "two networks, once"
    assert results["first"][0] == results["second"][0]
    assert results["first"][1].reused_seconds is None
    assert results["second"][1].reused_seconds > 0
    assert results["second"][1].waited > 0
    assert [line for line in said if "judges the same; waiting for it" in line and line.startswith("second")]
    assert not list(tmp_path.glob("judged/*.lock"))


def test_what_was_left_by_a_killed_process_hinders_nobody(tmp_path):
    judged(tmp_path)
    (path,) = stored(tmp_path)
    leftover = path.with_name(f".{path.name}.abcdefgh.tmp")
    leftover.write_text("half")
    path.with_suffix(".lock").write_text("process 4194303 on nowhere\n")
    path.unlink()
    judged(tmp_path)
    assert [each.name for each in (tmp_path / "judged").iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_to_ends_no_run(tmp_path):
    (tmp_path / "root").write_text("a file")
    expected, _ = judged(tmp_path, shared=False)
    with pytest.warns(UserWarning, match=r"synthetic set: cannot be kept for other runs.*experts\.root=PATH"):
        assert judged(tmp_path / "root")[0] == expected


def test_code_of_no_file_is_told_from_no_other(monkeypatch, tmp_path):
    """What is defined in a notebook may have changed since, and nothing would tell."""
    monkeypatch.setitem(sys.modules, "notebook", ModuleType("notebook"))
    assert code_sha256("notebook") is None
    assert code_sha256("hoptm_plugin") != code_sha256("hoptm_baselines")
    monkeypatch.setattr("hoptm_plugin.runs.shared._package", lambda part: "notebook")
    judged(tmp_path)
    assert not stored(tmp_path)


def test_changed_code_makes_it_another_evaluation(monkeypatch, tmp_path):
    judged(tmp_path)
    monkeypatch.setattr("hoptm_plugin.runs.shared.code_sha256", lambda package: "0" * 64)
    assert judged(tmp_path)[1].reused_seconds is None
    assert len(stored(tmp_path)) == 2
