"""Runs a suite: the sweeps behind one table, and the table; or says beforehand what they are and what they may cost.

    python benchmarks/suite.py NAME [--variant full|cpu] [--list | --dry-run] [--out DIR] [KEY=VALUE ...]

NAME is a file of ``benchmarks/suites``, or of the folder of that name of a study. Settings given here beat the suite's.
The same command again goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hoptm_plugin.runtime.environment import prepare

prepare()  # before torch, as hoptm-bench does

from estimate import estimate
from suite_file import FULL, SUITES, load_suite
from suite_plan import Plan
from suite_search import searching, settled, supposed
from suite_tables import compared, markdown

from hoptm_plugin.cli.plans import print_plans
from hoptm_plugin.cli.streams import tolerate_encodings
from hoptm_plugin.cli.tables import print_tables
from hoptm_plugin.core.errors import HopTMError
from hoptm_plugin.data import check_spec
from hoptm_plugin.runtime.bars import console_progress
from hoptm_plugin.runtime.stopping import Stopped, stop_on_signals
from hoptm_plugin.storage.run_files import CARD

BENCH = [sys.executable, "-m", "hoptm_plugin.cli"]


def print_list(plan: Plan) -> None:
    """Print the commands, and the runs of each."""
    for arguments in plan.experts():
        print(f"hoptm-bench {shlex.join(arguments)}")
    for index, (sweep, arguments) in enumerate(zip(plan.suite.sweeps, plan.commands(), strict=True)):
        print(f"\n# {index}: {sweep.title}\nhoptm-bench {shlex.join(arguments)}")
        for job in plan.jobs:
            if job.sweep == index:
                print(f"  {job.number}: {job.name}")


def run_suite(plan: Plan) -> int:
    """Search for settings where the suite says so, run what is missing, then compare; return the exit code."""
    searches = searching(plan)
    for each in (searches, supposed(plan)):
        for spec in {str(job.settings.dataset): job.settings.dataset for job in each.jobs}.values() if each else ():
            check_spec(spec)  # else every run would say so
    if searches is not None:
        run_plan(searches)
        plan = settled(plan, searches)
    run_plan(plan)
    failed = plan.failed()
    if len(failed) < len(plan.jobs):
        compare(plan)
    for job in [*(searches.failed() if searches else ()), *failed]:
        print(f"error: failed: {job.title}: {job.folder}: {job.name}", file=sys.stderr)
    if any(any(plan.folder.glob(f"{job.folder}/{CARD}")) for job in failed):
        print(f"error: folders in {plan.folder} hold runs of other settings; choose another one with --out DIR, or "
              f"remove what is to be made again", file=sys.stderr)  # fmt: skip
    return 1 if failed else 0


def run_plan(plan: Plan) -> None:
    """Run what is missing; which runs failed is seen from their folders, whatever the exit code.

    Raises:
        Stopped: a run was asked to stop.
    """
    for arguments in (*plan.experts(), *plan.commands()):
        print(f"hoptm-bench {shlex.join(arguments)}", file=sys.stderr, flush=True)
        with subprocess.Popen([*BENCH, *arguments]) as command:
            try:
                code = command.wait()
            except Stopped as stopped:  # pass it on
                if stopped.number != signal.SIGINT:  # Ctrl-C has reached it by the terminal
                    command.send_signal(stopped.number)
                command.wait()
                raise
        for number in (signal.SIGINT, signal.SIGTERM):
            if code == Stopped(number).exit_code:
                raise Stopped(number)


def compare(plan: Plan) -> None:
    """Print the tables, and write them as Markdown beside the runs."""
    texts = []
    for name, table in plan.suite.named_tables().items():
        # the runs of this plan alone: others in the folder, of other settings, would stand beside them
        wanted = [job for job in plan.jobs if name in plan.suite.sweeps[job.sweep].tables]
        cards = [path for job in wanted for path in plan.cards(job)]
        if cards:
            comparisons = compared(table, cards)
            print_tables(comparisons)
            texts.append(markdown(table, comparisons))
    path = plan.folder / "compare.md"
    path.write_text("\n".join(texts), encoding="utf-8")
    print(f"table: {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    tolerate_encodings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", choices=SUITES, help=", ".join(SUITES))
    parser.add_argument("--variant", default=FULL, help="full, or a smaller one that the suite describes, such as cpu")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--list", action="store_true", help="print the commands and their runs; run nothing")
    mode.add_argument("--dry-run", action="store_true", help="the same, with the time that each would take here")
    parser.add_argument("--out", type=Path, default=Path("runs/suites"), metavar="DIR", help="where the runs go")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="as of hoptm-bench run; beat the suite's")
    options = parser.parse_intermixed_args(arguments)
    try:
        suite = load_suite(SUITES[options.name]).varied(options.variant)
        plan = Plan(suite, options.settings, options.out / f"{options.name}-{options.variant}")
        print("\n".join(filter(None, [suite.title, suite.note])), file=sys.stderr)
        if options.list or options.dry_run:
            searches, plan = searching(plan), supposed(plan)
            if searches is not None:
                print_list(searches)
                print("\n# then, with the settings that did best, shown here with the first")
            print_list(plan)
            if options.dry_run:
                jobs = [*(searches.jobs if searches else ()), *plan.jobs]
                with console_progress()("planning", len(jobs)) as bar:
                    found = estimate(jobs, suite.data, options.settings, bar.advance)
                print_plans([job.name for job in jobs], found)
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
