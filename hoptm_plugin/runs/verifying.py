"""Is a finished run still what its card says it is?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance
from typing import Final, Literal

from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.cards.software import software_versions
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.data.in_memory import Arrays
from hoptm_plugin.engine.distil import Distilled
from hoptm_plugin.engine.significance import holm, welch
from hoptm_plugin.exchange.loading import is_export, load_distilled
from hoptm_plugin.exchange.manifest import read_manifest
from hoptm_plugin.exchange.origin import source_data
from hoptm_plugin.runs.assembly import Workbench, device_name, workbench
from hoptm_plugin.runs.fitting import other_data
from hoptm_plugin.runs.opening import asked, on_this_machine, opened
from hoptm_plugin.runs.running import judge
from hoptm_plugin.runtime.bars import usual_progress
from hoptm_plugin.runtime.progress import ProgressFactory
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.files import as_path, sha256
from hoptm_plugin.storage.run_files import AVERAGE, CONFIG

LEVEL, MOST_ERRORS, ROUNDING = 0.01, 10, 1e-9
KINDS: Final = {"evaluations": "synthetic set", "averaged": "moving average", "random_subset": "random subset"}


@dataclass(frozen=True)
class Repeated:
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


def compared(pairs: Sequence[tuple[str, Evaluation, Evaluation]], test_images: int) -> list[Repeated]:
    """Compare evaluations of a card with those of now, (kind, stored, found), by Welch's test at 1 %, Holm-corrected.

    Where no scatter is known (one network, or all alike on both sides), the means may differ by twice the standard
    error of an accuracy p over n test images, 2 sqrt(2 p (1 - p) / n) for the difference of two, and by one image.
    Beyond that, and beyond ten standard errors, means differ whatever the test says, which with two networks finds
    next to nothing.
    """
    values = [(_accuracies(stored), _accuracies(found)) for _, stored, found in pairs]
    corrected = holm([welch(found, stored).p for stored, found in values])
    repeated = []
    for (kind, evaluation, _), (stored, found), p in zip(pairs, values, corrected, strict=True):
        mean = fmean(stored)
        tolerance = max(1 / test_images, 2 * math.sqrt(2 * mean * (1 - mean) / test_images))
        repeated.append(Repeated(kind, evaluation.network, stored, found, p, tolerance))
    return repeated


def _accuracies(evaluation: Evaluation) -> tuple[float, ...]:
    return tuple(value for value in evaluation.accuracy.values if value is not None)


@dataclass(frozen=True)
class CheckedFile:
    """A file and what became of it since its checksum was written down."""

    name: str
    state: Literal["agrees", "CHANGED", "MISSING"]


@dataclass(frozen=True)
class Verification:
    """What :func:`hoptm_plugin.verify` found.

    Attributes:
        folder: of the run, the evaluation or the exported set.
        exported: it is an exported set, of which there are checksums alone.
        trained: networks were trained again.
        files: with their checksums compared.
        networks: accuracies in the card and now.
        problems: all that does not agree, in words; empty where everything does.
        changed: software and hardware that is not what the card was made with, in words.
    """

    folder: Path
    exported: bool
    trained: bool
    files: tuple[CheckedFile, ...]
    networks: tuple[Repeated, ...] = ()
    problems: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether everything agrees."""
        return not self.problems


def verify(
    folder: str | Path, *overrides: str, checksums_only: bool = False, dataset: Arrays | None = None,
    progress: ProgressFactory | None = None,
) -> Verification:  # fmt: skip
    """Recompute the checksums of a run, evaluate it again, and compare with its card; nothing is written.

    Args:
        folder: of a finished run, of an evaluation, or an exported set (of which there are only checksums).
        overrides: settings that change no result: where the data are, and how it is computed
            (``"dataset.root=PATH"``, ``"runtime.device=cpu"``).
        checksums_only: train nothing.
        dataset: the data of a run that was made with data in memory.
        progress: reports the training; None: bars on a terminal or in a notebook, else nothing.

    Raises:
        ConfigurationError: a setting that would change the result, or data that are not those of the card.
        RunFolderError: no finished run.
        FileFormatError: a damaged card, configuration or set.
    """
    folder = as_path(folder, "folder")
    changes = asked(overrides, dataset)
    if is_export(folder):
        if changes:
            raise ConfigurationError(f"{', '.join(changes)}: {folder} is an exported set, of which only checksums are "
                                     f"compared; no setting is heeded")  # fmt: skip
        return _verify_export(folder)
    card, stored = opened(folder, changes, "verify")
    files = list(_checked_files(folder, card, stored))
    problems = [*_wrong(files), *_wrong_settings(card, stored)]
    problems += [] if problems or card.ipc is None else _wrong_set(folder, card, stored)
    if checksums_only or problems:
        return Verification(folder, False, False, tuple(files), problems=tuple(problems))
    with workbench(on_this_machine(stored, changes), progress or usual_progress()) as bench:
        networks, missing = _evaluated_again(folder, card, bench)
        changed = _changes(card, bench)
    differing = [
        f"{each.network} on the {each.kind}: {100 * each.difference:+.2f} points"
        for each in networks
        if each.verdict == "DIFFERS"
    ]
    return Verification(folder, False, True, tuple(files), tuple(networks), (*missing, *differing), changed)


def _verify_export(folder: Path) -> Verification:
    manifest = read_manifest(folder)
    files = [_checked(name, folder / name, digest) for name, digest in manifest.files.items()]
    problems = _wrong(files)
    if not problems and manifest.format != "ddranking":
        load_distilled(folder)
    return Verification(folder, True, False, tuple(files), problems=tuple(problems))


def _checked_files(folder: Path, card: Card, settings: RunSettings) -> Iterator[CheckedFile]:
    """Yield what became of each file that the card names; what an evaluation judged lies where its settings say."""
    for name, digest in card.artefacts.items():
        judged = settings.synthetic
        path = folder / name
        if not path.exists() and judged is not None:
            path = judged / name if judged.is_dir() else judged
        yield _checked(name, path, digest)


def _checked(name: str, path: Path, digest: str) -> CheckedFile:
    if not path.is_file():
        return CheckedFile(name, "MISSING")
    return CheckedFile(name, "agrees" if sha256(path) == digest else "CHANGED")


def _wrong(files: Iterable[CheckedFile]) -> list[str]:
    said = {"MISSING": "missing", "CHANGED": "not what it was"}
    return [f"{file.name} is {said[file.state]}" for file in files if file.state != "agrees"]


def _wrong_settings(card: Card, settings: RunSettings) -> list[str]:
    problems = [] if CONFIG in card.artefacts else [f"the card names no checksum of {CONFIG}"]
    if missing := settings.unknown_parts():
        problems.append(f"{', '.join(missing)}: not installed here, so what the settings decide cannot be told")
    elif settings.digest() != card.config_sha256:
        problems.append(f"the settings in {CONFIG} are not those of the card")
    return problems


def _wrong_set(folder: Path, card: Card, settings: RunSettings) -> list[str]:
    """Return what the set says of itself and its card otherwise; what either does not say is left out."""
    synthetic = load_distilled(settings.synthetic or folder)
    source, info = source_data(synthetic, "the set"), synthetic.info
    run = card.cost.distill_s is not None  # an evaluation's data may be the same with other preprocessing
    data = card.distilled_from or (card.dataset if run else None)
    said = {
        "method": (info.get("method_id"), card.method),
        "images per class": (info.get("ipc"), card.ipc),
        "seed": (info.get("seed"), card.distillation_seed),
        "data's fingerprint": (source and source.fingerprint, data and data.fingerprint),
        "number of images": (len(synthetic.images), card.images_stored),
        "number of images to train on": (len(synthetic), card.images_trained_on),
    }
    return [
        f"the {what} of the set is {mine}, in the card {theirs}"
        for what, (mine, theirs) in said.items()
        if mine != theirs and None not in (mine, theirs)
    ]


def _evaluated_again(folder: Path, card: Card, bench: Workbench) -> tuple[list[Repeated], list[str]]:
    """Return the networks of the card and of now, and what could not be repeated."""
    if bench.data.fingerprint != card.dataset.fingerprint:
        raise ConfigurationError(
            f"dataset: the data are not those of the card: fingerprint {bench.data.fingerprint}, in the card "
            f"{card.dataset.fingerprint}; name the folder or file of the original data with dataset.root=PATH"
        )
    bench.check(distils=False)
    distilled = _distilled(folder, card, bench)
    found = judge(distilled, bench, bench.evaluator())
    pairs = [
        (what, stored, Evaluation.from_metrics(stored.network, found[kind][stored.network]))
        for kind, what in KINDS.items()
        for stored in getattr(card, kind) or ()
        if found[kind] and stored.network in found[kind]
    ]
    wanted = sum(len(getattr(card, kind) or ()) for kind in KINDS)
    missing = [] if len(pairs) == wanted else [f"{wanted - len(pairs)} evaluations of the card were not repeated"]
    source = source_data(distilled.synthetic, "the set")
    other = other_data(source, bench, lambda train: None)
    mine, theirs = ((each and each.fingerprint) or card.dataset.fingerprint for each in (other, card.distilled_from))
    if source is not None and mine != theirs:
        missing.append(f"the set was distilled from data of fingerprint {mine}, in the card {theirs}")
    return compared(pairs, card.tested), missing


def _distilled(folder: Path, card: Card, bench: Workbench) -> Distilled:
    if card.ipc is None:
        return Distilled(bench.parts.method.setup(bench.task), None)
    named = bench.settings.synthetic or folder
    average = load_distilled(named / AVERAGE).to(bench.device) if card.averaged is not None else None
    return Distilled(load_distilled(named).to(bench.device), average)


def _changes(card: Card, bench: Workbench) -> tuple[str, ...]:
    now = software_versions() | {"device": device_name(bench)}
    then = card.software.model_dump() | {"device": card.cost.device}
    return tuple(f"{name} {then[name]}, now {now[name]}" for name in now if now[name] != then[name])
