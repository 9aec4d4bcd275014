"""Experts: networks trained on the real data, whose parameters after every epoch are stored."""

from hoptm_plugin.experts.recipe import ExpertRecipe, ExpertTraining
from hoptm_plugin.experts.store import ExpertStore
from hoptm_plugin.experts.training import build_experts, sharpness_aware_gradient, train_experts

__all__ = [
    "ExpertRecipe",
    "ExpertStore",
    "ExpertTraining",
    "build_experts",
    "sharpness_aware_gradient",
    "train_experts",
]
