"""Handwritten digits that ship inside scikit-learn: real data with nothing to fetch."""

from __future__ import annotations

import numpy as np
import torch

from hoptm_plugin.core.interfaces import DatasetReader, RawImages
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.splits import stratified

TEST_FRACTION = 0.2
ORIGIN = {
    "source": "Optical Recognition of Handwritten Digits, UCI Machine Learning Repository "
    "(https://archive.ics.uci.edu/dataset/80), as scikit-learn ships it",
    "licence": "CC BY 4.0",
}


@register("digits")
class Digits(DatasetReader):
    """Real handwritten digits, 10 classes, 1,797 grey images of 8x8, inside scikit-learn.

    Pixels v = 0..16 become floor(255 v / 16 + 1/2). A seeded stratified fifth of each class is the test split.

    Source: scikit-learn's ``load_digits``, the test part of UCI's "Optical Recognition of Handwritten Digits".
    """

    def read(self, seeds: Seeds) -> RawImages:
        """Return (n, 1, 8, 8) images; the preprocessing enlarges them."""
        from sklearn.datasets import load_digits  # slow to import

        source = load_digits()
        pixels = torch.from_numpy(((source.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)).unsqueeze(1)
        labels = torch.from_numpy(source.target.astype(np.int64))
        names = tuple(str(name) for name in source.target_names)
        train, test = stratified(labels, names, TEST_FRACTION, seeds.child("test"))
        return RawImages(
            "digits", names, (pixels[train], labels[train]), (pixels[test], labels[test]), provenance=ORIGIN
        )
