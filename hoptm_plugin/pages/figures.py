"""The figures of a report; series differ by colour, marker and line style at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from hoptm_plugin.pages.curves import Curve, evened, thinned
from hoptm_plugin.pages.svg import COLOURS, INK, axes, drawn, label, style

LINE = 16  # pixels of a line of labels
MOST_POINTS = 300
CROWD, STRETCHES = 6, 60  # of more lines than these, means of so many stretches are drawn
MARKS = 5  # markers on a curve


@dataclass(frozen=True)
class Series:
    """Measurements under one name.

    Attributes:
        name: as the table has it.
        index: decides colour, marker and line style; the same name has the same one all over a page.
        points: (column, mean, std or None) in percent.
    """

    name: str
    index: int
    points: Sequence[tuple[int, float, float | None]]


@drawn
def accuracy(
    series: Sequence[Series], columns: Sequence[str], bounds: Sequence[tuple[str, float]],
    what: str = "accuracy in percent",
) -> Axes:  # fmt: skip
    """Draw a metric over the columns, error bars of one standard deviation; every line is named at its end."""
    height = max(240, LINE * len(series))
    ax = axes(min(320, max(200, 90 * len(columns))), height)
    # side by side, as far as it takes for error bars not to hide each other
    spread = min(0.3, 0.03 * len(series)) * (np.arange(len(series)) / max(1, len(series) - 1) - 0.5)
    for offset, each in zip(spread, series, strict=True):
        places, means, stds = zip(*each.points, strict=True)
        ax.errorbar(np.array(places) + offset, means, [std or 0 for std in stds], **style(each.index), lw=1.4, ms=5,
                    elinewidth=1, capsize=2)  # fmt: skip
    low, high = ax.get_ylim()
    for name, mean in bounds:
        if abs(mean - (low + high) / 2) < high - low:  # one far away would press all others together
            ax.axhline(mean, color=INK, lw=1, ls=":")
            ax.text(0.01, mean, label(name), transform=ax.get_yaxis_transform(), va="bottom", size=10)
    ax.set_xticks(range(len(columns)), list(columns))
    ax.set_xlim(-0.4, len(columns) - 0.6)
    ax.set_xlabel("images per class (not to scale)")
    ax.set_ylabel(what)
    low, high = ax.get_ylim()
    ends = [each.points[-1] for each in series]
    heights = apart([mean for _, mean, _ in ends], (high - low) * LINE / height)
    ax.set_ylim(min(low, *heights), max(high, *heights))
    for each, (column, mean, _), offset, place in zip(series, ends, spread, heights, strict=True):
        ax.annotate(
            label(each.name), (column + offset, mean), (1.06, place), textcoords=ax.get_yaxis_transform(), va="center",
            arrowprops={"arrowstyle": "-", "color": style(each.index)["color"], "lw": 0.8, "shrinkA": 1, "shrinkB": 4},
            annotation_clip=False,
        )  # fmt: skip
    return ax


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Return places at least ``gap`` apart, in the order of ``values`` and as near them as can be."""
    order = np.argsort(values, kind="stable")
    steps = gap * np.arange(len(values))
    places = np.empty(len(values))
    places[order] = isotonic_regression(np.array(values)[order] - steps).x + steps
    return places.tolist()


@drawn
def curves(title: str, found: Sequence[tuple[int, Curve]], fraction: bool = False) -> Axes:
    """Draw one quantity over the iterations, (style, curve) per run; logarithmic where it spans two decades."""
    ax = axes(280, 172)
    crowded = len(found) > CROWD
    shown = [(index, evened(curve, STRETCHES) if crowded else thinned(curve, MOST_POINTS)) for index, curve in found]
    values = np.concatenate([curve.values for _, curve in shown])
    values = values[np.isfinite(values)]
    logarithmic = not fraction and len(values) > 0 and values.min() > 0 and values.max() > 100 * values.min()
    marked: set[int] = set()
    for place, (index, curve) in enumerate(shown):
        every = max(1, len(curve.steps) // MARKS)
        start = place * every // len(shown)  # so that markers of curves that lie on each other do not
        look = style(index) | ({"marker": None} if crowded and index in marked else {})
        marked.add(index)
        ax.plot(curve.steps, curve.values, **look, lw=1 if crowded else 1.4, ms=5, markevery=(start, every))
    if logarithmic:
        ax.set_yscale("log")
    else:
        ax.yaxis.set_major_formatter(FuncFormatter(_short))
    if fraction:
        ax.set_ylim(-0.03, 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_title(label(title, 50) + (" (logarithmic)" if logarithmic else ""))
    ax.set_xlabel("iteration")
    return ax


@drawn
def bars(title: str, values: Sequence[tuple[str, float]], unit: str) -> Axes:
    """Draw one bar a name, the number at its end."""
    ax = axes(200, 4 + 20 * len(values))
    drawing = ax.barh(range(len(values)), [value for _, value in values], color=COLOURS[0], height=0.65)
    ax.bar_label(drawing, [f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for _, value in values], padding=4)
    ax.set_yticks(range(len(values)), [label(name) for name, _ in values])
    ax.invert_yaxis()
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set_title(title)
    ax.set_xlabel(unit)
    return ax


@drawn
def roc(curves: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> Axes:
    """Draw true over false positive rates, both logarithmic."""
    ax = axes(240, 224)
    lowest = min(min(value for pair in points for value in pair if value > 0) for _, points in curves)
    ax.plot([lowest, 1], [lowest, 1], color=INK, lw=1, ls=":")
    for index, (name, points) in enumerate(curves):
        shown = [(false, true) for false, true in points if true > 0]
        ax.plot(*zip(*shown, strict=True), **style(index), lw=1.4, ms=4, markevery=4, label=label(name))
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("false positive rate")
    ax.set_ylabel("true positive rate")
    ax.legend(frameon=False, loc="lower right", fontsize=10)
    return ax


@dataclass(frozen=True)
class Point:
    """An audited run: accuracy with its standard deviation, and AUC with its interval, all fractions."""

    name: str
    accuracy: tuple[float | None, float]
    auc: tuple[float, tuple[float, float]] | None


@drawn
def privacy(points: Sequence[Point]) -> Axes:
    """Draw the AUC of membership inference over the accuracy; lower and further right is better."""
    ax = axes(420, 300)
    ax.axhline(0.5, color=INK, lw=1, ls=":")
    ax.text(0.01, 0.5, "guessing", transform=ax.get_yaxis_transform(), va="bottom", size=10)
    for index, each in enumerate(points):
        (mean, std), (auc, (low, high)) = each.accuracy, each.auc or (0.5, (0.5, 0.5))
        look = style(index) | {"linestyle": "none"}
        reach = [[max(0.0, auc - low)], [max(0.0, high - auc)]]
        ax.errorbar([100 * (mean or 0.0)], [auc], xerr=[100 * std], yerr=reach, **look, ms=7, capsize=2, elinewidth=1,
                    label=label(each.name))  # fmt: skip
    ax.set_xlabel("test accuracy in percent")
    ax.set_ylabel("AUC of membership inference")
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
    return ax


@drawn
def bounds(lines: Sequence[tuple[str, Sequence[tuple[int, float]]]]) -> Axes:
    """Draw lower bounds over the number of guesses, which is logarithmic."""
    ax = axes(220, 224)
    for index, (name, points) in enumerate(lines):
        ax.plot(*zip(*points, strict=True), **style(index), lw=1.4, ms=5, label=label(name))
    ax.set_xscale("log")
    ax.set_ylim(bottom=0, top=max(1.0, *(bound for _, points in lines for _, bound in points)) * 1.1)
    ax.set_xlabel("guesses")
    ax.set_ylabel("epsilon above")
    ax.legend(frameon=False, loc="upper right", fontsize=10)
    return ax


@drawn
def reliability(networks: Sequence[NDArray[np.float64]], together: NDArray[np.float64]) -> Axes:
    """Draw accuracy over confidence, (points, 2): a light line per network, all their images as a strong one."""
    ax = axes(224, 224)
    ax.plot([0, 1], [0, 1], color=INK, lw=1, ls=":")
    ax.text(0.03, 0.97, "dotted: confidence = accuracy", va="top", size=10)
    for points in networks:
        ax.plot(*points.T, color="#9bb8cc", lw=0.9)
    ax.plot(*together.T, color=COLOURS[0], marker="o", ms=5, lw=1.8)
    ax.set_xlim(0, 1.02)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("confidence")
    ax.set_ylabel("accuracy")
    return ax


def _short(value: float, place: int | None) -> str:
    """Return a tick's number without an offset elsewhere: 5e-9."""
    return re.sub(r"e-0*", "e-", f"{value:.3g}").replace("-", "\N{MINUS SIGN}")
