"""What a distilled set gives away of the images it was made from: measures, with intervals that hold their coverage.

Formulas and what was simulated of them: docs/audit.md. Nothing here distils or reads data.
"""

from hoptm_plugin.audit.design import halves
from hoptm_plugin.audit.distances import Distances, distances
from hoptm_plugin.audit.gaussian import gaussian_auc, gaussian_sigma
from hoptm_plugin.audit.identity import Ranks, ranks
from hoptm_plugin.audit.membership import Membership, membership
from hoptm_plugin.audit.one_run import OneRun, ceiling, epsilon_below, paired
from hoptm_plugin.audit.signals import loss_signal, nearest_signal

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
