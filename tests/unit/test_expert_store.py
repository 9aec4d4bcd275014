"""The expert store: what is trained, what is read, and what is refused (architecture.md 8)."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file

from hoptm_plugin.augment import DSA, NoAugmentation
from hoptm_plugin.core.errors import FileFormatError, HopTMError, StorageError
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.experts import ExpertRecipe, ExpertStore, ExpertTraining, build_experts, train_experts
from hoptm_plugin.networks import ConvNet, FlatNetwork, create
from hoptm_plugin.networks.stack import TrainingLoss
from hoptm_plugin.runtime.progress import Progress, silent
from hoptm_plugin.storage import tensors
from hoptm_plugin.storage.sets import write_set
from hoptm_plugin.storage.tensors import read_tensors, write_tensors


def recipe(**changes):
    settings = {"data": "abc", "network": {"name": "convnet", "width": 4}, "augmentation": {"name": "dsa"},
                "training": ExpertTraining(algorithm="gsam", batch=6), "seed": 0}  # fmt: skip
    return ExpertRecipe(**settings | changes)


@pytest.fixture
def bench(make_data, tmp_path):
    """A store with 3 parameters, and one whose experts can be trained."""
    data = make_data()

    def network(generator):
        return create(ConvNet(depth=2, width=4), data.image_shape, 3, generator)

    parameters = FlatNetwork(network(torch.Generator())).num_parameters

    def build(count, epochs, root=tmp_path, chosen=None, progress=silent):
        store = ExpertStore(root, chosen or recipe(), parameters)
        return store, build_experts(store, network, data.train, DSA(), count, epochs, progress)

    return build


@pytest.fixture
def small(tmp_path):
    store = ExpertStore(tmp_path, recipe(), 3)
    store.write(0, torch.arange(18.0).view(6, 3), [0.5] * 5, 1.5)
    return store


def files(store):
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


def trajectories(experts, epochs):
    return torch.stack([experts.segment(k, 0, epochs) for k in range(len(experts))])


class Count(Progress):
    """Remembers how much work was announced."""

    totals: list

    def __init__(self):
        self.totals = []

    def __call__(self, title, total, done=0):
        self.totals.append(total)
        return self


def test_experts_are_built_once_and_reused(bench):
    count = Count()
    store, experts = bench(2, 3, progress=count)
    before = files(store)
    assert sorted(before) == ["expert-00000.safetensors", "expert-00001.safetensors", "manifest.json"]
    again, second = bench(2, 3, progress=count)
    assert count.totals == [6]
    assert files(again) == before
    assert len(second) == 2
    assert second.seconds == experts.seconds > 0


def test_initialisations_and_orders_differ_between_experts_and_seeds(bench):
    paths = trajectories(bench(2, 2)[1], 2)
    other = trajectories(bench(2, 2, chosen=recipe(seed=1))[1], 2)
    rows = [*paths.flatten(0, 1), *other.flatten(0, 1)]
    assert len({row.numpy().tobytes() for row in rows}) == 12


def test_a_longer_store_serves_a_shorter_need(bench):
    count = Count()
    store, experts = bench(3, 4, progress=count)
    before, want = files(store), trajectories(experts, 4)
    _, fewer = bench(2, 2, progress=count)
    assert count.totals == [12]
    assert files(store) == before
    assert len(fewer) == 2
    assert torch.equal(trajectories(fewer, 2), want[:2, :3])


def test_a_shorter_store_is_extended_with_the_same_early_rows(bench):
    short = trajectories(bench(2, 2)[1], 2)
    count = Count()
    store, experts = bench(3, 4, progress=count)
    assert count.totals == [12]
    assert [store.epochs(k) for k in range(4)] == [4, 4, 4, -1]
    assert torch.equal(trajectories(experts, 4)[:2, :3], short)


def test_an_interrupted_build_goes_on_at_the_missing_expert(bench, tmp_path):
    class Kill(Progress):
        done = 0

        def advance(self, steps=1, **values):
            self.done += 1
            if self.done == 5:  # in the middle of the second expert
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench(3, 3, progress=lambda *a, **k: Kill())
    store = ExpertStore(tmp_path, recipe(), 0)
    kept = ["expert-00000.safetensors", "expert-00001.begun.safetensors"]
    assert sorted(path.name for path in store.folder.glob("expert*")) == kept, "and no lock"
    count = Count()
    _, experts = bench(3, 3, progress=count)
    assert count.totals == [6]
    _, straight = bench(3, 3, root=tmp_path / "elsewhere")
    assert torch.equal(trajectories(experts, 3), trajectories(straight, 3))


def test_only_the_lost_expert_is_trained_again_with_the_same_bits(bench):
    store, experts = bench(3, 2)
    want = trajectories(experts, 2)
    store.path(1).unlink()
    count = Count()
    _, again = bench(3, 2, progress=count)
    assert count.totals == [2]
    assert torch.equal(trajectories(again, 2), want)


@pytest.mark.parametrize(("first", "last"), [(0, 5), (2, 4), (5, 5)])
def test_a_segment_is_its_rows_with_both_ends(small, first, last):
    rows = small.read(0, first, last)
    assert torch.equal(rows, torch.arange(18.0).view(6, 3)[first : last + 1])
    assert rows.shape == (last - first + 1, 3)


@pytest.mark.parametrize(("first", "last"), [(3, 6), (6, 8)])
def test_a_segment_past_the_end_is_an_error_and_not_a_shorter_one(small, first, last):
    """A segment of fewer rows would make another epoch the target, in silence."""
    with pytest.raises((HopTMError, ValueError, IndexError)):
        small.read(0, first, last)


def test_a_file_holds_no_more_than_its_tensor_and_says_what_it_is(small):
    tensors, metadata = read_tensors(small.path(0), "expert")
    assert list(tensors) == ["parameters"]
    assert tensors["parameters"].dtype == torch.float32
    assert metadata["recipe"] == small.recipe.digest
    assert metadata["epoch_losses"] == [0.5] * 5
    assert small.seconds(0) == 1.5
    manifest = json.loads((small.folder / "manifest.json").read_text())
    assert ExpertRecipe(**manifest["recipe"]) == small.recipe


def test_nothing_appears_when_writing_fails(small, monkeypatch):
    """Atomic: the old file stays whole, and no temporary file is left."""
    before = files(small)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("hoptm_plugin.storage.files.os.fsync", fail)
    for expert in (0, 1):
        with pytest.raises(StorageError, match=rf"expert-0000{expert}\.safetensors: cannot be written: disk full"):
            small.write(expert, torch.zeros(9, 3), [], 0.0)
    assert files(small) == before


def truncated(path):
    path.write_bytes(path.read_bytes()[:-8])


def header_cut(path):
    path.write_bytes(path.read_bytes()[:40])


def empty(path):
    path.write_bytes(b"")


def pickled(path):
    torch.save({"parameters": torch.zeros(6, 3)}, path)


def huge_header(path):
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")


def other_parameters(path):
    _, metadata = read_tensors(path, "expert")
    write_tensors(path, {"parameters": torch.zeros(6, 4)}, metadata)


def no_rows(path):
    _, metadata = read_tensors(path, "expert")
    write_tensors(path, {"parameters": torch.zeros(0, 3)}, metadata)


def flat(path):
    _, metadata = read_tensors(path, "expert")
    write_tensors(path, {"parameters": torch.zeros(18)}, metadata)


def other_tensor(path):
    _, metadata = read_tensors(path, "expert")
    write_tensors(path, {"weights": torch.zeros(6, 3)}, metadata)


def other_recipe(path):
    tensors, metadata = read_tensors(path, "expert")
    write_tensors(path, tensors, metadata | {"recipe": recipe(seed=5).digest})


def other_version(path):
    tensors, metadata = read_tensors(path, "expert")
    write_tensors(path, tensors, metadata | {"version": 99})


def other_kind(path):
    tensors, metadata = read_tensors(path, "expert")
    write_tensors(path, tensors, metadata | {"kind": "synthetic set"})


def metadata_is_a_list(path):
    tensors, _ = read_tensors(path, "expert")
    write_tensors(path, tensors, ["expert"])


def not_ours(path):
    save_file({"parameters": torch.zeros(6, 3)}, path)


def a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = [truncated, header_cut, empty, pickled, huge_header, other_parameters, no_rows, flat, other_tensor,
           other_recipe, other_version, other_kind, metadata_is_a_list, not_ours, a_folder]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_unfit_files_are_refused_by_name(small, damage):
    damage(small.path(0))
    with pytest.raises(FileFormatError, match=r"expert-00000\.safetensors") as caught:
        small.missing(1, 2)
    assert "delete" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_are_checked_once_and_again_when_their_file_has_changed(small, monkeypatch):
    checked = []
    real = tensors.digest
    monkeypatch.setattr(tensors, "digest", lambda row: checked.append(0) or real(row))
    first, again, more = small.read(0, 0, 1), small.read(0, 0, 1), small.read(0, 1, 2)
    assert len(checked) == 2 + 0 + 2, "a segment with a row that is not known is checked whole"
    assert torch.equal(first, again)
    assert torch.equal(first[1], more[0])
    content = bytearray(small.path(0).read_bytes())
    content[-1] ^= 1  # of the last row
    small.path(0).write_bytes(content)
    assert torch.equal(small.read(0, 0, 1), first)
    assert len(checked) == 6
    with pytest.raises(FileFormatError, match="damaged: it is not what its checksum says"):
        small.read(0, 5, 5)


def test_a_damaged_expert_stops_a_build_before_any_training(bench):
    store, _ = bench(2, 2)
    truncated(store.path(1))
    count = Count()
    with pytest.raises(FileFormatError, match=r"expert-00001\.safetensors"):
        bench(3, 2, progress=count)
    assert count.totals == []


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "expert store"}'])
def test_a_manifest_of_another_recipe_or_damaged_is_refused(small, text):
    manifest = small.folder / "manifest.json"
    manifest.write_text(text)
    with pytest.raises(FileFormatError, match=r"manifest.json"):
        small.write(1, torch.zeros(2, 3), [0.0], 0.0)
    assert not small.path(1).exists()


CHANGES = [{"data": "abd"}, {"network": {"name": "convnet", "width": 5}}, {"augmentation": {"name": "none"}},
           {"seed": 1}, {"training": ExpertTraining(algorithm="gsam", batch=7)},
           {"training": ExpertTraining(algorithm="sgd", batch=6)},
           {"training": ExpertTraining(algorithm="gsam", batch=6, rho=0.02)},
           {"training": ExpertTraining(algorithm="gsam", batch=6, alpha=0.4)},
           {"training": ExpertTraining(algorithm="gsam", batch=6, epoch_images=24)}]  # fmt: skip


def test_whatever_changes_the_parameters_changes_the_folder():
    """Folders that do not record how experts were trained, as released ones do not, mix GSAM and SGD experts."""
    digests = [recipe().digest, *(recipe(**change).digest for change in CHANGES)]
    assert len(set(digests)) == len(digests)
    assert recipe(network={"width": 4, "name": "convnet"}).digest == recipe().digest  # order does not matter


def test_stores_from_before_epochs_had_a_number_of_images_are_found_again():
    """The digest and the manifest are as version 1 wrote them."""
    training = recipe().model_dump(mode="json")["training"]
    assert "epoch_images" not in training
    assert recipe().digest == "19dc5cbc4031612f"


@pytest.mark.parametrize(("images", "steps"), [(None, 3), (6, 1), (40, 7)])
def test_an_epoch_has_as_many_images_as_are_asked_for(make_data, images, steps):
    """Of 18 or so: fewer, or more than one pass; each image about equally often."""
    data, seen = make_data(), []

    class Recording(NoAugmentation):
        def apply(self, images, parameters):
            seen.append(images.flatten(1).sum(1))
            return images

    loss = TrainingLoss(create(ConvNet(depth=2, width=4), data.image_shape, 3, torch.Generator()))
    training = ExpertTraining(batch=6, epoch_images=images)
    starts = torch.randn(1, loss.network.num_parameters, generator=torch.Generator().manual_seed(0))
    train_experts(loss, starts, data.train, training, Recording(), [Seeds(0)], 1, lambda mean: None)
    every = torch.cat(seen).tolist()
    wanted = images or len(data.train)
    assert (len(every), len(seen)) == (wanted, -(-wanted // 6))
    times = Counter(every).values()
    assert max(times) == -(-wanted // len(data.train))
    assert min(times) >= wanted // len(data.train)


def test_a_recipe_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        recipe().seed = 3


def test_a_synthetic_set_is_no_expert(small, make_data):
    data = make_data()
    data_set = SyntheticSet(data.train.images, data.train.labels, None, data.class_names, data.normalisation)
    write_set(data_set, small.path(0))
    with pytest.raises(FileFormatError, match="expert-00000"):
        small.epochs(0)
