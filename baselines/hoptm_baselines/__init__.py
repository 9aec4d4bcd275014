"""Baselines: methods beside HoP-TM, registered as any third party's package would."""

from hoptm_baselines.coresets import Herding, KCenter
from hoptm_baselines.distribution_matching import DistributionMatching
from hoptm_baselines.gradient_matchers import Cosine, RowwiseCosine, Squared
from hoptm_baselines.gradient_matching import GradientMatching
from hoptm_baselines.improved_distribution_matching import ImprovedDistributionMatching
from hoptm_baselines.private_means import PrivateMeans
from hoptm_baselines.real_images import FullData, RandomSubset

__all__ = [
    "Cosine",
    "DistributionMatching",
    "FullData",
    "GradientMatching",
    "Herding",
    "ImprovedDistributionMatching",
    "KCenter",
    "PrivateMeans",
    "RandomSubset",
    "RowwiseCosine",
    "Squared",
]
