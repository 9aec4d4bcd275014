"""What an evaluation has done so far, kept in the run folder until the card holds it all.

Metrics of finished networks lie in ``evaluations.json``, an interrupted training in ``evaluating.safetensors``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import NonNegativeFloat, ValidationError, model_validator

from hoptm_plugin.cards.evaluation import MOST_COUNTS, Evaluation
from hoptm_plugin.cards.record import Record
from hoptm_plugin.core.asking import own_seconds
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.core.interfaces import State
from hoptm_plugin.engine.checkpoint import read_checkpoint, write_checkpoint
from hoptm_plugin.engine.evaluation import FinishedNetworks
from hoptm_plugin.storage.files import check_checksum, read_json, with_checksum, write_json

FILE_NAME: Final = "evaluations.json"
BEGUN: Final = "evaluating.safetensors"
KIND: Final = "training of an evaluation"
VERSION: Final = 1
REMEDY: Final = "delete it, and its networks are trained again"


class Row(Record):
    """The metrics of one network: what it was trained on, its architecture, and which of the protocol's it is."""

    kind: str
    network: str
    repeat: int
    metrics: dict[str, Any]

    @model_validator(mode="after")
    def _usable(self) -> Row:
        try:
            Evaluation.from_metrics(self.network, [self.metrics])
        except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise ValueError(f"its metrics are none: {error!r}") from None
        return self


class _Content(Record):
    version: Literal[1]
    identity: str
    seconds: NonNegativeFloat
    rows: tuple[Row, ...]
    sha256: str


def without_large(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return metrics without a confusion matrix that no card will hold."""
    return {**metrics, "confusion": None} if len(metrics["support"]) ** 2 > MOST_COUNTS else metrics


class KeptNetworks(FinishedNetworks):
    """Keeps the metrics of finished networks, rewritten whole after each, and the state of a training that goes on.

    Args:
        path: the file of metrics.
        identity: of all that decides the metrics; what lies there of another one is dropped.

    Attributes:
        seconds: that all these evaluations took, those of earlier processes included.

    Raises:
        FileFormatError: the file is damaged.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity, self._earlier = path, identity, 0.0
        self._begun = path.with_name(BEGUN)
        self._rows: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._began = own_seconds()
        if not path.exists():
            return
        found = read_json(path, "file of evaluated networks", REMEDY)
        try:
            content = _Content.model_validate(found)
        except (ValidationError, ValueError, RecursionError) as error:
            reason = error.errors(include_input=False)[0]["msg"] if isinstance(error, ValidationError) else error
            raise FileFormatError(f"{path}: not a file of evaluated networks ({reason}); {REMEDY}") from None
        check_checksum(found, path, REMEDY)
        if content.identity == identity:
            self._earlier = content.seconds
            self._rows = {(row.kind, row.network, row.repeat): row.metrics for row in content.rows}

    @property
    def seconds(self) -> float:
        """Seconds since this was made, and those of earlier processes up to their last finished network."""
        return self._earlier + own_seconds() - self._began

    def known(self, kind: str, network: str, repeat: int) -> dict[str, Any] | None:
        """Return the metrics of a network that was evaluated before, or None."""
        return self._rows.get((kind, network, repeat))

    def keep(self, kind: str, network: str, rows: Mapping[int, dict[str, Any]]) -> None:
        """Write the metrics of networks down."""
        for repeat, metrics in rows.items():
            self._rows[kind, network, repeat] = without_large(metrics)
        content = {
            "version": VERSION, "identity": self.identity, "seconds": self.seconds,
            "rows": [{"kind": kind, "network": network, "repeat": repeat, "metrics": metrics}
                     for (kind, network, repeat), metrics in self._rows.items()],
        }  # fmt: skip
        write_json(self.path, with_checksum(content))

        self._begun.unlink(missing_ok=True)

    def begun(self, key: str) -> State | None:
        """Return the state of an interrupted training, or None.

        Raises:
            FileFormatError: its file is damaged.
        """
        if not self._begun.exists():
            return None
        state = read_checkpoint(self._begun, KIND, allow_nan=True)  # a network may diverge, which its card then says
        if (state.get("identity"), state.get("key")) != (self.identity, key):
            return None
        seconds, training = state.get("seconds"), state.get("training")
        if not isinstance(seconds, float) or not 0 <= seconds < math.inf or not isinstance(training, dict):
            raise FileFormatError(f"{self._begun}: not a {KIND}; {REMEDY}")
        self._earlier = max(self._earlier, seconds)
        return training

    def keep_begun(self, key: str, state: State) -> None:
        """Write the state of a training into ``evaluating.safetensors``."""
        content: State = {"identity": self.identity, "key": key, "seconds": self.seconds, "training": state}
        write_checkpoint(self._begun, content, KIND)

    def discard(self) -> None:
        """Remove the files: the card holds it all."""
        self.path.unlink(missing_ok=True)
        self._begun.unlink(missing_ok=True)
