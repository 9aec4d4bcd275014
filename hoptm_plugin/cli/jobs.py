"""Commands with settings. ``run``, ``experts`` and ``eval`` are Hydra's jobs, once or for every job of a sweep.

So are the runs of ``tune`` where a launcher is asked for.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hoptm_plugin.cli.arguments import Parser, path_of
from hoptm_plugin.cli.help import PROGRAM
from hoptm_plugin.cli.streams import fail, plain_warnings, say, show, tell, tolerate_encodings
from hoptm_plugin.core.errors import HopTMError, OutOfMemoryError, StorageError
from hoptm_plugin.core.text import pasted
from hoptm_plugin.runtime.environment import prepare
from hoptm_plugin.runtime.stopping import INTERRUPTED, STOPPED, Stopped, hand_on, stop_on_signals

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from hoptm_plugin.core.dataset import ImageData
    from hoptm_plugin.runs.planning import Plan
    from hoptm_plugin.runs.tuning import Job
    from hoptm_plugin.settings import RunSettings

UNWRITABLE = (errno.EEXIST, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT,
              errno.ENAMETOOLONG)  # fmt: skip


def with_settings(command: str, arguments: list[str]) -> None:
    """Run a command whose arguments are settings."""
    parser = Parser(f"{PROGRAM} {command}", add_help=False, allow_abbrev=False)
    if command in ("verify", "audit"):
        if command == "verify":
            parser.add_argument("--checksums", action="store_true")
        parser.add_argument("run", type=path_of)
    elif command not in ("cite", "tune"):
        mode = parser.add_mutually_exclusive_group()
        mode.add_argument("-m", "--multirun", action="store_true")
        if command != "plan":
            mode.add_argument("--cfg", choices=["job"])
    parser.add_argument("settings", nargs="*")
    options = parser.parse_intermixed_args(arguments)
    prepare()
    if command == "import":
        command, options.settings = "run", _importing(options.settings)
    if command == "verify":
        _verify(options.run, options.settings, options.checksums)
    elif command == "audit":
        _audit(options.run, options.settings)
    elif command == "tune":
        _tune(options.settings)
    elif command == "cite":
        _cite(options.settings)
    elif command == "plan":
        _plan(options.settings, options.multirun)
    elif options.cfg:
        _print_settings(options.settings)
    else:
        _through_hydra(command, options.settings, options.multirun)


def _verify(folder: Path, overrides: list[str], checksums_only: bool) -> None:
    from hoptm_plugin.cli.console import print_verification
    from hoptm_plugin.runs.verifying import verify
    from hoptm_plugin.runtime.bars import console_progress

    found = verify(folder, *overrides, checksums_only=checksums_only, progress=console_progress())
    print_verification(found)
    if not found.verified:
        raise SystemExit(1)


def _audit(folder: Path, overrides: list[str]) -> None:
    from hoptm_plugin.cli.audited import print_audit
    from hoptm_plugin.runs.auditing import audit
    from hoptm_plugin.runtime.bars import console_progress

    own: dict[str, str | None] = {"tier": "quick", "shadows": None, "seed": None, "processes": None}
    others = []
    for each in overrides:
        key, _, value = each.partition("=")
        if key in own:
            own[key] = value
        else:
            others.append(each)
    numbers: dict[str, Any] = {"processes": None}
    for key in ("shadows", "seed", "processes"):
        if (text := own[key]) is not None:
            if not text.isdecimal():
                fail(f"{key}={text}: must be a whole number", 2)
            numbers[key] = int(text)
    tier: Any = own["tier"]  # which audit() checks
    try:
        found = audit(folder, *others, tier=tier, progress=console_progress(), **numbers)
    except Stopped as stopped:
        said = "interrupted" if stopped.exit_code == INTERRUPTED else f"stopped by {stopped}"
        fail(f"{said}; the same command goes on", stopped.exit_code)
    show(lambda: print_audit(found, folder), folder)
    if found.verdict != "none_found":
        raise SystemExit(1)


def _importing(arguments: list[str]) -> list[str]:
    """Return the settings of a run that imports what the arguments name."""
    from hoptm_plugin.runs.importing import import_overrides

    files = [each for each in arguments if "=" not in each or Path(each).exists()]
    overrides = [each for each in arguments if each not in files]
    return import_overrides([path_of(file) for file in files], overrides)


def _cite(overrides: list[str]) -> None:
    from hoptm_plugin.cards.citing import bibliography
    from hoptm_plugin.runs.composition import compose

    print(bibliography(compose(*overrides).plain()), end="")


def _plan(overrides: list[str], sweep: bool) -> None:
    from hoptm_plugin.cli.plans import lines, print_plans
    from hoptm_plugin.runs.composition import compose, expand
    from hoptm_plugin.runs.planning import alike, plan, plans
    from hoptm_plugin.runtime.bars import console_progress
    from hoptm_plugin.runtime.progress import Progress

    jobs, progress = expand(overrides) if sweep else [overrides], console_progress()
    composed = [compose(*each) for each in jobs]
    for recipe in dict.fromkeys(each.recipe for each in composed):
        _say(recipe)
    if not sweep:
        for line in lines(plan(composed[0], progress), overrides):
            tell(line)
        return
    told: dict[str, None] = {}  # what is done to data is said once, however many runs read them

    def once(title: str, total: int, done: int = 0) -> Progress:
        if total or title not in told:
            told.setdefault(title)
            return progress(title, total, done)
        return Progress()

    read: dict[str, ImageData] | None = {} if len({each.runtime.device for each in composed}) == 1 else None
    with progress("planning", len(jobs)) as bar:
        found = plans([(alike(each), partial(plan, each, once, read)) for each in composed], bar.advance)
    common = set.intersection(*map(set, jobs))
    print_plans([" ".join(each for each in job if each not in common) or " ".join(job) for job in jobs], found)


def _print_settings(overrides: list[str]) -> None:
    import yaml

    from hoptm_plugin.runs.composition import compose

    settings = compose(*overrides)
    _say(settings.recipe)
    print(yaml.safe_dump(settings.plain(), sort_keys=False), end="")


def _say(note: str) -> None:
    if note:
        say(note)


def _through_hydra(command: str, overrides: list[str], sweep: bool) -> None:
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from hoptm_plugin.cli import together
    from hoptm_plugin.cli.sweeps import with_named_folders
    from hoptm_plugin.runs.composition import with_plugins_found, written_out
    from hoptm_plugin.runs.exchanging import loosened
    from hoptm_plugin.runs.hydra_errors import explain, group_error

    with_plugins_found()
    if command != "run":
        together.refuse(command, overrides)
    overrides = written_out(overrides)
    # makes Hydra raise instead of printing a traceback of its own and exiting
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [PROGRAM, *(["--multirun", *with_named_folders(loosened(overrides))] if sweep else loosened(overrides))]
    try:
        with together.collected():
            hydra.main(version_base="1.3", config_path="pkg://hoptm_plugin.conf", config_name="config")(JOBS[command])()
    except (HydraException, OmegaConfBaseException) as error:
        # Hydra composes a sweep first without what is swept over, so with the default method and data set
        known = "; in a sweep over methods or data sets, every setting must exist for the default one as well"
        hint = known if sweep and "unknown setting" in explain(error) else ""
        fail(f"{explain(error)}{hint}\nSee {PROGRAM} list, and {PROGRAM} {command} --help", 2)
    except OSError as error:
        if error.errno not in UNWRITABLE or (error.filename is None and not sweep):
            raise
        what = error.filename or "the sweep's folder"  # Hydra writes multirun.yaml there
        fail(f"{what}: {error.strerror}; choose another folder with hydra.{'sweep' if sweep else 'run'}.dir=PATH", 2)
    except Exception as error:
        _not_launched(error, "sweep")
        if isinstance(error, ValueError):
            raise group_error(error) from error
        raise


def _hydra_config() -> Any:
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get()


def _job(command: str, work: Callable[[RunSettings, Path], None], config: DictConfig) -> None:
    """Do one of Hydra's jobs in its run folder."""
    from hydra.types import RunMode

    from hoptm_plugin.runs.composition import settled

    sweep, folder = _hydra_config().mode == RunMode.MULTIRUN, Path(_hydra_config().runtime.output_dir)
    judged = command == "eval" and config.synthetic  # without one it is refused
    of = f"eval {pasted('synthetic', Path(config.synthetic).absolute())}" if judged else command
    do(of, partial(settled, config, _hydra_config()), work, folder, sweep)


def do(
    command: str,
    settle: Callable[[], RunSettings],
    work: Callable[[RunSettings, Path], None],
    folder: Path,
    sweep: bool,
) -> None:
    """Do one job in its run folder; a failing job leaves no empty folder behind.

    Args:
        command: that goes on with it.
        settle: returns its settings.
        work: does it.
        folder: of the run.
        sweep: it is one of several.
    """
    from hoptm_plugin.runs.folder import remove_if_empty
    from hoptm_plugin.storage.run_files import CONFIG

    tolerate_encodings()  # a launcher's worker does not come by main()
    plain_warnings()

    def going_on() -> str:
        if not (folder / CONFIG).exists():
            return "; the same command goes on" if command == "experts" else ""
        whole = f", or with all runs by the same command, {pasted('hydra.sweep.dir', folder.parent)} and resume=auto"
        run = pasted("hydra.run.dir", folder)
        return f"; go on with: {PROGRAM} {command} {run} resume=true{whole if sweep else ''}"

    try:
        with stop_on_signals():
            try:
                work(settle(), folder)
            except Stopped as stopped:
                said = "interrupted" if stopped.exit_code == INTERRUPTED else f"stopped by {stopped}"
                say(f"error: {said}{going_on()}")
                hand_on(stopped)
                raise SystemExit(stopped.exit_code) from None
    except HopTMError as error:
        mended = isinstance(error, StorageError | OutOfMemoryError)
        text = f"{error}{going_on() if mended else ''}"
        if sweep:
            _say(f"job {folder.name} failed: {text}")
            raise  # the launcher goes on with the other jobs, and raises the first error at the end
        fail(text, error.exit_code)
    finally:
        remove_if_empty(folder)
        # data and networks stand in cycles: a sweep would hold those of several jobs until Python looks for them
        gc.collect()


def _run(config: DictConfig) -> None:
    from omegaconf import OmegaConf

    from hoptm_plugin.cli import together

    if together.asked_for(_hydra_config()):
        from hoptm_plugin.runs.composition import settled

        folder = Path(_hydra_config().runtime.output_dir)
        together.collect(partial(settled, config, _hydra_config()), folder)
    else:
        # as they were written: what they refer to may not be there, which composing says better
        overrides: Any = OmegaConf.to_container(_hydra_config().overrides.task, resolve=False)
        _job("run", partial(make, list(map(str, overrides))), config)


def make(overrides: Sequence[str], settings: RunSettings, folder: Path) -> None:
    """Make a run that was asked for by ``overrides``, and show what came of it."""
    from hoptm_plugin.cli.console import print_card
    from hoptm_plugin.cli.plans import lines
    from hoptm_plugin.runs.running import run
    from hoptm_plugin.runtime.bars import console_progress
    from hoptm_plugin.storage.run_files import CARD, CONFIG

    begins = not settings.resume or (settings.resume == "auto" and not (folder / CONFIG).exists())

    def told(plan: Plan) -> None:  # a run that goes on keeps its scale
        for line in lines(plan, list(overrides)) if begins else [str(plan)]:
            say(line)

    if begins:
        _say(settings.recipe)
    card = run(settings, folder, console_progress(), told)
    show(lambda: print_card(card, folder), folder / CARD)


def _experts(config: DictConfig) -> None:
    def work(settings: RunSettings, folder: Path) -> None:
        from hoptm_plugin.runs.folder import remove_if_empty
        from hoptm_plugin.runs.running import build_experts
        from hoptm_plugin.runtime.bars import console_progress

        _say(settings.recipe)
        remove_if_empty(folder)
        built = build_experts(settings, console_progress())
        said = f"method {settings.method_id} reads no experts, so none are trained"
        if built.folder is not None:
            said = (f"{built.count} experts of {built.epochs} epochs in {built.folder} "
                    f"({built.seconds:.0f} s of training)")  # fmt: skip
        show(lambda: tell(said))

    _job("experts", work, config)


def _eval(config: DictConfig) -> None:
    def work(settings: RunSettings, folder: Path) -> None:
        from hoptm_plugin.cli.console import print_card
        from hoptm_plugin.runs.judging import evaluate, settings_to_judge
        from hoptm_plugin.runtime.bars import console_progress
        from hoptm_plugin.storage.run_files import CARD

        _say(settings_to_judge(settings).recipe)
        card = evaluate(None, settings=settings, folder=folder, progress=console_progress())
        show(lambda: print_card(card, folder), folder / CARD)

    _job("eval", work, config)


def _tune(arguments: list[str]) -> None:
    import time

    from hoptm_plugin.cli import together
    from hoptm_plugin.cli.tuned import print_tuned
    from hoptm_plugin.runs.composition import Written, expand, parsed
    from hoptm_plugin.runs.tuning import tune
    from hoptm_plugin.runtime.bars import console_progress

    over: dict[str, list[Any]] = {}
    lines, of_hydra, own = list[str](), list[str](), {"strategy": "grid", "resume": "false"}
    for argument in arguments:
        key, _, value = argument.partition("=")
        prefix = key[: len(key) - len(key.lstrip("+"))]
        if key.startswith(f"{prefix}over."):
            tried = f"{prefix}{key.removeprefix(f'{prefix}over.')}"
            over[tried] = [Written(each.partition("=")[2]) for (each,) in expand([f"{tried}={value}"])]
        elif key in own:
            own[key] = value
        else:
            (of_hydra if key.lstrip("+~").startswith("hydra") else lines).append(argument)
    place = [line for line in of_hydra if line.startswith("hydra.sweep.dir=")]
    of_hydra = [line for line in of_hydra if line not in place]
    elsewhere = [line for line in of_hydra if line.startswith(("hydra.run.", "hydra.sweep.", "hydra/sweeper"))]
    if elsewhere:
        fail(f"{elsewhere[0]}: a tuning's folder is chosen with hydra.sweep.dir=PATH", 2)
    if own["resume"].lower() not in ("true", "false", "auto"):
        fail(f"resume={own['resume']}: must be true, false or auto", 2)
    now = time.strftime("%Y-%m-%d/%H-%M-%S")
    folder = Path(str([*parsed(place).values(), f"runs/tunings/{now}-{os.getpid()}"][0]))
    resume: Any = {"true": True, "false": False}.get(own["resume"].lower(), "auto")
    launch = None
    if together.wanted(of_hydra):
        if more := [line for line in of_hydra if not together.wanted([line])]:
            fail(f"{more[0]}: hydra/launcher=side_by_side has no settings of its own, and is no launcher of "
                 f"jobs; leave it out", 2)  # fmt: skip
        launch = partial(together.tried, folder)
    elif of_hydra:  # of the launcher, or of what starts a job
        launch = partial(_launched, of_hydra, folder)
    try:
        strategy: Any = own["strategy"]  # which tune() checks
        tuned = tune(*lines, over=over, folder=folder, strategy=strategy, resume=resume, launch=launch,
                     progress=console_progress())  # fmt: skip
    except (Stopped, SystemExit) as left:
        again = f"the same command with {pasted('hydra.sweep.dir', folder)} and resume=auto goes on"
        if isinstance(left, Stopped):
            said = "interrupted" if left.exit_code == INTERRUPTED else f"stopped by {left}"
            fail(f"{said}; {again}", left.exit_code)
        if left.code == STOPPED:
            fail(f"a process that made candidates was asked to stop; {again}", STOPPED)
        raise
    show(lambda: print_tuned(tuned), folder)


def _launched(of_hydra: list[str], folder: Path, jobs: Sequence[Job]) -> list[str | None]:
    """Make the runs of a tuning by the launcher that was asked for, each in its folder; return why they failed."""
    from hydra import initialize_config_module
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.errors import HydraException
    from hydra.types import HydraContext, RunMode
    from omegaconf.errors import OmegaConfBaseException

    from hoptm_plugin.runs.composition import as_override, with_plugins_found
    from hoptm_plugin.runs.exchanging import loosened
    from hoptm_plugin.runs.hydra_errors import explain

    with_plugins_found()
    where = f"hydra.sweep.dir={as_override(str(folder))}"
    each = [[*loosened(job.overrides), f"hydra.sweep.subdir={as_override(job.name)}"] for job in jobs]
    try:
        with initialize_config_module("hoptm_plugin.conf", version_base="1.3", job_name=PROGRAM):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            config = hydra.compose_config("config", [*of_hydra, where], RunMode.MULTIRUN)
            context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
            launcher = Plugins.instance().instantiate_launcher(
                hydra_context=context, task_function=_trial, config=config
            )
            return [done.return_value for done in launcher.launch(each, initial_job_idx=0)]
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error), 2)
    except Exception as error:
        _not_launched(error, "tuning")
        raise


def _trial(config: DictConfig) -> str | None:
    """Make one run of a tuning; return why it failed, or None."""
    from hoptm_plugin.runs.composition import settled
    from hoptm_plugin.runs.tuning import attempt
    from hoptm_plugin.runtime.bars import console_progress

    tolerate_encodings()
    plain_warnings()
    folder = Path(_hydra_config().runtime.output_dir)
    try:
        with stop_on_signals():
            return attempt(settled(config, _hydra_config()), folder, console_progress())
    except Stopped as stopped:
        hand_on(stopped)
        raise SystemExit(stopped.exit_code) from None
    finally:
        gc.collect()


def _not_launched(error: Exception, what: str) -> None:
    """Say in one line what a launcher's package complains of, and exit; without effect for any other error."""
    from hoptm_plugin.runs.hydra_errors import of_a_launcher

    if of_a_launcher(error):
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        again = f"the same command with resume=auto and this {what}'s folder as hydra.sweep.dir goes on"
        fail(f"the launcher could not run the {what} to its end: {type(error).__name__}: {reason}; {again}", 1)


JOBS: dict[str, Callable[[Any], None]] = {"run": _run, "experts": _experts, "eval": _eval}
