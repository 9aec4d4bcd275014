"""Experts: networks trained on the real data, whose parameters after every epoch are stored."""

from hoptm_plugin.experts.building import build_experts
from hoptm_plugin.experts.curriculum import Curriculum
from hoptm_plugin.experts.difficulty import el2n
from hoptm_plugin.experts.recipe import ExpertRecipe, ExpertTraining
from hoptm_plugin.experts.store import ExpertStore
from hoptm_plugin.experts.training import sharpness_aware_gradient, train_experts

__all__ = [
    "Curriculum",
    "ExpertRecipe",
    "ExpertStore",
    "ExpertTraining",
    "build_experts",
    "el2n",
    "sharpness_aware_gradient",
    "train_experts",
]
