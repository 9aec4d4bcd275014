"""The command line; the only module that knows Hydra and OmegaConf.

A thin argparse dispatcher hands everything after the command to Hydra. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hoptm_plugin.core.errors import HopTMError

if TYPE_CHECKING:
    from omegaconf import DictConfig

PROGRAM = "hoptm-bench"
OVERVIEW = f"""\
{PROGRAM}: distil a labelled image data set into a few images per class, and compare methods that do.

commands
  run       experts, distillation, evaluation, result           {PROGRAM} run method=hoptm dataset=digits ipc=1
  experts   train and store the experts of a run, nothing more  {PROGRAM} experts method=mtt dataset=digits
  eval      judge a stored synthetic set                        {PROGRAM} eval synthetic=RUN "networks=[vgg11]"
  compare   one table from several runs                         {PROGRAM} compare runs
  list      methods, data sets, matchers and all other parts    {PROGRAM} list matchers

"{PROGRAM} COMMAND --help" explains a command."""

SETTINGS_HELP = f"""\
Settings are KEY=VALUE; later ones win, and all beat the method's recipe for the data set.

  method=mtt dataset=pathmnist ipc=10 seed=1       choose a method, a data set, images per class, a seed
  dataset=npz dataset.root=FILE                    your own data: an npz in MedMNIST layout
  dataset=folder dataset.root=FOLDER               or image folders train/CLASS/*.png and test/CLASS/*.png
  network.width=32 network.depth=3                 a smaller ConvNet
  experts.count=10 distillation.iterations=500     a smaller budget
  method.matchers.shape.weight=0.1                 HoP-TM's lambda
  method.matchers.shape=null                       leave a part out
  experts=sgd augment=none                         other experts, no augmentation
  distillation.selection=validation                keep the checkpoint that does best on the validation split
  runtime.device=auto|cpu|cuda  runtime.unroll=full|adjoint|auto  runtime.precision=float32|tf32
  hydra.run.dir=PATH                               where the run is written
  hydra.run.dir=PATH resume=true                   go on with the run that lies there
  -m method=hoptm,mtt ipc=1,10                     all combinations, one after the other
  --cfg job                                        print the settings, recipe included, and stop

"{PROGRAM} list" shows what can be chosen."""

HELP = {
    "run": f"usage: {PROGRAM} run [-m] [--cfg job] [KEY=VALUE ...]\n\nTrain the missing experts, distil, evaluate, "
    f"and write a run folder with the result card.\n\n{SETTINGS_HELP}",
    "experts": f"usage: {PROGRAM} experts [KEY=VALUE ...]\n\nTrain and store the experts that `run` would read with "
    f"the same settings. An interrupted build goes on at the missing expert.\n\n{SETTINGS_HELP}",
    "eval": f"usage: {PROGRAM} eval synthetic=PATH [KEY=VALUE ...]\n\nTrain fresh networks on a stored synthetic set "
    f"(a run folder or a .safetensors file) and test them. Settings come from the run the set lies in, where it lies "
    f"in one; otherwise name the data set.\n\n"
    f'  {PROGRAM} eval synthetic=RUN "networks=[convnet,resnet18,vgg11,alexnet]" protocol.repeats=3\n\n{SETTINGS_HELP}',
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 a run failed, 2 something the user can mend, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(OVERVIEW)  # noqa: T201
        raise SystemExit(0 if arguments else 2)
    command, rest = arguments[0], arguments[1:]
    try:
        if command in HELP:
            _with_settings(command, rest)
        elif command == "list":
            _list(rest)
        elif command == "compare":
            _compare(rest)
        elif command in ("-V", "--version"):
            from importlib.metadata import version

            print(f"{PROGRAM} {version('hoptm-plugin')}")  # noqa: T201
        else:
            import difflib

            near = difflib.get_close_matches(command, [*HELP, "list", "compare"], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            _fail(f"no command is called {command!r}{hint} See {PROGRAM} --help", 2)
    except HopTMError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    raise SystemExit(code)


def _with_settings(command: str, arguments: list[str]) -> None:
    """Hand ``arguments`` to Hydra, which calls the command's job once or, in a sweep, for every combination."""
    if "-h" in arguments or "--help" in arguments:
        print(HELP[command])  # noqa: T201
        return
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    _add_plugins_to_search_path()
    # makes Hydra raise instead of printing a traceback of its own and exiting
    os.environ["HYDRA_FULL_ERROR"] = "1"
    job = {"run": _run, "experts": _experts, "eval": _eval}[command]
    try:
        if any(argument in ("--cfg", "-c") or argument.startswith("--cfg=") for argument in arguments):
            _print_settings(arguments)
            return
        sys.argv = [PROGRAM, *arguments]
        hydra.main(version_base="1.3", config_path="pkg://hoptm_plugin.conf", config_name="config")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
        _fail(f"{_first_lines(error if cause is error else cause)}\nSee {PROGRAM} list, and {PROGRAM} run --help.", 2)


def _first_lines(error: BaseException) -> str:
    return "\n".join(line for line in str(error).splitlines() if line.strip())


def _add_plugins_to_search_path() -> None:
    """Let YAML of plug-ins join Hydra's search path; registered in code, so that launchers' workers see it too."""
    from hydra.core.plugins import Plugins

    from hoptm_plugin.search_path import PluginSearchPath

    Plugins.instance().register(PluginSearchPath)


def _print_settings(arguments: list[str]) -> None:
    import hydra
    from omegaconf import OmegaConf

    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    overrides += [argument for argument in arguments if argument.startswith("~")]
    with hydra.initialize_config_module("hoptm_plugin.conf", version_base="1.3", job_name=PROGRAM):
        values = _settings(hydra.compose("config", overrides, return_hydra_config=True))[0]
    print(OmegaConf.to_yaml(OmegaConf.create(values)), end="")  # noqa: T201


def _settings(config: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Return the composed values with the recipe applied, and the paths that the command line set."""
    from omegaconf import OmegaConf

    from hoptm_plugin.commands.composition import apply_recipe, explicit_paths

    hydra_config = config.hydra if "hydra" in config else _hydra_config()
    choices = {str(key): value for key, value in hydra_config.runtime.choices.items()}
    explicit = explicit_paths(list(hydra_config.overrides.task), set(choices))
    content = OmegaConf.to_container(
        OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]), resolve=True
    )
    assert isinstance(content, dict)
    values: dict[str, Any] = {str(key): value for key, value in content.items()}
    recipe = values.pop("recipe", None)
    if recipe:
        note = apply_recipe(values, recipe, explicit, f"{choices['method']}/{choices['dataset']}")
        print(note, file=sys.stderr)  # noqa: T201
    return values, explicit


def _hydra_config() -> Any:
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get()


def _job(work: Callable[[dict[str, Any], list[str], Path], None], config: DictConfig) -> None:
    """Do one job in its run folder; a failing job leaves no empty folder behind."""
    from hydra.types import RunMode

    from hoptm_plugin.commands.folder import remove_if_empty

    folder = Path(_hydra_config().runtime.output_dir)
    try:
        values, explicit = _settings(config)
        work(values, explicit, folder)
    except HopTMError as error:
        remove_if_empty(folder)
        if _hydra_config().mode == RunMode.MULTIRUN:  # the launcher goes on with the other jobs and reports this one
            raise
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        remove_if_empty(folder)
        going_on = f"; go on with: {PROGRAM} run hydra.run.dir={folder} resume=true" if folder.exists() else ""
        _fail(f"interrupted{going_on}", 130)


def _run(config: DictConfig) -> None:
    def work(values: dict[str, Any], explicit: list[str], folder: Path) -> None:
        from hoptm_plugin.commands.composition import resumed
        from hoptm_plugin.commands.run import run
        from hoptm_plugin.results.console import console_progress, print_card

        if values["resume"]:
            values = resumed(values, explicit, folder)
        print_card(run(values, folder, console_progress()), folder)

    _job(work, config)


def _experts(config: DictConfig) -> None:
    def work(values: dict[str, Any], explicit: list[str], folder: Path) -> None:
        from hoptm_plugin.commands.folder import remove_if_empty
        from hoptm_plugin.commands.run import build_experts_only
        from hoptm_plugin.results.console import console_progress

        remove_if_empty(folder)
        print(build_experts_only(values, console_progress()))  # noqa: T201

    _job(work, config)


def _eval(config: DictConfig) -> None:
    def work(values: dict[str, Any], explicit: list[str], folder: Path) -> None:
        from hoptm_plugin.commands.evaluate import evaluate_stored, settings_of_stored
        from hoptm_plugin.results.console import console_progress, print_card

        print_card(evaluate_stored(settings_of_stored(values, explicit), folder, console_progress()), folder)

    _job(work, config)


def _list(arguments: list[str]) -> None:
    from hoptm_plugin.commands.listing import KINDS, print_listing

    parser = argparse.ArgumentParser(
        f"{PROGRAM} list", description="Show what can be chosen: settings groups, and parts by kind."
    )
    parser.add_argument("kind", nargs="?", choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS)}")
    kind = parser.parse_args(arguments).kind
    _add_plugins_to_search_path()
    print_listing(kind, _group_options)


def _group_options(group: str) -> list[str]:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    with hydra.initialize_config_module("hoptm_plugin.conf", version_base="1.3", job_name=PROGRAM):
        return list(GlobalHydra.instance().config_loader().get_group_options(group))


def _compare(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        f"{PROGRAM} compare",
        description="Lay the result cards of several runs out as one table: methods by data set, IPC and network. "
        "Runs that were not judged alike never share a column.",
    )
    parser.add_argument("paths", nargs="+", type=Path, help="run folders, cards, or folders to search")
    parser.add_argument("--format", default="terminal", choices=["terminal", "markdown", "csv", "json"])
    options = parser.parse_args(arguments)
    from hoptm_plugin.results.compare import compare, find_cards, print_comparison, render
    from hoptm_plugin.results.console import output_console

    comparisons = compare(find_cards(options.paths))
    if options.format == "terminal":
        print_comparison(output_console(), comparisons)
    else:
        print(render(comparisons, options.format))  # noqa: T201


if __name__ == "__main__":
    main()
