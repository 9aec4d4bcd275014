"""Judging a synthetic set: of a run, of an export, of a file, or one in memory."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from hoptm_plugin.cards.card import Card, read_card, write_card
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.core.text import one_line, pasted
from hoptm_plugin.engine.distil import Distilled
from hoptm_plugin.exchange import manifest
from hoptm_plugin.exchange.loading import check_against_card, is_export, load_distilled, why_no_set
from hoptm_plugin.exchange.origin import not_said, source_data
from hoptm_plugin.runs.assembly import workbench
from hoptm_plugin.runs.composition import compose
from hoptm_plugin.runs.fitting import check_fit, other_data, told
from hoptm_plugin.runs.folder import RunFolder, as_settings, overlaid, read_settings, trusted
from hoptm_plugin.runs.running import finished_card, finished_networks, judge
from hoptm_plugin.runs.shared import SharedEvaluations
from hoptm_plugin.runtime.bars import usual_progress
from hoptm_plugin.runtime.progress import ProgressFactory
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.files import as_path, sha256
from hoptm_plugin.storage.run_files import AVERAGE, CARD, CONFIG, SYNTHETIC, TRAINED_ON
from hoptm_plugin.storage.sets import check_set, read_trained_on, write_set

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
        ConfigurationError: settings that cannot be; a set that was distilled from other data, unless ``other_data``
            allows it.
        FileFormatError: no set, or one that is damaged, not the one its card judges, or without as many images of every
            class as it says.
    """
    if settings is not None and (overrides or changes):
        raise ConfigurationError("evaluate: give settings, or overrides and keywords, not both")
    whole = settings is not None and not settings.given  # not composed, so all of it is meant
    settings = compose(*overrides, **changes) if settings is None else as_settings(settings)
    memory = judged if isinstance(judged, SyntheticSet) else None
    if memory is None and judged is not None:
        path = as_path(getattr(judged, "folder", judged), "what is judged")
        settings = settings.model_copy(update={"synthetic": path})
    # of this command, and not of the file that the set lies beside, which may come from elsewhere
    root = None if folder is None else settings.experts.root
    with TemporaryDirectory() as place:
        kept = Path(place) / "judged" if folder is None else as_path(folder, "folder")
        if memory is None:
            settings = settings_to_judge(settings, whole)
            found = _Judged.read(settings.synthetic or Path())
        else:
            settings = settings.model_copy(update={"synthetic": None, "reported": None})
            found = _Judged(_checked(memory, "the set"), None, [])
        settings, run_folder = _described_by(found, settings), RunFolder(kept)
        with run_folder.taken(settings) as finished:
            return finished or _judge(settings, found, run_folder, root, progress or usual_progress())


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
    card: Card | None = None

    @classmethod
    def read(cls, named: Path) -> _Judged:
        file, average_file = _file(named), named / AVERAGE
        files = [file, average_file] if average_file.is_file() else [file]
        card = None if is_export(named) else _check_card(named, files)
        return cls(_load(named), _load(average_file) if len(files) > 1 else None, files, card)

    @property
    def name(self) -> str:
        """What it is called in errors."""
        return str(self.files[0]) if self.files else "the set"

    def trained_on(self, train_sha256: str | None) -> Tensor | None:
        """Return the hashes (n, 16) of the training split it was distilled from, where its run's folder has them."""
        file = self.files[0].parent / TRAINED_ON if self.files else None
        if file is None or not file.exists():
            return None
        hashes, train = read_trained_on(file)
        return hashes if train == train_sha256 else None

    @property
    def config(self) -> Path | None:
        """Where the settings of the run would lie that made it; None of a set in memory."""
        return self.files[0].parent / CONFIG if self.files else None


def _judge(
    settings: RunSettings, judged: _Judged, folder: RunFolder, root: Path | None, progress: ProgressFactory
) -> Card:
    synthetic, average = judged.synthetic, judged.average
    if judged.card is not None:  # of older sets it alone says it
        synthetic.info.setdefault("lower_precision", judged.card.lower_precision)
        synthetic.info.setdefault("scale", judged.card.scale)
    with workbench(settings, progress) as bench:
        if bench.parts.method.whole_split:
            raise ConfigurationError("method: the one given trains on all images and has no set to judge; "
                                     "leave method out")  # fmt: skip
        source = source_data(synthetic, judged.name, judged.card)
        check_fit(judged.name, synthetic, source, bench)
        bench.check(distils=False)
        other, note = other_data(source, bench, judged.trained_on), None if source else not_said(synthetic)
        if "stopped" in synthetic.info:
            stopped = f"its distillation was {one_line(str(synthetic.info['stopped']))}"
            note = "; ".join(filter(None, (stopped, note)))
        said = told(other, bench) if other else note
        if said:
            warnings.warn(f"{judged.name}: {said}", stacklevel=2)
        bench.say_what_is_dropped("the set is not from it" if other else None)
        distilled = Distilled(synthetic.to(bench.device), None if average is None else average.to(bench.device))
        folder.begin(settings)
        if not judged.files:  # in memory, so the folder must hold what its card judges
            write_set(synthetic, folder / SYNTHETIC)
        finished = finished_networks(folder, bench, distilled)
        shared = None if root is None else SharedEvaluations(root, bench)
        results = judge(distilled, bench, replace(bench.evaluator(), finished=finished), shared)
        evaluated = {"evaluate_s": finished.seconds} if shared is None else shared.cost(finished.seconds)
        cost = {"experts_s": None, "distill_s": None, "seconds_per_iteration": None, **evaluated}
        artefacts = folder.artefacts(CONFIG, *([] if judged.files else [SYNTHETIC])) | {
            file.name: sha256(file) for file in judged.files
        }
        # nothing else says how it was made
        config = judged.config
        made_with = read_settings(config) if config is not None and config.exists() else None
        card = finished_card(bench, results, cost, artefacts, synthetic.info.get("seed"), distilled, made_with,
                             other, note)  # fmt: skip
        write_card(card, folder / CARD)
        finished.discard()
        return card


def _check_card(named: Path, files: list[Path]) -> Card | None:
    """Return the card that judges sets beside it, None if there is none; a file that is named may be none of its own.

    Raises:
        FileFormatError: it judges others.
    """
    card_file = files[0].parent / CARD
    if not card_file.exists():
        return None
    card = read_card(card_file)
    if not named.is_dir() and files[0].name not in card.artefacts:
        return None
    for file in files:
        check_against_card(file, "move it into a folder of its own and name it there")
    if named.is_dir() and AVERAGE in card.artefacts and len(files) == 1:
        raise FileFormatError(f"{named / AVERAGE}: is missing, though {CARD} beside it judges it; restore it, or judge "
                              f"the set alone with {pasted('synthetic', files[0])}")  # fmt: skip
    return card


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
    try:
        check_set(synthetic)
    except ValueError as error:
        raise FileFormatError(f"{where}: {error}; {REMEDY}") from None
    return synthetic


def _file(path: Path) -> Path:
    """Return the file whose SHA-256 tells what is judged; an exported set's manifest names those of all its files."""
    if not path.is_dir():
        return path
    return path / (manifest.FILE_NAME if is_export(path) else SYNTHETIC)


def _described_by(judged: _Judged, settings: RunSettings) -> RunSettings:
    """Return the settings with what the set says of its making.

    Raises:
        ConfigurationError: it does not hold equally many images of every class, or not the ``ipc`` that was given.
    """
    synthetic, info = judged.synthetic, judged.synthetic.info
    ipc = info.get("ipc", max(1, len(synthetic.images) // len(synthetic.class_names)))
    try:
        synthetic.check_ipc(ipc)
    except ValueError as error:
        raise ConfigurationError(f"{judged.name}: cannot be judged, since not all classes have equally many images: "
                                 f"{error}") from None  # fmt: skip
    if "ipc" in settings.given and settings.ipc != ipc:
        raise ConfigurationError(f"ipc: {settings.ipc} is given, but {judged.name} holds {ipc} images of every class; "
                                 f"leave ipc out")  # fmt: skip
    name = str(info.get("method_id", "unknown"))
    fields: dict[str, Any] = {
        "method_id": name,
        "method_title": str(info.get("method_title", name)),
        "ipc": ipc,
        "distillation": settings.distillation.model_dump() | {"selection": info.get("selection", "last")},
    }
    if info.get("average"):  # judged alone, it must not pass for the set itself
        fields |= {"method_title": f"{fields['method_title']} (moving average)", "reported": None}
    return settings.changed(**fields)
