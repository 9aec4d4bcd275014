"""Cards to compute scores from, made up, for several tests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from hoptm_plugin.cards.card import Card, software_versions
from hoptm_plugin.cards.evaluation import Evaluation, Summary
from hoptm_plugin.engine.metrics import summarise

DSA, NONE = {"name": "dsa", "prob_flip": 0.5}, {"name": "none"}
ONE, OTHER = "1" * 64, "2" * 64


def evaluations(values, classes=2, network="convnet"):
    """Return networks of these accuracies, in every class alike, as a card without confusion matrices has them."""
    right, half = Summary(**summarise(values)), Summary(**summarise([0.5 for _ in values]))
    return Evaluation(network=network, accuracy=right, balanced_accuracy=right, macro_auroc=half, macro_f1=half,
                      support=[5] * classes, recall_per_class=[right.mean] * classes)  # fmt: skip


def make(method, *values, classes=2, augment=DSA, told=None, random=None, averaged=None, protocol=(), digest=None,
         network="convnet", **changes):  # fmt: skip
    """Return a card; ``digest`` is of the synthetic set, ``told`` the labels that the protocol names."""
    told = {} if told is None else {"labels": told}
    fields = {
        "schema": 1, "method": method, "title": method.upper(), "ipc": 1, "seed": 0, "labels": "hard",
        "floor": method == "random",
        "protocol": {"epochs": 100, "augment": augment, **told, **dict(protocol)},
        "dataset": {"name": "blood", "fingerprint": "f" * 64, "classes": [str(k) for k in range(classes)], "train": 90,
                    "validation": 1, "test": 5 * classes},
        "evaluations": [evaluations(values, classes, network)],
        "random_subset": None if random is None else [evaluations(random, classes, network)],
        "averaged": None if averaged is None else [evaluations(averaged, classes, network)],
        "selection": "last", "software": software_versions() | {"commit": None}, "config_sha256": "0" * 64,
        "artefacts": {} if digest is None else {"synthetic.safetensors": digest},
        "cost": {"experts_s": None, "distill_s": 1, "evaluate_s": 1, "seconds_per_iteration": None,
                 "peak_memory_bytes": None, "device": "cpu"},
    }  # fmt: skip
    return Card.model_validate(fields | changes)


def found(**cards):
    """Cards as if read from files, by the name of their run's folder."""
    return [(Path(f"/runs/{name}/result.json"), card) for name, card in cards.items()]


def read(cards):
    """Runs that were read, to be compared."""
    return [SimpleNamespace(card=card, folder=path.parent) for path, card in cards]


def whole(classes=2):
    """The cards that the scores of a set with hard labels need."""
    return {
        "mtt": make("mtt", 0.7, 0.9, digest=ONE, classes=classes),
        "plain": make("mtt", 0.6, 0.6, digest=ONE, augment=NONE, random=(0.4, 0.6), classes=classes),
        "random": make("random", 0.5, classes=classes),
        "full": make("full", 0.95, ipc=None, classes=classes),
    }
