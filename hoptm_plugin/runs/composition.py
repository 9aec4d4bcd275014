"""From overrides to settings: Hydra composes the groups, recipe and scale fill in, what was given by hand wins.

Only this module, :mod:`hoptm_plugin.runs.hydra_errors` and the command line know Hydra's and OmegaConf's objects.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hoptm_plugin.cards.record import faults
from hoptm_plugin.cards.tuning import Tuning
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError
from hoptm_plugin.core.interfaces import DatasetReader
from hoptm_plugin.core.text import hydra_text, pasted, unknown_name
from hoptm_plugin.runs.exchanging import drop_leftovers, given_leaves, loosened
from hoptm_plugin.runtime.device import kind_of_device
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.files import read_bounded, write_text
from hoptm_plugin.storage.plain_yaml import load_plain

# a recipe belongs to these two, so choosing them does not shut it out
RECIPE_GROUPS = ("method", "dataset")
PUBLISHED, AUTO = "published", "auto"
# what a setting names that depends on how long the run is planned, and where such settings may stand
TOTAL, TIED = "${distillation.iterations}", ["method", "distillation"]
LARGEST_SETTINGS = 2**20
# of files of settings, which may come from elsewhere: what is started, where is written, whose results are gone on with
OF_THE_MACHINE = ("hydra", "settings", "resume", "synthetic", "loggers", "worker")


def compose(*overrides: str, **settings: Any) -> RunSettings:
    """Return the settings of a run, as ``hoptm-bench run`` would compose them, recipe and scale included.

    Args:
        overrides: ``key=value``, in the command line's grammar: ``compose("method=mtt", "network.width=32")``.
        settings: the same by keyword: ``compose(method="mtt", ipc=10)``. ``dataset`` may be data in memory
            (:class:`hoptm_plugin.Arrays`), and a mapping describes a part whole: ``network={"name": "mine"}``.

    Raises:
        ConfigurationError: an override that is malformed or names what does not exist; a value that cannot be.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from hoptm_plugin.runs.hydra_errors import explain, group_error

    if odd := [each for each in overrides if not isinstance(each, str)]:
        raise ConfigurationError(f'compose: {odd[0]!r} is no override; give texts such as "ipc=10", or keywords')
    lines, whole = written_out(overrides), dict[str, Any]()
    for key, value in settings.items():
        if isinstance(value, DatasetReader):
            lines.append(f"{key}=arrays")
            whole[key] = value
        elif isinstance(value, Mapping) and "." not in key:
            whole[key] = dict(value)
        else:
            lines.append(f"{key}={as_override(value)}")
    with_plugins_found()
    try:
        with _own_hydra(), hydra.initialize_config_module("hoptm_plugin.conf", version_base="1.3", job_name="hoptm"):
            return settled(hydra.compose("config", loosened(lines), return_hydra_config=True), whole=whole)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(f"{explain(error)}\nSee hoptm-bench list") from error
    except ValueError as error:
        raise group_error(error) from error


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of every single run of a sweep, in the order of its jobs, as ``hoptm-bench run -m`` does.

    Raises:
        ConfigurationError: an override that Hydra cannot parse or sweep.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from hoptm_plugin.runs.hydra_errors import explain

    try:
        found = OverridesParser.create().parse_overrides(list(overrides))
        if endless := [each for each in found if each.is_sweep_override() and not each.is_discrete_sweep()]:
            raise ConfigurationError(f"{endless[0].input_line}: an interval has no values to try one after the other; "
                                     f"list them, or give range(FIRST,LAST,STEP)")  # fmt: skip
        return BasicSweeper.split_arguments(found, None)[0]
    except HydraException as error:
        raise ConfigurationError(explain(error)) from None


def key_of(override: str) -> str:
    """Return what an override sets, without what it does to it (``+``, ``~``)."""
    return override.partition("=")[0].lstrip("+~")


def written_out(overrides: Iterable[str]) -> list[str]:
    """Return overrides with those of a file in the place of ``settings=PATH``, see :func:`write_settings`.

    Raises:
        ConfigurationError: the file does not exist, or holds no such settings.
    """
    lines = []
    for line in overrides:
        if isinstance(line, str) and line.startswith("settings="):
            lines += read_settings_file(Path(str(next(iter(parsed([line]).values())))))
        else:
            lines.append(line)
    return lines


def write_settings(path: Path, overrides: Sequence[str], tuning: Mapping[str, Any] | None, note: str) -> None:
    """Write settings that ``run`` takes as ``settings=PATH``: overrides in order, and how they were chosen."""
    content = {"settings": list(overrides), **({} if tuning is None else {"tuning": dict(tuning)})}
    head = f"# {note} {pasted('settings', path)} stands for these settings; later ones on the command line win.\n"
    write_text(path, head + yaml.safe_dump(content, sort_keys=False, width=1000))


def read_settings_file(path: Path) -> list[str]:
    """Read what :func:`write_settings` wrote, or a person: as overrides.

    Raises:
        ConfigurationError: it does not exist, holds no settings, or some that say where this machine writes or what
            Hydra starts, which no file may.
    """
    if not path.is_file():
        raise ConfigurationError(f"settings: {path} does not exist; name a YAML file such as the best.yaml of a tuning")
    try:
        content = load_plain(read_bounded(path, LARGEST_SETTINGS, "file of settings").decode())
        lines, tuning = content.pop("settings"), content.pop("tuning", None)
        if content or not isinstance(lines, list) or not all(isinstance(line, str) and line for line in lines):
            raise ValueError("it may hold `settings`, a list of KEY=VALUE, and `tuning`")
        record = None if tuning is None else Tuning.model_validate(tuning)
    except ValidationError as error:
        raise ConfigurationError(f"settings: {path}: its tuning is none: {faults(error)}") from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, FileFormatError, yaml.YAMLError) as error:
        reason = "it has no list `settings`" if isinstance(error, AttributeError | KeyError | TypeError) else error
        text = " ".join(str(reason).split())
        raise ConfigurationError(f"settings: {path}: not a file of settings ({text})") from None
    for line in lines:
        ((key, value),) = parsed([line]).items()
        whole = key == "experts" and not isinstance(value, str)
        resolver = re.search(r"\$\{[^}]*[:$]", line)  # of the environment, say, into cards that are shown around
        if re.split(r"[./@]", key)[0] in OF_THE_MACHINE or key == "experts.root" or whole or resolver:
            raise ConfigurationError(f"settings: {path}: {line}: no file may say this; give it on the command line")
    chosen = [] if record is None else [f"tuning={as_override(record.model_dump(exclude_defaults=True))}"]
    return [*lines, *chosen]


def parsed(overrides: Iterable[str]) -> dict[str, Any]:
    """Return the value of each override by its dotted path, without composing anything.

    Raises:
        ConfigurationError: an override that is malformed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from hoptm_plugin.runs.hydra_errors import explain

    if odd := [each for each in overrides if not isinstance(each, str)]:
        raise ConfigurationError(f'{odd[0]!r}: no override; give texts such as "dataset.root=PATH"')
    try:
        return {each.key_or_group: each.value() for each in OverridesParser.create().parse_overrides(list(overrides))}
    except HydraException as error:
        raise ConfigurationError(explain(error)) from error


def with_plugins_found() -> None:
    """Let YAML of plug-ins join Hydra's search path; registered in code, so that launchers' workers see it too."""
    from hydra.core.plugins import Plugins

    from hoptm_plugin.runs.search_path import PluginSearchPath

    Plugins.instance().register(PluginSearchPath)


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Compose also where the caller's own program runs under Hydra, which is then as it was."""
    from hydra.core.global_hydra import GlobalHydra

    theirs = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = theirs


def settled(config: Any, hydra_config: Any = None, whole: Mapping[str, Any] | None = None) -> RunSettings:
    """Return the settings of a configuration that Hydra composed, with its recipe and its scale.

    Args:
        config: composed, a DictConfig.
        hydra_config: Hydra's own, where ``config`` does not hold it.
        whole: parts to put in the place of those composed.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from hoptm_plugin.runs.hydra_errors import explain

    hydra_config = config.hydra if hydra_config is None else hydra_config
    choices = {str(key): value for key, value in hydra_config.runtime.choices.items()}
    # unresolved: the interpolations in overrides are for the settings, not for this list
    overrides: Any = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    given = (*_given_paths(map(str, overrides), set(choices)), *(whole or {}))
    keys = [str(key) for key in config if key != "hydra"]
    try:
        values: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, keys), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigurationError(f"{error.full_key}: {explain(error)}") from error
    recipe, scales, notes = values.pop("recipe", None), values.pop("scales"), []
    for key, part in (whole or {}).items():
        values[key] = values[key] | {"data": part} if isinstance(part, DatasetReader) else part
        if key == "method":
            _call_by_its_own_name(values, given)
            scales.pop("own", None)
    if recipe and not set(whole or ()) & set(RECIPE_GROUPS):  # which is of the method and the data set that it names
        notes.append(_apply_recipe(values, recipe, given, f"{choices['method']}/{choices['dataset']}"))
    own_data = "dataset" in (whole or ()) or not _with_recipes(choices["dataset"])
    if said := _apply_scale(values, scales, given, own_data):
        notes.append(said)
    values["tied"] = _tied(config)
    _follow(values, config, keys)
    _exchange(values, [*map(str, overrides)], given, choices["method"])
    settings = RunSettings.of({**values, "recipe": "; ".join(notes), "given": given})
    if settings.scale == PUBLISHED and not settings.as_published(given):
        settings = settings.model_copy(update={"scale": None})
    return settings.without_published(given) if notes else settings


def _call_by_its_own_name(values: dict[str, Any], given: Iterable[str]) -> None:
    """Let a method that is another one than was composed not go by that one's name."""
    name = str(values["method"].get("name"))
    own: dict[str, Any] = {"method_id": name, "method_title": name, "method_cites": [], "reported": None}
    values |= {field: value for field, value in own.items() if field not in given}


def _exchange(values: dict[str, Any], overrides: list[str], given: Iterable[str], method: str) -> None:
    """Take out of parts that were exchanged by name what was meant for the old ones; warn of it."""
    leaves = given_leaves(parsed(overrides))
    for line in drop_leftovers(values, leaves):
        warnings.warn(line, stacklevel=3)
    if "method.name" in leaves and values["method"]["name"] != _composed_name(method):
        _call_by_its_own_name(values, given)


def _composed_name(method: str) -> Any:
    """Return the name of the part that the YAML of a method takes."""
    import hydra

    return hydra.compose("config", [f"method={method}"]).method.name


def _tied(config: Any) -> list[str]:
    """Return the dotted paths of settings that are told as a function of ``distillation.iterations``."""
    from omegaconf import OmegaConf

    def found(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from found(inner, f"{path}.{key}" if path else str(key))
        elif isinstance(value, str) and TOTAL in value:
            yield path

    parts = {key: config[key] for key in TIED if OmegaConf.is_dict(config.get(key))}
    return [*found({key: OmegaConf.to_container(part, resolve=False) for key, part in parts.items()}, "")]


def _follow(values: dict[str, Any], config: Any, keys: list[str]) -> None:
    """Let tied settings follow the iterations that recipe and scale gave, where these left them as they were."""
    from omegaconf import OmegaConf

    if not values["tied"] or config.distillation.iterations == values["distillation"]["iterations"]:
        return
    anew = OmegaConf.create(OmegaConf.to_container(OmegaConf.masked_copy(config, keys), resolve=False))
    OmegaConf.update(anew, "distillation.iterations", values["distillation"]["iterations"])
    for path in values["tied"]:
        *above, key = path.split(".")
        place: Any = values
        for each in above:
            place = place.get(each) if isinstance(place, dict) else None
        if isinstance(place, dict) and key in place and place[key] == OmegaConf.select(config, path):
            place[key] = OmegaConf.select(anew, path)


def _given_paths(overrides: Iterable[str], groups: set[str]) -> list[str]:
    """Return the dotted paths that overrides set; a chosen group stands for all below it.

    ``method`` and ``dataset`` are marked "method=" and "dataset=", because a recipe may still fill in below them.
    """
    paths = []
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0].partition("@")[0]
        paths.append(f"{key}=" if key in groups and key in RECIPE_GROUPS else key)
    return paths


def _apply_recipe(values: dict[str, Any], recipe: dict[str, Any], given: Iterable[str], name: str) -> str:
    """Merge a recipe's settings into ``values``, except below paths that were given; return a note for the user.

    A recipe has settings for ``all`` images per class, and settings by ``ipc``; where the asked IPC is not listed, the
    nearest lower one serves, or the lowest.

    Raises:
        ConfigurationError: the recipe is malformed or sets something that does not exist.
    """
    if unknown := set(recipe) - {"all", "ipc"}:
        raise ConfigurationError(f"recipe {name}: unknown keys {sorted(unknown)}; it may have 'all' and 'ipc'")
    by_ipc = {int(key): value for key, value in (recipe.get("ipc") or {}).items()}
    note = f"recipe {name}"
    layers = [recipe.get("all") or {}]
    ipc = values.get("ipc")
    if by_ipc and isinstance(ipc, int):  # anything else is refused when the settings are validated
        used = max((known for known in by_ipc if known <= ipc), default=min(by_ipc))
        layers.append(by_ipc[used])
        note += f", ipc {used}" if used == ipc else f": none for ipc {ipc}, that of ipc {used} is used"
    for layer in layers:
        _merge(values, layer, "", tuple(given), name)
    return note


def _with_recipes(dataset: str) -> bool:
    """Tell whether there is a recipe for a data set, of any method."""
    from hydra.core.global_hydra import GlobalHydra

    path = GlobalHydra.instance().config_loader().get_search_path().get_path()
    return dataset in _data_with_recipes(tuple(str(element.path) for element in path))


@cache  # Hydra takes as long to list them as to compose a run
def _data_with_recipes(search_path: tuple[str, ...]) -> frozenset[str]:
    from hydra.core.global_hydra import GlobalHydra

    loader = GlobalHydra.instance().config_loader()
    methods = loader.list_groups("recipe")
    return frozenset(name for method in methods for name in loader.get_group_options(f"recipe/{method}"))


def _apply_scale(
    values: dict[str, Any], scales: Mapping[str, Mapping[str, Any]], given: Iterable[str], own_data: bool
) -> str:
    """Merge the settings of ``values["scale"]`` into ``values``, except below paths that were given.

    Args:
        values: all settings; its ``scale`` becomes the name of the one that was used, or None.
        scales: those for all methods, "shared", and the method's "own": by name, with the keys ``all``, ``most``,
            ``ipc`` and ``instead_of`` (conf/scales/shared.yaml).
        given: dotted paths of what was set by hand.
        own_data: nobody published how to distil these data, so "auto" finds a scale for this machine.

    Returns:
        A note for the user; "" where nothing was set.

    Raises:
        ConfigurationError: no such scale, or one that is malformed.
    """
    asked, given = values.get("scale"), tuple(given)
    layers = [layer for layer in map(scales.get, ("shared", "own")) if layer]
    known = {AUTO, *(name for layer in layers for name in layer)}
    if not isinstance(asked, str) or asked not in known:
        raise ConfigurationError(unknown_name(f"scale {asked!r}: no such choice", str(asked), known))
    name: str | None = asked
    note = f"scale {asked}"
    if asked == AUTO:
        on_gpu = kind_of_device(str(values["runtime"].get("device"))) == "cuda"
        name = ("workstation" if on_gpu else "laptop") if own_data else None
        note = (f"scale {name}, since nobody published how to distil this data set and "
                f"{'there is a GPU' if on_gpu else 'it runs on a CPU'}: network, experts, distillation and evaluation "
                f"are of that size; scale=published takes the method's own")  # fmt: skip
    values["scale"] = name
    if name in (None, PUBLISHED):
        return ""
    for layer in layers:
        part = dict(layer.get(name) or {})
        most, instead_of = part.pop("most", None) or {}, part.pop("instead_of", None) or {}
        _apply_recipe(values, part, given, f"scale {name}")
        _limit(values, most, "", given)
        for path, settings in instead_of.items():
            if not any(each == path or each.startswith(f"{path}.") or path.startswith(f"{each}.") for each in given):
                _merge(values, settings, "", given, f"scale {name}")
    return note


def _limit(target: dict[str, Any], most: Mapping[str, Any], prefix: str, given: tuple[str, ...]) -> None:
    """Lower the numbers in ``target`` that are above those in ``most``, except below paths that were given."""
    for key, limit in most.items():
        value, path = target.get(key), f"{prefix}{key}"
        if path in given:
            continue
        if isinstance(limit, dict):
            if isinstance(value, dict):
                _limit(value, limit, f"{path}.", given)
        elif isinstance(value, int | float) and value > limit:
            target[key] = limit


def _merge(target: dict[str, Any], source: dict[str, Any], prefix: str, given: tuple[str, ...], name: str) -> None:
    for key, value in source.items():
        path = f"{prefix}{key}"
        if path in given:
            continue
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value, f"{path}.", given, name)
        elif not any(each.startswith(f"{path}.") for each in given):
            if not prefix and key not in target:
                raise ConfigurationError(f"recipe {name}: no setting is called {key!r}")
            target[key] = deepcopy(value)


class Written(str):
    """A value that is written in Hydra's grammar of overrides already."""

    __slots__ = ()


def as_override(value: Any) -> str:
    """Return a value as Hydra's grammar of overrides has it."""
    if isinstance(value, Written):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_override(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(as_override, value)) + "]"
    if isinstance(value, str | Path):
        return hydra_text(str(value))
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Integral | Real):  # numpy's as well
        return repr(int(value) if isinstance(value, Integral) else float(value))
    raise ConfigurationError(f"a setting of type {type(value).__name__} is none of numbers, texts, lists and mappings; "
                             f"images in memory are dataset=Arrays(train=(images, labels), test=...)")  # fmt: skip
