"""``hoptm-bench compare --scores``: tables with scores, or the commands of the runs that are missing for them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import yaml

from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.significance import Test
from hoptm_plugin.cli.help import PROGRAM
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError
from hoptm_plugin.core.plugins import configuration_packages
from hoptm_plugin.engine.settings import Protocol
from hoptm_plugin.storage.run_files import CONFIG, SYNTHETIC, read_config
from hoptm_plugin.tables.cells import RANDOM, FoundCard, distillation_seed
from hoptm_plugin.tables.compare import HARMLESS, Comparison, compare
from hoptm_plugin.tables.scores import FULL, Missing, ScoreName, scored, tabled

Values: TypeAlias = Mapping[str, Any]
NO_TEXT = ("null", "true", "false", "nan", "inf")  # what Hydra takes for something else


def compare_as_asked(
    cards: Sequence[FoundCard], scores: ScoreName | Literal["all"] | None, *, against: str | None, tests: Test | None
) -> list[Comparison]:
    """Compare cards, with scores if any are asked for.

    Raises:
        ConfigurationError: as :func:`compare_with_scores` and :func:`hoptm_plugin.tables.compare.compare` say.
    """
    if scores is None:
        return compare(cards, against=against, tests=tests)
    return compare_with_scores(cards, scores, against=against, tests=tests)


def compare_with_scores(
    cards: Sequence[FoundCard], scores: ScoreName | Literal["all"], *, against: str | None, tests: Test | None
) -> list[Comparison]:
    """Compare cards as :func:`hoptm_plugin.tables.compare.compare` does, with the scores of distilled sets.

    Raises:
        ConfigurationError: runs that the scores need are missing: all of them, as commands; or there is no set.
    """
    wanted: tuple[ScoreName, ...] = get_args(ScoreName) if scores == "all" else (scores,)
    comparisons, missing = scored(compare(tabled(cards), against=against, tests=tests), cards, wanted)
    if missing:
        order = ("again", RANDOM, FULL)
        lines = [line for need in sorted(missing, key=lambda need: order.index(need.kind)) for line in _lines(need)]
        lines = list(dict.fromkeys(lines))
        count = "a run is" if len(lines) == 1 else f"{len(lines)} runs are"
        raise ConfigurationError([
            f"--scores {scores}: {count} missing; make what follows, and compare again with the new folders as well",
            *(f"  {line}" for line in lines),
        ])  # fmt: skip
    if not any(comparison.scores for comparison in comparisons):
        raise ConfigurationError(f"--scores {scores}: only distilled sets have scores, and no card is of one; add runs")
    return comparisons


def _lines(need: Missing) -> list[str]:
    """Return the commands that make what is missing, each with a comment on what it is for."""
    if need.kind == "again":
        found = need.like[0]
        return [f"{_judge_again(need, found)}  # {_purpose(need, found[1])}"]
    lines, left = [], set(need.networks)
    while left:
        like = [found for found in need.like if left & _networks(found[1])]
        best = max(like, key=lambda found: (_config(found) is not None, len(left & _networks(found[1]))))
        lines.append(f"{_run(need, best)}  # {_purpose(need, best[1])}")
        left -= _networks(best[1])
    return lines


def _purpose(need: Missing, card: Card) -> str:
    scores = " and ".join(name.upper() for name in sorted(need.scores, reverse=True))
    if need.kind == FULL:
        return f"all images of {card.dataset.name}, for {scores}"
    again = need.kind == "again"
    what = f"{card.title}, seed {distillation_seed(card)}" if again else "random subset"
    what += f", IPC {card.ipc}"
    if need.augment is not None:
        what += ", without augmentation" if need.augment == "none" else ", with augmentation, then more may be missing"
    if need.labels is not None:
        unknown = ", since the card does not say whether it has them anyway" if card.labels is None else ""
        what += f", under {'its own' if need.labels == 'stored' else need.labels} labels{unknown}"
    return f"{what}, for {scores}"


def _networks(card: Card) -> set[str]:
    return {evaluation.network for evaluation in card.evaluations}


def _config(found: FoundCard) -> dict[str, Any] | None:
    """Return the settings that a card was made with, or None where they do not lie beside it."""
    try:
        config = read_config(found[0].parent / CONFIG)
    except FileFormatError:
        return None
    whole = all(isinstance(config.get(group), dict) for group in ("dataset", "network", "augment", "protocol"))
    return config if whole and isinstance(config.get("synthetic"), str | None) else None


def _judge_again(need: Missing, found: FoundCard) -> str:
    """Return the command that judges the set of a card again, all else alike."""
    config, where = _config(found), found[0].parent
    if config is not None and not (where / SYNTHETIC).is_file():
        where = Path(config.get("synthetic") or where / SYNTHETIC)  # the card is of an evaluation alone
    change = {key: value for key, value in (("augment", need.augment), ("protocol.labels", need.labels)) if value}
    if config is None or not where.exists():
        settings = [f"{key}={value}" for key, value in change.items()]
        return _command("eval", "synthetic=RUN", *settings) + f"  # RUN: where the set of {found[0]} is"
    stored = (where if where.is_dir() else where.parent) / CONFIG
    base = (_config((stored, found[1])) or _unset()) if stored.is_file() else _unset()
    wanted = config | {"protocol": config["protocol"] | {"random_subset": need.random}}
    settings = [f"{key}={value}" for key, value in change.items()]
    return _command("eval", f"synthetic={_text(str(_short(where)))}", *settings, *_overrides(wanted, base, change))


def _run(need: Missing, found: FoundCard) -> str:
    """Return the command that evaluates random images, or all images, as the set of a card was."""
    config = _config(found)
    if config is None:
        return f"{PROGRAM} run method={need.kind} with data, network and protocol of {found[0]}, which has no {CONFIG}"
    protocol = {key: value for key, value in config["protocol"].items() if key not in (*HARMLESS, "labels")}
    if need.kind == RANDOM:
        protocol["random_subset"] = False  # it is one itself
    change = {"augment": need.augment} if need.augment else {}
    settings = _overrides(config | {"protocol": protocol}, _unset(), change)
    settings += [f"ipc={found[1].ipc}"] if need.kind == RANDOM else []
    settings += [f"{key}={value}" for key, value in change.items()]
    return _command("run", f"method={need.kind}", *settings)


def _unset() -> dict[str, Any]:
    """Return what holds where nothing is given; method=full has epochs of its own, and data sets choose protocols."""
    protocol = Protocol.model_validate({}).model_dump() | {"labels": "stored", "precision": "float32", "split": "test"}
    return {"protocol": protocol | {"epochs": None}, "networks": None, "seed": 0, "data_seed": 0}


def _command(command: str, *settings: str) -> str:
    return shlex.join([PROGRAM, command, *settings])


def _short(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _overrides(wanted: Values, base: Values, changed: Values) -> list[str]:
    """Return the command-line settings that turn ``base`` into ``wanted``, except for those that are changed anyway."""
    settings: list[str] = []
    for group in ("dataset", "network", "augment"):
        if group not in changed and wanted[group] != base.get(group):
            settings += _chosen(group, wanted[group])
    settings += _differing(wanted["protocol"], base["protocol"], "protocol")
    plain = {key: wanted[key] for key in ("networks", "seed", "data_seed") if key in wanted}
    settings += _differing(plain, {"networks": None, "seed": 0, "data_seed": 0} | dict(base))
    return [each for each in settings if each.partition("=")[0] not in changed]


def _chosen(group: str, wanted: Values) -> list[str]:
    """Return the choice of a settings group that is nearest to what is wanted, and what differs from it."""
    options = {
        name: _differing(wanted, values, group)
        for name, values in _choices(group).items()
        if values.get("name") == wanted.get("name")
    }
    if not options:
        return _differing(wanted, {}, group)
    name = min(options, key=lambda option: (len(options[option]), option))
    return [f"{group}={name}", *options[name]]


def _choices(group: str) -> dict[str, dict[str, Any]]:
    """Return the YAML of a settings group by name, plug-ins' included."""
    found: dict[str, dict[str, Any]] = {}
    for package in ("hoptm_plugin.conf", *(package for _, package in configuration_packages())):
        folder = files(package) / group
        for file in folder.iterdir() if folder.is_dir() else ():
            if file.name.endswith(".yaml"):
                values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
                values.pop("defaults", None)
                found.setdefault(file.name.removesuffix(".yaml"), values)
    return found


def _differing(wanted: Values, base: Values, prefix: str = "") -> list[str]:
    """Return settings for all leaves in which ``wanted`` is not ``base``."""
    settings = []
    for key, value in wanted.items():
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            settings += _differing(value, base[key], path)
        elif key not in base or base[key] != value:
            settings.append(f"{'' if key in base else '++'}{path}={_text(value)}")
    return settings


def _text(value: Any) -> str:
    """Return a value as Hydra's grammar of overrides has it."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, str):
        word = re.fullmatch(r"[A-Za-z_/][\w/.-]*", value)
        if word and value.lower() not in NO_TEXT:
            return value
        # a stored text is no interpolation, and must not become one on whatever machine the command is given
        return "'" + value.replace("'", "\\'").replace("${", "\\${") + "'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
