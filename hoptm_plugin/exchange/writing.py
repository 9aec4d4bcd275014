"""Writing an exported set: a new folder, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from hoptm_plugin.core.errors import RunFolderError, StorageError
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.exchange import datacard, manifest
from hoptm_plugin.exchange.ddranking import write_ddranking
from hoptm_plugin.exchange.formats import Writer, Written, write_folder, write_medmnist, write_safetensors
from hoptm_plugin.exchange.manifest import Format, Manifest, describe
from hoptm_plugin.exchange.origin import Origin
from hoptm_plugin.storage.files import sync_folder, with_checksum, write_json

ELSEWHERE = "name a new folder with -o FOLDER"
_WRITERS: dict[Format, Writer] = {
    "medmnist": write_medmnist, "folder": write_folder, "safetensors": write_safetensors,
}  # fmt: skip


def check_new(folder: Path) -> None:
    """Refuse a folder that something is in already.

    Raises:
        RunFolderError: it is not empty, or is a file.
    """
    try:
        if folder.is_dir() and not any(folder.iterdir()):
            return
        exists = folder.exists() or folder.is_symlink()
    except OSError as error:  # such as a name that is too long
        raise RunFolderError(f"{folder}: {error.strerror}; {ELSEWHERE}") from None
    if exists:
        raise RunFolderError(f"{folder}: exists already; {ELSEWHERE}")


def write_export(synthetic: SyntheticSet, stored: Path, form: Format, folder: Path, origin: Origin) -> Manifest:
    """Write a set, its manifest and its data-set card into a new folder.

    Everything is written beside it first and then renamed, so that no reader ever sees a part.

    Args:
        synthetic: the set.
        stored: the native file that holds it.
        form: of the export.
        folder: new or empty.
        origin: what the card says of it.

    Raises:
        ConfigurationError: a set that the format cannot hold.
        FileFormatError: a set that no manifest can describe.
        RunFolderError: the folder is not new, or cannot be written.
    """
    check_new(folder)
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    temporary = _beside(folder)
    try:
        files, pixels = _write_files(synthetic, stored, form, temporary, origin)
        described = describe(synthetic, form, temporary, files, pixels)
        text = datacard.dataset_card(described, synthetic, origin)
        (temporary / datacard.FILE_NAME).write_text(text, encoding="utf-8")
        write_json(temporary / manifest.FILE_NAME, with_checksum(described.model_dump(mode="json", by_alias=True)))
        _open_to_others(temporary)
        _sync(temporary)
        temporary.replace(folder)
        sync_folder(folder.parent)
    except (OSError, StorageError) as error:
        reason = error.reason if isinstance(error, StorageError) else error.strerror
        raise RunFolderError(f"{folder}: cannot be written ({reason}); {ELSEWHERE}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in new_parents:  # of an export that failed
            with suppress(OSError):
                parent.rmdir()
    return described


def _beside(folder: Path) -> Path:
    """Return a new hidden folder beside ``folder``."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise RunFolderError(f"{folder.parent}: no folder can be made there ({error.strerror}); {ELSEWHERE}") from None


def _write_files(synthetic: SyntheticSet, stored: Path, form: Format, folder: Path, origin: Origin) -> Written:
    if form == "ddranking":
        return write_ddranking(synthetic, origin.config, folder)
    return _WRITERS[form](synthetic, stored, folder)


def _sync(folder: Path) -> None:
    """Bring all files to the disk, so that after a power cut none is empty."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def _open_to_others(folder: Path) -> None:
    """Give the folder the mode that it would have without the temporary one's caution."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
