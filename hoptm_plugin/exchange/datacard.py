"""The data-set card of an exported set: Markdown for people who never saw this software."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError

from hoptm_plugin.cards.words import percent, selected
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.data.geometry import WHILE_READ
from hoptm_plugin.data.preprocess import Preprocess
from hoptm_plugin.data.rasters import REDUCED
from hoptm_plugin.exchange.formats import classes_of
from hoptm_plugin.exchange.manifest import Manifest
from hoptm_plugin.exchange.origin import Origin, flat, images_are, recipe

FILE_NAME: Final = "README.md"
MOST_LISTED: Final = 20
# an underscore within a word formats nothing
_SPECIAL = re.compile(r"([\\`*\[\]<>|&~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_URL = re.compile(r"(https?://[A-Za-z0-9./_~%?=&-]+)")


def text_of(value: object) -> str:
    """Return ``value`` as one line of Markdown that neither formats nor links nor ends a table's cell.

    Plain http addresses stay as they are; characters that do not print, such as those that turn the direction of text,
    are replaced.
    """
    line = "".join(char if char.isprintable() or char in "\u200c\u200d" else "\N{REPLACEMENT CHARACTER}"
                   for char in str(value))  # fmt: skip
    parts = _URL.split(line)
    return "".join(part if index % 2 else _SPECIAL.sub(r"\\\1", part) for index, part in enumerate(parts))


def dataset_card(manifest: Manifest, synthetic: SyntheticSet, origin: Origin) -> str:
    """Return the card in Markdown, with plain PyTorch that trains on the export and tests on real pictures.

    It names no path, host or person, and no text from files is in the code.

    Args:
        manifest: of the export.
        synthetic: the set as it was stored.
        origin: what else is known of it.
    """
    # Markdown and Python, not HTML: what comes from files goes through text_of
    environment = Environment(
        loader=PackageLoader("hoptm_plugin.exchange"), undefined=StrictUndefined, autoescape=False,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"md": text_of, "percent": lambda summary: percent(summary.mean, summary.std)}
    counts = classes_of(synthetic).bincount(minlength=len(synthetic.class_names)) * synthetic.mosaic**2
    card = origin.card
    return environment.get_template("dataset_card.md.j2").render(
        m=manifest,
        origin=origin,
        info=synthetic.info,
        classes=list(zip(synthetic.class_names, counts.tolist(), strict=True)),
        real=images_are(synthetic),
        recipe=[] if "imported" in synthetic.info else recipe(origin.config, card is None or bool(card.cost.experts_s)),
        card=card,
        protocol="" if card is None else "; ".join(map("=".join, flat(card.protocol, ["random_subset"]))),
        p=preparation(origin),
        selection=None if card is None else selected(card),
        most_listed=MOST_LISTED,
        # one that the text cannot close
        fence="`" * max(3, *(1 + len(run) for run in re.findall("`+", origin.bibtex)), 0),
    )


def preparation(origin: Origin) -> dict[str, Any] | None:
    """Return how the run prepared real images, for code that does the same; None where that is not recorded."""
    said = origin.config.get("dataset")
    given = said.get("preprocess") if isinstance(said, Mapping) else None
    if not isinstance(given, Mapping):
        return None
    try:  # what comes from a file goes into code only as what a setting can be
        known = Preprocess.model_validate({key: value for key, value in given.items() if key != "image_size"})
    except ValidationError:
        return None
    read = (origin.card and origin.card.dataset.read) or ""
    resized = given.get("image_size") is not None
    return {
        "fit": known.fit, "antialias": known.antialias, "order": known.resize_order, "resized": resized,
        "reduced": REDUCED,
        "while_reading": resized and (known.resize_order == "while_reading" or WHILE_READ in read),
    }  # fmt: skip
