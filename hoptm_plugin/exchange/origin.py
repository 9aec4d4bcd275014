"""Where a distilled set comes from: its run's settings and result, and what of real images is in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from pydantic import Field, ValidationError

from hoptm_plugin.cards.audit import AuditCard
from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.record import Digest, Line, Record, faults
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.core.interfaces import ImagesAre
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.paths import LEFT_OUT, without_paths

NOT_SAID: Final = "the set does not say what data it was distilled from"
NOR_CHOSEN: Final = ", nor how its iteration was chosen"


class SourceData(Record):
    """The data that a set was distilled from.

    Attributes:
        name: of the data set.
        fingerprint: of its pixels, labels and preprocessing.
        splits: SHA-256 of the images and labels of each split, whatever the preprocessing; empty where not known.
    """

    name: Line = "unknown"
    fingerprint: Line
    splits: dict[Line, Digest] = Field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """What is known of a set beyond its tensors.

    Attributes:
        method: its method's title.
        dataset: the original data set's name; None where not recorded.
        source: where the original data come from; None where nobody said.
        licence: of the original data; None where nobody said.
        card: result of the run the set was made by; None where not known.
        config: stored settings of that run; empty where not known.
        keys: BibTeX keys of the method's publications.
        bibtex: entries of all that the run used; empty where not known.
        data: what it was distilled from; None where not recorded.
        audit: what was measured of what it gives away; None where nothing was.
    """

    method: str
    dataset: str | None
    source: str | None
    licence: str | None
    card: Card | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    bibtex: str = ""
    data: SourceData | None = None
    audit: AuditCard | None = None


def source_data(synthetic: SyntheticSet, where: object, card: Card | None = None) -> SourceData | None:
    """Return what a set says of the data it was distilled from; None where it says nothing.

    Args:
        synthetic: the set.
        where: names it in errors.
        card: that lies beside it and names it; a run's tells it of older sets, which say nothing themselves.

    Raises:
        FileFormatError: it says what cannot be.
    """
    info = synthetic.info
    if "fingerprint" not in info:
        if card is None or card.cost.distill_s is None:  # an evaluation's data are those it was judged on
            return None
        return SourceData(name=card.dataset.name, fingerprint=card.dataset.fingerprint)
    said = {"name": info.get("dataset"), "fingerprint": info["fingerprint"], "splits": info.get("splits")}
    try:
        return SourceData.model_validate({key: value for key, value in said.items() if value is not None})
    except ValidationError as error:
        raise FileFormatError(f"{where}: what it says of the data it was distilled from cannot be: {faults(error)}; "
                              f"restore it") from None  # fmt: skip


def not_said(synthetic: SyntheticSet) -> str:
    """Say what a set does not say of the data it was distilled from and, where it was imported, of its making."""
    return NOT_SAID + (NOR_CHOSEN if "imported" in synthetic.info else "")


def images_are(synthetic: SyntheticSet) -> ImagesAre:
    """Return what a set's images are as the run that made it recorded; "unknown" of sets that say nothing."""
    said = synthetic.info.get("images_are")
    known: tuple[ImagesAre, ...] = get_args(ImagesAre)
    return next((word for word in known if word == said), "unknown")


def recipe(config: Mapping[str, Any], reads_experts: bool) -> list[tuple[str, str]]:
    """Return (setting, value) of what determines a set; nothing on paths, the machine or the evaluation.

    Settings that are null are left out, and those of experts where none were read. The method is told elsewhere.
    """
    deciding = RunSettings.of(config).deciding(["result", "chance"]) if config else {}
    left_out = ("method_id", *(() if reads_experts else ("experts",)))
    return [pair for pair in flat(without_paths(deciding), left_out) if LEFT_OUT not in "".join(pair)]


def flat(values: Mapping[str, Any], left_out: Collection[str] = (), prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, value as text) of nested settings, but those ``left_out``; null ones are left out too."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key in left_out or value is None:
            continue
        if isinstance(value, Mapping):
            yield from flat(value, left_out, f"{key}.")
        elif isinstance(value, list | tuple):
            yield key, ", ".join(map(str, value))
        else:
            yield key, str(value).lower() if isinstance(value, bool) else str(value)
