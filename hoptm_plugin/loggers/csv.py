"""A table for a spreadsheet in the run folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hoptm_plugin.core.loggers import RunLogger
from hoptm_plugin.core.registry import register
from hoptm_plugin.storage.files import read_bounded, storage_error, write_text

FILE_NAME: Final = "metrics.csv"
LARGEST_BYTES: Final = 2**30


@register("csv")
class Csv(RunLogger):
    """Writes ``metrics.csv`` into the run folder: a row per logged iteration, a column per number."""

    def __init__(self) -> None:
        self._names: list[str] = ["step"]
        self._path: Path | None = None

    def begin(self, folder: Path, first: int) -> None:
        """Keep the rows before iteration ``first``, and drop what an interrupted process wrote after them.

        Raises:
            FileFormatError: what it wrote cannot be read.
            StorageError: disk full, read-only and the like.
        """
        self._path = folder / FILE_NAME
        rows = [row for row in self._rows() if row["step"].isdecimal() and int(row["step"]) < first]
        self._names = list(dict.fromkeys(["step", *(name for row in rows for name in row)]))
        self._rewrite(rows)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row; where it has new columns, the whole table with them."""
        assert self._path is not None, "begin was not called"
        row = {"step": step, **values}
        if set(row) <= set(self._names):
            try:
                with self._path.open("a", encoding="utf-8", newline="") as stream:
                    csv.DictWriter(stream, self._names).writerow(row)
            except OSError as error:
                raise storage_error(self._path, error) from error
            return
        rows = self._rows()
        self._names = list(dict.fromkeys([*self._names, *row]))
        self._rewrite([*rows, row])

    def _rows(self) -> list[dict[str, str]]:
        """Return the rows that are there; one that a kill cut short is left out."""
        assert self._path is not None
        if not self._path.exists():
            return []
        text = read_bounded(self._path, LARGEST_BYTES, "table of a run").decode(errors="replace")
        whole = text[: text.rfind("\n") + 1]
        rows = csv.DictReader(io.StringIO(whole, newline=""))
        return [{name: value or "" for name, value in row.items() if name} for row in rows if row.get("step")]

    def _rewrite(self, rows: list[Any]) -> None:
        assert self._path is not None
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self._names)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self._path, table.getvalue())
