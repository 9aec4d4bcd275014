"""Where a distilled set comes from: its run's settings and result, and what of real images is in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from hoptm_plugin.cards.card import Card
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.storage.paths import LEFT_OUT, without_paths

RealImages: TypeAlias = Literal["copies", "starts", "none", "unknown"]
SUBSET_METHODS: Final = ("random_subset", "herding_subset", "k_center_subset")
SUBSET_IDS: Final = ("random", "herding", "kcenter")
# of the run and the machine it ran on, or told elsewhere in the card
NOT_OF_THE_RECIPE: Final = ("method_id", "method_title", "method_cites", "networks", "resume", "synthetic", "reported",
                            "runtime", "protocol", "hydra", "loggers", "distillation.checkpoint_every",
                            "distillation.log_every", "experts.root", "dataset.root",
                            "dataset.download")  # fmt: skip


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


def recipe(config: Mapping[str, Any], reads_experts: bool) -> list[tuple[str, str]]:
    """Return (setting, value) of what determines a set; nothing on paths, the machine or the evaluation.

    Settings that are null are left out, and those of experts where none were read.
    """
    left_out = (*NOT_OF_THE_RECIPE, *(() if reads_experts else ("experts",)))
    flat = _flat(without_paths(config), "", left_out)
    return [(key, text) for key, text in flat if LEFT_OUT not in key and LEFT_OUT not in text]


def _flat(values: Mapping[str, Any], prefix: str, left_out: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key in left_out or value is None:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.", left_out)
        elif isinstance(value, list | tuple):
            yield key, ", ".join(map(str, value))
        else:
            yield key, str(value).lower() if isinstance(value, bool) else str(value)


def real_images(synthetic: SyntheticSet, config: Mapping[str, Any]) -> RealImages:
    """Say what of real training images is in a set: copies of them, changed ones, or none at all; else "unknown"."""
    method = config.get("method")
    method = method if isinstance(method, Mapping) else {}
    if method.get("name") in SUBSET_METHODS or synthetic.info.get("method_id") in SUBSET_IDS:
        return "copies"
    initial = method.get("initial_images")
    start = initial.get("name") if isinstance(initial, Mapping) else None
    if start == "noise":
        return "none"
    distillation = config.get("distillation")
    images = distillation.get("images") if isinstance(distillation, Mapping) else None
    if isinstance(images, Mapping) and images.get("learning_rate") == 0:
        return "copies"  # what a method starts from, and never changes
    if start in ("real", "correct") or method.get("initial") in ("mosaic", "plain"):
        return "starts"
    return "unknown"
