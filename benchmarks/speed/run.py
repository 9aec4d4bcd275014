"""Speed and memory of distillation, experts, evaluation, storage and start-up, against the classical way.

    python benchmarks/speed/run.py [SUITE ...] [--device cpu|cuda] [--rounds 3] [--variants NAME ...]

Every figure comes from a process of its own, and variants take turns (A B C A B C ...). The baseline is the variant
"classical": it computes the same from the same draws as the literature does (``classical.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# torch is imported in no line below: a child's peak memory begins where that of its parent is
from cases import COMMON, CUDA_ONLY, DEFAULT, SUITES, Settings
from report import Outcome, markdown, print_tables, records

MEASURE = Path(__file__).with_name("measure.py")


class JobFailedError(Exception):
    """A child did not finish; in words."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; suites and variants are checked."""
    variants = list(dict.fromkeys(name for cases in SUITES.values() for case in cases for name in case.variants))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)}; by default all but the last three"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--rounds", type=_count, default=3, help="processes per variant")
    parser.add_argument("--iterations", type=_count, default=3, help="timed in a process, after a first one")
    parser.add_argument("--variants", nargs="+", choices=variants, metavar="NAME", help=f"of {'; '.join(variants)}")
    parser.add_argument("--width", type=_count, default=COMMON["width"], help="of the networks")
    parser.add_argument("--steps", type=_count, metavar="N", help="student steps, at most")
    parser.add_argument("--images", type=_count, help="images, at most, and at least one per class: 9")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="default: runs/speed/TIME.json")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown as well")
    options = parser.parse_intermixed_args(arguments)
    if unknown := [name for name in options.suites if name not in SUITES]:
        parser.error(f"no suite is called {', '.join(unknown)}; there are {', '.join(SUITES)}")
    if options.images is not None and options.images < COMMON["classes"]:
        parser.error(f"--images must be at least {COMMON['classes']}, one per class")
    return options


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def outcomes_to_fill(options: argparse.Namespace, device: str) -> Iterator[list[Outcome]]:
    """Yield for every case the outcomes of its variants, without rounds."""
    seen = set()
    for suite in dict.fromkeys(options.suites or DEFAULT):
        for case in SUITES[suite]:
            setting = (
                COMMON | {"iterations": options.iterations, "width": options.width, "device": device} | case.setting
            )
            for key in ("steps", "images"):
                setting[key] = min(setting[key], getattr(options, key) or setting[key])
            names = [name for name in case.variants if not options.variants or name in options.variants]
            if device != "cuda":
                names = [name for name in names if name not in CUDA_ONLY]
            title = case.title.format(**setting)
            if (suite, title) in seen:  # --steps made two cases one
                continue
            seen.add((suite, title))
            yield [Outcome(suite, title, case.measure, name, setting | case.variants[name]) for name in names]


def measure(job: Settings, cache: Path | None = None) -> dict[str, Any]:
    """Run a job in a process of its own; return what it found.

    Raises:
        JobFailedError: with the last line that it wrote to stderr.
    """
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}  # as hoptm-bench does, and the same for all
    if cache is not None:
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    command = [sys.executable, str(MEASURE)]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False, env=environment)
    if done.returncode < 0:
        raise JobFailedError(
            f"ended by signal {-done.returncode}" + (", out of memory?" if done.returncode == -9 else "")
        )
    try:
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        pass
    raise JobFailedError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])


def run_case(outcomes: Sequence[Outcome], rounds: int, caches: Path) -> Iterator[str]:
    """Fill the outcomes of one case, round by round; yield a line per failure, after which a variant is left out."""
    for number in range(rounds):
        for at, outcome in enumerate(outcomes):
            if outcome.failed:
                continue
            name = f"{outcome.suite}: {outcome.case}: {outcome.variant}"
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            job = outcome.setting | {"measure": outcome.measure, "variant": outcome.variant}
            try:
                # a cache of its own, so that the first round compiles all and later ones nothing
                outcome.rounds.append(measure(job, caches / str(at)))
            except JobFailedError as error:
                outcome.failed = True
                yield f"{name}: {error}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; return the exit code."""
    options = parse(arguments)
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    output = options.output or Path("runs/speed") / f"{date}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        machine = measure(COMMON | {"measure": "machine", "device": options.device})
    except JobFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    given = {key: getattr(options, key) for key in ("rounds", "iterations", "width", "steps", "images")}
    filled: list[Outcome] = []
    failures: list[str] = []
    for outcomes in outcomes_to_fill(options, machine["device"]):
        filled += outcomes
        with tempfile.TemporaryDirectory() as caches:
            for failure in run_case(outcomes, options.rounds, Path(caches)):
                failures.append(failure)
                print(f"error: failed: {failure}", file=sys.stderr, flush=True)
        content = {"date": date, "machine": machine, "options": given, "results": records(filled)}
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")  # after every case, were it stopped
    if not filled:
        print(f"error: no suite chosen has such variants on {machine['device']}", file=sys.stderr)
        return 1
    print_tables(filled, machine)
    if options.markdown:
        options.markdown.write_text(markdown(filled, machine, date), encoding="utf-8")
    for failure in failures:
        print(f"error: failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
