"""The command line; only it and :mod:`hoptm_plugin.runs.hydra_errors` know Hydra's and OmegaConf's objects.

A thin argparse dispatcher hands everything after the command to Hydra. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hoptm_plugin.cli.arguments import PLAIN, Parser
from hoptm_plugin.cli.help import HELP, OVERVIEW, PROGRAM
from hoptm_plugin.cli.streams import fail, let_go, plain_warnings, say, show
from hoptm_plugin.core.errors import ConfigurationError, HopTMError, OutOfMemoryError, StorageError
from hoptm_plugin.runs.hydra_errors import explain, group_error, of_a_launcher, unknown_name
from hoptm_plugin.runtime.environment import prepare
from hoptm_plugin.runtime.stopping import INTERRUPTED, Stopped, hand_on, stop_on_signals

if TYPE_CHECKING:
    from omegaconf import DictConfig

UNWRITABLE = (errno.EEXIST, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT,
              errno.ENAMETOOLONG)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit.

    0: done. 1: a run failed. 2: something the user can mend. 75: asked to stop by SIGTERM or SIGUSR2, can go on.
    130: interrupted by Ctrl-C.
    """
    plain_warnings()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with stop_on_signals():
            _command(given)
        sys.stdout.flush()
    except HopTMError as error:
        fail(str(error), error.exit_code)
    except Stopped as stopped:
        again = "; a sweep goes on by the same command with resume=auto and its folder as hydra.sweep.dir"
        fail(f"stopped by {stopped}{again if '-m' in given else ''}", stopped.exit_code)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # whoever read the output has gone; nothing is left to be said to him
        raise SystemExit(1) from None
    except OSError as error:
        what = "standard output" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "input or output"
        fail(f"{error.filename or what}: {error.strerror or error}", 1)
    finally:
        let_go(sys.stdout, sys.stderr)


def _command(arguments: list[str]) -> None:
    if not arguments:
        fail(f"a command is missing\n\n{OVERVIEW}", 2)
    command, rest = arguments[0], arguments[1:]
    if command in ("-h", "--help"):
        print(OVERVIEW)  # noqa: T201
    elif command in HELP:
        _with_settings(command, rest)
    elif command in PLAIN:
        PLAIN[command](rest)
    elif command in ("-V", "--version"):
        from importlib.metadata import version

        print(f"{PROGRAM} {version('hoptm-plugin')}")  # noqa: T201
    else:
        unknown = unknown_name(f"no command is called {command!r}", command, [*HELP, *PLAIN])
        fail(f"{unknown}\nSee {PROGRAM} --help", 2)


def _with_settings(command: str, arguments: list[str]) -> None:
    """Hand ``arguments`` to Hydra, which calls the command's job once or, in a sweep, for every combination."""
    if "-h" in arguments or "--help" in arguments:
        print(HELP[command])  # noqa: T201
        return
    parser = Parser(f"{PROGRAM} {command}", add_help=False, allow_abbrev=False)
    if command == "verify":
        parser.add_argument("--checksums", action="store_true")
        parser.add_argument("run", type=Path)
    elif command != "cite":
        mode = parser.add_mutually_exclusive_group()
        mode.add_argument("-m", "--multirun", action="store_true")
        mode.add_argument("--cfg", choices=["job"])
    parser.add_argument("settings", nargs="*")
    options = parser.parse_intermixed_args(arguments)
    prepare()
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    _add_plugins_to_search_path()
    # makes Hydra raise instead of printing a traceback of its own and exiting
    os.environ["HYDRA_FULL_ERROR"] = "1"
    job = {"run": _run, "experts": _experts, "eval": _eval}.get(command)
    sweep = getattr(options, "multirun", False)  # cite and verify know no sweeps
    try:
        if command == "verify":
            _verify(options.run, options.settings, options.checksums)
            return
        if command == "cite" or options.cfg:
            (_cite if command == "cite" else _print_settings)(options.settings)
            return
        sys.argv = [PROGRAM, *(["--multirun"] if sweep else []), *options.settings]
        hydra.main(version_base="1.3", config_path="pkg://hoptm_plugin.conf", config_name="config")(job)()
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
        if not of_a_launcher(error):
            if isinstance(error, ValueError):
                raise group_error(error) from error
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        again = "the same command with resume=auto and this sweep's folder as hydra.sweep.dir goes on"
        fail(f"the launcher could not run the sweep to its end: {type(error).__name__}: {reason}; {again}", 1)


def _add_plugins_to_search_path() -> None:
    """Let YAML of plug-ins join Hydra's search path; registered in code, so that launchers' workers see it too."""
    from hydra.core.plugins import Plugins

    from hoptm_plugin.runs.search_path import PluginSearchPath

    Plugins.instance().register(PluginSearchPath)


def compose(overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Return the settings of a run with these overrides, recipe included, and a note on the recipe.

    Raises:
        ConfigurationError: an override that is malformed or names what does not exist.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    _add_plugins_to_search_path()
    try:
        with hydra.initialize_config_module("hoptm_plugin.conf", version_base="1.3", job_name=PROGRAM):
            values, _, note = _settings(hydra.compose("config", list(overrides), return_hydra_config=True))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(f"{explain(error)}\nSee {PROGRAM} list") from error
    except ValueError as error:
        raise group_error(error) from error
    return values, note


def _cite(overrides: list[str]) -> None:
    from hoptm_plugin.runs.citing import bibliography

    print(bibliography(compose(overrides)[0]), end="")  # noqa: T201


def _verify(folder: Path, overrides: list[str], checksums_only: bool) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from hoptm_plugin.runs.verifying import verify
    from hoptm_plugin.runtime.bars import console_progress

    changes = {each.key_or_group: each.value() for each in OverridesParser.create().parse_overrides(overrides)}
    if not verify(folder, changes, console_progress(), checksums_only):
        raise SystemExit(1)


def _print_settings(overrides: list[str]) -> None:
    from omegaconf import OmegaConf

    values, note = compose(overrides)
    _say(note)
    print(OmegaConf.to_yaml(OmegaConf.create(values)), end="")  # noqa: T201


def _say(note: str) -> None:
    if note:
        say(note)


def _settings(config: DictConfig) -> tuple[dict[str, Any], list[str], str]:
    """Return the composed values with the recipe applied, the paths that the command line set, and a note on both."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from hoptm_plugin.runs.composition import apply_recipe, explicit_paths

    hydra_config = config.hydra if "hydra" in config else _hydra_config()
    choices = {str(key): value for key, value in hydra_config.runtime.choices.items()}
    # unresolved: the interpolations in overrides are for the settings, not for this list
    overrides = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    explicit = explicit_paths(map(str, overrides), set(choices))
    try:
        content = OmegaConf.to_container(
            OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]), resolve=True
        )
    except OmegaConfBaseException as error:
        raise ConfigurationError(f"{error.full_key}: {explain(error)}") from error
    assert isinstance(content, dict)
    values: dict[str, Any] = {str(key): value for key, value in content.items()}
    recipe, note = values.pop("recipe", None), ""
    if recipe:
        note = apply_recipe(values, recipe, explicit, f"{choices['method']}/{choices['dataset']}")
    return values, explicit, note


def _hydra_config() -> Any:
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get()


def _job(command: str, work: Callable[[dict[str, Any], list[str], str, Path], None], config: DictConfig) -> None:
    """Do one job in its run folder; a failing job leaves no empty folder behind."""
    from hydra.types import RunMode

    from hoptm_plugin.runs.folder import CONFIG, remove_if_empty

    plain_warnings()  # a launcher's worker does not come by main()
    folder = Path(_hydra_config().runtime.output_dir)
    sweep = _hydra_config().mode == RunMode.MULTIRUN

    def going_on() -> str:
        if not (folder / CONFIG).exists():
            return "; the same command goes on" if command == "experts" else ""
        whole = f", or with all runs by the same command, hydra.sweep.dir={folder.parent} and resume=auto"
        what = "eval synthetic=PATH" if command == "eval" else command
        return f"; go on with: {PROGRAM} {what} hydra.run.dir={folder} resume=true{whole if sweep else ''}"

    try:
        with stop_on_signals():
            try:
                work(*_settings(config), folder)
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
    def work(values: dict[str, Any], explicit: list[str], note: str, folder: Path) -> None:
        from hoptm_plugin.cli.console import print_card
        from hoptm_plugin.runs.composition import resumed
        from hoptm_plugin.runs.folder import CARD
        from hoptm_plugin.runs.running import run
        from hoptm_plugin.runtime.bars import console_progress

        values = resumed(values, explicit, folder)
        if not values["resume"]:
            _say(note)
        card = run(values, folder, console_progress())
        show(lambda: print_card(card, folder), folder / CARD)

    _job("run", work, config)


def _experts(config: DictConfig) -> None:
    def work(values: dict[str, Any], explicit: list[str], note: str, folder: Path) -> None:
        from hoptm_plugin.runs.folder import remove_if_empty
        from hoptm_plugin.runs.running import build_experts_only
        from hoptm_plugin.runtime.bars import console_progress

        _say(note)
        remove_if_empty(folder)
        built = build_experts_only(values, console_progress())
        show(lambda: print(built))  # noqa: T201

    _job("experts", work, config)


def _eval(config: DictConfig) -> None:
    def work(values: dict[str, Any], explicit: list[str], note: str, folder: Path) -> None:
        from hoptm_plugin.cli.console import print_card
        from hoptm_plugin.runs.folder import CARD
        from hoptm_plugin.runs.judging import evaluate_stored, settings_of_stored
        from hoptm_plugin.runtime.bars import console_progress

        stored = settings_of_stored(values, explicit)
        if stored is None:
            _say(note)
        card = evaluate_stored(stored or values, folder, console_progress())
        show(lambda: print_card(card, folder), folder / CARD)

    _job("eval", work, config)


if __name__ == "__main__":
    main()
