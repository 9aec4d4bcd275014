"""The audit that lies beside a run's card."""

from __future__ import annotations

from pathlib import Path

from hoptm_plugin.cards.audit import FILE_NAME, AuditCard, read_audit
from hoptm_plugin.cards.card import Card
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.storage.run_files import SYNTHETIC


def audit_beside(folder: Path, card: Card) -> tuple[AuditCard | None, str | None]:
    """Return the audit of a run's set, or None; and why one that is there is left out, in words.

    Args:
        folder: of the run; an audit that is a link which leads out of it is not read.
        card: of the run.
    """
    path = folder / FILE_NAME
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        return None, None
    try:
        found = read_audit(path)
    except FileFormatError:
        return None, f"{FILE_NAME} cannot be read"
    if (found.config_sha256, found.synthetic_sha256) != (card.config_sha256, card.artefacts.get(SYNTHETIC)):
        return None, f"{FILE_NAME} is left out: it is of another set; audit the run again"
    return found, None
