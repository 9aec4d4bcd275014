"""Differentiable augmentation: DSA on Kornia, or none."""

from hoptm_plugin.augment.dsa import DSA, DSAParameters
from hoptm_plugin.augment.none import NoAugmentation

__all__ = ["DSA", "DSAParameters", "NoAugmentation"]
