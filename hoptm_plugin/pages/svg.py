"""Figures as SVG inside a page: small, alike in every process, and with a name for those who cannot see them."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT = "#222222", "#d9d9d9"
# after Okabe and Ito; the light ones darkened, so that each stands out 3 : 1 from white
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#C45F96", "#3F8FBF", "#9A6A00", "#555555")
MARKERS: Final = "osD^vPX*<>"
DASHES: Final[tuple[Any, ...]] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))

_LOOKS: Final = {
    "svg.fonttype": "none", "font.size": 12, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "axes.titlesize": 13,
    "axes.titlelocation": "left", "axes.grid": True, "grid.color": FAINT, "grid.linewidth": 0.6,
    "axes.axisbelow": True, "path.simplify_threshold": 0.5, "axes.formatter.use_mathtext": False,
}  # fmt: skip

P = ParamSpec("P")


def style(index: int) -> dict[str, Any]:
    """Return colour, marker and line style of the ``index``-th series; each tells them apart without the others."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)],
    }


def label(text: str, most: int = 44) -> str:
    """Return text for a figure: no formulae, and cut in its middle where it would be too long.

    Names of rows begin with the method, and end with the settings that tell them apart.
    """
    half = (most - 1) // 2
    return (text if len(text) <= most else f"{text[: most - 1 - half]}…{text[-half:]}").replace("$", r"\$")


def axes(width: float, height: float) -> Axes:
    """Return the only axes of a figure, of that many pixels; what stands around them gets its room when it is drawn."""
    return Figure(figsize=(width / 72, height / 72), dpi=72).add_axes((0, 0, 1, 1))


def drawn(draw: Callable[P, Axes]) -> Callable[Concatenate[str, P], Markup]:
    """Let a function that fills axes return an SVG element instead; its new first argument is the element's name.

    A screen reader speaks the name; no two figures of a page may share it.
    """

    @wraps(draw)
    def call(name: str, /, *args: P.args, **kwargs: P.kwargs) -> Markup:
        return _element(Markup(' role="img" aria-label="{}"').format(name), name, draw, *args, **kwargs)

    return call


def standalone(drawing: Markup) -> str:
    """Return a drawing as the text of a file of its own, which says what it is, where a page does it for its parts."""
    return str(drawing).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" ', 1)


def swatch(index: int, legend: str) -> Markup:
    """Return a short piece of the ``index``-th series' line, for a legend in text; ``legend`` is that one's id."""
    return _element(Markup(' aria-hidden="true"'), f"{legend} {index}", _line, index)


def _line(index: int) -> Axes:
    ax = axes(44, 16)
    ax.set_axis_off()
    ax.plot([0, 0.5, 1], [0, 0, 0], **style(index), lw=1.8, ms=6, markevery=[1])
    return ax


def _element(attributes: Markup, salt: str, draw: Callable[P, Axes], *args: P.args, **kwargs: P.kwargs) -> Markup:
    """Return what ``draw`` draws; ids, which are one name space in a page, hang on ``salt``."""
    stream, metadata = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    looks: dict[Any, Any] = {**_LOOKS, "svg.hashsalt": salt}
    with matplotlib.rc_context(looks), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the browser's fonts have the characters that ours lacks
        figure = draw(*args, **kwargs).figure
        assert isinstance(figure, Figure)
        box = figure.get_tightbbox().padded(0.05)  # in inches; "tight" comes to the same, but draws everything twice
        figure.savefig(stream, format="svg", metadata=metadata, bbox_inches=box)
    text = stream.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0]
    opening = Markup('<svg viewBox="0 0 {0} {1}" width="{0}" height="{1}"{2}>')
    return opening.format(round(float(width)), round(float(height)), attributes) + Markup(_small(body))


def _small(text: str) -> str:
    """Return the inside of matplotlib's SVG, and its end, without what a page does not need."""
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([\w.-]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r"font-family: [^;\"]*(?:; )?| transform=\"rotate\(-0 [^\"]*\"", "", text).replace("xlink:", "")
    text = re.sub(r'="[^"]*"', _rounded, text)
    return re.sub(r">\s+<", "><", text).strip()


def _rounded(found: re.Match[str]) -> str:
    """Round an attribute's numbers: to a tenth of a pixel in paths, to a hundredth elsewhere."""
    digits = 1 if found[0].startswith('="M') else 2
    return re.sub(rf"(\d+\.\d{{{digits}}})\d+|\s*\n", r"\1", found[0])
