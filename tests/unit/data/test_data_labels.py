from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from hoptm_plugin import Arrays
from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.labels import indexed


def index(*labels, names=None):
    splits = dict(zip(("train", "test"), map(np.asarray, labels), strict=False))
    return indexed(splits, names, "cells.npz")


def test_indices_from_zero_are_left_alone():
    found = index([0, 2, 1], [[1], [0]])
    assert [each.tolist() for each in found.labels.values()] == [[0, 2, 1], [1, 0]]
    assert (found.class_names, found.remarks) == (("0", "1", "2"), ())
    assert found.labels["train"].dtype == torch.int64


@pytest.mark.parametrize("names", [None, ["a", "b", "c"]])
def test_indices_from_one_are_shifted_and_that_is_said(names):
    found = index([1, 3, 1], [2, 3], names=names)
    assert [each.tolist() for each in found.labels.values()] == [[0, 2, 0], [1, 2]]
    assert found.class_names == tuple(names or "012")
    assert found.remarks == ("labels 1..3 taken as 0..2",)


def test_indices_within_named_classes_are_not_shifted():
    """1 and 2 of three classes are the second and third, although no image is of the first."""
    assert index([1, 2], [1], names="abc").labels["train"].tolist() == [1, 2]


def test_names_are_numbered_in_sorted_order_or_as_named():
    found = index(["normal", "covid"], ["covid"])
    assert [each.tolist() for each in found.labels.values()] == [[1, 0], [0]]
    assert found.class_names == ("covid", "normal")
    assert found.remarks == ("2 classes numbered by their names in sorted order",)
    named = index(["normal", "covid"], ["covid"], names=["normal", "other", "covid"])
    assert named.labels["train"].tolist() == [0, 2]
    assert named.remarks == ()


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (([0, 2], [4]), None, "cells.npz: labels go from 0 to 4, but no image of any split has label 1, 3; number the"),
        (([10**12, 5], [5]), None, "has label 0, 1, 2, 3, 4, 6, 7, 8, 9, 10, ...; number the classes 0..1"),
        (([2, 3], [3]), None, "labels go from 2 to 3, but no image of any split has label 0, 1"),
        (([0.0, 1.0], [1.0]), None, "train_labels: must be integers or names"),
        (([[0, 1], [1, 0]], [0]), None, "one class per image, got int64 (2, 2)"),
        (([True, False], [True]), None, "train_labels: must be integers or names"),
        (([0, 1], ["a"]), None, "labels are names in some splits and numbers in others"),
        ((["a", "b"], ["c"]), ["a", "b"], "labels name classes that class_names does not: 'c'"),
        ((["a", "a"], ["a"]), None, "all labels are 'a'; at least two classes are needed"),
        (([1, 1], [1]), None, "all labels are 1; at least two classes are needed"),
    ],
)
def test_other_labels_are_one_message(labels, names, message):
    with pytest.raises(DataError, match=re.escape(message)):
        index(*labels, names=names)


def test_arrays_in_memory_follow_the_same_rules():
    images = torch.zeros(4, 8, 8, dtype=torch.uint8)
    names = Arrays(train=(images, ["b", "a", "b", "a"]), test=(images, np.array(list("abab"))))
    assert names.class_names == ("a", "b")
    assert names.read(Seeds(0)).train[1].tolist() == [1, 0, 1, 0]
    ones = Arrays(train=(images, torch.tensor([1, 2, 1, 2])), test=(images, [1, 2, 1, 2])).read(Seeds(0))
    assert ones.test[1].tolist() == [0, 1, 0, 1]
    assert ones.remarks == ("labels 1..2 taken as 0..1",)
    with pytest.raises(DataError, match="labels are bool; give class indices"):
        Arrays(train=(images, torch.tensor([True] * 4)), test=(images, [0, 1, 0, 1]))
