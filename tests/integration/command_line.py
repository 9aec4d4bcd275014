"""Starting ``hoptm-bench`` from tests: in this process, in a fork of one that has torch imported, or on its own.

:func:`invoke` is for what a command reads, writes, says and refuses; :func:`fork` for what is sent signals, runs beside
others or changes its process beforehand; :func:`call` for what depends on how a process begins and ends.
"""

from __future__ import annotations

import gc
import io
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

PRELOADED = ["hydra", "hoptm_plugin.runs.running", "hoptm_plugin.runs.judging", "hoptm_plugin.pages.report",
             "hoptm_plugin.exchange.export", "hoptm_plugin.cli.console"]  # fmt: skip
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
HANG = 1200  # seconds that only something that never ends takes, however busy the machine is

# budgets that finish in a second or two
TINY_NETWORK = ("network.width=4", "network.depth=2", "runtime.device=cpu")
TINY_PROTOCOL = ("protocol.repeats=1", "protocol.epochs=3", "protocol.random_subset=false")
TINY_EXPERTS = ("experts.count=2", "experts.training.batch=512", "method.sampler.max_start_epoch=1",
                "method.expert_epochs=2")  # fmt: skip
# a step size that hardly moves: with so small a network a published rate would make it negative, which ends a run
SHORT_LOOP = ("distillation.iterations=4", "distillation.step_size.learning_rate=1e-8")
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
    """Start a process of its own; a PYTHONPATH comes before the one that is there."""
    variables = os.environ | ONE_THREAD | (environment or {})
    paths = [(environment or {}).get("PYTHONPATH"), os.environ.get("PYTHONPATH")]
    return subprocess.Popen(
        [*program, *arguments],
        cwd=cwd,
        env=variables | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
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
        out, err = process.communicate(timeout=HANG)
    finally:
        process.kill()
    return Result(process.returncode, out, err)


def invoke(*arguments: str, cwd: Path, environment: dict[str, str] | None = None) -> Result:
    """Run a command in this process; what it changes there is put back."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors, write_through=True)
               for errors in ("strict", "backslashreplace")]  # fmt: skip
    with (
        redirect_stdout(streams[0]), redirect_stderr(streams[1]), _warnings_shown(), _put_back(),
        mock.patch.dict(os.environ, ONE_THREAD | (environment or {})), chdir(cwd),
    ):  # fmt: skip
        code = _exit_code(arguments)
    return Result(code, *(stream.buffer.getvalue().decode() for stream in streams))


def _exit_code(arguments: Sequence[str]) -> int:
    """Run a command and return what the interpreter would exit with."""
    from hoptm_plugin.cli import main

    try:
        main(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@contextmanager
def _put_back() -> Iterator[None]:
    """Put back what belongs to a process and not to a command: arguments, signals, logging, and torch's and Hydra's."""
    import torch
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    if not gc.get_freeze_count():  # a job looks for garbage when it ends: not among all that the tests have imported
        gc.collect()
        gc.freeze()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    kept = ((sys, "argv"), (logging.getLogger(), "handlers"), (logging.getLogger(), "level"),
            (torch.backends.cuda.matmul, "allow_tf32"),
            *((torch.backends.cudnn, name) for name in ("allow_tf32", "deterministic", "benchmark")))  # fmt: skip
    values, threads = [getattr(owner, name) for owner, name in kept], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # composes all settings a first time, to find that nobody set hydra.mode
        with mock.patch.object(Hydra, "get_mode", return_value=None):
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for (owner, name), value in zip(kept, values, strict=True):
            setattr(owner, name, value)
        torch.set_num_threads(threads)
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Let warnings be written to stderr as Python does it, each once, where pytest would gather them."""

    def show(message, category, filename, lineno, file=None, line=None):
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    form = warnings.formatwarning
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for ignored in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", ignored)
        warnings.showwarning = show
        try:
            yield
        finally:
            warnings.formatwarning = form


def fork(
    *arguments: str,
    cwd: Path,
    environment: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
    seconds: float = HANG,
) -> Result:
    """Run a command in a fork of a server that has imported torch and Hydra: as separate, and seconds faster."""
    with forked(*arguments, cwd=cwd, environment=environment, before=before) as running:
        return running.result(seconds)


class Forked:
    """A command that runs in a fork.

    Attributes:
        process: it; ``process.pid`` can be sent signals.
    """

    def __init__(self, process: BaseProcess, streams: list[Path]) -> None:
        self.process, self.streams = process, streams

    def result(self, seconds: float = HANG) -> Result:
        """Wait for its end and return what it left behind; a signal's number negative as the code."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError(f"it took more than {seconds} s; stderr: {self.streams[1].read_text()}")
        assert self.process.exitcode is not None
        return Result(self.process.exitcode, *(stream.read_text(encoding="utf-8") for stream in self.streams))


@contextmanager
def forked(
    *arguments: str, cwd: Path, environment: dict[str, str] | None = None, before: Callable[[], None] | None = None
) -> Iterator[Forked]:
    """Start a command in a fork; it is killed at the end of the block.

    Args:
        arguments: of ``hoptm-bench``.
        cwd: where it runs.
        environment: variables that are added to the environment.
        before: called in the fork beforehand; a function of a module, or a partial of one.
    """
    with tempfile.TemporaryDirectory() as folder, _environment(ONE_THREAD):
        streams = [Path(folder, name) for name in ("out", "err")]
        for stream in streams:
            stream.touch()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        process = context.Process(target=_forked, args=(arguments, cwd, environment or {}, streams, before))
        process.start()
        try:
            yield Forked(process, streams)
        finally:
            process.kill()
            process.join()


def _forked(
    arguments: Sequence[str],
    cwd: Path,
    environment: dict[str, str],
    streams: list[Path],
    before: Callable[[], None] | None,
) -> None:
    for descriptor, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    _interruptible()
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
