"""``hoptm-bench export``: a distilled set for people without this software."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from rich.text import Text

from hoptm_plugin.cards.card import Card, read_card
from hoptm_plugin.cards.software import Line
from hoptm_plugin.cli.console import output_console
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError, UserError
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.core.text import printable
from hoptm_plugin.exchange.loading import is_export
from hoptm_plugin.exchange.manifest import Format, Manifest
from hoptm_plugin.exchange.origin import Origin, real_images
from hoptm_plugin.exchange.writing import check_new, write_export
from hoptm_plugin.runs.judging import why_no_set
from hoptm_plugin.storage.files import sha256
from hoptm_plugin.storage.run_files import CARD, CONFIG, SYNTHETIC, read_config
from hoptm_plugin.storage.sets import read_set

REMEDY = "name the folder of a finished run, or a .safetensors file"
REAL_IMAGES = {
    "copies": "these ARE real training images; the original's licence and its subjects' consent apply to them",
    "starts": "the images started as real training images and may still show them; look at them before sharing",
    "unknown": "what the images started as is not recorded; they may show real ones, so look at them before sharing",
}


@dataclass(frozen=True)
class Stored:
    """A synthetic set, where it is stored, and what its run folder says of it."""

    synthetic: SyntheticSet
    file: Path
    name: str
    card: Card | None
    config: dict[str, Any]


def export(
    synthetic: Path, form: str, output: Path | None, source: str | None = None, licence: str | None = None
) -> Path:
    """Write a distilled set into a new folder, with a data-set card; print where, and what it cost.

    Args:
        synthetic: a run folder, or a ``.safetensors`` file.
        form: medmnist, folder, safetensors or ddranking.
        output: the new folder; None is NAME-FORMAT in the working folder.
        source: where the original data come from; None takes what the run recorded.
        licence: of the original data; None takes what the run recorded.

    Returns:
        The folder.

    Raises:
        ConfigurationError: a format that cannot hold the set, or texts of several lines.
        FileFormatError: there is no set, or it is not the one its run's card judges.
        RunFolderError: the new folder exists already.
    """
    known = _format(form)
    for option, text in (("--source", source), ("--licence", licence)):
        _check_line(option, text)
    stored = _read(synthetic)
    folder = Path(f"{stored.name}-{form}") if output is None else output
    check_new(folder)
    origin = _origin(stored, source, licence)
    manifest = write_export(stored.synthetic, stored.file, known, folder, origin)
    _report(folder, manifest, stored, origin)
    return folder


def _format(form: str) -> Format:
    for known in get_args(Format):
        if form == known:
            return known
    raise ConfigurationError(f"--format: {form!r} is none of {', '.join(get_args(Format))}")


def _check_line(option: str, text: str | None) -> None:
    if text is None:
        return
    try:
        TypeAdapter(Line).validate_python(text)
    except ValidationError:
        raise ConfigurationError(f"{option}: must be one line of 1 to 500 characters") from None


def _read(path: Path) -> Stored:
    """Read a set with all that lies in its run folder; of a file, nothing but the set."""
    if not path.is_dir():
        return Stored(_load(path), path, path.stem, None, {})
    file = path / SYNTHETIC
    if is_export(path):
        raise ConfigurationError(f"{path}: is an exported set already; {REMEDY}")
    if not file.is_file():
        raise ConfigurationError(f"{file}: does not exist{why_no_set(path)}; {REMEDY}")
    card = read_card(path / CARD) if (path / CARD).exists() else None
    if card is not None and card.artefacts.get(SYNTHETIC) != sha256(file):
        raise FileFormatError(
            f"{file}: is not the set that {CARD} beside it judges (their SHA-256 differ); restore it, or export the "
            f"file itself, without its run's result, by naming {file}"
        )
    config = read_config(path / CONFIG) if (path / CONFIG).exists() else {}
    return Stored(_load(file), file, path.resolve().name or "distilled", card, config)


def _load(file: Path) -> SyntheticSet:
    try:
        synthetic = read_set(file)
    except FileFormatError as error:
        raise FileFormatError(f"{error}; {REMEDY}") from None
    if not len(synthetic):
        raise FileFormatError(f"{file}: holds no images")
    return synthetic


def _origin(stored: Stored, source: str | None, licence: str | None) -> Origin:
    info, config, card = stored.synthetic.info, stored.config, stored.card
    title = str(info.get("method_title") or info.get("method_id") or "a method that is not recorded")
    dataset = card.dataset.name if card is not None else info.get("dataset")
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
    )


def _stated(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _bibtex(config: dict[str, Any]) -> str:
    """Return the BibTeX of a run's settings; nothing where they use parts that are not installed here."""
    if not config:
        return ""
    from hoptm_plugin.cards.citing import bibliography  # imports all parts, which takes a second

    try:
        return bibliography(config)
    except UserError:
        return ""


def _report(folder: Path, manifest: Manifest, stored: Stored, origin: Origin) -> None:
    lines = [f"{manifest.images} images of {len(manifest.class_names)} classes, format {manifest.format}"]
    if manifest.mosaic > 1:
        side = f"{manifest.mosaic}x{manifest.mosaic}"
        kept = "kept as they are" if manifest.format == "safetensors" else "taken apart"
        lines[0] += f"; mosaics of {side} {kept}"
    if manifest.pixels is not None:
        lines.append(f"8-bit pixels: {manifest.pixels}")
        if manifest.pixels.clipped > 0.01:
            lines.append("judge the export itself with: hoptm-bench eval synthetic=FOLDER; "
                         "--format safetensors loses nothing")  # fmt: skip
    for what, said in (("source", origin.source), ("licence", origin.licence)):
        if said is None:
            lines.append(f"{what} of the original data: not stated; give it with --{what} TEXT")
    real = real_images(stored.synthetic, origin.config)
    if real in REAL_IMAGES:
        lines.append(f"privacy: {REAL_IMAGES[real]}")
    console = output_console()
    for line in [*lines, f"folder: {folder}"]:
        console.print(Text(printable(line)), soft_wrap=True)
