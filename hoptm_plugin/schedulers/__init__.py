"""Schedulers: what is matched when; and schedules: numbers that change over the run."""

from hoptm_plugin.core.interfaces import schedulers as _registry
from hoptm_plugin.schedulers.numbers import Geometric, Linear
from hoptm_plugin.schedulers.self_paced import SelfPaced
from hoptm_plugin.schedulers.sequential import SequentialStartEpochs

# once imported, this package is `hoptm_plugin.schedulers` in the registry's stead, so it must register as that does
register, build = _registry.register, _registry.build

__all__ = ["Geometric", "Linear", "SelfPaced", "SequentialStartEpochs", "build", "register"]
