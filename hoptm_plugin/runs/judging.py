"""``hoptm-bench eval``: judge a stored synthetic set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hoptm_plugin.cards.card import Card, read_card, write_card
from hoptm_plugin.core.dataset import ImageData
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError
from hoptm_plugin.core.registry import checked
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.distil import Distilled
from hoptm_plugin.exchange import manifest
from hoptm_plugin.exchange.loading import is_export, load_distilled
from hoptm_plugin.runs.assembly import Workbench
from hoptm_plugin.runs.composition import drop_reported, overlay, trusted
from hoptm_plugin.runs.folder import (
    AVERAGE,
    CARD,
    CONFIG,
    SYNTHETIC,
    RunFolder,
    distillation_sha256,
    read_config,
)
from hoptm_plugin.runs.running import evaluate, finished_card, finished_networks
from hoptm_plugin.runs.settings import RunSettings, validate_settings
from hoptm_plugin.runtime.progress import ProgressFactory
from hoptm_plugin.storage.files import sha256

REMEDY = "name the folder of a finished run, an exported folder or a .safetensors file, with synthetic=PATH"


def settings_of_stored(values: dict[str, Any], explicit: list[str]) -> dict[str, Any] | None:
    """Return the settings of the run a synthetic set lies in, explicit ones on top; None where it lies in no run.

    Raises:
        ConfigurationError: no set is named, or there is none.
    """
    if values["synthetic"] is None:
        raise ConfigurationError(f"synthetic: missing; {REMEDY}")
    file = _file(checked(Path, values["synthetic"], "synthetic"))
    if not file.is_file():
        raise ConfigurationError(f"synthetic: {file} does not exist{why_no_set(file.parent)}; {REMEDY}")
    config = file.parent / CONFIG
    if not config.exists():
        return None
    stored = trusted(overlay(read_config(config), values, explicit), values, explicit)
    drop_reported(stored, explicit)
    stored["loggers"] = []  # of the distillation: they need not be installed here
    stored["resume"] = values["resume"]  # of this evaluation, and not of the run
    return stored


def why_no_set(folder: Path) -> str:
    """Say why a folder with a card holds no synthetic set; "" where it has no card."""
    if not (folder / CARD).exists():
        return ""
    whole = read_card(folder / CARD).ipc is None
    return f", since {'method=full distils nothing' if whole else 'the folder is of an evaluation, not of a run'}"


@dataclass(frozen=True)
class _Judged:
    """What is judged: a set, maybe its moving average, and the files that hold them."""

    synthetic: SyntheticSet
    average: SyntheticSet | None
    files: list[Path]

    @classmethod
    def read(cls, named: Path) -> _Judged:
        file, average_file = _file(named), named / AVERAGE
        files = [file, average_file] if average_file.is_file() else [file]
        if not is_export(named):
            _check_card(named, files)
        return cls(_load(named), _load(average_file) if len(files) > 1 else None, files)

    @property
    def config(self) -> Path:
        """Where the settings of the run would lie that made it."""
        return self.files[0].parent / CONFIG


def evaluate_stored(values: dict[str, Any], path: Path, progress: ProgressFactory) -> Card:
    """Evaluate the set that ``values`` name and write its card into ``path``.

    Of a run folder that holds a moving average as well, both are evaluated; an exported set is judged as it was
    exported. What the card says of the method comes from the stored set. With ``resume``, networks that an interrupted
    evaluation had done are not trained again, and the card of a finished one is returned as it is.
    """
    judged = _Judged.read(validate_settings(values).synthetic or Path())
    if not judged.config.exists():
        values = values | {"reported": None}  # nothing says how it was distilled
    values = _described_by(judged.synthetic, values)
    settings, folder = validate_settings(values), RunFolder(path)
    with folder.taken(values, settings.resume) as finished:
        return finished or _evaluate(values, settings, judged, folder, progress)


def _evaluate(
    values: dict[str, Any], settings: RunSettings, judged: _Judged, folder: RunFolder, progress: ProgressFactory
) -> Card:
    bench, synthetic, average = Workbench(settings, progress), judged.synthetic, judged.average
    _check_fit(synthetic, bench.data, judged.files[0])
    bench.check()
    distilled = Distilled(synthetic.to(bench.device), None if average is None else average.to(bench.device))
    folder.begin(values)
    finished = finished_networks(folder, values, bench, distilled)
    results = evaluate(distilled, bench, replace(bench.evaluator(), finished=finished))
    cost = {"experts_s": None, "distill_s": None, "evaluate_s": finished.seconds, "seconds_per_iteration": None}
    artefacts = folder.artefacts(CONFIG) | {file.name: sha256(file) for file in judged.files}
    # nothing else says how it was made
    origin = distillation_sha256(read_config(judged.config)) if judged.config.exists() else None
    card = finished_card(values, bench, results, cost, artefacts, synthetic.info.get("seed"), synthetic, origin)
    write_card(card, folder / CARD)
    finished.discard()
    return card


def _check_card(named: Path, files: list[Path]) -> None:
    """Refuse sets that are not those that the card beside them judges; a file that is named may be none of its own."""
    card_file = files[0].parent / CARD
    if not card_file.exists():
        return
    artefacts = read_card(card_file).artefacts
    for file in files:
        if (file.name in artefacts or named.is_dir()) and artefacts.get(file.name) != sha256(file):
            raise FileFormatError(f"{file}: is not the set that {CARD} beside it judges (their SHA-256 differ); "
                                  f"restore it, or move it into a folder of its own and name it there")  # fmt: skip
    if named.is_dir() and AVERAGE in artefacts and len(files) == 1:
        raise FileFormatError(f"{named / AVERAGE}: is missing, though {CARD} beside it judges it; restore it, or judge "
                              f"the set alone with synthetic={files[0]}")  # fmt: skip


def _load(path: Path) -> SyntheticSet:
    try:
        synthetic = load_distilled(path)
    except FileFormatError as error:
        raise FileFormatError(f"{error}; {REMEDY}") from None
    seed = synthetic.info.get("seed")
    if not len(synthetic) or (seed is not None and type(seed) is not int):
        raise FileFormatError(f"{path}: holds no images, or a seed that is none; {REMEDY}")
    return synthetic


def _file(path: Path) -> Path:
    """Return the file whose SHA-256 tells what is judged; an exported set's manifest names those of all its files."""
    if not path.is_dir():
        return path
    return path / (manifest.FILE_NAME if is_export(path) else SYNTHETIC)


def _described_by(synthetic: SyntheticSet, values: dict[str, Any]) -> dict[str, Any]:
    info = synthetic.info
    name = str(info.get("method_id", "unknown"))
    values = values | {
        "method_id": name,
        "method_title": str(info.get("method_title", name)),
        "ipc": info.get("ipc", max(1, len(synthetic.images) // len(synthetic.class_names))),
    }
    values["distillation"] = values["distillation"] | {"selection": info.get("selection", "last")}
    if info.get("average"):  # judged alone, it must not pass for the set itself
        values |= {"method_title": f"{values['method_title']} (moving average)", "reported": None}
    return values


def _check_fit(synthetic: SyntheticSet, data: ImageData, file: Path) -> None:
    """Refuse a set that was not distilled from data like these."""
    theirs = {
        "classes": (synthetic.class_names, data.class_names),
        "image shape": (tuple(synthetic.images.shape[1:]), data.image_shape),
        "normalisation": (synthetic.normalisation, data.normalisation),
    }
    problems = [
        f"{file}: its {what} is {ours}, the data set {data.name} has {other}; choose the data set it was distilled "
        f"from (dataset=..., dataset.preprocess...)"
        for what, (ours, other) in theirs.items()
        if ours != other
    ]
    if problems:
        raise ConfigurationError(problems)
