"""The page: what its template is filled with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from hoptm_plugin.core.text import one_line
from hoptm_plugin.pages.audits import COLUMNS, audit_parts
from hoptm_plugin.pages.classes import class_part
from hoptm_plugin.pages.comparisons import Tables, compared, styles_of
from hoptm_plugin.pages.cost import cost_figures, number
from hoptm_plugin.pages.reading import Run
from hoptm_plugin.pages.summary import summary_parts
from hoptm_plugin.pages.training import curve_parts, image_parts
from hoptm_plugin.storage.paths import LEFT_OUT, without_paths

UNFOLDED: Final = 6  # runs whose settings are open at first
MOST_CHARACTERS: Final = 200_000  # of a configuration


def render(
    runs: Sequence[Run], comparisons: Tables, title: str, real_images: bool, unfinished: Sequence[Path] = ()
) -> str:
    """Return the page on ``runs`` as HTML; the same input gives the same text.

    Args:
        runs: what their folders hold, in order.
        comparisons: of their cards.
        title: of the page.
        real_images: whether to show pictures of real training images.
        unfinished: folders of runs that were left out since they are not finished.
    """
    environment = Environment(
        loader=PackageLoader("hoptm_plugin.pages"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"number": number, "settings": _settings}
    styles = styles_of(comparisons, {run.title for run in runs})
    summary, more = summary_parts(comparisons, runs, real_images)
    html = environment.get_template("report.html.j2").render(
        title=re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", title).strip() or "Report", runs=runs, real_images=real_images,
        comparison=compared(comparisons, styles), classes=[class_part(run) for run in runs],
        curves=curve_parts(runs, styles), images=image_parts(runs, real_images), bars=cost_figures(runs),
        audits=audit_parts(runs), audit_columns=COLUMNS,
        unfolded=len(runs) <= UNFOLDED, left_out=LEFT_OUT, summary=summary, more=more,
        unfinished=[one_line(folder.name) for folder in unfinished],
    )  # fmt: skip
    return html.encode(errors="replace").decode()  # a title from the command line may hold bytes that are no text


def _settings(run: Run) -> str:
    """Return the configuration, or of a card alone the protocol, as YAML without paths of a computer."""
    settings = {"protocol": run.card.protocol} if run.config is None else run.config
    text = yaml.safe_dump(without_paths(settings), sort_keys=False, allow_unicode=True, width=100)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}\n(cut here: the rest is too long)"
