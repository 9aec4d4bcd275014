"""What is told how a run goes: ``metrics.jsonl`` always, others where they are asked for."""

from hoptm_plugin.loggers.guarded import GuardedLoggers
from hoptm_plugin.loggers.json_lines import JsonLines, Mark
from hoptm_plugin.loggers.tensorboard import TensorBoard

__all__ = ["GuardedLoggers", "JsonLines", "Mark", "TensorBoard"]
