"""Writing an exported set: a new folder, whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from hoptm_plugin.cards.record import write_record
from hoptm_plugin.core.errors import RunFolderError, StorageError
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.exchange import datacard, manifest
from hoptm_plugin.exchange.ddranking import write_ddranking
from hoptm_plugin.exchange.formats import Written, write_folder, write_medmnist, write_safetensors
from hoptm_plugin.exchange.manifest import Format, Manifest, describe
from hoptm_plugin.exchange.origin import Origin
from hoptm_plugin.storage.files import sync_folder

ELSEWHERE = "name a new folder with -o FOLDER"


def write_export(synthetic: SyntheticSet, stored: Path | None, form: Format, folder: Path, origin: Origin) -> Manifest:
    """Write a set, its manifest and its data-set card into a new folder.

    Everything is written beside it first and then renamed, so that no reader ever sees a part.

    Args:
        synthetic: the set.
        stored: the native file that holds it, or None.
        form: of the export.
        folder: new or empty.
        origin: what the card says of it.

    Raises:
        ConfigurationError: a set that the format cannot hold.
        FileFormatError: a set that no manifest can describe.
        RunFolderError: the folder is not new, or cannot be written.
    """
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    new_parents: list[Path] = []
    try:
        if (folder.exists() or folder.is_symlink()) and not (folder.is_dir() and not any(folder.iterdir())):
            raise RunFolderError(f"{folder}: exists already; {ELSEWHERE}")
        new_parents = [parent for parent in folder.parents if not parent.exists()]
        _make(temporary)
        files, pixels = _write_files(synthetic, stored, form, temporary, origin)
        described = describe(synthetic, form, temporary, files, pixels)
        text = datacard.dataset_card(described, synthetic, origin)
        (temporary / datacard.FILE_NAME).write_text(text, encoding="utf-8")
        write_record(described, temporary / manifest.FILE_NAME)
        _sync(temporary)
        temporary.replace(folder)
        sync_folder(folder.parent)
    except (OSError, StorageError) as error:  # OSError also of a name that is too long
        reason = error.reason if isinstance(error, StorageError) else error.strerror
        raise RunFolderError(f"{folder}: cannot be written ({reason}); {ELSEWHERE}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in new_parents:  # of an export that failed
            with suppress(OSError):
                parent.rmdir()
    return described


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise RunFolderError(f"{folder.parent}: no folder can be made there ({error.strerror}); {ELSEWHERE}") from None


def _write_files(synthetic: SyntheticSet, stored: Path | None, form: Format, folder: Path, origin: Origin) -> Written:
    match form:
        case "medmnist":
            return write_medmnist(synthetic, folder)
        case "folder":
            return write_folder(synthetic, folder)
        case "safetensors":
            return write_safetensors(synthetic, stored, folder)
        case "ddranking":
            return write_ddranking(synthetic, origin.config, folder)


def _sync(folder: Path) -> None:
    """Bring all files to the disk, so that after a power cut none is empty."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)
