"""The setting ``protocol.labels``: judging soft-labelled sets under hard labels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hoptm_plugin.augment import NoAugmentation
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.engine.evaluation import Evaluator, real_subset
from hoptm_plugin.engine.settings import Protocol
from hoptm_plugin.networks import ConvNet, create
from hoptm_plugin.runs.composition import compose
from hoptm_plugin.runtime.progress import silent


def judged(data, synthetic, **protocol):
    builder = ConvNet(depth=2, width=4)
    networks = {"n": lambda generator: create(builder, data.image_shape, len(data.class_names), generator)}
    evaluator = Evaluator(Protocol(repeats=2, epochs=6, learning_rate=0.05, **protocol), networks, NoAugmentation(),
                          Seeds(0), silent)  # fmt: skip
    return evaluator.evaluate(lambda repeat: synthetic, data.test, "a set")


@pytest.fixture
def sets(make_data):
    """Data, a set with hard labels, and one whose soft labels have the same classes on top."""
    data = make_data()
    hard = real_subset(data, 2, Seeds(0))
    logits = torch.rand(len(hard.labels), 3, generator=torch.Generator().manual_seed(1))
    logits[torch.arange(len(logits)), hard.labels] += 1
    return data, hard, replace(hard, labels=logits)


def test_soft_labels_taken_hard_give_the_very_numbers_of_hard_ones(sets):
    data, hard, soft = sets
    assert judged(data, soft, labels="hard") == judged(data, hard)
    assert judged(data, soft) != judged(data, hard)


def test_hard_labels_are_the_same_either_way(sets):
    data, hard, _ = sets
    assert judged(data, hard, labels="hard") == judged(data, hard, labels="stored") == judged(data, hard)


def test_mosaics_are_taken_apart_with_their_hardened_labels(sets):
    data, hard, soft = sets
    assert judged(data, replace(soft, mosaic=2), labels="hard") == judged(data, replace(hard, mosaic=2))


def test_labels_decide_the_judgement_alone():
    stored, hard = compose(), compose("protocol.labels=hard")
    assert hard.digest() != stored.digest()
    assert hard.set_digest() == stored.set_digest()


def test_other_labels_are_refused():
    with pytest.raises(ConfigurationError, match=r"protocol\.labels.*'stored' or 'hard'"):
        compose("protocol.labels=soft")
