"""Is a set judged on the data that it was distilled from?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from hoptm_plugin.cards.card import DistilledFrom
from hoptm_plugin.core.dataset import ImageData
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.exchange.origin import SourceData
from hoptm_plugin.runs.assembly import Workbench

CHOOSE = "choose the data set it was distilled from (dataset=..., dataset.preprocess...)"


def check_fit(name: str, synthetic: SyntheticSet, source: SourceData | None, bench: Workbench) -> None:
    """Refuse a set that cannot be judged on the data, or is of other data and nobody allowed that.

    Args:
        name: of the set, in errors.
        synthetic: the set.
        source: what it was distilled from, if known.
        bench: with the data and the settings.

    Raises:
        ConfigurationError: with all that does not fit.
    """
    data, ours, theirs = bench.data, synthetic.normalisation, bench.data.normalisation
    white = "zca" in (ours.kind, theirs.kind)
    alike = (ours.mean, ours.std, ours.kind == "zca") == (theirs.mean, theirs.std, theirs.kind == "zca")
    facts: Mapping[str, tuple[Any, Any]] = {
        "classes": (synthetic.class_names, data.class_names),
        "image shape": (tuple(synthetic.images.shape[1:]), data.image_shape),
    }
    problems = [
        f"{name}: its {what} is {mine}, the data set {data.name} has {other}; {CHOOSE}"
        for what, (mine, other) in facts.items()
        if mine != other
    ]
    same = f"dataset.preprocess.mean={list(ours.mean)} dataset.preprocess.std={list(ours.std)}"
    if (
        source is not None
        and not data.made(source.fingerprint, source.splits)
        and (problems or not bench.settings.other_data)
    ):
        also = "" if alike or white else f" {same}"
        allow = f", or judge it on these with other_data=true{also}, which its card then says"
        raise ConfigurationError(_others(name, source, data, "" if problems else allow))
    if not alike:
        problems.append(f"{name}: its normalisation is {ours}, the data set {data.name} has {theirs}; {CHOOSE}"
                        f"{'' if white else f', or normalise these as it was: {same}'}")  # fmt: skip
    elif white and source is not None and source.fingerprint != data.fingerprint:
        problems.append(f"{name}: its images are whitened by what was fitted on {_named(source)}, which nothing "
                        f"else gives; {CHOOSE}")  # fmt: skip
    if problems:
        raise ConfigurationError(problems)


def _others(name: str, source: SourceData, data: ImageData, allow: str) -> str:
    here = data.split_sha256
    differing = [name for name in ("train", "validation", "test") if source.splits.get(name) != here.get(name)]
    which = f"its {', '.join(differing)} images are others" if source.splits else "its fingerprint is another"
    return (
        f"{name}: was distilled from {_named(source)}, not from {_named(data)} as it is here: {which}; choose the data "
        f"set it was distilled from (dataset=..., dataset.root=..., data_seed=..., dataset.preprocess...){allow}"
    )


def _named(data: SourceData | ImageData) -> str:
    return f"{data.name} (fingerprint {data.fingerprint[:12]})"


def other_data(
    source: SourceData | None, bench: Workbench, trained_on: Callable[[str | None], Tensor | None]
) -> DistilledFrom | None:
    """Return the data that a set was distilled from, where they are others than those it is judged on.

    Args:
        source: what it was distilled from, if known.
        bench: with the data it is judged on.
        trained_on: gives the hashes of its training images, if known, by the SHA-256 of their split.
    """
    data = bench.data
    if source is None or data.made(source.fingerprint, source.splits):
        return None
    train, here = source.splits.get("train"), data.split_sha256
    # one of these splits may be its training images, such as the one it is tested on
    known = next((data.image_hashes[name] for name, sha256 in here.items() if sha256 == train), None)
    known = trained_on(train) if known is None else known
    tested, seen = data.image_hashes.get(bench.settings.protocol.split), None
    if known is not None and tested is not None:
        images = set(map(bytes, known.numpy()))
        seen = sum(bytes(each) in images for each in tested.numpy())
    return DistilledFrom(name=source.name, fingerprint=source.fingerprint, test_images_seen=seen)


def told(other: DistilledFrom, bench: Workbench) -> str:
    """Say in words that a set is judged on other data."""
    split, seen = bench.settings.protocol.split, other.test_images_seen
    tested = f"{len(getattr(bench.data, split)):,} {split} images"
    known = f"whether its {tested} were among them cannot be told"
    if seen is not None:
        known = f"{seen:,} of its {tested} were among them, pixel for pixel"
    return f"was distilled from {other.name}, other data than {bench.data.name} here; {known}"
