"""Matchers: one idea a file."""

from hoptm_plugin.matchers.automatic import Automatic
from hoptm_plugin.matchers.endpoint import Endpoint
from hoptm_plugin.matchers.features import MeanFeatures
from hoptm_plugin.matchers.shape_wise import ShapeWisePotential

__all__ = ["Automatic", "Endpoint", "MeanFeatures", "ShapeWisePotential"]
