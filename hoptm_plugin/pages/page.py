"""The page: sections in order, and the template that they are put into."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from hoptm_plugin.pages.classes import class_section
from hoptm_plugin.pages.comparisons import comparison_section, separation_section
from hoptm_plugin.pages.content import Run, Section, run_names
from hoptm_plugin.pages.records import cost_section, settings_section
from hoptm_plugin.pages.svg import Drawer
from hoptm_plugin.pages.training import curve_section, image_section
from hoptm_plugin.tables.table import ComparisonTable

UNFOLDED = 6  # runs whose settings are open at first
SHADES = 11
DARK = (8, 48, 107)


@dataclass(frozen=True)
class Page:
    """A finished page.

    Attributes:
        html: its text.
        real: names of runs of which it shows real training images.
    """

    html: str
    real: tuple[str, ...]


def render(runs: Sequence[Run], comparisons: Sequence[ComparisonTable], title: str, real_images: bool) -> Page:
    """Return the page on ``runs``; the same input gives the same text.

    Args:
        runs: what their folders hold.
        comparisons: of their cards.
        title: of the page.
        real_images: whether to show pictures of real training images.
    """
    ordered = sorted(runs, key=_place)
    named, drawer = run_names(ordered), Drawer()
    rows = dict.fromkeys(row for comparison in comparisons for row in comparison.rows())
    titles = dict.fromkeys(run.card.title for run in ordered)
    styles = {name: index for index, name in enumerate(sorted({**rows, **titles}, key=lambda name: (len(name), name)))}
    images, real = image_section(named, real_images)
    sections = (
        comparison_section(comparisons, drawer, styles),
        separation_section(comparisons, named),
        class_section(named, drawer),
        curve_section(named, drawer, styles),
        images,
        cost_section(named, drawer),
        settings_section(named, UNFOLDED),
    )
    template = _environment().get_template("report.html.j2")
    html = template.render(
        title=_line(title), sections=sections, shades=_shades(), runs=len(named), links=_links(sections),
        datasets=sorted({run.card.dataset.name for run in ordered}),
    )  # fmt: skip
    html = html.encode(errors="replace").decode()  # a title from the command line may hold bytes that are no text
    return Page(html if html.endswith("\n") else f"{html}\n", tuple(real))


def _place(run: Run) -> tuple[str, str, float, str, int, str]:
    card = run.card
    size = float("inf") if card.ipc is None else card.ipc
    return card.dataset.name, card.dataset.fingerprint, size, card.title, card.seed, str(run.file)


def _line(title: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", title).strip() or "Report"


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("hoptm_plugin.pages"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _shades() -> list[tuple[str, str]]:
    """Return (background, text) from white to dark blue; text stands out 4.5 : 1 from each."""
    shades = []
    for step in range(SHADES):
        mixed = (round(255 + (dark - 255) * step / (SHADES - 1)) for dark in DARK)
        shades.append(("#{:02x}{:02x}{:02x}".format(*mixed), "#111" if step < 7 else "#fff"))
    return shades


def _links(sections: Sequence[Section]) -> list[tuple[Section, bool]]:
    """Return the entries of the table of contents: a section, and whether its parts are listed below it."""
    return [(section, 1 < len(section.parts) <= 12) for section in sections]
