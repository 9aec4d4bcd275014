"""Matchers: one idea a file."""

from hoptm_plugin.core.interfaces import matchers as _registry
from hoptm_plugin.matchers.automatic import Automatic
from hoptm_plugin.matchers.endpoint import Endpoint
from hoptm_plugin.matchers.features import MeanFeatures
from hoptm_plugin.matchers.shape_wise import ShapeWisePotential

# once imported, this package is `hoptm_plugin.matchers` in the registry's stead, so it must register as that does
register, build = _registry.register, _registry.build

__all__ = ["Automatic", "Endpoint", "MeanFeatures", "ShapeWisePotential", "build", "register"]
