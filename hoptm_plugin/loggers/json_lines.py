"""``metrics.jsonl``: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from hoptm_plugin.core.files import write_text
from hoptm_plugin.core.loggers import RunLogger

METRICS = "metrics.jsonl"


class JsonLines(RunLogger):
    """Appends ``{"step": ..., name: value, ...}`` to ``metrics.jsonl`` in the run folder, and flushes it."""

    _stream: TextIO | None = None

    def begin(self, folder: Path, first: int) -> None:
        """Drop the lines from iteration ``first`` on, which an interrupted process wrote after its last checkpoint."""
        path = folder / METRICS
        if path.exists():
            kept = []
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    if json.loads(line)["step"] >= first:
                        break
                except (ValueError, KeyError, TypeError):  # such as the line that a kill cut short
                    break
                kept.append(line.decode())
            write_text(path, "".join(kept))
        self._stream = path.open("a", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line."""
        assert self._stream is not None, "begin was not called"
        self._stream.write(json.dumps({"step": step, **values}) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
