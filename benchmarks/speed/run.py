"""Speed and memory of distillation, experts, evaluation, storage and start-up, against the classical way.

    python benchmarks/speed/run.py [SUITE ...] [--device cpu|cuda] [--rounds 3] [--variants NAME ...]

Every figure comes from a process of its own, and variants take turns (A B C A B C ...). The baseline is the variant
"classical": it computes the same from the same draws as the literature does (``classical.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from cases import BASELINE, COMMON, CUDA_ONLY, DEFAULT, SUITES, Settings

# torch is imported in no line below: a child's peak memory begins where that of its parent is
from hoptm_plugin.runtime.environment import WAITING

MEASURE = Path(__file__).with_name("measure.py")
FIRST = [("first_seconds", "first s"), ("again_seconds", "first s, code cached")]
MEMORY = [("peak_mib", "peak MiB"), ("extra_mib", "+ MiB"), ("device_mib", "device MiB")]
FIGURES = {
    "iteration": [("seconds", "s/iteration"), ("step_ms", "ms/step"), *FIRST, *MEMORY],
    "experts": [("images_per_s", "images/s"), ("epochs_per_s_each", "epochs/s per network"), *FIRST, *MEMORY],
    "evaluation": [("epochs_per_s", "epochs/s"), ("epochs_per_s_each", "epochs/s per network"), *FIRST, *MEMORY],
    "segments": [("reads_per_s", "reads/s"), *MEMORY[:1]],
    "start_up": [("seconds", "s")],
    "side_by_side": [("seconds", "s/iteration of one"), *FIRST, *MEMORY],
    "counts": [("kernels", "kernels"), ("launches", "launches"), ("waits", "the host waits")],
    "precision": [("gradient", "gradient"), ("hessian", "Hv"), ("images", "d<g,v>/dX"), ("whole", "dL/dX of a path")],
}
NOTE = """\
N.NNx: ratio to the variant "classical", the median of the rounds' ratios; below 1 is better for s, ms and MiB, above 1
for what is per second. ±: half the range over the rounds. first: one iteration or epoch with nothing compiled before;
code cached: in a later process. peak: highest resident memory; +: the part above the peak before the first iteration.
Networks trained side by side count together, unless it says per network. Start-up is against a Python process that
imports torch and torchvision. Precision: 1 - cosine to float64, at worst of any step; dL/dX of a whole path."""


class JobFailedError(Exception):
    """A child did not finish; in words."""


@dataclass
class Outcome:
    """All rounds of one variant of one case; ``baseline`` is its classical variant, ``failed`` why it was left out."""

    suite: str
    case: str
    measure: str
    variant: str
    setting: Settings
    baseline: Outcome | None = None
    rounds: list[dict[str, float]] = field(default_factory=list)
    failed: str | None = None

    @property
    def name(self) -> str:
        """Suite, case and variant."""
        return f"{self.suite}: {self.case}: {self.variant}"

    def series(self, key: str) -> list[float]:
        """Return a figure of every round; first iterations of later rounds, which find code compiled, are one apart."""
        if key == "again_seconds":
            return [figures["first_seconds"] for figures in self.rounds[1:] if "first_seconds" in figures]
        rounds = self.rounds[:1] if key == "first_seconds" else self.rounds
        return [figures[key] for figures in rounds if key in figures]

    def summary(self) -> dict[str, dict[str, float]]:
        """Return median, spread and ratio to the baseline of every figure that there is."""
        summary: dict[str, dict[str, float]] = {}
        for key, _ in FIGURES[self.measure]:
            values = self.series(key)
            if not values:
                continue
            summary[key] = {"median": median(values)}
            if len(values) > 1 and summary[key]["median"]:
                summary[key]["spread"] = (max(values) - min(values)) / 2 / summary[key]["median"]
            # of the same round, measured one after another; a variant that failed has fewer
            pairs = zip(values, self.baseline.series(key) if self.baseline else [], strict=False)
            ratios = [value / base for value, base in pairs if base]
            if ratios:
                summary[key]["ratio"] = median(ratios)
        return summary

    def record(self) -> dict[str, Any]:
        """Return everything measured; of a failure only that it was one, since messages name paths."""
        kept = {name: getattr(self, name) for name in ("suite", "case", "variant", "setting", "rounds")}
        return kept | {"failed": self.failed is not None, "summary": self.summary()}


def cell(figure: Mapping[str, float] | None) -> str:
    """Return a figure with its spread and ratio."""
    if figure is None:
        return "-"
    text = f"{figure['median']:.4g}"
    if "spread" in figure:
        text += f" ±{100 * figure['spread']:.0f}%"
    if "ratio" in figure:
        text += f" {figure['ratio']:{'.2f' if figure['ratio'] >= 0.1 else '.2g'}}x"
    return text


def table(measure: str, outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table of outcomes, padded so that it can be read as it is."""
    summaries = [each.summary() for each in outcomes]
    shown = [(key, text) for key, text in FIGURES[measure] if any(key in summary for summary in summaries)]
    rows = [["case", "variant", *(text for _, text in shown)], ["---", "---", *["---:"] * len(shown)]]
    for each, summary in zip(outcomes, summaries, strict=True):
        variant = each.variant + (" (failed)" if each.failed else "")
        rows.append([each.case, variant, *(cell(summary.get(key)) for key, _ in shown)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pads = [str.ljust, str.ljust, *[str.rjust] * len(shown)]
    lines = [[pad(text, width) for pad, text, width in zip(pads, row, widths, strict=True)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(outcomes: Sequence[Outcome], machine: Mapping[str, Any], date: str) -> str:
    """Return a table per suite, or per measurement where a suite has several, and what was measured on."""
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads"
    where += f", {machine['gpu']}" if machine["gpu"] else ""
    software = f"torch {machine['software']['torch']}, commit {machine['software']['commit']}"
    parts = [f"# Speed and memory\n\n{date}. {where}; measured on {machine['device']}; {software}.\n\n{NOTE}"]
    for (suite, measure), group in groupby(outcomes, lambda each: (each.suite, each.measure)):
        parts.append(f"## {suite}\n\n{table(measure, list(group))}")
    return "\n\n".join(parts) + "\n"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; suites and variants are checked."""
    variants = list(dict.fromkeys(name for cases in SUITES.values() for case in cases for name in case.variants))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)}; by default {', '.join(DEFAULT)}"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--rounds", type=_count, default=3, help="processes per variant")
    parser.add_argument("--iterations", type=_count, default=3, help="timed in a process, after a first one")
    parser.add_argument("--variants", nargs="+", choices=variants, metavar="NAME", help=f"of {'; '.join(variants)}")
    parser.add_argument("--width", type=_count, default=COMMON["width"], help="of the networks")
    parser.add_argument("--steps", type=_count, metavar="N", help="student steps, at most")
    parser.add_argument("--images", type=_count, help="images, at most, and at least one per class: 9")
    parser.add_argument("--caches", type=Path, metavar="DIR", help="keep compiled code there, for a later call")
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
            found = {name: Outcome(suite, title, case.measure, name, setting | case.variants[name]) for name in names}
            for outcome in found.values():
                outcome.baseline = found.get(BASELINE)
            yield list(found.values())


def measure(job: Settings, cache: Path | None = None) -> dict[str, Any]:
    """Run a job in a process of its own; return what it found.

    Raises:
        JobFailedError: with the last line that it wrote to stderr.
    """
    own = job["environment"]
    if own is None:  # the classical way as people run it, ours as hoptm-bench does
        own = {} if job["classical"] else WAITING
    environment = {**own, **os.environ}
    if cache is not None:
        cache = cache.absolute()
        environment |= {"TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"), "TRITON_CACHE_DIR": str(cache / "triton")}
    command = [sys.executable, str(MEASURE)]
    with _busy(job["busy"]):
        done = subprocess.run(
            command, input=json.dumps(job), capture_output=True, text=True, check=False, env=environment
        )
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


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Keep so many cores busy with something else."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def run_case(outcomes: Sequence[Outcome], rounds: int, caches: Path) -> None:
    """Fill the outcomes of one case, round by round; a variant that fails is named, and left out from then on."""
    for number in range(rounds):
        for outcome in outcomes:
            if outcome.failed:
                continue
            print(f"round {number + 1} of {rounds}: {outcome.name}", file=sys.stderr, flush=True)
            job = outcome.setting | {"measure": outcome.measure, "variant": outcome.variant}
            try:
                # a cache of its own, so that the first round compiles all and later ones nothing
                outcome.rounds.append(measure(job, caches / re.sub(r"\W+", "-", outcome.name)))
            except JobFailedError as error:
                outcome.failed = str(error)
                print(f"error: failed: {outcome.name}: {error}", file=sys.stderr, flush=True)


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
    for outcomes in outcomes_to_fill(options, machine["device"]):
        filled += outcomes
        with tempfile.TemporaryDirectory() as caches:
            run_case(outcomes, options.rounds, options.caches or Path(caches))
        content = {"date": date, "machine": machine, "options": given, "results": [each.record() for each in filled]}
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")  # after every case, were it stopped
    if not filled:
        print(f"error: no suite chosen has such variants on {machine['device']}", file=sys.stderr)
        return 1
    text = markdown(filled, machine, date)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    failures = [each for each in filled if each.failed]
    for each in failures:
        print(f"error: failed: {each.name}: {each.failed}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
