"""Judging a synthetic set: of a run, of an export, of a file, or one in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hoptm_plugin.cards.card import Card, read_card, write_card
from hoptm_plugin.core.dataset import ImageData
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.distil import Distilled
from hoptm_plugin.exchange import manifest
from hoptm_plugin.exchange.loading import is_export, load_distilled, why_no_set
from hoptm_plugin.runs.assembly import workbench
from hoptm_plugin.runs.composition import compose
from hoptm_plugin.runs.folder import RunFolder, as_settings, overlaid, read_settings, trusted
from hoptm_plugin.runs.running import finished_card, finished_networks, judge
from hoptm_plugin.runtime.bars import usual_progress
from hoptm_plugin.runtime.progress import ProgressFactory
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.files import as_path, sha256
from hoptm_plugin.storage.run_files import AVERAGE, CARD, CONFIG, SYNTHETIC
from hoptm_plugin.storage.sets import write_set

REMEDY = "name the folder of a finished run, an exported folder or a .safetensors file, with synthetic=PATH"


def evaluate(
    judged: Any, *overrides: str, settings: RunSettings | None = None, folder: str | Path | None = None,
    progress: ProgressFactory | None = None, **changes: Any,
) -> Card:  # fmt: skip
    """Train fresh networks on a synthetic set, test them, and return the card.

    Settings are those of the run that the set lies in, with what is given on top; of a set that lies in no run, what is
    given. Of a run folder that holds a moving average as well, both are evaluated; an exported set is judged as it was
    exported. What the card says of the method comes from the set.

    Args:
        judged: a :class:`Run`, the path of a run folder, an exported folder or a ``.safetensors`` file, or a
            :class:`SyntheticSet`; None takes ``settings.synthetic``.
        overrides: as :func:`compose` takes them: ``evaluate(run, "networks=[vgg11]")``.
        settings: composed already; instead of ``overrides`` and ``changes``.
        folder: where the card is written, and networks that are done are kept for going on with ``resume``; None keeps
            nothing but what is returned.
        progress: reports what takes long; None: bars on a terminal or in a notebook, else nothing.
        changes: as the keywords of :func:`compose`.

    Raises:
        ConfigurationError: settings that cannot be; a set that was distilled from other data.
        FileFormatError: no set, or one that is damaged or not the one its card judges.
    """
    if settings is not None and (overrides or changes):
        raise ConfigurationError("evaluate: give settings, or overrides and keywords, not both")
    whole = settings is not None and not settings.given  # not composed, so all of it is meant
    settings = compose(*overrides, **changes) if settings is None else as_settings(settings)
    memory = judged if isinstance(judged, SyntheticSet) else None
    if memory is None and judged is not None:
        path = as_path(getattr(judged, "folder", judged), "what is judged")
        settings = settings.model_copy(update={"synthetic": path})
    with TemporaryDirectory() as place:
        kept = Path(place) / "judged" if folder is None else as_path(folder, "folder")
        if memory is None:
            settings = settings_to_judge(settings, whole)
            found = _Judged.read(settings.synthetic or Path())
        else:
            settings = settings.model_copy(update={"synthetic": None, "reported": None})
            found = _Judged(_checked(memory, "the set"), None, [])
        settings, run_folder = _described_by(found.synthetic, settings), RunFolder(kept)
        with run_folder.taken(settings) as finished:
            return finished or _judge(settings, found, run_folder, progress or usual_progress())


def settings_to_judge(settings: RunSettings, whole: bool = False) -> RunSettings:
    """Return the settings to judge ``settings.synthetic`` with: of its run, where it lies in one, given ones on top.

    Those of a run are left out of account where ``settings`` are meant as a ``whole``.

    Raises:
        ConfigurationError: no set is named, or there is none.
    """
    if settings.synthetic is None:
        raise ConfigurationError(f"synthetic: missing; {REMEDY}")
    file = _file(settings.synthetic)
    if not file.is_file():
        raise ConfigurationError(f"synthetic: {file} does not exist{why_no_set(file.parent)}; {REMEDY}")
    config = file.parent / CONFIG
    if whole:
        return settings
    if not config.exists():
        return settings.model_copy(update={"reported": None})  # nothing says how it was distilled
    stored = trusted(overlaid(read_settings(config).plain(), settings), None).without_published(settings.given)
    # loggers are of the distillation, and need not be installed here
    return stored.changed(loggers=[], resume=settings.resume, synthetic=settings.synthetic, recipe="")


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
    def config(self) -> Path | None:
        """Where the settings of the run would lie that made it; None of a set in memory."""
        return self.files[0].parent / CONFIG if self.files else None


def _judge(settings: RunSettings, judged: _Judged, folder: RunFolder, progress: ProgressFactory) -> Card:
    synthetic, average = judged.synthetic, judged.average
    with workbench(settings, progress) as bench:
        _check_fit(synthetic, bench.data, judged.files[0] if judged.files else Path("the set"))
        bench.check()
        distilled = Distilled(synthetic.to(bench.device), None if average is None else average.to(bench.device))
        folder.begin(settings)
        if not judged.files:  # in memory, so the folder must hold what its card judges
            write_set(synthetic, folder / SYNTHETIC)
        finished = finished_networks(folder, bench, distilled)
        results = judge(distilled, bench, replace(bench.evaluator(), finished=finished))
        cost = {"experts_s": None, "distill_s": None, "evaluate_s": finished.seconds, "seconds_per_iteration": None}
        artefacts = folder.artefacts(CONFIG, *([] if judged.files else [SYNTHETIC])) | {
            file.name: sha256(file) for file in judged.files
        }
        # nothing else says how it was made
        config = judged.config
        origin = read_settings(config).set_digest() if config is not None and config.exists() else None
        card = finished_card(bench, results, cost, artefacts, synthetic.info.get("seed"), synthetic, origin)
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
    return _checked(synthetic, str(path))


def _checked(synthetic: SyntheticSet, where: str) -> SyntheticSet:
    seed = synthetic.info.get("seed")
    if not len(synthetic) or (seed is not None and type(seed) is not int):
        raise FileFormatError(f"{where}: holds no images, or a seed that is none; {REMEDY}")
    return synthetic


def _file(path: Path) -> Path:
    """Return the file whose SHA-256 tells what is judged; an exported set's manifest names those of all its files."""
    if not path.is_dir():
        return path
    return path / (manifest.FILE_NAME if is_export(path) else SYNTHETIC)


def _described_by(synthetic: SyntheticSet, settings: RunSettings) -> RunSettings:
    """Return the settings with what the set says of its making."""
    info = synthetic.info
    name = str(info.get("method_id", "unknown"))
    fields: dict[str, Any] = {
        "method_id": name,
        "method_title": str(info.get("method_title", name)),
        "ipc": info.get("ipc", max(1, len(synthetic.images) // len(synthetic.class_names))),
        "distillation": settings.distillation.model_dump() | {"selection": info.get("selection", "last")},
    }
    if info.get("average"):  # judged alone, it must not pass for the set itself
        fields |= {"method_title": f"{fields['method_title']} (moving average)", "reported": None}
    return settings.changed(**fields)


def _check_fit(synthetic: SyntheticSet, data: ImageData, file: Path) -> None:
    """Refuse a set that was not distilled from data like these."""
    theirs: Mapping[str, tuple[Any, Any]] = {
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
