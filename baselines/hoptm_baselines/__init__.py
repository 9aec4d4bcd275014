"""Baselines: methods beside HoP-TM, registered as any third party's package would."""

from hoptm_baselines.characteristic_function import CharacteristicFunction
from hoptm_baselines.convexified import PiecewiseLinear
from hoptm_baselines.coresets import Herding, KCenter
from hoptm_baselines.crops import InitialSet, ScoredCrops
from hoptm_baselines.distribution_matching import DistributionMatching
from hoptm_baselines.features_along_experts import FeaturesAlongExperts
from hoptm_baselines.gradient_matchers import Cosine, RowwiseCosine, Squared
from hoptm_baselines.gradient_matching import GradientMatching
from hoptm_baselines.improved_distribution_matching import ImprovedDistributionMatching
from hoptm_baselines.private_means import PrivateMeans
from hoptm_baselines.real_images import FullData, RandomSubset

__all__ = [
    "CharacteristicFunction",
    "Cosine",
    "DistributionMatching",
    "FeaturesAlongExperts",
    "FullData",
    "GradientMatching",
    "Herding",
    "ImprovedDistributionMatching",
    "InitialSet",
    "KCenter",
    "PiecewiseLinear",
    "PrivateMeans",
    "RandomSubset",
    "RowwiseCosine",
    "ScoredCrops",
    "Squared",
]
