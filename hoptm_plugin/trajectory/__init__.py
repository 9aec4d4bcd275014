"""Trajectory matching: segments, mini-batches, the unroll, and the method that composes them."""

from hoptm_plugin.trajectory.initial import CorrectlyPredicted, Noise, RealImages
from hoptm_plugin.trajectory.labels import HardLabels, SoftLabels
from hoptm_plugin.trajectory.method import TrajectoryMatching, WeightedMatcher
from hoptm_plugin.trajectory.sampler import UniformSegments
from hoptm_plugin.trajectory.stored import StoredImages, StoredLabels
from hoptm_plugin.trajectory.student import StudentStep
from hoptm_plugin.trajectory.unroll import unroll

__all__ = [
    "CorrectlyPredicted",
    "HardLabels",
    "Noise",
    "RealImages",
    "SoftLabels",
    "StoredImages",
    "StoredLabels",
    "StudentStep",
    "TrajectoryMatching",
    "UniformSegments",
    "WeightedMatcher",
    "unroll",
]
