"""Runs a suite: the sweeps behind one table, and the table; or says beforehand what they are and what they may cost.

    python benchmarks/suite.py NAME [--variant full|cpu] [--list | --dry-run] [--out DIR] [KEY=VALUE ...]

NAME is a file of ``benchmarks/suites``. Settings given here beat the suite's. The same command again goes on where it
was interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch, as hoptm-bench does

import yaml
from estimate import DataSize, Job, estimate, expert_stores, print_estimate
from hydra.errors import HydraException, OverrideParseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hoptm_plugin.cli import compose
from hoptm_plugin.commands.assembly import build_parts
from hoptm_plugin.commands.composition import changes_what_was_published, explicit_paths
from hoptm_plugin.commands.settings import Published, RunSettings, validate_settings
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError, HopTMError
from hoptm_plugin.core.registry import validation_problems
from hoptm_plugin.core.stopping import Stopped, stop_on_signals
from hoptm_plugin.data import check_spec

SUITES, FULL = Path(__file__).parent / "suites", "full"
BENCH = [sys.executable, "-m", "hoptm_plugin.cli"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sweep(_Model):
    """One ``hoptm-bench run -m``: a row or several of the table.

    Attributes:
        title: what it measures.
        overrides: settings and lists of settings to sweep over.
        reported: what was published for all its runs, where no recipe says it.
    """

    title: str
    overrides: list[str] = Field(min_length=1)
    reported: Published | None = None

    def settings(self) -> list[str]:
        """Return the overrides, ``reported`` among them."""
        if self.reported is None:
            return self.overrides
        return [*self.overrides, f"reported={grammar(self.reported.model_dump(exclude_defaults=True))}"]


class Variant(_Model):
    """The suite made smaller.

    Attributes:
        note: what is reduced.
        settings: beat those of the suite and, where they are kept, of its sweeps.
        sweeps: instead of the suite's, beating ``settings``; None keeps them, without what was reported.
        data: instead of the suite's.
    """

    note: str
    settings: list[str] = Field(default_factory=list)
    sweeps: list[Sweep] | None = Field(None, min_length=1)
    data: DataSize | None = None


class Suite(_Model):
    """One file of ``benchmarks/suites``.

    Attributes:
        title: what is compared.
        note: what to know when reading the table.
        data: size of the data set, for estimates where it is not at hand.
        settings: overrides common to all sweeps.
        sweeps: in the order in which they run.
        compare: further arguments of ``hoptm-bench compare``.
        variants: by name, beside "full".
    """

    title: str
    note: str | None = None
    data: DataSize
    settings: list[str] = Field(default_factory=list)
    sweeps: list[Sweep] = Field(min_length=1)
    compare: list[str] = Field(default_factory=list)
    variants: dict[str, Variant] = Field(default_factory=dict)

    def varied(self, name: str) -> Suite:
        """Return the suite that the variant is.

        Raises:
            ConfigurationError: no variant has that name.
        """
        if name == FULL:
            return self
        if name not in self.variants:
            raise ConfigurationError(f"--variant {name}: the suite has {', '.join([FULL, *self.variants])}")
        variant = self.variants[name]
        # in this order because Hydra's sweeper lets the last of a key win
        if variant.sweeps:
            sweeps = [
                sweep.model_copy(update={"overrides": [*variant.settings, *sweep.overrides]})
                for sweep in variant.sweeps
            ]
        else:
            sweeps = [
                Sweep(title=sweep.title, overrides=[*sweep.overrides, *variant.settings]) for sweep in self.sweeps
            ]
        notes = "\n".join(filter(None, [self.note, variant.note]))
        return self.model_copy(update={"sweeps": sweeps, "note": notes, "data": variant.data or self.data})


def load_suite(path: Path) -> Suite:
    """Read a suite.

    Raises:
        FileFormatError: not readable, or no suite.
    """
    try:
        return Suite.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        what = "; ".join(validation_problems(error)) if isinstance(error, ValidationError) else str(error)
        raise FileFormatError(f"{path}: not a suite: {what}") from None


def grammar(value: Any) -> str:
    """Return plain values in Hydra's override grammar, whatever characters their texts hold."""
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{grammar(item)}' for key, item in value.items())}}}"
    if isinstance(value, str):
        return "'" + value.replace("'", r"\'") + "'"
    return str(value)


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of every single run of a sweep, in the order of its jobs, as ``hoptm-bench run -m`` does.

    Raises:
        ConfigurationError: an override that Hydra cannot parse or sweep.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        return BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(list(overrides)), None)[0]
    except HydraException as error:
        given = f"{error.override}: " if isinstance(error, OverrideParseException) else ""
        raise ConfigurationError(f"{given}{str(error).splitlines()[0]}") from None


@dataclass(frozen=True)
class Plan:
    """A variant of a suite with what the command line set, and where its runs go."""

    suite: Suite
    extra: Sequence[str]
    folder: Path

    def overrides(self, sweep: Sweep) -> list[str]:
        """Return all overrides of a sweep but those of its folder."""
        extra = explicit_paths(self.extra, {"method", "dataset"})
        other = {"method=", "dataset="} & set(extra) or changes_what_was_published(extra)
        # what was published for the suite's setting was not published for another
        return [*self.suite.settings, *(sweep.overrides if other else sweep.settings()), *self.extra]

    def commands(self) -> list[list[str]]:
        """Return the arguments of ``hoptm-bench``, one command per sweep."""
        plain = re.fullmatch(r"[\w./-]+", str(self.folder))  # nothing that Hydra's grammar gives a meaning
        return [
            ["run", "-m", *self.overrides(sweep), f"hydra.sweep.dir={path if plain else grammar(path)}", "resume=auto"]
            for sweep, path in ((sweep, f"{self.folder}/{index}") for index, sweep in enumerate(self.suite.sweeps))
        ]

    @cached_property
    def jobs(self) -> list[Job]:
        """Compose and check every single run, and what Hydra composes before each sweep: all but what is swept over.

        Raises:
            ConfigurationError: naming the run that does not compose.
        """
        for sweep in self.suite.sweeps:
            alone = [given for given in self.overrides(sweep) if len(expand([given])) == 1]
            _composed(f"{sweep.title}, before the sweep", alone)
        return [
            _job(index, number, sweep.title, overrides)
            for index, sweep in enumerate(self.suite.sweeps)
            for number, overrides in enumerate(expand(self.overrides(sweep)))
        ]

    def experts(self) -> list[list[str]]:
        """Return commands that train beforehand what several runs share but do not read equally far.

        Otherwise a run that reads further than those before it would train the same experts anew.
        """
        return [
            ["experts", *store.deepest.overrides, f"experts.epochs={store.epochs}", f"experts.count={store.count}"]
            for store in expert_stores(self.jobs)
            if len({(job.settings.experts.count, job.expert_epochs) for job in store.jobs}) > 1
        ]

    def failed(self) -> list[Job]:
        """Return the runs that have no card."""
        return [job for job in self.jobs if not any(self.folder.glob(f"{job.folder}/result.json"))]


def _job(sweep: int, number: int, title: str, overrides: list[str]) -> Job:
    settings = _composed(title, overrides)
    try:
        # the data need not be at hand for an estimate, so another set stands in where parts are built
        parts = build_parts(settings.model_copy(update={"dataset": {"name": "digits"}}))
    except HopTMError as error:
        raise ConfigurationError(f"{title}: {shlex.join(overrides)}\n{error}") from None
    return Job(sweep, number, title, overrides, settings, parts)


def _composed(title: str, overrides: list[str]) -> RunSettings:
    try:
        return validate_settings(compose(overrides)[0])
    except HopTMError as error:
        raise ConfigurationError(f"{title}: {shlex.join(overrides)}\n{error}") from None


def print_list(plan: Plan) -> None:
    """Print the commands, and the runs of each."""
    for arguments in plan.experts():
        print(f"hoptm-bench {shlex.join(arguments)}")
    for index, (sweep, arguments) in enumerate(zip(plan.suite.sweeps, plan.commands(), strict=True)):
        print(f"\n# {index}: {sweep.title}\nhoptm-bench {shlex.join(arguments)}")
        for job in plan.jobs:
            if job.sweep == index:
                print(f"  {job.number}: {job.name}")


def call(arguments: Sequence[str]) -> int:
    """Run a command of ``hoptm-bench`` and return its exit code; a signal that asks to stop is passed on to it."""
    with subprocess.Popen([*BENCH, *arguments]) as command:
        try:
            return command.wait()
        except Stopped as stopped:
            if stopped.number != signal.SIGINT:  # Ctrl-C has reached it by the terminal
                command.send_signal(stopped.number)
            command.wait()
            raise


def run_suite(plan: Plan) -> int:
    """Run what is missing, then compare; return the exit code."""
    for spec in {str(job.settings.dataset): job.settings.dataset for job in plan.jobs}.values():
        check_spec(spec)  # else every run would say so
    for arguments in (*plan.experts(), *plan.commands()):
        print(f"hoptm-bench {shlex.join(arguments)}", file=sys.stderr, flush=True)
        # which runs failed is seen from their folders, whatever the code
        code = call(arguments)
        for number in (signal.SIGINT, signal.SIGTERM):
            if code == Stopped(number).exit_code:
                raise Stopped(number)
    failed, code = plan.failed(), 0
    if len(failed) < len(plan.jobs):
        code = compare(plan)
    for job in failed:
        print(f"error: failed: {job.title}: {job.folder}: {job.name}", file=sys.stderr)
    return 1 if failed else code


def compare(plan: Plan) -> int:
    """Print the table, and write it as Markdown beside the runs; return the exit code."""
    # the runs of this plan alone: others in the folder, of other settings, would stand beside them
    cards = [str(path.parent) for job in plan.jobs for path in sorted(plan.folder.glob(f"{job.folder}/result.json"))]
    arguments = [*BENCH, "compare", *cards, *plan.suite.compare]
    code = subprocess.run(arguments, check=False).returncode
    done = subprocess.run([*arguments, "--format", "markdown"], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode == 0:
        note = f"{plan.suite.note.strip()}\n\n" if plan.suite.note else ""
        path = plan.folder / "compare.md"
        path.write_text(f"# {plan.suite.title}\n\n{note}{done.stdout}", encoding="utf-8")
        print(f"table: {path}")
    return code or done.returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    known = sorted(path.stem for path in SUITES.glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", choices=known, help=", ".join(known))
    parser.add_argument("--variant", default=FULL, help="full, or a smaller one that the suite describes, such as cpu")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--list", action="store_true", help="print the commands and their runs; run nothing")
    mode.add_argument("--dry-run", action="store_true", help="the same, with an estimate of the cost")
    parser.add_argument("--out", type=Path, default=Path("runs/suites"), metavar="DIR", help="where the runs go")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="as of hoptm-bench run; beat the suite's")
    options = parser.parse_intermixed_args(arguments)
    try:
        suite = load_suite(SUITES / f"{options.name}.yaml").varied(options.variant)
        plan = Plan(suite, options.settings, options.out / f"{options.name}-{options.variant}")
        print("\n".join(filter(None, [suite.title, suite.note])), file=sys.stderr)
        if options.list or options.dry_run:
            print_list(plan)
            if options.dry_run:
                print_estimate(estimate(plan.jobs, suite.data, options.settings))
            return 0
        with stop_on_signals():
            return run_suite(plan)
    except HopTMError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Stopped as stopped:
        print(f"error: stopped by {stopped}; the same command goes on", file=sys.stderr)
        return stopped.exit_code


if __name__ == "__main__":
    sys.exit(main())
