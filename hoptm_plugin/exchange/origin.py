"""Where a distilled set comes from: its run's settings and result, and what of real images is in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from hoptm_plugin.cards.card import Card
from hoptm_plugin.core.interfaces import ImagesAre
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.paths import LEFT_OUT, without_paths


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
    """

    method: str
    dataset: str | None
    source: str | None
    licence: str | None
    card: Card | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    bibtex: str = ""


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
