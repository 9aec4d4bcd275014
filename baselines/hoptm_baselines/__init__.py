"""Baselines: methods beside HoP-TM, registered as any third party's package would."""

from hoptm_baselines.random_subset import RandomSubset

__all__ = ["RandomSubset"]
