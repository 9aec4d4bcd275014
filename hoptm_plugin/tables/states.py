"""Which runs lie in folders, in what state they are, and in which settings they differ; nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from hoptm_plugin.cards.card import Card, read_card
from hoptm_plugin.cards.words import percent
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError
from hoptm_plugin.core.text import one_line, unknown_name
from hoptm_plugin.engine.checkpoint import KIND
from hoptm_plugin.engine.distil import CHECKPOINT
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.files import read_bounded
from hoptm_plugin.storage.locks import held_by
from hoptm_plugin.storage.paths import without_paths
from hoptm_plugin.storage.run_files import CARD, CONFIG, FAILURE, LOCK, METRICS, is_config, read_config
from hoptm_plugin.storage.tensors import read_header
from hoptm_plugin.tables.labels import differing, flat, found_at, names_of, natural, settings_of, value_text

State: TypeAlias = Literal["finished", "running", "interrupted", "failed", "damaged"]
LARGEST_FAILURE: Final = 4096
OWN: Final = ("method", "dataset", "ipc", "seed")  # which have columns of their own
ELSEWHERE: Final = ("ipc", "synthetic", "method_title", "method_cites", "reported")  # no settings to tell runs apart by
Read: TypeAlias = tuple["ListedRun", dict[str, Any]]
Flat: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class ListedRun:
    """A run's folder, as :func:`list_runs` shows it.

    Attributes:
        folder: its path, as it was found.
        state: whether it is finished, at work, interrupted, failed, or cannot be read.
        told: more on the state in words: the iteration it has come to, who works on it, why it failed.
        method: its title; "?" where the folder does not tell.
        dataset: name.
        ipc: images per class; None where all images are trained on, or where it is not known.
        seed: of the run.
        card: the result of a finished one.
        changed: when it was worked on last, by its files' times.
        settings: in which it differs from others of the list, in short words, with their values.
        paths: likewise by dotted path.
    """

    folder: Path
    state: State
    told: str
    method: str = "?"
    dataset: str = "?"
    ipc: int | None = None
    seed: int | None = None
    card: Card | None = None
    changed: datetime | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, Any] = field(default_factory=dict)

    @property
    def accuracy(self) -> tuple[float | None, float | None]:
        """Mean accuracy and population standard deviation of the first network, fractions."""
        first = None if self.card is None else self.card.evaluations[0].accuracy
        return (None, None) if first is None else (first.mean, first.std if len(first.values) > 1 else None)

    @property
    def result(self) -> str:
        """The accuracy in percent, and on what where that is not the test split; "" where there is none."""
        if self.card is None:
            return ""
        return f"{percent(*self.accuracy)}{'' if self.card.split == 'test' else f' ({self.card.split})'}"

    def record(self) -> dict[str, Any]:
        """Return what programs read of it: plain values, the accuracy as a fraction."""
        mean, std = self.accuracy
        return {
            "folder": str(self.folder), "state": self.state, "told": self.told, "method": self.method,
            "dataset": self.dataset, "ipc": self.ipc, "seed": self.seed, "settings": dict(self.paths),
            "accuracy": mean, "accuracy_std": std, "split": None if self.card is None else self.card.split,
            "changed": None if self.changed is None else self.changed.isoformat(timespec="seconds"),
        }  # fmt: skip


def list_runs(
    folders: Iterable[str | Path] | str | Path = "runs", *filters: str, state: State | None = None
) -> list[ListedRun]:
    """List the runs in folders and below, with their states, what sets them apart, and their results.

    A run that cannot be read is listed as such. The names of settings in ``filters`` are those of the list, or dotted
    paths or their ends; what runs differ in is found before they are filtered.

    Args:
        folders: to search.
        filters: ``name=value``, all of which hold for what is listed: "dataset=digits", "kappa.start=1e-6".
        state: only runs in this state.

    Raises:
        ConfigurationError: a folder that is none, a filter that no run could fit, or an unknown state.
    """
    given = [folders] if isinstance(folders, str | Path) else list(folders)
    if state not in (None, *get_args(State)):
        raise ConfigurationError(unknown_name(f"state {state!r}: no such state", str(state), get_args(State)))
    for folder in given:
        if not Path(folder).is_dir():
            raise ConfigurationError(f"{folder}: no such folder; name folders with runs in them")
    found = {place.resolve(): place for folder in given for place in _folders(Path(folder))}
    read = [_read(place) for place in sorted(found.values(), key=lambda place: natural(str(place)))]
    runs = list(zip(_with_settings(read), (flat(settings) for _, settings in read), strict=True))
    wanted = [_filter(each, runs) for each in filters]
    return [run for run, settings in runs if state in (None, run.state) and all(fits(run, settings) for fits in wanted)]


def unfinished_in(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Yield the folders of runs without a card, in folders and below, each once."""
    seen = set()
    for path in paths:
        for folder in _folders(Path(path)) if Path(path).is_dir() else ():
            if not (folder / CARD).exists() and folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield folder


def _folders(root: Path) -> list[Path]:
    configs = [path for path in root.rglob(CONFIG) if is_config(path)]
    inside = root.resolve()  # a link that leads out of it is not followed
    return sorted({path.parent for path in [*configs, *root.rglob(CARD)] if path.resolve().is_relative_to(inside)})


def _read(folder: Path) -> Read:
    """Return a run, and its settings as far as they are known."""
    try:
        settings: RunSettings | None = RunSettings.of(read_config(folder / CONFIG))
        fault = ""
    except (ConfigurationError, FileFormatError) as error:
        settings, fault = None, one_line(str(error))
    run = replace(_state(folder, settings), changed=_changed(folder))
    card, told = run.card, dict[str, Any]()
    if settings is not None:
        told = without_paths(settings.deciding(["result", "judgement"]))
        run = replace(run, method=settings.method_title, ipc=settings.ipc, seed=settings.seed,
                      dataset=str(settings.dataset.get("name")))  # fmt: skip
    elif card is not None:
        told = {**(settings_of((folder / CARD, card)) or {}), "protocol": card.protocol}
    else:
        run = replace(run, state="damaged", told=run.told if run.state == "damaged" else fault)
    if card is not None:
        run = replace(run, method=card.title, dataset=card.dataset.name, ipc=card.ipc, seed=card.seed)
    return run, {name: value for name, value in told.items() if name not in ELSEWHERE}


def _state(folder: Path, settings: RunSettings | None) -> ListedRun:
    if (folder / CARD).exists():
        try:
            return ListedRun(folder, "finished", "", card=read_card(folder / CARD))
        except FileFormatError as error:
            return ListedRun(folder, "damaged", one_line(str(error)))
    reached = _reached(folder, settings)
    if who := held_by(folder / LOCK):
        return ListedRun(folder, "running", f"{reached}, by {one_line(who)}")
    if (folder / FAILURE).is_file():
        try:
            text = read_bounded(folder / FAILURE, LARGEST_FAILURE, "note of a failure").decode(errors="replace")
        except FileFormatError as error:
            text = str(error)
        return ListedRun(folder, "failed", f"{reached}: {one_line(text.strip())}")
    return ListedRun(folder, "interrupted", reached)


def _reached(folder: Path, settings: RunSettings | None) -> str:
    """Return how far a distillation has come, by its checkpoint."""
    try:
        done = read_header(folder / CHECKPOINT, KIND)[1]["values"]["done"]
    except (FileFormatError, LookupError, TypeError):
        return "before its first checkpoint"
    of = "" if settings is None else f" of {settings.distillation.iterations:,}"
    return f"at iteration {done:,}{of}" if isinstance(done, int) else "at an unknown iteration"


def _changed(folder: Path) -> datetime | None:
    times = []
    for name in (CARD, CHECKPOINT, METRICS, FAILURE, CONFIG):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return datetime.fromtimestamp(max(times)).astimezone() if times else None


def _with_settings(read: Sequence[Read]) -> list[ListedRun]:
    """Return the runs with what sets each apart from others of its method and data set."""
    groups: dict[tuple[str, str], list[int]] = {}
    for number, (run, settings) in enumerate(read):
        source = settings.get("dataset") or {}  # a finished run knows more of its data's name than one that is not
        groups.setdefault((run.method, str(source.get("name", run.dataset))), []).append(number)
    runs = [run for run, _ in read]
    for numbers in groups.values():
        known = {number: read[number][1] for number in numbers if read[number][1]}
        variants = {number: flat(settings) for number, settings in known.items()}
        paths = differing(list(variants.values()), [None] * len(variants))
        names = names_of(paths, list(known.values())) if paths else {}
        for number, variant in variants.items():
            told = {name: value_text(found_at(variant, path)) for path, name in names.items()}
            runs[number] = replace(runs[number], settings=told, paths={path: variant.get(path) for path in names})
    return runs


def _filter(text: str, runs: Sequence[tuple[ListedRun, Flat]]) -> Callable[[ListedRun, Flat], bool]:
    """Return what tells whether a run and its settings fit ``name=value``.

    Raises:
        ConfigurationError: it is malformed, or names what no run has, or several settings.
    """
    name, given, value = text.partition("=")
    if not given or not name:
        raise ConfigurationError(f"{text!r}: no filter; give name=value, such as dataset=digits or kappa.start=1e-6")
    if name in OWN:
        others = ("method_id", "dataset.name")  # as the command line calls them
        return lambda run, settings: value in (
            str(getattr(run, name)), *(str(settings.get(each)) for each in others if each.startswith(name))
        )  # fmt: skip
    shorts = {short: path for run, _ in runs for path, short in zip(run.paths, run.settings, strict=True)}
    paths = {path for _, settings in runs for path in settings}
    found = {path for path in paths if f".{path}".removesuffix(".name").endswith(f".{name}") or path == name}
    found = {name} if name in found else found or {path for short, path in shorts.items() if short == name}
    if not found:
        raise ConfigurationError(unknown_name(f"{text}: no run has such a setting", name, [*OWN, *shorts]))
    if len(found) > 1:
        raise ConfigurationError(f"{text}: may be any of {', '.join(sorted(found))}; name one of them")
    (path,) = found
    return lambda run, settings: path in settings and _equal(settings[path], value)


def _equal(value: Any, text: str) -> bool:
    try:
        return not isinstance(value, bool) and float(value) == float(text)
    except (TypeError, ValueError):
        return text in (value_text(value), str(value), json.dumps(value, ensure_ascii=False))
