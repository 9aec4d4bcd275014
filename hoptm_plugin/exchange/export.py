"""``export()``: a distilled set for people without this software."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import torch
from pydantic import TypeAdapter, ValidationError

from hoptm_plugin.cards.audit import AuditCard, audit_beside
from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.citing import bibliography
from hoptm_plugin.cards.record import Line
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError, UserError
from hoptm_plugin.core.interfaces import ImagesAre
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.exchange.loading import check_against_card, is_export, why_no_set
from hoptm_plugin.exchange.manifest import Format, Manifest
from hoptm_plugin.exchange.origin import Origin, images_are, source_data
from hoptm_plugin.exchange.writing import write_export
from hoptm_plugin.storage.files import as_path
from hoptm_plugin.storage.run_files import CONFIG, SYNTHETIC, read_config
from hoptm_plugin.storage.sets import check_set, read_set

REMEDY = "name the folder of a finished run, or a .safetensors file"


class HasFolder(Protocol):
    """A run that is known by its folder."""

    @property
    def folder(self) -> Path:
        """Where its files lie."""


@dataclass(frozen=True)
class Exported:
    """A set that was exported, and what to know before it is handed on.

    Attributes:
        folder: that was written.
        manifest: what the files in it are; ``manifest.pixels`` is what making 8-bit pixels cost.
        source: where the original data come from; None where nobody said.
        licence: of the original data; None where nobody said.
        images_are: what of real training images is in it.
    """

    folder: Path
    manifest: Manifest
    source: str | None
    licence: str | None
    images_are: ImagesAre

    @property
    def clipped(self) -> float:
        """Share of values that lay outside of what a pixel can be and were clipped; 0 where floats were kept."""
        return 0.0 if self.manifest.pixels is None else self.manifest.pixels.clipped


@dataclass(frozen=True)
class _Stored:
    """A synthetic set, the file it lies in, and what its run folder says of it."""

    synthetic: SyntheticSet
    file: Path | None
    name: str
    card: Card | None
    config: dict[str, Any]
    audit: AuditCard | None = None


def export(
    set_or_run: SyntheticSet | HasFolder | str | os.PathLike[str],
    format: Format,
    folder: str | os.PathLike[str] | None = None,
    *,
    source: str | None = None,
    licence: str | None = None,
) -> Exported:
    """Write a distilled set into a new folder that others can use without this software, with a data-set card.

    Args:
        set_or_run: a run or its folder, of which all that is known goes into the card; or a ``.safetensors`` file or a
            set in memory, of which nothing is known but itself.
        format: "medmnist", an npz in MedMNIST's layout; "folder", PNG images; "safetensors", the native file; or
            "ddranking", tensors for DD-Ranking.
        folder: the new folder; None is NAME-FORMAT in the working folder.
        source: where the original data come from; None takes what the run recorded.
        licence: of the original data; None takes what the run recorded.

    Raises:
        ConfigurationError: a format that cannot hold the set, texts of several lines, or a set that is none.
        FileFormatError: there is no set, or it is not the one its run's card judges.
        RunFolderError: the new folder exists already.
    """
    if format not in get_args(Format):
        raise ConfigurationError(f"format: {format!r} is none of {', '.join(get_args(Format))}")
    for name, text in (("source", source), ("licence", licence)):
        try:
            TypeAdapter(Line | None).validate_python(text)
        except ValidationError:
            raise ConfigurationError(f"{name}: must be one line of 1 to 500 characters") from None
    stored = _read(set_or_run)
    target = Path(f"{stored.name}-{format}" if folder is None else folder)
    origin = _origin(stored, source, licence)
    manifest = write_export(stored.synthetic, stored.file, format, target, origin)
    return Exported(target, manifest, origin.source, origin.licence, images_are(stored.synthetic))


def _read(given: SyntheticSet | HasFolder | str | os.PathLike[str]) -> _Stored:
    """Read a set with all that lies in its run folder; of a file or a set, nothing but the set."""
    if isinstance(given, SyntheticSet):
        try:
            synthetic = _not_empty(given.detached().to(torch.device("cpu")), "the synthetic set")
            check_set(synthetic)
        except ValueError as error:
            raise ConfigurationError(f"the synthetic set cannot be exported: {error}") from None
        return _Stored(synthetic, None, "distilled", None, {})
    path = as_path(getattr(given, "folder", given), "what is exported")
    if not path.is_dir():
        return _Stored(_load(path), path, path.stem, None, {})
    file = path / SYNTHETIC
    if is_export(path):
        raise ConfigurationError(f"{path}: is an exported set already; {REMEDY}")
    if not file.is_file():
        raise ConfigurationError(f"{file}: does not exist{why_no_set(path)}; {REMEDY}")
    card = check_against_card(file, f"export the file itself, without its run's result, by naming {file}")
    config = read_config(path / CONFIG) if (path / CONFIG).exists() else {}
    audit = None if card is None else audit_beside(path, card)[0]
    return _Stored(_load(file), file, path.resolve().name or "distilled", card, config, audit)


def _load(file: Path) -> SyntheticSet:
    try:
        return _not_empty(read_set(file), str(file))
    except FileFormatError as error:
        raise FileFormatError(f"{error}; {REMEDY}") from None


def _not_empty(synthetic: SyntheticSet, what: str) -> SyntheticSet:
    if not len(synthetic):
        raise FileFormatError(f"{what}: holds no images")
    return synthetic


def _origin(stored: _Stored, source: str | None, licence: str | None) -> Origin:
    info, config, card = stored.synthetic.info, stored.config, stored.card
    title = str(info.get("method_title") or info.get("method_id") or "a method that is not recorded")
    data = source_data(stored.synthetic, stored.file or "the synthetic set", card)
    foreign = card is None or card.distilled_from is not None or card.imported is not None
    dataset = info.get("dataset") if foreign or card is None else card.dataset.name
    cites = config.get("method_cites")
    return Origin(
        method=f"{title} (moving average)" if info.get("average") else title,
        dataset=None if dataset is None else str(dataset),
        source=source or _stated(info.get("source")),
        licence=licence or _stated(info.get("licence")),
        card=card,
        config=config,
        keys=tuple(str(key) for key in cites) if isinstance(cites, list) else (),
        bibtex=_bibtex(config),
        data=data,
        audit=stored.audit,
    )


def _stated(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _bibtex(config: dict[str, Any]) -> str:
    """Return the BibTeX of a run's settings; nothing where they use parts that are not installed here."""
    try:
        return bibliography(config) if config else ""
    except UserError:
        return ""
