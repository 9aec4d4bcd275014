"""A set knows its data: judged on others it is refused, or what it is judged on is marked wherever the result goes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from hoptm_plugin import (
    Arrays,
    ConfigurationError,
    compose,
    evaluate,
    export,
    load_distilled,
    read_run,
    run,
    verify,
)
from hoptm_plugin.cards.card import read_card, write_card
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.storage.files import sha256
from hoptm_plugin.storage.sets import read_set, write_set

AS_READ = "dataset.preprocess.normalisation=none"
TINY = ("method=random", "network.width=4", "network.depth=2", "protocol.repeats=1", "protocol.epochs=2",
        "protocol.random_subset=false", "runtime.device=cpu", AS_READ)  # fmt: skip
NAMES = ["dark", "bright"]


def pictures(count, seed):
    """Images of two classes, and their labels."""
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 60, (count, 8, 8), generator=torch.Generator().manual_seed(seed))
    return (120 * labels.view(-1, 1, 1) + noise).to(torch.uint8), labels


def arrays(name="scans", seed=0, **splits):
    made = {"train": pictures(20, seed), "validation": pictures(4, seed + 1), "test": pictures(10, seed + 2)} | splits
    return Arrays(**made, class_names=NAMES, name=name)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run's folder."""
    folder = tmp_path_factory.mktemp("known") / "run"
    run(compose(*TINY, dataset=arrays(), ipc=2), folder)
    return folder


@pytest.fixture
def others():
    """Data of another name, with seven of the run's training images among its ten test images."""
    ours, mine = pictures(20, 0), pictures(10, 9)
    return arrays("others", 7, test=tuple(torch.cat([one[:7], two[7:]]) for one, two in zip(ours, mine, strict=True)))


def test_a_set_says_what_it_was_distilled_from(done, tmp_path):
    info, card = load_distilled(done).info, read_card(done)
    assert (info["dataset"], info["fingerprint"]) == ("scans", card.dataset.fingerprint)
    assert set(info["splits"]) == {"train", "validation", "test"}
    assert "trained_on.safetensors" in card.artefacts
    for form in ("medmnist", "folder", "safetensors", "ddranking"):
        folder = export(done, form, tmp_path / form).folder
        assert json.loads((folder / "export.json").read_text())["info"]["splits"] == info["splits"]
        text = (folder / "README.md").read_text()
        assert card.dataset.fingerprint in text
        assert info["splits"]["train"] in text
        assert not (folder / "trained_on.safetensors").exists(), "it tells who was among the training images"
        if form != "ddranking":
            assert load_distilled(folder).info == info


def test_other_data_are_refused_naming_both(done, others, tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        evaluate(done, AS_READ, dataset=others, folder=tmp_path / "judged")
    (problem,) = caught.value.problems
    assert "was distilled from scans (fingerprint " in problem
    assert "not from others (fingerprint " in problem
    assert "its train, validation, test images are others" in problem
    assert problem.endswith("or judge it on these with other_data=true, which its card then says")
    assert not (tmp_path / "judged").exists()
    exported = export(done, "medmnist", tmp_path / "set").folder
    for judged in (exported, load_distilled(done), done / "synthetic.safetensors"):
        with pytest.raises(ConfigurationError, match=r"was distilled from scans .* not from others"):
            evaluate(judged, *TINY, dataset=others)


def test_when_asked_it_is_judged_and_marked(done, others, tmp_path):
    with pytest.warns(UserWarning, match="from scans, other data than others here; 7 of its 10 test images were among"):
        card = evaluate(done, AS_READ, "other_data=true", dataset=others, folder=tmp_path / "judged")
    assert card.distilled_from.model_dump() == {
        "name": "scans", "fingerprint": read_card(done).dataset.fingerprint, "test_images_seen": 7,
    }  # fmt: skip
    assert card.dataset.name == "others"
    assert read_card(tmp_path / "judged") == card
    assert verify(tmp_path / "judged", dataset=others).verified
    write_card(card.model_copy(update={"distilled_from": None}), tmp_path / "judged/result.json")
    problems = verify(tmp_path / "judged", dataset=others).problems
    assert any("the set was distilled from data of fingerprint" in each for each in problems), "the mark was taken out"


def test_an_export_of_such_an_evaluation_says_so(done, others, tmp_path):
    with pytest.warns(UserWarning, match="whether its 10 test images were among them cannot be told"):
        evaluate(load_distilled(done), *TINY, "other_data=true", dataset=others, folder=tmp_path / "judged")
    text = (export(tmp_path / "judged", "medmnist", tmp_path / "set").folder / "README.md").read_text()
    assert text.startswith("# scans, distilled by ")
    assert "**Tested on other data than the set was distilled from** (scans)" in text
    assert "10 real test images of others" in text


def test_training_images_as_the_test_split_are_told_without_the_runs_folder(done, tmp_path):
    exported = export(done, "medmnist", tmp_path / "set").folder
    leaking = arrays(test=pictures(20, 0))
    with pytest.raises(ConfigurationError, match="its test images are others"):
        evaluate(exported, *TINY, dataset=leaking)
    with pytest.warns(UserWarning, match="20 of its 20 test images were among them"):
        card = evaluate(exported, *TINY, "other_data=true", dataset=leaking)
    assert card.distilled_from.test_images_seen == 20
    elsewhere = arrays("elsewhere", 30, test=pictures(20, 0))
    with pytest.warns(UserWarning, match="20 of its 20 test images were among them"):
        assert evaluate(exported, *TINY, "other_data=true", dataset=elsewhere).distilled_from.test_images_seen == 20


def test_another_split_of_the_same_images_is_other_data(bench, tmp_path):
    assert bench("run", *TINY, "hydra.run.dir=run").code == 0
    refused = bench("eval", "synthetic=run", "data_seed=1", "hydra.run.dir=judged")
    assert (refused.code, refused.err.count("error: ")) == (2, 1)
    assert "was distilled from digits (fingerprint " in refused.err
    assert "its train, validation, test images are others" in refused.err
    asked = bench("eval", "synthetic=run", "data_seed=1", "other_data=true", "hydra.run.dir=judged")
    assert asked.code == 0, asked.err
    card = read_card(tmp_path / "judged")
    seen = card.distilled_from.test_images_seen
    assert f"{seen} of its {card.dataset.test} test images were among them" in asked.err
    assert 200 < seen < 310, "about 72 % of all images are training images"


def test_the_same_images_with_other_preprocessing_are_not_other_data(done):
    card = evaluate(done, AS_READ, "dataset.preprocess.resize_order=before_normalise", dataset=arrays())
    assert card.dataset.fingerprint != read_card(done).dataset.fingerprint
    assert (card.distilled_from, card.note) == (None, None)


def without_source(synthetic):
    return replace(synthetic, info={key: value for key, value in synthetic.info.items()
                                    if key not in ("fingerprint", "splits")})  # fmt: skip


def test_a_set_that_does_not_say_it_is_taken_and_marked(done, others):
    with pytest.warns(UserWarning, match="the set: the set does not say what data it was distilled from"):
        card = evaluate(without_source(load_distilled(done)), *TINY, "note=mine", dataset=others)
    assert card.distilled_from is None
    assert card.note == "the set does not say what data it was distilled from; mine"


def test_of_an_older_set_the_card_of_its_run_tells(done, others, tmp_path):
    shutil.copytree(done, tmp_path / "old")
    write_set(without_source(load_distilled(done)), tmp_path / "old/synthetic.safetensors")
    card = read_card(done)
    judged = card.artefacts | {"synthetic.safetensors": sha256(tmp_path / "old/synthetic.safetensors")}
    write_card(card.model_copy(update={"artefacts": judged}), tmp_path / "old/result.json")
    with pytest.raises(ConfigurationError, match=r"from scans .* its fingerprint is another"):
        evaluate(tmp_path / "old", AS_READ, dataset=others)
    assert evaluate(tmp_path / "old", AS_READ, dataset=arrays()).note is None


@pytest.mark.parametrize("info", [{"fingerprint": 3}, {"splits": {"train": "x"}}, {"splits": 7}, {"dataset": "a\nb"}])
def test_what_a_set_cannot_say_is_refused(done, info):
    synthetic = load_distilled(done)
    with pytest.raises(FileFormatError, match="what it says of the data it was distilled from cannot be"):
        evaluate(replace(synthetic, info=synthetic.info | info), *TINY, dataset=arrays())


def test_other_normalisation_is_named_with_the_remedy(done, others):
    wrong = ("other_data=true", "dataset.preprocess.normalisation=measured")
    with pytest.raises(ConfigurationError, match=r"as it was: dataset.preprocess.mean=\[0.0\]") as caught:
        evaluate(done, *wrong, dataset=others)
    remedy = str(caught.value).rpartition("as it was: ")[2].split()
    with pytest.warns(UserWarning, match="other data"):
        assert evaluate(done, *wrong, *remedy, dataset=others).distilled_from is not None


def test_what_is_offered_works_also_where_the_normalisation_was_measured(done, others):
    measured = "dataset.preprocess.normalisation=measured"
    with pytest.raises(ConfigurationError, match=r"other_data=true dataset\.preprocess\.mean=\[0\.0\]") as caught:
        evaluate(done, measured, dataset=others)
    offered = str(caught.value).partition("judge it on these with ")[2].partition(", which")[0].split()
    with pytest.warns(UserWarning, match="other data"):
        assert evaluate(done, measured, *offered, dataset=others).distilled_from is not None


def test_precision_goes_by_the_making_of_a_set_and_not_by_its_judging(done, tmp_path):
    low = run(compose(*TINY, "runtime.precision=bf16", dataset=arrays(), ipc=2), tmp_path / "low")
    exported = export(tmp_path / "low", "medmnist", tmp_path / "set").folder
    assert low.lower_precision == "bf16 distillation"
    for judged in (tmp_path / "low", exported):
        card = evaluate(judged, *TINY, "runtime.precision=float32", dataset=arrays())
        assert card.lower_precision == low.lower_precision
    assert evaluate(done, AS_READ, "runtime.precision=bf16", dataset=arrays()).lower_precision is None


def test_a_method_without_a_set_judges_none(done):
    with pytest.raises(ConfigurationError, match="method: the one given trains on all images and has no set to judge"):
        evaluate(done, AS_READ, "method=full", dataset=arrays())


def exchanged(done, folder, **info):
    """Put another set into a copy of a run's folder."""
    shutil.copytree(done, folder)
    synthetic = read_set(folder / "synthetic.safetensors")
    changed = replace(synthetic, images=synthetic.images + 0.5, info=synthetic.info | info)
    write_set(changed, folder / "synthetic.safetensors")
    return folder


def test_a_set_that_was_put_under_a_card_is_refused(done, tmp_path):
    folder = exchanged(done, tmp_path / "run")
    for use in (load_distilled, evaluate, lambda path: export(path, "medmnist"), lambda path: read_run(path).synthetic):
        with pytest.raises(FileFormatError, match=r"is not the set that result\.json beside it judges"):
            use(folder)
    assert load_distilled(folder / "synthetic.safetensors").images.shape == load_distilled(done).images.shape


@pytest.mark.parametrize(
    ("info", "says"),
    [({"seed": 5}, "the seed of the set is 5, in the card 0"),
     ({"method_id": "dm"}, "the method of the set is dm, in the card random"),
     ({"fingerprint": "0" * 64}, "the data's fingerprint of the set is 0000")],
)  # fmt: skip
def test_a_set_and_a_card_that_contradict_each_other_are_not_verified(done, tmp_path, info, says):
    folder = exchanged(done, tmp_path / "run", **info)
    card = read_card(done)
    judged = card.artefacts | {"synthetic.safetensors": sha256(folder / "synthetic.safetensors")}
    write_card(card.model_copy(update={"artefacts": judged}), folder / "result.json")
    (problem,) = verify(folder, dataset=arrays(), checksums_only=True).problems
    assert problem.startswith(says)


def test_a_run_under_another_seed_is_not_verified(done, tmp_path):
    shutil.copytree(done, tmp_path / "run")
    card = read_card(done).model_copy(update={"seed": 7, "distillation_seed": 7})
    write_card(card, tmp_path / "run/result.json")
    problems = verify(tmp_path / "run", dataset=arrays(), checksums_only=True).problems
    assert problems == ("the seed of the set is 0, in the card 7",)


def test_mosaics_are_stored_once_and_trained_on_as_four(done, tmp_path):
    synthetic = replace(load_distilled(done), mosaic=2)
    for judged, stored in ((synthetic, 4), (export(synthetic, "medmnist", tmp_path / "set").folder, 16)):
        card = evaluate(judged, *TINY, dataset=arrays())
        assert (card.ipc, card.images_stored, card.images_trained_on) == (2, stored, 16)


def test_a_set_is_judged_as_what_it_holds(done):
    with pytest.raises(
        ConfigurationError, match=r"ipc: 1 is given, but .* holds 2 images of every class; leave ipc out"
    ):
        evaluate(done, AS_READ, "ipc=1", dataset=arrays())
    synthetic = load_distilled(done)
    unequal = replace(synthetic, labels=torch.tensor([0, 0, 0, 1]), info={})
    with pytest.raises(ConfigurationError, match="not all classes have equally many images: it holds 4 images"):
        evaluate(unequal, *TINY, dataset=arrays())
    with pytest.raises(FileFormatError, match="the set: it holds 4 images"):
        evaluate(replace(unequal, info={"ipc": 2}), *TINY, dataset=arrays())
