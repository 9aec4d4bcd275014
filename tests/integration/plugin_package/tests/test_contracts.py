"""What the framework asks of every part, asked of ours."""

from typing import ClassVar

import hoptm_direction.start  # noqa: F401  registers the scheduler; `import hoptm_direction` does the matcher

from hoptm_plugin.testing import MatcherContract, SchedulerContract


class TestDirection(MatcherContract):
    specs: ClassVar = [{"name": "direction"}]


class TestFromTheStart(SchedulerContract):
    specs: ClassVar = [{"name": "from_the_start"}, {"name": "from_the_start", "until": 2}]
