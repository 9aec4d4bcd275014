"""Stores of experts with a curriculum: who scores the images, what is kept of it, and what a plan says of it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

from hoptm_plugin.augment import DSA
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.experts import Curriculum, ExpertRecipe, ExpertStore, ExpertTraining, build_experts
from hoptm_plugin.experts.difficulty import has_scores
from hoptm_plugin.networks import ConvNet, FlatNetwork, create
from hoptm_plugin.runs import timing
from hoptm_plugin.runs.assembly import workbench
from hoptm_plugin.runs.composition import compose
from hoptm_plugin.runs.planning import planned, plans
from hoptm_plugin.runs.timing import Timing
from hoptm_plugin.runtime.progress import Progress, silent
from hoptm_plugin.storage.locks import Lock
from hoptm_plugin.storage.tensors import read_tensors, write_tensors

CURRICULUM = Curriculum(all_at=1, drop_after=(1, 2), drop=(0.1, 0.4), scoring_networks=2, scoring_epochs=3)
TRAINING = ExpertTraining(batch=6, learning_rate=0.05, curriculum=CURRICULUM)
FILE = "difficulty.safetensors"


def recipe(training=TRAINING):
    return ExpertRecipe(
        data="abc", network={"name": "convnet"}, augmentation={"name": "dsa"}, training=training, seed=0
    )


@pytest.fixture
def build(make_data, tmp_path):
    data = make_data(per_class=9)

    def network(generator):
        return create(ConvNet(depth=2, width=4), data.image_shape, 3, generator)

    def go(count=2, epochs=4, root=tmp_path, chosen=None, progress=silent, split=data.train):
        store = ExpertStore(root, chosen or recipe(), FlatNetwork(network(torch.Generator())).num_parameters)
        return store, build_experts(store, network, split, DSA(), count, epochs, progress)

    go.split = data.train
    return go


def rows(experts, epochs=4):
    return torch.stack([experts.segment(k, 0, epochs) for k in range(len(experts))])


def scores_of(store):
    return read_tensors(store.folder / FILE, "difficulty of images")[0]["scores"]


class Titles(Progress):
    """Remembers what work was announced; stops at a step of it."""

    def __init__(self, stop_at=None):
        self.titles, self.left = [], stop_at

    def __call__(self, title, total, done=0):
        self.titles.append((title, total))
        return self

    def advance(self, steps=1, **values):
        if self.left is not None and steps:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def test_images_are_scored_once_by_experts_without_a_curriculum(build, tmp_path):
    said = Titles()
    store, experts = build(progress=said)
    assert said.titles == [("experts", 2 * 4), ("experts that score images", 2 * 3)][::-1]
    plain, others = build(epochs=3, chosen=recipe(TRAINING.model_copy(update={"curriculum": None})), progress=said)
    assert plain.folder == store.scoring().folder != store.folder
    assert len(said.titles) == 2, "they are the experts of methods without a curriculum"
    assert experts.seconds > others.seconds > 0
    build(count=3, progress=said)
    assert said.titles[2:] == [("experts", 4)]
    for path in plain.folder.iterdir():
        path.unlink()
    build(count=4, progress=said)
    assert said.titles[3:] == [("experts", 4)], "the scores are kept"


def test_images_with_a_wrong_label_are_the_most_difficult(build):
    split = build.split
    labels = split.labels.clone()
    wrong = [4, 9]
    labels[wrong] = (labels[wrong] + 1) % 3
    longer = TRAINING.model_copy(update={"curriculum": CURRICULUM.model_copy(update={"scoring_epochs": 15})})
    store, _ = build(chosen=recipe(longer), split=replace(split, labels=labels))
    scores = scores_of(store)
    assert sorted(scores.topk(2).indices.tolist()) == wrong
    assert len(scores) == len(split)


@pytest.mark.parametrize("stop_at", [1, 2, 5, 8, 11, 13])
def test_a_build_that_was_interrupted_goes_on_to_the_same_bits(build, tmp_path, stop_at):
    """In the first or second scoring expert, or in those that follow the curriculum."""
    with pytest.raises(KeyboardInterrupt):
        build(progress=Titles(stop_at))
    store, experts = build()
    straight, expected = build(root=tmp_path / "elsewhere")
    assert torch.equal(rows(experts), rows(expected))
    assert torch.equal(scores_of(store), scores_of(straight))


def test_a_signal_between_scoring_and_writing_leaves_nothing_half(build, monkeypatch):
    def stop(*what):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hoptm_plugin.experts.difficulty.mean_el2n", stop)
        with pytest.raises(KeyboardInterrupt):
            build()
    store, _ = build()
    assert has_scores(store)
    assert not list(store.folder.glob("*.lock"))


def test_scores_that_another_process_computes_are_waited_for(build, tmp_path, monkeypatch):
    """Whoever comes second has the same order, and not one that rounding made."""
    elsewhere, _ = build(root=tmp_path / "elsewhere")
    store = ExpertStore(tmp_path, recipe(), elsewhere.num_parameters)
    lock, theirs, waited = Lock(store.folder / "difficulty.lock"), 1 - scores_of(elsewhere) / 2, []
    assert lock.acquire()

    def written(seconds):
        waited.append(seconds)
        _, header = read_tensors(elsewhere.folder / FILE, "difficulty of images")
        write_tensors(store.folder / FILE, {"scores": theirs}, header)
        lock.close()

    monkeypatch.setattr("hoptm_plugin.experts.difficulty.time.sleep", written)
    build()
    assert len(waited) == 1
    assert torch.equal(scores_of(store), theirs)


def other_images(path):
    tensors, header = read_tensors(path, "difficulty of images")
    write_tensors(path, {"scores": tensors["scores"][1:]}, header)


def no_scores(path):
    tensors, header = read_tensors(path, "difficulty of images")
    write_tensors(path, {"scores": tensors["scores"] - 3}, header)


def not_finite(path):
    tensors, header = read_tensors(path, "difficulty of images")
    write_tensors(path, {"scores": tensors["scores"] * float("nan")}, header)


def double(path):
    tensors, header = read_tensors(path, "difficulty of images")
    write_tensors(path, {"scores": tensors["scores"].double()}, header)


def other_tensor(path):
    tensors, header = read_tensors(path, "difficulty of images")
    write_tensors(path, {"losses": tensors["scores"]}, header)


def other_store(path):
    tensors, header = read_tensors(path, "difficulty of images")
    write_tensors(path, tensors, header | {"recipe": "0" * 16})


def no_seconds(path):
    tensors, header = read_tensors(path, "difficulty of images")
    write_tensors(path, tensors, header | {"seconds": -1})


def a_list(path):
    write_tensors(path, read_tensors(path, "difficulty of images")[0], ["scores"])


def one_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    "damage",
    [other_images, no_scores, not_finite, double, other_tensor, other_store, no_seconds, a_list, one_bit, cut],
    ids=lambda damage: damage.__name__,
)
def test_scores_that_are_damaged_are_refused_by_name(build, damage):
    store, _ = build()
    damage(store.folder / FILE)
    with pytest.raises(FileFormatError, match=r"difficulty\.safetensors.*delete it") as caught:
        build(count=3)
    assert "\n" not in str(caught.value)
    (store.folder / FILE).unlink()
    assert len(build(count=3)[1]) == 3


def test_every_setting_of_a_curriculum_names_another_store_and_none_the_one_that_was():
    changes = [{"start": 0.5}, {"all_at": 0}, {"drop_after": (2, 3)}, {"drop": (0.1, 0.5)}, {"scoring_networks": 3},
               {"scoring_epochs": 4}]  # fmt: skip
    others = [
        recipe(TRAINING.model_copy(update={"curriculum": CURRICULUM.model_copy(update=each)})) for each in changes
    ]
    plain = recipe().without_curriculum()
    assert len({each.digest for each in (recipe(), plain, *others)}) == len(changes) + 2
    assert plain == recipe(ExpertTraining(batch=6, learning_rate=0.05))
    assert "curriculum" not in plain.model_dump(mode="json")["training"]
    assert ExpertRecipe(**recipe().model_dump(mode="json")) == recipe()


GIVEN = "experts.training.curriculum={all_at:1,drop_after:[2],drop:[0.2],scoring_networks:3,scoring_epochs:2}"


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """Plans whose seconds are epochs of an expert."""
    monkeypatch.setattr(timing, "training", lambda *what: Timing(0.0, 0, 0))
    monkeypatch.setattr(timing, "testing", lambda *what: Timing(0.0, 0, 0))
    monkeypatch.setattr(timing, "iteration", lambda *what: Timing(0.0, 0.0, 0))
    monkeypatch.setattr(timing, "expert_epoch", lambda bench, epochs: Timing(1.0, 0, 0))

    def make(*overrides):
        settings = compose("dataset=digits", "network.width=2", "network.depth=1", "runtime.device=cpu",
                           "runtime.compile=false", f"experts.root={tmp_path}", "method=mtt", "experts.count=4",
                           "protocol.random_subset=false", *overrides)  # fmt: skip
        with workbench(settings, silent) as bench:
            return planned(bench)

    return make


def test_a_plan_counts_the_experts_that_score_and_the_images_that_are_open(counted):
    plain, found = counted("experts.training.curriculum=null"), counted(GIVEN)
    epochs = plain.experts.epochs
    assert plain.experts.seconds == 4 * epochs
    share = (0.75 + 2 + 0.8 * (epochs - 3)) / epochs
    assert found.experts.seconds == pytest.approx(4 * epochs * share)
    assert (found.scoring.amount, found.scoring.seconds) == (3, 3 * 2)
    assert found.seconds == pytest.approx(found.scoring.seconds + found.experts.seconds)
    assert found.disk_bytes - plain.disk_bytes == 3 * (2 + 1) * found.scoring.row_bytes
    assert str(found).startswith("plan: 3 experts that score images about 6 s, 4 experts about")
    assert "score" not in str(plain)
    assert counted(GIVEN, "experts.training.epoch_images=100").experts.seconds == 4 * epochs


def test_those_that_score_are_counted_once_over_several_runs(counted):
    made = [counted("experts.training.curriculum=null"), counted(GIVEN), counted(GIVEN, "seed=1")]
    found = plans([(str(number), lambda each=each: each) for number, each in enumerate(made)])
    assert [each.scoring.seconds for each in found] == [0, 0, 0], "the first run trains more of the same experts"
    found = plans([(str(number), lambda each=each: each) for number, each in enumerate(made[1:])])
    assert [each.scoring.seconds for each in found] == [6, 0]


def test_a_damaged_expert_that_scores_is_refused_before_any_work(tmp_path):
    settings = compose("dataset=digits", "network.width=2", "network.depth=1", "runtime.device=cpu", "method=mtt",
                       f"experts.root={tmp_path}", GIVEN)  # fmt: skip
    with workbench(settings, silent) as bench:
        bench.check_experts()
        scoring = bench.store().scoring()
        scoring.write(1, torch.zeros(3, scoring.num_parameters), [0.5, 0.5], 1.0)
        cut(scoring.path(1))
        with pytest.raises(FileFormatError, match=r"expert-00001\.safetensors"):
            bench.check_experts()


@pytest.mark.parametrize(("all_at", "said"), [(5, True), (4, False)])
def test_a_curriculum_that_experts_do_not_reach_the_end_of_is_told(tmp_path, all_at, said):
    end = f"experts.training.curriculum.all_at={all_at}", "experts.training.curriculum.drop_after=[6,7]"
    settings = compose("dataset=digits", "network.width=2", "network.depth=1", "runtime.device=cpu", "method=pad",
                       f"experts.root={tmp_path}", *end)  # fmt: skip
    with workbench(settings, silent) as bench, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert bench.parts.method.last_expert_epoch() == 5
        bench.check_experts()
    lines = [str(each.message) for each in told if "curriculum" in str(each.message)]
    assert len(lines) == said
    if said:
        assert "experts are trained for 5 epochs, and before epoch 5 the hardest images" in lines[0]
