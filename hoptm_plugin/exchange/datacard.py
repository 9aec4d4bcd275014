"""The data-set card of an exported set: Markdown for people who never saw this software."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.cards.words import SELECTIONS, percent
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.exchange.formats import classes_of
from hoptm_plugin.exchange.manifest import Manifest
from hoptm_plugin.exchange.origin import Origin, real_images, recipe

FILE_NAME: Final = "README.md"
DEFAULT_RATE, MOST_LISTED = 0.01, 20
STEPS: Final = 200
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


def _environment() -> Environment:
    # the output is Markdown and Python, not HTML: what comes from files goes through text_of
    environment = Environment(
        loader=PackageLoader("hoptm_plugin.exchange"), undefined=StrictUndefined, autoescape=False,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["md"] = text_of
    return environment


def snippet(manifest: Manifest) -> str:
    """Return a few lines of plain PyTorch that train a small network on the export; no text from files is in it."""
    channels, height, width = manifest.image_shape
    step_size = manifest.step_size
    return _environment().get_template("train.py.j2").render(
        form=manifest.format,
        soft=manifest.soft,
        mosaic=manifest.mosaic,
        channels=3 if manifest.format == "ddranking" else channels,
        height=height,
        width=width,
        classes=len(manifest.class_names),
        mean=list(manifest.normalisation.mean),
        std=list(manifest.normalisation.std),
        # a learned step size may have become useless
        rate=step_size if step_size is not None and 0 < step_size < 10 else DEFAULT_RATE,
        steps=STEPS,
    )  # fmt: skip


def dataset_card(manifest: Manifest, synthetic: SyntheticSet, origin: Origin) -> str:
    """Return the card in Markdown; it names no path, host or person.

    Args:
        manifest: of the export.
        synthetic: the set as it was stored.
        origin: what else is known of it.
    """
    counts = classes_of(synthetic).bincount(minlength=len(synthetic.class_names)) * synthetic.mosaic**2
    card = origin.card
    listed = dict(list(manifest.files.items())[:MOST_LISTED])
    return _environment().get_template("dataset_card.md.j2").render(
        manifest=manifest,
        origin=origin,
        info=synthetic.info,
        classes=list(zip(synthetic.class_names, counts.tolist(), strict=True)),
        real=real_images(synthetic, origin.config),
        recipe=recipe(origin.config, card is None or bool(card.cost.experts_s)),
        card=card,
        results=[] if card is None else _results(card, origin.method),
        protocol=None if card is None else _protocol(card),
        selection=None if card is None else SELECTIONS[card.selection],
        rate=manifest.step_size,
        listed=listed,
        unlisted=len(manifest.files) - len(listed),
        fence=_fence(origin.bibtex),
        snippet=snippet(manifest),
    )  # fmt: skip


def _results(card: Card, method: str) -> list[tuple[str, str, int, str, str, str]]:
    """Return rows (network, set, networks, accuracy, balanced accuracy, calibration error), in percent."""
    rows = []
    for evaluation in card.evaluations:
        rows.append(_row(evaluation, method))
        rows += [_row(other, "random training images, as many") for other in card.random_subset or ()
                 if other.network == evaluation.network]  # fmt: skip
    return rows


def _row(evaluation: Evaluation, name: str) -> tuple[str, str, int, str, str, str]:
    accuracy, balanced, ece = evaluation.accuracy, evaluation.balanced_accuracy, evaluation.ece
    return (
        evaluation.network,
        name,
        len(accuracy.values),
        percent(accuracy.mean, accuracy.std),
        percent(balanced.mean, balanced.std),
        "not measured" if ece is None else percent(ece.mean, ece.std),
    )


def _protocol(card: Card) -> str:
    """Return how networks were trained and tested, in one line."""

    def flat(values: Mapping[str, Any], prefix: str = "") -> list[str]:
        found = []
        for key, value in values.items():
            if isinstance(value, Mapping):
                found += flat(value, f"{prefix}{key}.")
            elif value is not None:
                shown = ", ".join(map(str, value)) if isinstance(value, list) else value
                found.append(f"{prefix}{key}={shown}")
        return found

    return "; ".join(flat({key: value for key, value in card.protocol.items() if key != "random_subset"}))


def _fence(text: str) -> str:
    """Return a code fence that ``text`` cannot close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)
