"""``hoptm-bench verify``: is a finished run still what its card says it is?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev, variance
from typing import Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from hoptm_plugin.cards.card import Card, read_card
from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.cards.software import software_versions
from hoptm_plugin.cli.console import output_console
from hoptm_plugin.core.errors import ConfigurationError, RunFolderError
from hoptm_plugin.engine.distil import Distilled
from hoptm_plugin.engine.significance import holm, welch
from hoptm_plugin.exchange.loading import is_export, load_distilled
from hoptm_plugin.exchange.manifest import FILE_NAME as MANIFEST
from hoptm_plugin.exchange.manifest import read_manifest
from hoptm_plugin.runs.assembly import Workbench
from hoptm_plugin.runs.composition import trusted
from hoptm_plugin.runs.folder import (
    AVERAGE,
    CARD,
    CONFIG,
    FREE_RUNTIME,
    config_sha256,
    read_config,
)
from hoptm_plugin.runs.running import device_name, evaluate
from hoptm_plugin.runs.settings import validate_settings
from hoptm_plugin.runtime.progress import ProgressFactory
from hoptm_plugin.storage.files import sha256

# where and how it is computed; of the others nothing would be heeded
ALLOWED: Final = (*FREE_RUNTIME, "dataset.root", "dataset.download")
LEVEL, MOST_ERRORS, ROUNDING = 0.01, 10, 1e-9
KINDS: Final = {"evaluations": "synthetic set", "averaged": "moving average", "random_subset": "random subset"}


@dataclass(frozen=True)
class Comparison:
    """One architecture's accuracies in the card and now.

    Attributes:
        kind: what the networks were trained on.
        network: the architecture.
        stored: accuracies in the card.
        found: accuracies now.
        p: of equal means, corrected for all comparisons; None where no scatter is known.
        tolerance: of the difference of the means, where ``p`` is None.
    """

    kind: str
    network: str
    stored: tuple[float, ...]
    found: tuple[float, ...]
    p: float | None
    tolerance: float

    @property
    def difference(self) -> float:
        """Mean now less the card's."""
        return fmean(self.found) - fmean(self.stored)

    def _errors(self) -> float:
        """Return the difference of the means in standard errors."""
        error = math.sqrt(sum(variance(values) / len(values) for values in (self.stored, self.found)))
        return abs(self.difference) / error if error else math.inf

    @property
    def verdict(self) -> str:
        """Return "identical", "within noise" or "DIFFERS"."""
        if self.stored == self.found:
            return "identical"
        near = abs(self.difference) <= self.tolerance + ROUNDING
        agrees = near if self.p is None else self.p >= LEVEL and (near or self._errors() <= MOST_ERRORS)
        return "within noise" if agrees else "DIFFERS"


def compare(pairs: Sequence[tuple[str, Evaluation, Evaluation]], test_images: int) -> list[Comparison]:
    """Compare evaluations of a card with those of now, (kind, stored, found), by Welch's test at 1 %, Holm-corrected.

    Where no scatter is known (one network, or all alike on both sides), the means may differ by twice the standard
    error of an accuracy p over n test images, 2 sqrt(2 p (1 - p) / n) for the difference of two, and by one image.
    Beyond that, and beyond ten standard errors, means differ whatever the test says, which with two networks finds
    next to nothing.
    """
    values = [(_accuracies(stored), _accuracies(found)) for _, stored, found in pairs]
    corrected = holm([welch(found, stored).p for stored, found in values])
    comparisons = []
    for (kind, evaluation, _), (stored, found), p in zip(pairs, values, corrected, strict=True):
        mean = fmean(stored)
        tolerance = max(1 / test_images, 2 * math.sqrt(2 * mean * (1 - mean) / test_images))
        comparisons.append(Comparison(kind, evaluation.network, stored, found, p, tolerance))
    return comparisons


def _accuracies(evaluation: Evaluation) -> tuple[float, ...]:
    return tuple(value for value in evaluation.accuracy.values if value is not None)


def verify(folder: Path, changes: dict[str, Any], progress: ProgressFactory, checksums_only: bool) -> bool:
    """Recompute the checksums of a run, evaluate it again, compare with its card, and print all of it.

    Args:
        folder: of a finished run, of an evaluation, or an exported set (of which there are only checksums).
        changes: settings by their dotted path, beside those of the run; only what changes no result.
        progress: reports the training.
        checksums_only: train nothing.

    Returns:
        Whether everything agrees. Nothing is written.

    Raises:
        ConfigurationError: a setting that would change the result, or data that are not those of the card.
        RunFolderError: no finished run.
        FileFormatError: a damaged card, configuration or set.
    """
    if refused := [path for path in changes if path not in ALLOWED]:
        raise ConfigurationError(f"{', '.join(refused)}: would make it another run; verify takes only what changes no "
                                 f"result: {', '.join(ALLOWED)}")  # fmt: skip
    if is_export(folder):
        return _verify_export(folder)
    if not (folder / CARD).is_file():
        what = "the run in it is not finished" if (folder / CONFIG).is_file() else "holds no run"
        raise RunFolderError(f"{folder}: {what}; name the folder of a finished run, with {CARD}")
    card, stored = read_card(folder / CARD), read_config(folder / CONFIG)
    settings = _changed(trusted(stored, {}, list(changes)), changes) | {"loggers": []}
    problems = list(_check_files(folder, card, stored))
    if not checksums_only and not problems:
        problems += _check_results(folder, card, settings, progress)
    return _conclude(problems, "checksums verified, nothing was trained" if checksums_only else "verified")


def _changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    values = deepcopy(values)
    for path, value in changes.items():
        group, _, key = path.rpartition(".")
        target = values.get(group) if group else values
        if not isinstance(target, dict):
            raise ConfigurationError(f"{path}: {CONFIG} has no {group}")
        target[key] = value
    return values


def _conclude(problems: Sequence[str], good: str) -> bool:
    text = f"NOT verified: {'; '.join(problems)}" if problems else good
    output_console().print(Text(text, "bold red" if problems else "bold green"), soft_wrap=True)
    return not problems


def _verify_export(folder: Path) -> bool:
    manifest = read_manifest(folder)
    problems = list(_compare_files([(name, folder / name, digest) for name, digest in manifest.files.items()]))
    if not problems and manifest.format != "ddranking":
        load_distilled(folder)
    console = output_console()
    console.print(Text(f"{folder}: an exported set; its {len(manifest.files)} files were compared with {MANIFEST}; "
                       f"to judge it, use hoptm-bench eval synthetic={folder}"), soft_wrap=True)  # fmt: skip
    return _conclude(problems, "checksums verified")


def _check_files(folder: Path, card: Card, config: dict[str, Any]) -> Iterator[str]:
    """Print what became of each file that the card names; yield what is wrong."""
    files = [(name, _place(folder, name, config), digest) for name, digest in card.artefacts.items()]
    yield from _compare_files(files)
    if CONFIG not in card.artefacts:
        yield f"the card names no checksum of {CONFIG}"
    if config_sha256(config) != card.config_sha256:
        yield f"the settings in {CONFIG} are not those of the card"


def _place(folder: Path, name: str, config: dict[str, Any]) -> Path:
    """Return where a file lies; what an evaluation judged lies where its settings say."""
    judged = config.get("synthetic")
    if (folder / name).exists() or not isinstance(judged, str):
        return folder / name
    return Path(judged) / name if Path(judged).is_dir() else Path(judged)


def _compare_files(files: Sequence[tuple[str, Path, str]]) -> Iterator[str]:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("file")
    table.add_column("SHA-256")
    found = []
    for name, path, digest in files:
        state = "agrees" if path.is_file() and sha256(path) == digest else "CHANGED" if path.is_file() else "MISSING"
        table.add_row(Text(name), state)
        if state != "agrees":
            found.append(f"{name} is {'missing' if state == 'MISSING' else 'not what it was'}")
    output_console().print(table)
    yield from found


def _check_results(folder: Path, card: Card, values: dict[str, Any], progress: ProgressFactory) -> list[str]:
    """Evaluate again, print the comparison, and return what differs."""
    settings = validate_settings(values)
    bench = Workbench(settings, progress)
    if bench.data.fingerprint != card.dataset.fingerprint:
        raise ConfigurationError(
            f"dataset: the data are not those of the card: fingerprint {bench.data.fingerprint}, in the card "
            f"{card.dataset.fingerprint}; name the folder or file of the original data with dataset.root=PATH"
        )
    bench.check()
    found = evaluate(_distilled(folder, card, bench), bench, bench.evaluator())
    pairs = [
        (what, stored, Evaluation.from_metrics(stored.network, found[kind][stored.network]))
        for kind, what in KINDS.items()
        for stored in getattr(card, kind) or ()
        if found[kind] and stored.network in found[kind]
    ]
    comparisons = compare(pairs, card.tested)
    _print_results(comparisons, card, bench)
    wanted = sum(len(getattr(card, kind) or ()) for kind in KINDS)
    missing = [] if len(pairs) == wanted else [f"{wanted - len(pairs)} evaluations of the card were not repeated"]
    return missing + [
        f"{each.network} on the {each.kind}: {100 * each.difference:+.2f} points"
        for each in comparisons
        if each.verdict == "DIFFERS"
    ]


def _distilled(folder: Path, card: Card, bench: Workbench) -> Distilled:
    if card.ipc is None:
        return Distilled(bench.parts.method.setup(bench.task), None)
    named = bench.settings.synthetic or folder
    average = named / AVERAGE
    sets = [load_distilled(named), load_distilled(average) if card.averaged is not None else None]
    return Distilled(*(None if each is None else each.to(bench.device) for each in sets))  # type: ignore[arg-type]


def _print_results(comparisons: Sequence[Comparison], card: Card, bench: Workbench) -> None:
    console, table = output_console(), Table(box=box.SIMPLE_HEAD)
    for column in ("trained on", "network", "card, %", "now, %", "difference", "verdict"):
        table.add_column(column, justify="left" if column in ("trained on", "network", "verdict") else "right")
    for each in comparisons:
        p = "" if each.p is None or each.verdict == "identical" else f" (p = {each.p:.2g})"
        table.add_row(each.kind, Text(each.network), _percent(each.stored), _percent(each.found),
                      f"{100 * each.difference:+.2f}", each.verdict + p)  # fmt: skip
    console.print(table)
    now = software_versions() | {"device": device_name(bench)}
    then = card.software.model_dump() | {"device": card.cost.device}
    changed = [f"{name} {then[name]}, now {now[name]}" for name in now if now[name] != then[name]]
    if changed and any(each.verdict != "identical" for each in comparisons):
        console.print(Text(f"made with other software or hardware: {'; '.join(changed)}"), soft_wrap=True)


def _percent(values: Sequence[float]) -> str:
    return f"{100 * fmean(values):.2f} ± {100 * pstdev(values):.2f}"
