"""What is told how a run goes: ``metrics.jsonl`` always, others where they are asked for."""

from hoptm_plugin.loggers.csv import Csv
from hoptm_plugin.loggers.guarded import GuardedLoggers
from hoptm_plugin.loggers.json_lines import JsonLines, Mark
from hoptm_plugin.loggers.mlflow import Mlflow
from hoptm_plugin.loggers.tensorboard import TensorBoard
from hoptm_plugin.loggers.wandb import Wandb

__all__ = ["Csv", "GuardedLoggers", "JsonLines", "Mark", "Mlflow", "TensorBoard", "Wandb"]
