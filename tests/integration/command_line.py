"""Starting ``hoptm-bench`` from tests: as a process of its own, or quickly as a fork of one that has torch imported."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PRELOADED = ["hydra", "hoptm_plugin.commands.run", "hoptm_plugin.commands.evaluate", "hoptm_plugin.results.console"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
SECONDS = 120

# budgets that finish in a second or two
TINY_NETWORK = ("network.width=4", "network.depth=2", "runtime.device=cpu")
TINY_PROTOCOL = ("protocol.repeats=1", "protocol.epochs=3", "protocol.random_subset=false")
TINY_EXPERTS = ("experts.count=2", "experts.training.batch=512", "method.sampler.max_start_epoch=1",
                "method.expert_epochs=2")  # fmt: skip
# a step size that hardly moves: with so small a network a published rate can make it negative
SHORT_LOOP = ("distillation.iterations=4", "distillation.step_size.learning_rate=1e-6")
TINY_LOOP = ("method.student_steps=4", *SHORT_LOOP)
TINY_RUN = (*TINY_NETWORK, *TINY_PROTOCOL, *TINY_EXPERTS, *TINY_LOOP)


@dataclass(frozen=True)
class Result:
    """What a finished command left behind."""

    code: int
    out: str
    err: str


PROGRAM = (sys.executable, "-m", "hoptm_plugin.cli")


def start(
    *arguments: str, cwd: Path, environment: dict[str, str] | None = None, program: Sequence[str] = PROGRAM
) -> subprocess.Popen[str]:
    """Start a process of its own."""
    return subprocess.Popen(
        [*program, *arguments],
        cwd=cwd,
        env=os.environ | ONE_THREAD | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_interruptible,
    )


def _interruptible() -> None:
    """Let SIGINT interrupt, also where the tests were started in the background, where it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def call(
    *arguments: str, cwd: Path, environment: dict[str, str] | None = None, program: Sequence[str] = PROGRAM
) -> Result:
    """Run a command in a process of its own."""
    process = start(*arguments, cwd=cwd, environment=environment, program=program)
    try:
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return Result(process.returncode, out, err)


def fork(
    *arguments: str, cwd: Path, environment: dict[str, str] | None = None, before: Callable[[], None] | None = None
) -> Result:
    """Run a command in a fork of a server that has imported torch and Hydra: as separate, and seconds faster.

    ``before`` is called in it first; a function of a module, since it is pickled.
    """
    with tempfile.TemporaryDirectory() as folder, _environment(ONE_THREAD):
        streams = [Path(folder, name) for name in ("out", "err")]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        process = context.Process(target=_forked, args=(arguments, cwd, environment or {}, streams, before))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"hoptm-bench {' '.join(arguments)} took more than {SECONDS} s")
        assert process.exitcode is not None
        return Result(process.exitcode, *(stream.read_text(encoding="utf-8") for stream in streams))


def _forked(
    arguments: Sequence[str], cwd: Path, environment: dict[str, str], streams: list[Path],
    before: Callable[[], None] | None,
) -> None:  # fmt: skip
    for descriptor, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.chdir(cwd)
    os.environ.update(ONE_THREAD | environment)
    if before is not None:
        before()
    from hoptm_plugin.cli import main

    main(arguments)


@contextmanager
def _environment(values: dict[str, str]):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def card(folder: Path) -> dict:
    """Return a run's card as plain JSON."""
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))
