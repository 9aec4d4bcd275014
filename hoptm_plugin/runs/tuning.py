"""Choosing settings by trying them: distilled with one seed, judged by few networks on the validation split.

A tuning's folder holds a run folder for every candidate, ``tuning.json`` (what was tried and what it gave, rewritten
whole after every round, so that an interrupted tuning goes on), ``candidates.csv`` and ``best.yaml``, which ``run``
takes as ``settings=PATH``. The test split is never looked at.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev
from typing import Annotated, Any, Final, Literal, TypeAlias

import pandas as pd
from pydantic import Field, NonNegativeInt, PositiveInt

from hoptm_plugin.cards.card import Card, read_card
from hoptm_plugin.cards.record import LONGEST_LINE, SCHEMA, Digest, Fraction, Line, Record, read_record, write_record
from hoptm_plugin.cards.tuning import Candidate, Tuning
from hoptm_plugin.core.errors import ConfigurationError, HopTMError, Problems, RunFolderError, first_line
from hoptm_plugin.core.interfaces import DatasetReader
from hoptm_plugin.core.text import no_formula, one_line, pasted, shortened
from hoptm_plugin.engine.significance import LEVEL, welch
from hoptm_plugin.runs.assembly import build_parts
from hoptm_plugin.runs.composition import as_override, compose, expand, key_of, write_settings, written_out
from hoptm_plugin.runs.folder import is_content, read_settings
from hoptm_plugin.runs.running import run
from hoptm_plugin.runtime.bars import usual_progress
from hoptm_plugin.runtime.progress import ProgressFactory
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.files import as_path, write_text
from hoptm_plugin.storage.locks import Lock
from hoptm_plugin.storage.run_files import CARD, CONFIG, LOCK

Strategy: TypeAlias = Literal["grid", "halving"]
FILE_NAME, BEST, TABLE = "tuning.json", "best.yaml", "candidates.csv"
FACTOR: Final = 3  # of candidates that halving drops, and of iterations that the others get
SEED, NETWORKS = 100, 2  # unless given; the seed is not that of a usual run
GOING_ON = ("resume", "tuning")  # of the run that comes after a tuning, neither is given by hand
LARGEST_BYTES = 2**24


class _Trial(Record):
    """What one candidate gave after so many iterations.

    Attributes:
        candidate: its index.
        iterations: of its distillation.
        config_sha256: of the settings it was made with.
        folder: of its run, in the tuning's.
        accuracies: of the networks of the first architecture; empty where the run failed.
        random_subset: mean accuracy of a random subset, where it was judged.
        failed: why there is none.
    """

    candidate: NonNegativeInt
    iterations: PositiveInt
    config_sha256: Digest
    folder: Line
    accuracies: tuple[Fraction, ...] = ()
    random_subset: Fraction | None = None
    failed: Line | None = None

    @property
    def accuracy(self) -> float | None:
        return fmean(self.accuracies) if self.accuracies else None


class _File(Record):
    schema_version: Literal[1] = Field(alias="schema")
    strategy: Strategy
    rounds: Annotated[tuple[tuple[PositiveInt, PositiveInt], ...], Field(min_length=1)]
    candidates: Annotated[tuple[Line, ...], Field(min_length=1)]
    config_sha256: tuple[Digest, ...]
    seed: NonNegativeInt
    networks: PositiveInt
    images: NonNegativeInt = 0
    tried: tuple[_Trial, ...] = ()
    found: Tuning | None = None
    sha256: Digest | None = None


@dataclass(frozen=True)
class Job:
    """A run that a tuning asks for.

    Attributes:
        name: of its folder, in the tuning's.
        overrides: that compose its settings, for a launcher.
        settings: what they compose to.
    """

    name: str
    overrides: list[str]
    settings: RunSettings


Make: TypeAlias = Callable[[list[tuple[RunSettings, Path]]], Sequence[Card | Exception]]
Launch: TypeAlias = Callable[[Sequence[Job]], Sequence[str | None]]
"""Makes the runs, by :func:`attempt`, and returns for each why it failed, or None."""


@dataclass(frozen=True)
class Tuned:
    """What :func:`hoptm_plugin.tune` found.

    Attributes:
        folder: of the tuning, with a run folder for every candidate.
        record: all candidates and the chosen one, as the card of a run with these settings holds it.
        table: a row for each candidate and number of iterations: the swept settings, mean and standard deviation of the
            accuracy on the validation split (fractions), of how many networks, why it failed, and its run's folder.
        settings: the best settings, record included, for :func:`hoptm_plugin.run`; seed and networks are not those of
            the tuning.
        command: that runs them; None where they hold what no command line can, such as data in memory.
        sure: in words, whether the best is really better than the second.
        random_subset: mean accuracy of a random subset on the validation split, where it was judged.
    """

    folder: Path
    record: Tuning
    table: pd.DataFrame
    settings: RunSettings
    command: str | None
    sure: str
    random_subset: float | None


def tune(
    *overrides: str, over: Mapping[str, Sequence[Any]], folder: str | Path, strategy: Strategy = "grid",
    resume: bool | Literal["auto"] = False, progress: ProgressFactory | None = None, launch: Launch | None = None,
    **settings: Any,
) -> Tuned:  # fmt: skip
    """Try all combinations of some settings on the validation split, and return the best.

    Every candidate is distilled with one seed (100 unless ``seed`` is given) and judged by few networks (2 unless
    ``protocol.repeats`` is given); both are of the tuning alone. A candidate that fails is a row without an accuracy.

    Args:
        overrides: as :func:`compose` takes them, one value of every setting.
        over: values to try, by dotted path: ``{"distillation.images.learning_rate": [1, 10, 100]}``.
        folder: a new one, or with ``resume`` the one to go on in; "auto": begin where there is none.
        strategy: "grid", or "halving": all candidates for few iterations, the best third for three times as many, and
            so on up to ``distillation.iterations``; a run goes on where it can be extended, and begins anew where not.
        resume: go on with the tuning that lies in the folder.
        progress: reports what takes long; None: bars on a terminal or in a notebook, else nothing.
        launch: makes several runs, maybe side by side; None: here, one after the other.
        settings: as the keywords of :func:`compose`.

    Raises:
        ConfigurationError: settings that cannot be, that do not decide the result, or would look at the test split;
            no candidate that could be judged.
        RunFolderError: the folder holds something else, or another tuning.
    """
    told = progress or usual_progress()
    plan = _Plan.of(overrides, settings, over, strategy)
    place = as_path(folder, "folder")
    lock = Lock(place / LOCK)
    _check_folder(place, plan, resume)
    if not lock.acquire():
        raise RunFolderError(f"{place}: {lock.holder()} works in it; wait for it, or choose another folder")
    with closing(lock):
        _check_folder(place, plan, resume)
        return _tuned(plan, place, told, launch or partial(_one_after_the_other, place, told))


def read_tuning(folder: Path) -> Tuning:
    """Read what a finished tuning found from its folder.

    Raises:
        FileFormatError: there is none, or it is damaged.
        RunFolderError: it is not finished, or all candidates failed.
    """
    found = _read(folder).found
    if found is None:
        raise RunFolderError(f"{folder}: nothing is chosen yet; the same command with resume=auto goes on")
    return found


def attempt(settings: RunSettings, folder: Path, progress: ProgressFactory) -> str | None:
    """Make the run of a :class:`Job` in its folder, or go on with it; return why it failed, or None."""

    def make(jobs: Sequence[tuple[RunSettings, Path]]) -> list[Card | Exception]:
        (job,) = jobs
        try:
            return [run(*job, progress)]
        except Exception as error:
            return [error]

    return attempts([(settings, folder)], make, progress)[0]


def attempts(jobs: Sequence[tuple[RunSettings, Path]], make: Make, progress: ProgressFactory) -> list[str | None]:
    """Make the runs of several jobs in their folders, as :func:`attempt` does; return why each failed, or None.

    Args:
        jobs: settings and folder of each.
        make: makes runs, and returns the card of each, or why it failed.
        progress: told of what begins anew.
    """
    outcomes: dict[int, Card | Exception] = {}
    places, older = dict[int, tuple[RunSettings, Path]](), dict[int, int]()  # iterations of a run that is to go on
    for number, (settings, folder) in enumerate(jobs):
        try:
            anew = _anew(folder, settings)
            if not anew.exists() and (folder / CONFIG).exists():
                older[number] = read_settings(folder / CONFIG).distillation.iterations
            where = anew if anew.exists() else folder
            places[number] = settings.model_copy(update={"resume": "auto"}), where
        except Exception as error:
            outcomes[number] = error
    outcomes |= _made(places, make)
    again = {}
    for number, done in older.items():
        (settings, folder), refusal = places[number], outcomes[number]
        if isinstance(refusal, RunFolderError) and done != settings.distillation.iterations:
            anew = _anew(folder, settings)
            progress(f"{folder.name}: its {done} iterations cannot be extended ({first_line(refusal)}); it begins "
                     f"anew in {anew.name}", 0)  # fmt: skip
            again[number] = settings, anew
    outcomes |= _made(again, make)
    return [_reason(outcomes[number]) for number in range(len(jobs))]


def _made(places: Mapping[int, tuple[RunSettings, Path]], make: Make) -> dict[int, Card | Exception]:
    return dict(zip(places, make(list(places.values())), strict=True)) if places else {}


def _reason(outcome: Card | Exception) -> str | None:
    """Return why a run failed, or None."""
    if isinstance(outcome, HopTMError):
        return shortened(outcome)
    if isinstance(outcome, Exception):  # of a part, maybe a plug-in's: what one stumbles over must not end the others
        return f"{type(outcome).__name__}: {shortened(outcome)}"
    return None


def _anew(folder: Path, settings: RunSettings) -> Path:
    """Return where a run goes that cannot go on from fewer iterations."""
    return folder.with_name(f"{folder.name}-{settings.distillation.iterations}-iterations")


def _one_after_the_other(place: Path, progress: ProgressFactory, jobs: Sequence[Job]) -> list[str | None]:
    return [attempt(job.settings, place / job.name, progress) for job in jobs]


@dataclass(frozen=True)
class _Plan:
    """All that is to be tried.

    Attributes:
        base: overrides that all candidates share, without what is of the tuning alone.
        own: overrides of the tuning.
        keywords: of :func:`compose`.
        candidates: further overrides of each.
        settings: of each, for all iterations.
        strategy: as asked for.
        rounds: by what iterations are divided, and for how many candidates.
    """

    base: list[str]
    own: list[str]
    keywords: dict[str, Any]
    candidates: list[list[str]]
    settings: list[RunSettings]
    strategy: Strategy
    rounds: list[tuple[int, int]]

    @classmethod
    def of(
        cls, overrides: Sequence[str], keywords: Mapping[str, Any], over: Mapping[str, Sequence[Any]],
        strategy: Strategy,
    ) -> _Plan:  # fmt: skip
        """Compose and check all candidates.

        Raises:
            ConfigurationError: with all problems at once.
        """
        if strategy not in ("grid", "halving"):
            raise ConfigurationError(f"strategy: must be grid or halving, got {strategy!r}")
        if odd := [key for key, tried in over.items() if not isinstance(tried, list | tuple | range)]:
            raise ConfigurationError(f"over: {odd[0]}: {over[odd[0]]!r:.80} is no list of values to try; give one")
        if not over or not all(over.values()):
            raise ConfigurationError("over: names no setting with values to try; give over.KEY=VALUE,VALUE, such as "
                                     "over.distillation.images.learning_rate=1,10,100")  # fmt: skip
        plain = {key: each for key, each in keywords.items() if _is_plain(each)}
        lines = [*written_out(overrides), *(f"{key}={as_override(each)}" for key, each in plain.items())]
        if len(runs := expand(lines)) > 1:
            several = sorted({key_of(line) for line in {*runs[0]} ^ {*runs[-1]}})
            raise ConfigurationError(f"{', '.join(several)}: several values; a tuning takes one value of every setting "
                                     f"but of those behind over.")  # fmt: skip
        whole = {key: each for key, each in keywords.items() if key not in plain}
        given = {key_of(line): line for line in lines}
        if again := [key for key in over if key.lstrip("+") in given]:
            raise ConfigurationError([f"{key}: is given, and over.{key} tries values for it; leave one out"
                                      for key in again])  # fmt: skip
        if (split := given.get("protocol.split", "=validation").partition("=")[2]) != "validation":
            raise ConfigurationError(f"protocol.split={split}: settings are chosen on the validation split alone; "
                                     f"leave it out")  # fmt: skip
        own = [given.get("seed", f"seed={SEED}"), given.get("protocol.repeats", f"protocol.repeats={NETWORKS}")]
        own.append("protocol.split=validation")
        base = [line for line in lines if key_of(line) not in (*GOING_ON, *map(key_of, own))]
        values = [[f"{key}={as_override(value)}" for value in tried] for key, tried in over.items()]
        candidates = [list(each) for each in itertools.product(*values)]
        problems = Problems()
        problems.found += _alike(over, strategy)
        problems.raise_if_any()
        composed = [problems.attempt(partial(_checked, [*base, *each, *own], whole)) for each in candidates]
        problems.raise_if_any()
        settings = [each for each in composed if each is not None]
        problems.found += _no_result(over, settings[0])
        if any(len(" ".join(each)) > LONGEST_LINE for each in candidates):
            problems.found.append(f"over: a candidate of more than {LONGEST_LINE} characters, which no card can hold; "
                                  f"try fewer settings at once")  # fmt: skip
        if strategy == "halving" and (tied := sorted({path for each in settings for path in each.tied})):
            problems.found.append(f"{', '.join(tied)}: told as a function of distillation.iterations, which halving "
                                  f"changes; give numbers, or use strategy=grid")  # fmt: skip
        problems.raise_if_any()
        least = min(each.distillation.iterations for each in settings)
        rounds = _rounds(len(candidates), least, strategy)
        return cls(base, own, whole, candidates, settings, strategy, rounds)

    def job(self, candidate: int, iterations: int) -> Job:
        settings, more = self.settings[candidate], list[str]()
        if settings.distillation.iterations != iterations:
            distillation = settings.distillation.model_copy(update={"iterations": iterations})
            path = "distillation.iterations"
            given = (*settings.given, *([] if path in settings.given else [path]))
            settings = settings.model_copy(update={"distillation": distillation, "given": given})
            more = [f"{path}={iterations}"]
        base = [line for line in self.base if not more or key_of(line) != "distillation.iterations"]
        name = f"candidate-{candidate:0{len(str(len(self.candidates) - 1))}}"
        return Job(name, [*base, *self.candidates[candidate], *self.own, *more], settings)

    def file(self) -> _File:
        """Return the record of a tuning that has tried nothing yet."""
        texts = tuple(" ".join(each) for each in self.candidates)
        return _File(
            schema=SCHEMA, strategy=self.strategy, rounds=tuple(self.rounds), candidates=texts,
            config_sha256=tuple(each.digest() for each in self.settings), seed=self.settings[0].seed,
            networks=self.settings[0].protocol.repeats,
        )  # fmt: skip


def _is_plain(value: Any) -> bool:
    """Tell whether :func:`compose` takes a keyword as an override, and not as a part that is described whole."""
    return not isinstance(value, DatasetReader | Mapping)


def _checked(overrides: list[str], whole: Mapping[str, Any]) -> RunSettings:
    try:
        settings = compose(*overrides, **whole)
        build_parts(settings)
    except ConfigurationError as error:
        raise ConfigurationError(list(error.problems)) from None
    return settings


def _alike(over: Mapping[str, Sequence[Any]], strategy: Strategy) -> list[str]:
    """Return what would make candidates that cannot be held against each other, in words."""
    problems = []
    for key in over:
        path = key.lstrip("+")
        if path in ("dataset", "ipc"):
            problems.append(f"over.{key}: candidates would not be judged alike; tune for one value of {path} at a time")
        elif path == "distillation.iterations" and strategy == "halving":
            problems.append(f"over.{key}: halving gives candidates their iterations itself; use strategy=grid")
    return problems


def _no_result(over: Mapping[str, Sequence[Any]], settings: RunSettings) -> list[str]:
    """Return what is tried that does not decide the distilled set, in words."""
    what = {"chance": "a seed, and the best of several seeds is luck", "judgement": "how a set is judged"}
    roles = {key: settings.decided_by(key.lstrip("+")).role for key in over}
    return [f"over.{key}: decides {what.get(role, 'no result')}; only what decides the distilled set can be tuned"
            for key, role in roles.items() if role != "result"]  # fmt: skip


def _rounds(candidates: int, least: int, strategy: Strategy) -> list[tuple[int, int]]:
    """Return by what iterations are divided in each round, and for how many candidates; the last three get them all.

    Of 9 candidates: (3, 9), (1, 3). ``least`` is the least number of iterations that a candidate is to have in the end.
    """
    counts = [candidates]
    while strategy == "halving" and counts[-1] > FACTOR and least >= FACTOR ** len(counts):
        counts.append(math.ceil(counts[-1] / FACTOR))
    return [(FACTOR ** (len(counts) - 1 - at), count) for at, count in enumerate(counts)]


def _check_folder(place: Path, plan: _Plan, resume: bool | Literal["auto"]) -> None:
    """Refuse a folder that cannot be used as asked; nothing is written.

    Raises:
        RunFolderError: it holds something and ``resume`` is off; or nothing to resume, or a tuning of other settings.
    """
    begun = (place / FILE_NAME).exists()
    if not begun and resume is True:
        raise RunFolderError(f"{place}: holds no tuning to resume; name its folder")
    if begun and not resume:
        raise RunFolderError(f"{place}: holds a tuning; to go on with it add resume=auto, or choose another folder")
    if not begun and place.exists() and (not place.is_dir() or any(map(is_content, place.iterdir()))):
        raise RunFolderError(f"{place}: not empty, and no tuning; choose another folder")
    if begun and (other := _other(_read(place), plan.file())):
        raise RunFolderError(f"{place}: holds another tuning ({other}); give the same settings to go on with it, or "
                             f"choose another folder")  # fmt: skip


def _other(stored: _File, asked: _File) -> str | None:
    """Return in words in what two tunings differ."""
    for name, what in (("candidates", "candidates"), ("strategy", "strategy"), ("rounds", "number of candidates")):
        if getattr(stored, name) != getattr(asked, name):
            return f"other {what}"
    return None if stored.config_sha256 == asked.config_sha256 else "other settings beside those that are tried"


def _read(place: Path) -> _File:
    return read_record(place / FILE_NAME, _File, "tuning", "remove it, and what has a card is not made again",
                       LARGEST_BYTES)  # fmt: skip


def _tuned(plan: _Plan, place: Path, progress: ProgressFactory, launch: Launch) -> Tuned:
    file = _read(place) if (place / FILE_NAME).exists() else plan.file()
    place.mkdir(parents=True, exist_ok=True)
    write_record(file, place / FILE_NAME)
    progress(_announced(plan, file), 0)
    left: Sequence[int] = range(len(plan.candidates))
    for number, (divisor, count) in enumerate(file.rounds):
        if number:
            left = sorted(each.candidate for each in _ranked(file, left, number - 1)[:count])
        iterations = {each: max(1, plan.settings[each].distillation.iterations // divisor) for each in left}
        file = _round(plan, place, file, iterations, launch)
    ranked = _ranked(file, left, len(file.rounds) - 1)
    if not ranked:
        reasons = [f"{file.candidates[each.candidate]}: {each.failed}" for each in file.tried if each.failed]
        raise ConfigurationError([f"every candidate failed, so there is nothing to choose; see {place}", *reasons])
    return _finished(plan, place, file, ranked)


def _announced(plan: _Plan, file: _File) -> str:
    iterations = plan.settings[0].distillation.iterations
    rounds = ", then ".join(f"{count} for {max(1, iterations // divisor)} iterations" for divisor, count in file.rounds)
    networks = f"{file.networks} network{'s' if file.networks > 1 else ''}"
    return (f"tuning: {len(plan.candidates)} candidates, {rounds}; seed {file.seed}, judged by {networks} each on the "
            f"validation split alone")  # fmt: skip


def _round(plan: _Plan, place: Path, file: _File, iterations: Mapping[int, int], launch: Launch) -> _File:
    """Make the runs that are missing of a round, and return the record with what they gave, written."""
    # what failed is tried again: it goes on from its checkpoint, and may have failed for want of memory
    known = {(each.candidate, each.iterations) for each in file.tried if each.failed is None}
    asked = {each: plan.job(each, count) for each, count in iterations.items() if (each, count) not in known}
    found = {each: _trial(place, each, job) for each, job in asked.items()}
    missing = {each: job for each, job in asked.items() if found[each].failed is not None}
    if missing:
        reasons = launch(list(missing.values()))
        for (each, job), reason in zip(missing.items(), reasons, strict=True):
            found[each] = _trial(place, each, job, reason)
    new = {(each.candidate, each.iterations): each for each in found.values()}
    kept = [each for each in file.tried if (each.candidate, each.iterations) not in new]
    tried = tuple(sorted((*kept, *new.values()), key=lambda each: (each.iterations, each.candidate)))
    images = max((card.tested for job in asked.values() if (card := _card(place, job)[1]) is not None), default=0)
    file = file.model_copy(update={"tried": tried, "images": images or file.images})
    write_record(file, place / FILE_NAME)
    return file


def _card(place: Path, job: Job) -> tuple[Path, Card | None]:
    """Return the folder of a job's run, and its card, where it has finished."""
    folder, digest = place / job.name, job.settings.digest()
    for each in (_anew(folder, job.settings), folder):
        if (each / CARD).is_file():
            card = read_card(each / CARD)
            if card.config_sha256 == digest and card.split == "validation":
                return each, card
    return folder, None


def _trial(place: Path, candidate: int, job: Job, reason: str | None = None) -> _Trial:
    folder, card = _card(place, job)
    fields: dict[str, Any] = {
        "candidate": candidate, "iterations": job.settings.distillation.iterations,
        "config_sha256": job.settings.digest(), "folder": folder.name,
    }  # fmt: skip
    if card is None:
        return _Trial(**fields, failed=one_line(reason or "it has no card")[:LONGEST_LINE])
    first, beside = card.evaluations[0], card.random_subset or ()
    values = tuple(value for value in first.accuracy.values if value is not None)
    random = next((each.accuracy.mean for each in beside if each.network == first.network), None)
    return _Trial(**fields, accuracies=values, random_subset=random)


def _trial_of(file: _File, candidate: int, number: int = -1) -> _Trial:
    """Return what a candidate gave in a round; in its last one unless told."""
    return [each for each in file.tried if each.candidate == candidate][number]


def _ranked(file: _File, candidates: Sequence[int], number: int) -> list[_Trial]:
    """Return what candidates that were judged gave in a round, the best first; the first of equals."""
    found = [_trial_of(file, candidate, number) for candidate in candidates]
    judged = [each for each in found if each.accuracy is not None]
    return sorted(judged, key=lambda each: (-(each.accuracy or 0), each.candidate))


def _finished(plan: _Plan, place: Path, file: _File, ranked: Sequence[_Trial]) -> Tuned:
    best = ranked[0]
    record = Tuning(
        split="validation", networks=file.networks, seed=file.seed, chosen=file.candidates[best.candidate],
        candidates=tuple(_candidate(file, _trial_of(file, each)) for each in range(len(file.candidates))),
    )  # fmt: skip
    write_record(file.model_copy(update={"found": record}), place / FILE_NAME)
    chosen = [*plan.base, *plan.candidates[best.candidate]]
    tuning = record.model_dump(mode="json", exclude_defaults=True)
    settings = compose(*chosen, f"tuning={as_override(tuning)}", **plan.keywords)
    sized = [line for line in chosen if key_of(line) == "scale"]
    decisive = [line for line in chosen if line not in sized
                and settings.decided_by(key_of(line)).role in ("result", "chance", "judgement")]  # fmt: skip
    # of which scale it was decides nothing by itself, but what that fills in does, here and on every other machine
    decisive += sized if settings.scale is None else [f"scale={settings.scale}"]
    command = None
    if not plan.keywords:  # parts that are described whole, and data in memory, are no overrides
        write_settings(place / BEST, decisive, tuning, f"The best of {len(file.candidates)} candidates on validation.")
        # where data and experts lie, and how it is computed, is of this machine and not of the settings
        others = [line for line in chosen if line not in (*decisive, *sized)]
        command = " ".join(["hoptm-bench run", pasted("settings", place / BEST), *map(shlex.quote, others)])
    table = _table(plan, place, file)
    text = table.map(lambda cell: no_formula(cell) if isinstance(cell, str) else cell).to_csv(index=False)
    write_text(place / TABLE, text)
    return Tuned(place, record, table, settings, command, _sure(ranked, file), best.random_subset)


def _candidate(file: _File, trial: _Trial) -> Candidate:
    iterations = trial.iterations if len(file.rounds) > 1 else None
    return Candidate(settings=file.candidates[trial.candidate], accuracy=trial.accuracy, iterations=iterations)


def _table(plan: _Plan, place: Path, file: _File) -> pd.DataFrame:
    rows = []
    for each in file.tried:
        swept = dict(line.split("=", 1) for line in plan.candidates[each.candidate])
        rows.append({
            "candidate": each.candidate, **swept, "iterations": each.iterations, "accuracy": each.accuracy,
            "std": pstdev(each.accuracies) if each.accuracies else None, "networks": len(each.accuracies),
            "random_subset": each.random_subset, "failed": each.failed, "folder": str(place / each.folder),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _sure(ranked: Sequence[_Trial], file: _File) -> str:
    """Say whether the best is better than the second by more than networks and validation images scatter."""
    best, *others = ranked
    if not others:
        return "no other candidate was judged beside it"
    second, mean = others[0], best.accuracy or 0.0
    difference = welch(best.accuracies, second.accuracies)
    by = 100 * difference.mean
    images = f"{file.images:,} validation image{'s' if file.images != 1 else ''}"
    name = f"the second ({file.candidates[second.candidate]})"
    if difference.mean <= 0:
        return f"not sure: {name} is as good; the first of equals was taken"
    error = 100 * math.sqrt(2 * mean * (1 - mean) / max(1, file.images))
    p = "the networks' scatter is not known" if difference.p is None else f"p = {difference.p:.2g} over networks"
    good = difference.p is not None and difference.p < LEVEL and by > 2 * error
    return (
        f"{'sure' if good else 'not sure'}: {by:.2f} points above {name}; {p}, and {images} leave differences of "
        f"{2 * error:.2f} points open. One distillation each: another seed may order them otherwise"
    )
