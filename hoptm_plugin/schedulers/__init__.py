"""Schedulers: what is matched when; and schedules: numbers that change over the run."""

from hoptm_plugin.schedulers.numbers import Geometric, Linear
from hoptm_plugin.schedulers.self_paced import SelfPaced
from hoptm_plugin.schedulers.sequential import SequentialStartEpochs

__all__ = ["Geometric", "Linear", "SelfPaced", "SequentialStartEpochs"]
