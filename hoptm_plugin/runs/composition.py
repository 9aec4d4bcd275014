"""How settings from several places become one: composed groups, recipes, stored runs, the command line."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

from hoptm_plugin.core.errors import ConfigurationError, RunFolderError
from hoptm_plugin.core.registry import checked
from hoptm_plugin.runs.folder import CONFIG, FREE_RUNTIME, read_config

# a recipe belongs to these two, so choosing them does not shut it out
RECIPE_GROUPS = ("method", "dataset")
# settings that leave a run what was published: any other one, given on the command line, drops ``reported``
LEAVES_REPORTED = (
    "method=", "dataset=", "dataset.root", "dataset.download", "ipc", "seed", "data_seed", "networks", "resume",
    "worker", "synthetic", "method_title", "tuning", "note", "loggers", *FREE_RUNTIME, "experts.root", "experts.seed",
    "hydra", "hydra/launcher", "distillation.checkpoint_every", "distillation.log_every", "protocol.random_subset",
)  # fmt: skip

STORES = "[0-9a-f]" * 16 + "/manifest.json"  # of experts, by the digests of their recipes


def explicit_paths(overrides: Iterable[str], groups: set[str]) -> list[str]:
    """Return the dotted paths that command-line overrides set; a chosen group stands for all below it.

    ``method`` and ``dataset`` are marked "method=" and "dataset=", because a recipe may still fill in below them.
    """
    paths = []
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0].partition("@")[0]
        paths.append(f"{key}=" if key in groups and key in RECIPE_GROUPS else key)
    return paths


def apply_recipe(values: dict[str, Any], recipe: dict[str, Any], explicit: list[str], name: str) -> str:
    """Merge a recipe's settings into ``values``, except below explicit paths; return a note for the user.

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
        _merge(values, layer, "", explicit, name)
    drop_reported(values, explicit)
    return note


def drop_reported(values: dict[str, Any], explicit: list[str]) -> None:
    """Forget what was published where the command line changed what it was published for."""
    given = [path for path in explicit if not _below(path, ("reported",))]
    if len(given) == len(explicit) and changes_what_was_published(given):
        values["reported"] = None


def changes_what_was_published(explicit: Iterable[str]) -> bool:
    """Say whether settings at these paths make a run another than the one whose results were published."""
    return not all(_below(path, LEAVES_REPORTED) for path in explicit)


def _below(path: str, places: Iterable[str]) -> bool:
    return any(path == place or path.startswith(f"{place}.") for place in places)


def _merge(target: dict[str, Any], source: dict[str, Any], prefix: str, explicit: list[str], name: str) -> None:
    for key, value in source.items():
        path = f"{prefix}{key}"
        if path in explicit:
            continue
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value, f"{path}.", explicit, name)
        elif not any(given.startswith(f"{path}.") for given in explicit):
            if not prefix and key not in target:
                raise ConfigurationError(f"recipe {name}: no setting is called {key!r}")
            target[key] = deepcopy(value)


def overlay(stored: dict[str, Any], values: dict[str, Any], explicit: list[str]) -> dict[str, Any]:
    """Return ``stored`` with what the command line set explicitly taken from ``values``."""
    result = deepcopy(stored)
    for path in explicit:
        if path == "method=":
            result |= {key: deepcopy(values[key]) for key in ("method", "method_id", "method_title", "method_cites")}
        else:
            _take(result, values, path.rstrip("=").split("."))
    return result


def _take(target: dict[str, Any], source: dict[str, Any], keys: list[str]) -> None:
    """Make ``target`` as ``source`` is at the path ``keys``, absent if it is absent there."""
    key, *inner = keys
    if key not in source:
        target.pop(key, None)
    elif inner and isinstance(source[key], dict) and isinstance(target.get(key), dict):
        _take(target[key], source[key], inner)
    else:
        target[key] = deepcopy(source[key])


def resumed(values: dict[str, Any], explicit: list[str], folder: Path) -> dict[str, Any]:
    """Return the settings to run with in ``folder``: stored ones, command line on top, where a run is resumed there.

    Raises:
        RunFolderError: ``resume`` is true and there is no run.
    """
    resume = checked(bool | Literal["auto"], values["resume"], "resume")
    if resume == "auto":
        resume = (folder / CONFIG).exists()
    values = values | {"resume": resume}
    if not resume:
        return values
    if not (folder / CONFIG).exists():
        raise RunFolderError(f"{folder}: holds no run to resume; name its folder with hydra.run.dir=PATH")
    return trusted(overlay(read_config(folder / CONFIG), values, explicit), values, explicit, folder / CONFIG)


def trusted(
    stored: dict[str, Any], values: dict[str, Any], explicit: list[str], source: Path | None = None
) -> dict[str, Any]:
    """Return settings from a file that may come from elsewhere, which must not say where on this machine to write.

    Args:
        stored: the file's settings, with those of the command line on top.
        values: what this command would use without the file.
        explicit: paths that the command line set.
        source: the file, where experts may be trained; None where none are.

    Raises:
        ConfigurationError: experts would be written into a folder that only the file names, and that holds none.
    """
    experts, dataset = stored.get("experts"), stored.get("dataset")
    if isinstance(dataset, dict) and "dataset.download" not in explicit and dataset.get("download"):
        stored = stored | {"dataset": dataset | {"download": False}}  # it was downloaded already
    if source is None or "experts.root" in explicit:
        return stored
    if not isinstance(experts, dict) or not isinstance(experts.get("root"), str):
        return stored  # which is refused when it is validated
    root = Path(experts["root"])
    usual = (Path("experts"), Path(str(values["experts"]["root"])))  # without and with HOPTM_EXPERTS
    if root not in usual and not any(root.glob(STORES)):
        raise ConfigurationError(
            f"experts.root: {source} names {root}, where no experts lie; to train them there give experts.root={root}, "
            f"or name another folder"
        )
    return stored
