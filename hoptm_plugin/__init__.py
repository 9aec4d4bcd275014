"""Dataset distillation, benchmarked: HoP-TM trajectory matching and the methods beside it.

In three lines: ``from hoptm_plugin import compose, run``, then
``card = run(compose("method=hoptm", ipc=1), "runs/first")``. The names below are the public API, all that notebooks,
baselines and third parties need. They are imported when first used, so that ``hoptm-bench --help`` does not wait for
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# ruff: noqa: F401
if TYPE_CHECKING:
    from hoptm_plugin.cards.audit import AuditCard
    from hoptm_plugin.cards.card import Card
    from hoptm_plugin.core.asking import Ask
    from hoptm_plugin.core.dataset import ImageData, Normalisation, Split
    from hoptm_plugin.core.errors import ConfigurationError, DataError, HopTMError
    from hoptm_plugin.core.interfaces import (
        Augmentation,
        ContinuousTrajectories,
        DatasetReader,
        Excerpt,
        FeatureMatcher,
        GradientMatcher,
        Initialiser,
        LabelPolicy,
        LossTerm,
        Matcher,
        Method,
        NetworkBuilder,
        RawImages,
        Schedule,
        Scheduler,
        SegmentSampler,
        Task,
        Trajectories,
        TrajectoryView,
        terms,
        value_at,
    )
    from hoptm_plugin.core.loggers import RunLogger
    from hoptm_plugin.core.mosaic import expand_mosaic
    from hoptm_plugin.core.observations import FeaturePair, GradientPair, TrajectoryPair
    from hoptm_plugin.core.registry import register, registry
    from hoptm_plugin.core.roles import Chance, Judgement, Machine, Nothing, Result, Symbol
    from hoptm_plugin.core.seeding import Seeds
    from hoptm_plugin.core.synthetic import SyntheticSet
    from hoptm_plugin.data.in_memory import Arrays
    from hoptm_plugin.engine.evaluation import real_subset
    from hoptm_plugin.exchange.export import Exported, export
    from hoptm_plugin.exchange.loading import load_distilled
    from hoptm_plugin.networks.feature_asks import Features
    from hoptm_plugin.networks.layers import Classifier, features
    from hoptm_plugin.networks.needs import network_problems
    from hoptm_plugin.pages.report import report
    from hoptm_plugin.privacy.gaussian import gaussian_sigma
    from hoptm_plugin.runs.auditing import audit
    from hoptm_plugin.runs.company import run_side_by_side
    from hoptm_plugin.runs.composition import compose
    from hoptm_plugin.runs.importing import import_set
    from hoptm_plugin.runs.judging import evaluate
    from hoptm_plugin.runs.planning import Plan, plan
    from hoptm_plugin.runs.reading import Run, read_run
    from hoptm_plugin.runs.running import build_experts, run
    from hoptm_plugin.runs.tuning import Tuned, tune
    from hoptm_plugin.runs.verifying import verify
    from hoptm_plugin.settings import RunSettings
    from hoptm_plugin.tables.compare import Comparison, compare
    from hoptm_plugin.tables.states import ListedRun, list_runs
    from hoptm_plugin.trajectory.initial import class_major
    from hoptm_plugin.trajectory.teachers import teachers

_HOMES = {
    "core.asking": "Ask",
    "core.dataset": "ImageData Normalisation Split",
    "core.errors": "ConfigurationError DataError HopTMError",
    "core.interfaces": (
        "Augmentation ContinuousTrajectories DatasetReader Excerpt FeatureMatcher GradientMatcher Initialiser "
        "LabelPolicy LossTerm Matcher Method NetworkBuilder RawImages Schedule Scheduler SegmentSampler Task "
        "Trajectories TrajectoryView terms value_at"
    ),
    "core.loggers": "RunLogger",
    "core.mosaic": "expand_mosaic",
    "core.observations": "FeaturePair GradientPair TrajectoryPair",
    "core.registry": "register registry",
    "core.roles": "Chance Judgement Machine Nothing Result Symbol",
    "core.seeding": "Seeds",
    "core.synthetic": "SyntheticSet",
    "cards.audit": "AuditCard",
    "cards.card": "Card",
    "data.in_memory": "Arrays",
    "engine.evaluation": "real_subset",
    "exchange.export": "Exported export",
    "exchange.loading": "load_distilled",
    "networks.feature_asks": "Features",
    "networks.layers": "Classifier features",
    "networks.needs": "network_problems",
    "pages.report": "report",
    "privacy.gaussian": "gaussian_sigma",
    "runs.auditing": "audit",
    "runs.company": "run_side_by_side",
    "runs.composition": "compose",
    "runs.importing": "import_set",
    "runs.judging": "evaluate",
    "runs.planning": "Plan plan",
    "runs.reading": "Run read_run",
    "runs.running": "build_experts run",
    "settings": "RunSettings",
    "runs.tuning": "Tuned tune",
    "runs.verifying": "verify",
    "tables.compare": "Comparison compare",
    "tables.states": "ListedRun list_runs",
    "trajectory.initial": "class_major",
    "trajectory.teachers": "teachers",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
