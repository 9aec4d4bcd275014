"""``compare``: cards of several runs in, tables out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

import pandas

from hoptm_plugin.cards.card import FILE_NAME, Card, read_card
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError, StorageError, UserError
from hoptm_plugin.core.text import one_line
from hoptm_plugin.engine.significance import Test
from hoptm_plugin.storage.files import write_text
from hoptm_plugin.tables import formats
from hoptm_plugin.tables.labels import FoundCard
from hoptm_plugin.tables.metrics import METRICS, MetricName
from hoptm_plugin.tables.scores import ScoreName, refuse_missing, scored, tabled
from hoptm_plugin.tables.states import unfinished_in
from hoptm_plugin.tables.table import ComparisonTable, Sort, only_best, tables_of

Format: TypeAlias = Literal["markdown", "latex", "csv", "json"]
RUN_FILES = (".json", ".jsonl", ".yaml", ".safetensors", ".png")
# numbers that may be missing
NUMBERS = ("mean", "std", "reported", "reported_std", "difference", "ci_low", "ci_high", "p", "p_holm", "lrs", "ars",
           *METRICS, *(f"{name}_std" for name in METRICS))  # fmt: skip
COUNTS = ("ipc", "pairs")  # likewise
MOST_NAMED = 10  # folders, in one line


@runtime_checkable
class CardInFolder(Protocol):
    """A run that was read: its card, and its folder."""

    card: Card
    folder: Path


Comparable: TypeAlias = Card | CardInFolder | Path | str


@dataclass(frozen=True, repr=False)
class Comparison:
    """What :func:`compare` found: tables, each of cards that were judged alike.

    Printed, or as the last line of a notebook's cell, it shows its tables; ``table`` is for computing.

    Attributes:
        tables: in order.
        cards: what was compared, in the order given.
        unfinished: folders of runs that were found and are not finished, and so left out.
    """

    tables: tuple[ComparisonTable, ...]
    cards: tuple[FoundCard, ...]
    unfinished: tuple[Path, ...] = ()

    def table(self) -> pandas.DataFrame:
        """Return one row for each method on each data set, IPC and network, of all tables; metrics are fractions.

        Its columns: ``group`` (the heading of the table, which says what sets it apart; of upper bounds also how they
        were judged), ``method``, ``settings`` (in which it differs from other rows of the method), ``dataset``, ``ipc``
        (missing for all training images), ``network``; ``metric``, and of it ``mean``, ``std`` (population),
        ``values`` (of each network) and ``best`` (of its column, and tested); ``networks``, how many of them
        ``diverged``, ``runs``, ``seeds`` (distillations); every metric by its name, as ``ece``, and its ``ece_std``;
        ``reported``, ``reported_std``,
        ``reported_source``; ``against``, ``difference``, its 95 % interval ``ci_low`` to ``ci_high``, ``pairs`` of
        seeds (missing where they were not paired), ``p``, and ``p_holm``, corrected over the table; ``lrs`` and ``ars``
        if asked for; ``notes`` (of the table: what sets its rows apart, what was tested). Undefined numbers are
        missing. As papers have it: ``pivot(index="method", columns=["dataset", "ipc", "network"], values="mean")`` of
        it.
        """
        frame = pandas.DataFrame(formats.records(self.tables))
        kinds = dict.fromkeys(COUNTS, "Int64") | {name: "float64" for name in NUMBERS if name in frame}
        return frame.astype(kinds)

    def text(self, form: Format = "markdown") -> str:
        """Return the tables as text: percent for people and papers, fractions and one record per cell in CSV and JSON.

        Raises:
            ConfigurationError: an unknown form.
        """
        _check("form", form, get_args(Format))
        if form == "markdown":
            return formats.markdown(self.tables)
        if form == "latex":
            return formats.latex(self.tables)
        if form == "csv":
            return formats.csv(self.table())
        return json.dumps(formats.records(self.tables), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, file: Path | str, form: Format = "markdown") -> None:
        """Write the tables to a file, whole or not at all.

        Raises:
            UserError: the file cannot be written, or is one of a run that was compared.
            ConfigurationError: an unknown form.
        """
        write_beside(self.cards, Path(file), self.text(form))

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return formats.notebook_html(self.tables)


def compare(
    cards_or_folders: Iterable[Comparable] | Comparable,
    *,
    against: str | None = None,
    tests: Test | None = "paired",
    scores: ScoreName | Literal["all"] | None = None,
    metric: MetricName = "accuracy",
    sort: Sort = "name",
    best: int | None = None,
) -> Comparison:
    """Lay results out by data set, IPC and network; only what was judged alike shares a table.

    Networks are pooled over seeds; the means of distillation seeds are tested, and p-values corrected over each table
    (Holm). Runs on the whole training split stand below the tables of their data. The order of what is given does not
    matter.

    Args:
        cards_or_folders: cards, runs that were read, or paths: of cards, of run folders, or of folders to search
            through. What is met twice counts once, copies included.
        against: title or short name of the method to test against; None takes each column's best.
        tests: of the means of distillation seeds: "paired" where both rows have the same seeds, else by Welch's test;
            "welch" throughout; None: nothing is tested, and nothing marked as best.
        scores: DD-Ranking's label-robust ("lrs") and augmentation-robust scores ("ars"), or "all", to add.
        metric: what is tabled and tested: "accuracy", "balanced_accuracy", "macro_auroc", "macro_f1", "ece" (the lowest
            is best) or "worst_recall".
        sort: rows by "name", or by "result": the best first, by how far they are behind the best of their columns.
        best: of each method with several settings, how many of the best to show; None: all.

    Raises:
        FileFormatError: a path without a card, or a card that cannot be read; none is skipped.
        ConfigurationError: there is nothing to compare; no table, or more than one row of one, is called ``against``;
            runs that the scores need are missing: all of them are named.
    """
    _check("tests", tests, (*get_args(Test), None))
    _check("scores", scores, (*get_args(ScoreName), "all", None))
    _check("metric", metric, tuple(METRICS))
    _check("sort", sort, get_args(Sort))
    if best is not None and (not isinstance(best, int) or best < 1):
        raise ConfigurationError(f"best {best!r}: must be how many rows of a method to show, 1 or more")
    if against is not None and tests is None:
        raise ConfigurationError(f"against {against}: nothing is tested, since tests is None; leave out one of them")
    if not isinstance(cards_or_folders, Comparable | Iterable):
        raise ConfigurationError(f"compare takes cards, runs and paths, not {type(cards_or_folders).__name__}")
    given = [cards_or_folders] if isinstance(cards_or_folders, Comparable) else list(cards_or_folders)
    cards = find_cards(given)
    if not cards:
        raise ConfigurationError("nothing to compare: give cards, runs or folders of finished runs")
    left_out = tuple(unfinished_in(each for each in given if isinstance(each, str | Path)))
    if left_out:
        warnings.warn(f"left out, since not finished: {_listed(left_out)}; `hoptm-bench runs` says how far they are",
                      stacklevel=2)  # fmt: skip
    ordered = sorted(cards, key=lambda found: (isinstance(found[0], int), found[0]))
    if scores is None:
        tables = tables_of(ordered, against, tests, metric, sort)
    else:
        wanted: tuple[ScoreName, ...] = get_args(ScoreName) if scores == "all" else (scores,)
        tables, missing = scored(tables_of(tabled(ordered), against, tests, metric, sort), ordered, wanted)
        refuse_missing(missing, scores)
        if not any(table.scores for table in tables):
            raise ConfigurationError(
                f"scores {scores}: only distilled sets have scores, and no card is of one; add runs"
            )
    return Comparison(tuple(only_best(table, best) if best else table for table in tables), tuple(cards), left_out)


def _listed(folders: Sequence[Path]) -> str:
    more = f" and {len(folders) - MOST_NAMED} more" if len(folders) > MOST_NAMED else ""
    return f"{', '.join(one_line(str(folder)) for folder in folders[:MOST_NAMED])}{more}"


def _check(name: str, value: str | None, known: Sequence[str | None]) -> None:
    if value not in known:
        raise ConfigurationError(f"{name} {value!r}: no such choice (known: {', '.join(map(str, known))})")


def find_cards(given: Iterable[Comparable]) -> list[FoundCard]:
    """Return all cards that are given, or found under paths that are, each once.

    Raises:
        FileFormatError: a path without a card, or a card that cannot be read; none is skipped.
        ConfigurationError: something else is given.
    """
    found: dict[Path | int, Card] = {}
    for number, each in enumerate(given, start=1):
        for place, card in _cards_of(each, number):
            if place not in found and card not in found.values():
                found[place] = card
    return list(found.items())


def _cards_of(given: Comparable, number: int) -> Iterable[FoundCard]:
    if isinstance(given, Card):
        return [(number, given)]
    if isinstance(given, CardInFolder):
        if given.card is None:
            raise ConfigurationError(
                f"{given.folder}: the run in it is not finished; go on with it first, or leave it out"
            )
        return [(Path(given.folder).resolve() / FILE_NAME, given.card)]
    if not isinstance(given, str | Path):
        raise ConfigurationError(f"compare takes cards, runs and paths, not {type(given).__name__}")
    path = Path(given)
    try:
        path.stat()
    except FileNotFoundError:
        pass  # said below, as of a card
    except OSError as error:  # such as a name that is too long
        raise FileFormatError(f"{path}: {error.strerror}; name folders of finished runs") from None
    inside = path.is_dir() and not (path / FILE_NAME).exists()
    files = sorted(path.rglob(FILE_NAME)) if inside else [path / FILE_NAME if path.is_dir() else path]
    if not files:
        begun = list(unfinished_in([path]))
        if begun:
            raise FileFormatError(f"{path}: none of the runs in it is finished ({_listed(begun)}); go on with them by "
                                  f"`hoptm-bench run hydra.run.dir=PATH resume=true`")  # fmt: skip
        raise FileFormatError(f"{path}: no {FILE_NAME} in this folder or below; name folders of finished runs")
    return ((file.resolve(), read_card(file)) for file in files)


def write_beside(cards: Sequence[FoundCard], file: Path, text: str) -> None:
    """Write what was made of cards to a file, whole or not at all, and never over a file of their runs.

    Raises:
        UserError: ``file`` cannot be written, or :func:`refuse_card` refuses it.
    """
    refuse_card(file, cards)
    try:
        write_text(file, text)
    except StorageError as error:
        raise UserError(f"{file}: {error.reason}; name another file") from None


def refuse_card(output: Path, cards: Sequence[FoundCard]) -> None:
    """Refuse to write over a file of one of the runs that are read.

    Raises:
        UserError: ``output`` is a card, or lies beside one under the name of another file of a run.
    """
    files = [place for place, _ in cards if isinstance(place, Path)]
    beside = {file.parent.resolve() for file in files if file.name == FILE_NAME}
    inside = output.parent.resolve() in beside and output.exists() and output.suffix in RUN_FILES
    if inside or output.resolve() in {file.resolve() for file in files}:
        raise UserError(f"{output}: is a file of a run; name another one")
