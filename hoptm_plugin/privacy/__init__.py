"""What a distilled set gives away of the images it was made from: measures, with intervals that hold their coverage.

Formulas: docs/audit.md. Nothing here distils or reads data.
"""

from hoptm_plugin.privacy.design import halves
from hoptm_plugin.privacy.distances import Distances, distances
from hoptm_plugin.privacy.gaussian import gaussian_auc, gaussian_sigma
from hoptm_plugin.privacy.identity import Ranks, ranks
from hoptm_plugin.privacy.membership import Membership, membership
from hoptm_plugin.privacy.one_run import OneRun, ceiling, epsilon_below, paired
from hoptm_plugin.privacy.signals import loss_signal, nearest_signal

__all__ = [
    "Distances",
    "Membership",
    "OneRun",
    "Ranks",
    "ceiling",
    "distances",
    "epsilon_below",
    "gaussian_auc",
    "gaussian_sigma",
    "halves",
    "loss_signal",
    "membership",
    "nearest_signal",
    "paired",
    "ranks",
]
