"""Contract of whoever is told how a run goes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from hoptm_plugin.core.interfaces import loggers
from hoptm_plugin.core.loggers import RunLogger
from hoptm_plugin.testing.contract import Contract, Spec


class LoggerContract(Contract):
    """What every logger must satisfy."""

    registry = loggers

    def use(self, part: RunLogger, step: int) -> None:
        """Log a short run in a folder of its own."""
        with TemporaryDirectory() as folder:
            self._log(part, Path(folder), step)

    def test_logs_a_run_and_takes_an_interrupted_one_up_again(self, spec: Spec, tmp_path: Path) -> None:
        """Begin, numbers, images, close; then another process goes on in the same folder."""
        self._log(self.build(spec), tmp_path, 0)
        self._log(self.build(spec), tmp_path, 2)

    def test_may_be_closed_before_it_was_begun(self, spec: Spec) -> None:
        """A run that fails before its first iteration closes its loggers as well."""
        self.build(spec).close()

    def test_images_are_not_mutated(self, spec: Spec, tmp_path: Path) -> None:
        """What a logger does to the images must not reach the run's own."""
        logger, images = self.build(spec), torch.linspace(-1, 2, 96).view(2, 3, 4, 4)
        before = images.clone()
        logger.begin(tmp_path, 0)
        for step in range(3):
            logger.images(step, lambda: images)
        logger.close()
        assert torch.equal(images, before)

    def test_state_round_trip(self, spec: Spec) -> None:
        """A logger has no state to take back: what it needs of an interrupted process lies in the run folder."""
        assert not hasattr(self.build(spec), "state_dict")

    def _log(self, logger: RunLogger, folder: Path, first: int) -> None:
        logger.begin(folder, first)
        for step in range(first, first + 3):
            logger.scalars(step, {"loss": 1.0 / (step + 1), "step_size": 0.01})
            logger.images(step, lambda: torch.zeros(2, 1, 4, 4))
        logger.scalars(first + 3, {"evaluation/evaluations/convnet": 0.5})
        logger.close()
