"""A card whose figures contradict each other is refused, read or made, checksum or not."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from pydantic import ValidationError

from hoptm_plugin.cards.card import Card, read_card, software_versions
from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.engine.metrics import classification_metrics
from hoptm_plugin.storage.files import with_checksum, write_json

SUPPORT = (6, 0, 4)


def metrics(wrong, diverged=False, support=SUPPORT):
    """Metrics of a network that takes the first ``wrong`` images of each class for another one."""
    targets = torch.arange(3).repeat_interleave(torch.tensor(support))
    probabilities = 0.7 * torch.eye(3)[targets] + 0.1
    for label in (0, 2):
        probabilities[(targets == label).nonzero()[:wrong]] = 0.7 * torch.eye(3)[1] + 0.1
    if diverged:
        probabilities[5] = torch.nan
    return classification_metrics(targets, probabilities)


def values(**changes):
    """A card's values as JSON has them, of two networks of one architecture beside a random subset."""
    rows = {"evaluations": [metrics(1), metrics(2)], "random_subset": [metrics(3), metrics(2)]}
    found = {kind: [Evaluation.from_metrics("convnet", each).model_dump(mode="json")] for kind, each in rows.items()}
    fields = {
        "schema": 1, "method": "mtt", "title": "MTT", "ipc": 2, "seed": 0, "protocol": {"repeats": 2}, "labels": "hard",
        "dataset": {"name": "scans", "fingerprint": "f" * 64, "classes": ["a", "b", "c"], "train": 90, "validation": 9,
                    "test": 10},
        **found, "images_stored": 6, "images_trained_on": 24, "distilled_from": None, "selection": "last",
        "software": software_versions(), "config_sha256": "0" * 64, "artefacts": {},
        "cost": {"experts_s": None, "distill_s": 1.0, "evaluate_s": 1.0, "seconds_per_iteration": None,
                 "peak_memory_bytes": None, "device": "cpu"},
    }  # fmt: skip
    return deepcopy(fields | changes)


def altered(*path, to):
    def alter(card):
        place = card
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return alter


def accuracy(kind="evaluations", **figures):
    """Give all networks an accuracy of 0.9, in a summary that agrees with itself."""

    def alter(card):
        card[kind][0] |= {"accuracy": {"mean": 0.9, "std": 0.0, "values": [0.9, 0.9]}} | figures

    return alter


def without(*names, accuracy=None):
    """Take figures out, as if the card were an older one."""

    def alter(card):
        for name in names:
            card["evaluations"][0][name] = None
        if accuracy is not None:
            card["evaluations"][0]["accuracy"] = {"mean": accuracy, "std": 0.0, "values": [accuracy] * 2}

    return alter


def beside(support):
    return Evaluation.from_metrics("convnet", [metrics(3, support=support)] * 2).model_dump(mode="json")


def dropped(card):
    """Leave the worse network out of everything."""
    each = card["evaluations"][0]
    for name in ("accuracy", "balanced_accuracy", "macro_auroc", "macro_f1", "ece"):
        best = each[name]["values"][0]
        each[name] = {"mean": best, "std": 0.0, "values": [best]}
    each |= {"confusion": each["confusion"][:1], "calibration": each["calibration"][:1]}
    each["recall_per_class"] = [row[label] / n if n else None for label, (row, n) in
                                enumerate(zip(each["confusion"][0], SUPPORT, strict=True))]  # fmt: skip


OTHER = {"name": "others", "fingerprint": "e" * 64, "test_images_seen": 4}
REPORTED = {"accuracy": 0.9, "source": "Table 1"}
CONTRADICTIONS = {
    "an accuracy and its recall": (accuracy(), "accuracy is 0.9, but recall_per_class says 0.7"),
    "an accuracy and its recall without confusion": (
        without("confusion", "calibration", "ece", accuracy=0.9), "accuracy is 0.9, but recall_per_class says 0.7"),
    "accuracies exchanged between networks": (
        altered("evaluations", 0, "accuracy", "values", to=[0.6, 0.8]), "accuracy is 0.6, but confusion of network 0"),
    "a random subset made worse": (
        accuracy("random_subset"), "random_subset.0: accuracy is 0.9, but recall_per_class says 0.5"),
    "a confusion matrix": (
        altered("evaluations", 0, "confusion", 0, 0, to=[6, 0, 0]), "recall of class 0 is 0.75, but confusion says"),
    "recall of a class": (
        altered("evaluations", 0, "recall_per_class", to=[1.0, None, 0.25]), "balanced_accuracy is 0.6875, but"),
    "recall of a class that is not there": (
        altered("evaluations", 0, "recall_per_class", 1, to=0.5), "a class that the split lacks has no recall"),
    "balanced accuracy": (
        altered("evaluations", 0, "balanced_accuracy", to={"mean": 0.9, "std": 0.0, "values": [0.9, 0.9]}),
        "balanced_accuracy is 0.9, but recall_per_class says 0.6875"),
    "F1": (altered("evaluations", 0, "macro_f1", to={"mean": 0.9, "std": 0.0, "values": [0.9, 0.9]}),
           "macro_f1 is 0.9, but confusion of network 0 says"),
    "calibration error": (
        altered("evaluations", 0, "ece", to={"mean": 0.5, "std": 0.0, "values": [0.5, 0.5]}),
        "ece is 0.5, but calibration of network 0 says"),
    "calibration of bins": (altered("evaluations", 0, "calibration", 0, "ece", to=0.5), "what its bins hold says"),
    "a diverged network that has a calibration": (
        altered("evaluations", 0, "macro_auroc", to={"mean": None, "std": None, "values": [0.5, None]}),
        "network 1 diverged by one of its figures, and not by another"),
    "a network dropped": (dropped, "the protocol has 2 networks of each architecture, which are not all there"),
    "other test images": (
        altered("random_subset", to=[beside((4, 0, 6))]), "support: the networks were not tested on the same images"),
    "images stored without images trained on": (altered("images_trained_on", to=None), "one is given without the"),
    "more images stored than IPC": (
        altered("images_stored", to=12), "images_stored is 12 and images_trained_on 24, which is not 2 for each of 3"),
    "images trained on that no mosaic gives": (altered("images_trained_on", to=12), "images_trained_on 12, which is"),
    "an IPC that was relabelled": (altered("ipc", to=1), "which is not 1 for each of 3 classes"),
    "an upper bound of some images": (altered("ipc", to=None), "which is not the training split of 90"),
    "other data that are the same": (
        altered("distilled_from", to=OTHER | {"fingerprint": "f" * 64}), "names the data that the set is judged on"),
    "more test images seen than there are": (
        altered("distilled_from", to=OTHER | {"test_images_seen": 11}), "more images were seen than the 10 test"),
}  # fmt: skip


def test_the_card_itself_is_taken(tmp_path):
    write_json(tmp_path / "result.json", with_checksum(values()))
    card = read_card(tmp_path)
    assert [each.diverged for each in (*card.evaluations, *card.random_subset)] == [0, 0]
    for counts in ((6, 6), (24, 24)):
        Card.model_validate(values(images_stored=counts[0], images_trained_on=counts[1]))
    Card.model_validate(values(ipc=None, images_stored=90, images_trained_on=90))
    Card.model_validate(values(distilled_from=OTHER))
    Card.model_validate(values(images_stored=None, images_trained_on=None))


@pytest.mark.parametrize(("alter", "says"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictions_are_refused(tmp_path, alter, says):
    card = values()
    alter(card)
    write_json(tmp_path / "result.json", with_checksum(card))
    with pytest.raises(FileFormatError) as caught:
        read_card(tmp_path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValidationError):
        Card.model_validate(card)


def test_nothing_published_stands_beside_a_set_of_other_data():
    with pytest.raises(ValidationError, match="reported: was published for a set that was distilled from the data"):
        Card.model_validate(values(distilled_from=OTHER, reported=REPORTED))


def test_rounding_is_no_contradiction(tmp_path):
    """A card that another program wrote with nine digits is taken."""
    rounded = json.loads(json.dumps(values()), parse_float=lambda text: round(float(text), 9))
    write_json(tmp_path / "result.json", with_checksum(rounded))
    assert read_card(tmp_path).method == "mtt"


@pytest.mark.parametrize("lost", ["all", "the second"])
def test_diverged_networks_are_counted_and_stay(lost):
    each = Evaluation.from_metrics("convnet", [metrics(1, lost == "all"), metrics(1, True)])
    assert each.diverged == (2 if lost == "all" else 1)
    assert each.accuracy.mean < 0.8, "an image without a prediction is a wrong one"
    older = each.model_copy(update={"confusion": None, "calibration": None, "ece": None})
    assert older.diverged == each.diverged


def test_of_one_class_an_older_card_cannot_tell_what_diverged():
    targets = torch.zeros(4, dtype=torch.int64)
    each = Evaluation.from_metrics("convnet", [classification_metrics(targets, torch.eye(3)[targets])])
    assert each.diverged == 0
    assert each.model_copy(update={"confusion": None, "calibration": None}).diverged is None
