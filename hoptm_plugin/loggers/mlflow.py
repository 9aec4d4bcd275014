"""MLflow: a database or a server."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

from hoptm_plugin.core.registry import register
from hoptm_plugin.loggers.pictures import PictureLogger, require_extra, settings_of, side_by_side
from hoptm_plugin.storage.files import read_json, write_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATE: Final = "mlflow.json"
AT_ONCE, LONGEST = 100, 500  # settings in one call, and characters of one, that every version takes


@register("mlflow")
class Mlflow(PictureLogger):
    """Sends numbers, pictures and settings to an MLflow tracking store, settings without paths of this computer.

    Args:
        tracking_uri: a server, or a database such as ``sqlite:///mlflow.db`` (a folder ``file:FOLDER`` only where
            MLFLOW_ALLOW_FILE_STORE is true); None for what MLFLOW_TRACKING_URI says, or MLflow's own usual place.
        experiment: that the run is filed under; made where it is not there.
        images_every: iterations between pictures of the synthetic set.
        most_images: the first so many images are shown.

    Raises:
        ValueError: MLflow is not installed, or a number below 1.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str = "hoptm",
        images_every: int = 500,
        most_images: int = 100,
    ) -> None:
        super().__init__(images_every, most_images)
        require_extra("mlflow", "MLflow", "mlflow")
        self.tracking_uri, self.experiment = tracking_uri, experiment
        self._client: MlflowClient | None = None
        self._last: dict[str, int] = {}

    def begin(self, folder: Path, first: int) -> None:
        """Start the run, or go on with the one that an interrupted process started here."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # to its makers
        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = MlflowClient(tracking_uri=self.tracking_uri)
        file = folder / STATE
        known: dict[str, Any] = read_json(file, "note of an MLflow run") if file.exists() else {}
        if run := known.get("run"):
            self._run_id = str(run)
            client.update_run(self._run_id, status="RUNNING")
            # a resumed run comes to the same numbers: what was logged already is not logged again
            metrics = client.get_run(self._run_id).data.metrics
            self._last = {name: max(each.step for each in client.get_metric_history(self._run_id, name))
                          for name in metrics}  # fmt: skip
        else:
            found = client.get_experiment_by_name(self.experiment)
            experiment = client.create_experiment(self.experiment) if found is None else found.experiment_id
            self._run_id = client.create_run(experiment, run_name=folder.resolve().name).info.run_id
            params = [Param(_allowed(key), str(value)[:LONGEST]) for key, value in settings_of(folder).items()]
            for start in range(0, len(params), AT_ONCE):
                client.log_batch(self._run_id, params=params[start : start + AT_ONCE])
            write_json(file, {"run": self._run_id})
        self._client = client

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log one row, its numbers together."""
        from mlflow.entities import Metric

        assert self._client is not None, "begin was not called"
        now = int(1000 * time.time())
        # by name: the evaluation of a run that was made longer stands at a step that has other numbers as well
        metrics = [Metric(known, float(value), now, step) for name, value in values.items()
                   if step > self._last.get(known := _allowed(name), -1)]  # fmt: skip
        if metrics:
            self._client.log_batch(self._run_id, metrics=metrics)

    def show(self, step: int, images: Tensor) -> None:
        """Log one picture, as ``synthetic/STEP.png``."""
        assert self._client is not None, "begin was not called"
        self._client.log_image(self._run_id, side_by_side(images), artifact_file=f"synthetic/{step:07}.png")

    def close(self) -> None:
        """Say that the run is over."""
        if self._client is not None:
            self._client.set_terminated(self._run_id)


def _allowed(name: str) -> str:
    """Return a name in the characters that MLflow takes."""
    return "".join(char if char.isalnum() or char in "/_-. " else "_" for char in name)
