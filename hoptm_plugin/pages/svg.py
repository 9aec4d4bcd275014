"""Figures as SVG inside a page: small, alike in every process, and with a name for those who cannot see them."""

from __future__ import annotations

import io
import re
import warnings
from contextlib import AbstractContextManager
from typing import Any, Final

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT = "#222222", "#d9d9d9"
# after Okabe and Ito; the light ones darkened, so that each stands out 3 : 1 from white
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#C45F96", "#3F8FBF", "#9A6A00", "#555555")
MARKERS: Final = "osD^vPX*<>"
DASHES: Final[tuple[Any, ...]] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))

_SETTINGS: Final = {
    "svg.hashsalt": "hoptm-bench", "svg.fonttype": "none", "font.size": 12, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "axes.titlesize": 13,
    "axes.titlelocation": "left", "axes.grid": True, "grid.color": FAINT, "grid.linewidth": 0.6,
    "axes.axisbelow": True, "path.simplify_threshold": 0.5, "axes.formatter.use_mathtext": False,
}  # fmt: skip


def style(index: int) -> dict[str, Any]:
    """Return colour, marker and line style of the ``index``-th series; each tells them apart without the others."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)],
    }


def label(text: str, most: int = 34) -> str:
    """Return text for a figure: no formulae, and cut where it would be too long."""
    return (text if len(text) <= most else f"{text[: most - 1]}…").replace("$", r"\$")


def axes(width: float, height: float, margins: tuple[float, float, float, float], **options: Any) -> Axes:
    """Return the only axes of a figure of that many pixels; margins are left, right, bottom and top, in pixels."""
    left, right, bottom, top = margins
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    return figure.add_axes(box, **options)


def looks() -> AbstractContextManager[None]:
    """Return the context that figures are drawn in."""
    return matplotlib.rc_context(_SETTINGS)  # type: ignore[arg-type]  # its stubs list every key


class Drawer:
    """Turns figures into SVG elements; one per page, since it numbers them."""

    def __init__(self) -> None:
        self.count = 0
        self._swatches: dict[int, str] = {}

    def swatch(self, index: int) -> Markup:
        """Return a short piece of the ``index``-th series' line, for a legend in text."""
        if index not in self._swatches:
            with looks():
                ax = axes(44, 16, (0, 0, 0, 0))
                ax.set_axis_off()
                ax.plot([0, 0.5, 1], [0, 0, 0], **style(index), lw=1.8, ms=6, markevery=[1])
                self._swatches[index] = _saved(ax.figure)
        self.count += 1
        opening = Markup('<svg viewBox="0 0 44 16" width="44" height="16" aria-hidden="true">')
        return opening + Markup(_small(self._swatches[index], f"f{self.count}-"))

    def svg(self, figure: Figure, name: str) -> Markup:
        """Return the figure as an SVG element called ``name``, which a screen reader speaks."""
        self.count += 1
        width, height = (round(side * 72) for side in figure.get_size_inches())
        opening = Markup('<svg viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">')
        body = _small(_saved(figure), f"f{self.count}-")
        return opening.format(width, height, name) + Markup(body)  # matplotlib escaped the texts


def _saved(figure: Any) -> str:
    stream = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with looks(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the browser's fonts have the characters that ours lacks
        figure.savefig(stream, format="svg", metadata=metadata)
    return stream.getvalue()


def _small(text: str, prefix: str) -> str:
    """Return the inside of matplotlib's SVG, and its end: without what a page does not need, ids made unique."""
    text = text[text.index(">", text.index("<svg")) + 1 :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([\w.-]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}', text).replace("url(#", f"url(#{prefix}")
    text = re.sub(r"font-family: [^;\"]*(; )?", "", text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(r'="[^"]*"', lambda found: _rounded(found[0]), text)
    return re.sub(r">\s+<", "><", text).strip()


def _rounded(attribute: str) -> str:
    attribute = re.sub(r"(\d+\.\d)\d+", r"\1", attribute) if attribute.startswith('="M') else attribute
    attribute = re.sub(r"(\d+\.\d\d)\d+", r"\1", attribute)
    return re.sub(r"\s*\n", "", attribute)
