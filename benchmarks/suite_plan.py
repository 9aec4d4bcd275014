"""The runs of a suite: their commands, their settings, and where they go."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from suite_file import Suite, Sweep

from hoptm_plugin.cards.card import read_card
from hoptm_plugin.core.errors import ConfigurationError, HopTMError
from hoptm_plugin.runs.assembly import Parts, build_parts
from hoptm_plugin.runs.composition import as_override, compose, expand
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.run_files import CARD, SYNTHETIC

EVALUATION = "-eval"  # at the end of the folders of evaluations, which have no method, IPC and seed in their names


@dataclass(frozen=True)
class Job:
    """One run of a suite, or one evaluation of a run's set: where it stands in its sweeps, and what it composes to.

    Attributes:
        sweep: index of its sweep.
        number: of the job within it.
        title: of the sweep.
        overrides: that make it.
        settings: what they compose to.
        parts: what that describes.
        folder: pattern of its folder below the suite's; the data set's part is what was typed, which no setting says.
        config_sha256: that the card of such a run has; of an evaluation, which is composed of stored settings, None.
        evaluates: the folder of the run whose set it judges again; None: it is a run.
    """

    sweep: int
    number: int
    title: str
    overrides: list[str]
    settings: RunSettings
    parts: Parts
    folder: str
    config_sha256: str | None = None
    evaluates: str | None = None

    @property
    def name(self) -> str:
        """What it is, in short."""
        images = "all images" if self.parts.method.whole_split else f"IPC {self.settings.ipc}"
        return f"{self.settings.method_title}, {images}, seed {self.settings.seed}"

    @property
    def expert_epochs(self) -> int:
        """Epochs of each expert that it needs; 0 if it reads none."""
        read = 0 if self.evaluates else self.parts.method.last_expert_epoch()
        return max(read, self.settings.experts.epochs or 0) if read else 0


@dataclass
class Store:
    """Experts of one recipe and the runs that read them."""

    jobs: list[Job] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Experts that the runs need together."""
        return max(job.settings.experts.count for job in self.jobs)

    @property
    def epochs(self) -> int:
        """Epochs that the runs need together."""
        return self.deepest.expert_epochs

    @property
    def deepest(self) -> Job:
        """The run that reads furthest."""
        return max(self.jobs, key=lambda job: job.expert_epochs)


def expert_stores(jobs: Sequence[Job]) -> list[Store]:
    """Return the stores that runs share: what ``ExpertRecipe`` hashes, with settings in place of the fingerprint."""
    stores: dict[str, Store] = {}
    for job in jobs:
        if job.expert_epochs:
            s = job.settings
            data = s.deciding(["result"])["dataset"]
            key = [data, s.data_seed, s.network, s.augment, s.experts.training.model_dump(), s.experts.seed,
                   str(s.experts.root)]  # fmt: skip
            stores.setdefault(json.dumps(key, sort_keys=True, default=str), Store()).jobs.append(job)
    return list(stores.values())


@dataclass(frozen=True)
class Plan:
    """A variant of a suite with what the command line set, and where its runs go.

    Attributes:
        suite: the variant.
        extra: settings of the command line, which beat the suite's.
        folder: of all runs.
        last: settings that beat even those.
    """

    suite: Suite
    extra: Sequence[str]
    folder: Path
    last: Sequence[str] = ()

    def overrides(self, sweep: Sweep) -> list[str]:
        """Return all overrides of a sweep but those of its folder, and of the sets that it judges again."""
        changed = [given.lstrip("+~").partition("=")[0] for given in self.extra] if sweep.reported else []
        suite = [given for given in (*self.suite.settings, *sweep.overrides) if len(expand([given])) == 1]
        other = any(not _settings(tuple(suite)).decided_by(path).published for path in changed)
        # what was published for the suite's setting was not published for another
        reported = [] if sweep.reported is None or other else [sweep.reported.model_dump(exclude_defaults=True)]
        return [*self.suite.settings, *sweep.overrides, *(f"reported={as_override(each)}" for each in reported),
                *self.extra, *self.last]  # fmt: skip

    def commands(self) -> list[list[str]]:
        """Return the arguments of ``hoptm-bench``, one command per sweep."""
        return [self._command(index, sweep) for index, sweep in enumerate(self.suite.sweeps)]

    def _command(self, index: int, sweep: Sweep) -> list[str]:
        where = [f"hydra.sweep.dir={_path(self.folder / str(index))}", "resume=auto"]
        if not sweep.evaluates:
            return ["run", "-m", *self.overrides(sweep), *where]
        judged = (job.evaluates for job in self.jobs if job.sweep == index and job.evaluates)
        sets = ",".join(_path(self.folder / each) for each in judged)
        return ["eval", "-m", *self.overrides(sweep), f"synthetic={sets}",
                f"hydra.sweep.subdir='${{hydra:job.num}}{EVALUATION}'", *where]  # fmt: skip

    @cached_property
    def jobs(self) -> list[Job]:
        """Compose and check every single run, and what Hydra composes before each sweep: all but what is swept over.

        Raises:
            ConfigurationError: naming the run that does not compose.
        """
        for sweep in self.suite.sweeps:
            alone = [given for given in self.overrides(sweep) if len(expand([given])) == 1]
            _composed(f"{sweep.title}, before the sweep", alone)
        sweeps = list(enumerate(self.suite.sweeps))
        runs = [job for index, sweep in sweeps if not sweep.evaluates for job in self._runs(index, sweep)]
        judged = [job for index, sweep in sweeps if sweep.evaluates for job in self._evaluations(index, sweep, runs)]
        return sorted([*runs, *judged], key=lambda job: (job.sweep, job.number))

    def _runs(self, index: int, sweep: Sweep) -> list[Job]:
        jobs = []
        for number, overrides in enumerate(expand(self.overrides(sweep))):
            settings, parts, digest = _checked(sweep.title, overrides)
            folder = f"{index}/{number}-{settings.method_id}-*-ipc{settings.ipc}-seed{settings.seed}"
            jobs.append(Job(index, number, sweep.title, overrides, settings, parts, folder, digest))
        return jobs

    def _evaluations(self, index: int, sweep: Sweep, runs: Sequence[Job]) -> list[Job]:
        """Return a job for each set that is judged again: settings are those of its run, these overrides on top."""
        judged = [job for job in runs if job.title in sweep.evaluates
                  and (sweep.seeds is None or job.settings.seed in sweep.seeds)
                  and sweep.ipc in (None, job.settings.ipc)]  # fmt: skip
        jobs = []
        for number, job in enumerate(judged):
            overrides = [*job.overrides, *sweep.overrides, *self.extra]
            settings, parts, _ = _checked(sweep.title, overrides)
            # the data set's part of a run's folder is what was typed, which no setting says
            typed = [given.partition("=")[2] for given in job.overrides if given.startswith("dataset=")][-1:]
            synthetic = job.folder.replace("*", *(typed or ["digits"]))
            jobs.append(Job(index, number, sweep.title, overrides, settings, parts, f"{index}/{number}{EVALUATION}",
                            evaluates=synthetic))  # fmt: skip
        return jobs

    def experts(self) -> list[list[str]]:
        """Return commands that train beforehand what several runs share but do not read equally far.

        Otherwise a run that reads further than those before it would train the same experts anew.
        """
        return [
            ["experts", *store.deepest.overrides, f"experts.epochs={store.epochs}", f"experts.count={store.count}"]
            for store in expert_stores(self.jobs)
            if len({(job.settings.experts.count, job.expert_epochs) for job in store.jobs}) > 1
        ]

    def cards(self, job: Job) -> list[Path]:
        """Return the files of a run's cards: one, or none where it has not finished, or was made with other settings.

        An evaluation's card must be of a set that is still the one that lies in its run's folder.
        """
        found = sorted(self.folder.glob(f"{job.folder}/{CARD}"))
        if job.evaluates is not None:
            sets = [self.folder / job.evaluates / CARD]
            made = {read_card(path).artefacts.get(SYNTHETIC) for path in sets if path.exists()}
            return [path for path in found if read_card(path).artefacts.get(SYNTHETIC) in made]
        return [path for path in found if read_card(path).config_sha256 == job.config_sha256]

    def failed(self) -> list[Job]:
        """Return the runs that have no card of their settings."""
        return [job for job in self.jobs if not self.cards(job)]


def _path(path: Path) -> str:
    plain = re.fullmatch(r"[\w./-]+", str(path))  # nothing that Hydra's grammar gives a meaning
    return str(path) if plain else as_override(str(path))


def _checked(title: str, overrides: list[str]) -> tuple[RunSettings, Parts, str]:
    settings, digest = _composed(title, overrides)
    try:
        # the data need not be at hand for an estimate, so another set stands in where parts are built
        return settings, build_parts(settings.model_copy(update={"dataset": {"name": "digits"}})), digest
    except HopTMError as error:
        raise ConfigurationError(f"{title}: {shlex.join(overrides)}\n{error}") from None


def _composed(title: str, overrides: list[str]) -> tuple[RunSettings, str]:
    try:
        settings = _settings(tuple(overrides))
        return settings, settings.digest()
    except HopTMError as error:
        raise ConfigurationError(f"{title}: {shlex.join(overrides)}\n{error}") from None


@cache
def _settings(overrides: tuple[str, ...]) -> RunSettings:
    """Return what the overrides compose to; runs that differ in nothing but the seed are composed once."""
    seeds = [given for given in overrides if re.fullmatch(r"seed=\d+", given)]
    rest = tuple(given for given in overrides if given not in seeds)
    if not seeds or any("seed" in given for given in rest):  # which may name it, or set it otherwise
        return compose(*overrides)
    return _settings(rest).changed(seed=int(seeds[-1].removeprefix("seed=")))
