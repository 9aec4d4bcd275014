"""Contract tests that any plug-in inherits: subclass, name your parts, and pytest runs the checks.

For example::

    from hoptm_plugin.testing import MatcherContract

    class TestMine(MatcherContract):
        specs = [{"name": "mine"}, {"name": "mine", "sharpness": 2.0}]

Every check runs for every entry of ``specs``: a mapping as it stands in YAML. All have the checks of :class:`Contract`.
"""

import pytest

# so that a failed check in here shows its values, as one in a test file does
pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("contract", "loggers", "matching", "methods", "parts"))
)

from hoptm_plugin.testing.contract import Contract  # noqa: E402
from hoptm_plugin.testing.examples import (  # noqa: E402
    MemoryExperts,
    example_data,
    example_experts,
    example_features,
    example_gradients,
    example_pair,
    example_task,
)
from hoptm_plugin.testing.loggers import LoggerContract  # noqa: E402
from hoptm_plugin.testing.matching import (  # noqa: E402
    FeatureMatcherContract,
    GradientMatcherContract,
    MatcherContract,
    SamplerContract,
    ScheduleContract,
    SchedulerContract,
    TrajectoryViewContract,
)
from hoptm_plugin.testing.methods import MethodContract  # noqa: E402
from hoptm_plugin.testing.parts import (  # noqa: E402
    AugmentationContract,
    DatasetReaderContract,
    InitialiserContract,
    LabelPolicyContract,
    NetworkContract,
)

__all__ = [
    "AugmentationContract",
    "Contract",
    "DatasetReaderContract",
    "FeatureMatcherContract",
    "GradientMatcherContract",
    "InitialiserContract",
    "LabelPolicyContract",
    "LoggerContract",
    "MatcherContract",
    "MemoryExperts",
    "MethodContract",
    "NetworkContract",
    "SamplerContract",
    "ScheduleContract",
    "SchedulerContract",
    "TrajectoryViewContract",
    "example_data",
    "example_experts",
    "example_features",
    "example_gradients",
    "example_pair",
    "example_task",
]
