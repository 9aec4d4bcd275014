"""An evaluation that is interrupted goes on, inside a training and between networks, to the same bits."""

from __future__ import annotations

import json

import pytest
import torch

from hoptm_plugin.augment import DSA
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.engine.checkpoint import read_checkpoint, write_checkpoint
from hoptm_plugin.engine.evaluation import Evaluator, real_subset
from hoptm_plugin.engine.settings import Protocol
from hoptm_plugin.engine.training import epochs_before_decay, train_networks
from hoptm_plugin.networks import ConvNet, create
from hoptm_plugin.networks.stack import TrainingLoss
from hoptm_plugin.runs.finished import KeptNetworks
from hoptm_plugin.runtime.progress import silent
from hoptm_plugin.storage.files import with_checksum

EPOCHS = 9


@pytest.mark.parametrize(("norm", "networks"), [("instance", 1), ("instance", 2), ("batch", 1)])
@pytest.mark.parametrize("at", [1, epochs_before_decay(EPOCHS), EPOCHS - 1])
def test_an_interrupted_training_equals_one_that_was_not(at, norm, networks, make_data, tmp_path):
    data = make_data()
    subset = real_subset(data, 2, Seeds(3))
    sets = [(subset.images, subset.labels)] * networks
    seeds = [Seeds(number) for number in range(networks)]
    protocol = Protocol(epochs=EPOCHS, batch=4)

    def modules():
        builder = ConvNet(depth=2, width=4, norm=norm)
        return [create(builder, data.image_shape, 3, part.generator("start")) for part in seeds]

    def train(trained, after_epoch=lambda: None, **resume):
        train_networks(trained, TrainingLoss(trained[0]), sets, protocol, 0.01, DSA(), seeds, after_epoch, **resume)

    expected, left, epochs = modules(), [at], []
    train(expected)

    def stop():
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    monkey = pytest.MonkeyPatch()
    monkey.setattr("hoptm_plugin.engine.training.SAVE_EVERY", 0.0)
    with monkey.context(), pytest.raises(KeyboardInterrupt):
        train(modules(), stop, save=lambda state: write_checkpoint(tmp_path / "state", state, "training"))
    monkey.undo()
    resumed = modules()
    train(resumed, lambda: epochs.append(1), begun=read_checkpoint(tmp_path / "state", "training"))
    assert len(epochs) == EPOCHS, "those that were done before are reported as well"
    for mine, theirs in zip(resumed, expected, strict=True):
        for name, value in theirs.state_dict().items():
            assert torch.equal(value, mine.state_dict()[name]), name


@pytest.mark.parametrize("change", ["shape", "lost", "generator"])
def test_a_state_of_another_training_is_refused(change, make_data):
    data, states = make_data(), []
    subset, seeds = real_subset(data, 2, Seeds(3)), [Seeds(0)]

    def train(**resume):
        network = create(ConvNet(depth=2, width=4), data.image_shape, 3, Seeds(0).generator("start"))
        sets = [(subset.images, subset.labels)]
        train_networks([network], TrainingLoss(network), sets, Protocol(epochs=2), 0.01, DSA(), seeds, **resume)

    monkey = pytest.MonkeyPatch()
    monkey.setattr("hoptm_plugin.engine.training.SAVE_EVERY", 0.0)
    train(save=states.append)
    monkey.undo()
    state = states[0]
    if change == "shape":
        state["stack"]["parameters"] = torch.zeros(1, 3)
    elif change == "lost":
        del state["orders"]
    else:
        state["draws"]["0"] = torch.zeros(7, dtype=torch.uint8)
    with pytest.raises(FileFormatError, match=r"evaluating\.safetensors.*does not fit.*delete it"):
        train(begun=state)


@pytest.fixture
def evaluate(make_data, tmp_path):
    """Evaluate two architectures with two networks each, keeping what is finished; count the trainings."""
    data = make_data()
    subset = real_subset(data, 2, Seeds(3))

    def run(identity="a", most=None):
        trained = []

        def creator(width):
            def make(generator):
                if generator.initial_seed() not in (torch.Generator().initial_seed(),):
                    trained.append(width)
                if most is not None and len(trained) > most:
                    raise KeyboardInterrupt
                return create(ConvNet(depth=2, width=width), data.image_shape, 3, generator)

            return make

        kept = KeptNetworks(tmp_path / "evaluations.json", identity)
        networks = {"narrow": creator(4), "wide": creator(8)}
        evaluator = Evaluator(Protocol(epochs=3, repeats=2), networks, DSA(), Seeds(0), silent, finished=kept)
        return evaluator.evaluate(lambda repeat: subset, data.test, "synthetic set"), len(trained)

    run.path = tmp_path / "evaluations.json"
    return run


def test_networks_that_are_done_are_not_trained_again(evaluate):
    with pytest.raises(KeyboardInterrupt):
        evaluate(most=3)
    kept = json.loads(evaluate.path.read_text())
    assert [(row["network"], row["repeat"]) for row in kept["rows"]] == [("narrow", 0), ("narrow", 1), ("wide", 0)]
    resumed, trained = evaluate()
    assert trained == 1
    evaluate.path.unlink()
    straight, trained = evaluate()
    assert trained == 4
    assert resumed == straight


def test_networks_of_another_evaluation_are_dropped(evaluate):
    evaluate("a")
    assert evaluate("a")[1] == 0
    assert evaluate("b")[1] == 4


def garbled(path):
    path.write_text(path.read_text().replace('"accuracy": ', '"accuracy": 0', 1))


def edited(path):
    content = json.loads(path.read_text())
    content["rows"][0]["metrics"]["accuracy"] = 1.0
    path.write_text(json.dumps(content))


def without_metrics(path):
    content = json.loads(path.read_text())
    content["rows"][0]["metrics"] = {"accuracy": "os.system"}
    path.write_text(json.dumps(with_checksum(content)))


def a_list(path):
    path.write_text("[]")


@pytest.mark.parametrize("damage", [garbled, edited, without_metrics, a_list], ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_refused(damage, evaluate):
    evaluate()
    damage(evaluate.path)
    with pytest.raises(FileFormatError, match=r"evaluations\.json: .*delete it") as caught:
        evaluate()
    assert "\n" not in str(caught.value)
