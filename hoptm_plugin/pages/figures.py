"""The figures of a report; series differ by colour, marker and line style at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hoptm_plugin.pages.curves import Curve, evened, thinned
from hoptm_plugin.pages.svg import COLOURS, INK, Drawer, axes, label, looks, style
from hoptm_plugin.tables.grids import MINUS

LINE, CHARACTER = 16, 7.0  # pixels of a line of labels, and about those of a letter
MOST_POINTS = 300
CROWD, STRETCHES = 6, 60  # of more lines than these, means of so many stretches are drawn
MARKS = 5  # markers on a curve


P = ParamSpec("P")


def drawn(draw: Callable[P, Markup]) -> Callable[P, Markup]:
    """Let a function draw with the page's looks, which matplotlib reads whenever it makes something."""

    @wraps(draw)
    def call(*args: P.args, **kwargs: P.kwargs) -> Markup:
        with looks():
            return draw(*args, **kwargs)

    return call


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
    points: tuple[tuple[int, float, float | None], ...]


@drawn
def accuracy_by_ipc(
    drawer: Drawer, series: Sequence[Series], columns: Sequence[str], bounds: Sequence[tuple[str, float]], name: str
) -> Markup:
    """Draw accuracy over the columns, error bars of one standard deviation; every line is named at its end."""
    ends = [each.points[-1] for each in series]
    names = [label(each.name) for each in series]
    right = 36 + max(len(text) for text in names) * CHARACTER
    height = max(300, 66 + LINE * len(series))
    width = min(320, max(200, 90 * len(columns)))
    ax = axes(52 + width + right, height, (52, right, 46, 14))
    # side by side, as far as it takes for error bars not to hide each other
    spread = min(0.3, 0.03 * len(series)) * (np.arange(len(series)) / max(1, len(series) - 1) - 0.5)
    for offset, each in zip(spread, series, strict=True):
        places, means, stds = zip(*each.points, strict=True)
        errors = [std or 0 for std in stds]
        ax.errorbar(np.array(places) + offset, means, errors, **style(each.index), lw=1.4, ms=5, elinewidth=1,
                    capsize=2)  # fmt: skip
    _draw_bounds(ax, bounds, across=False)
    ax.set_xticks(range(len(columns)), list(columns))
    ax.set_xlim(-0.4, len(columns) - 0.6)
    ax.set_xlabel("images per class (not to scale)")
    ax.set_ylabel("accuracy in percent")
    low, high = ax.get_ylim()
    heights = _apart([mean for _, mean, _ in ends], (high - low) * LINE / (height - 60))
    ax.set_ylim(min(low, min(heights)), max(high, max(heights)))
    for (column, mean, _), place, offset, text, each in zip(ends, heights, spread, names, series, strict=True):
        ax.annotate(
            text, (column + offset, mean), (1.06, place), textcoords=ax.get_yaxis_transform(), va="center",
            arrowprops={"arrowstyle": "-", "color": style(each.index)["color"], "lw": 0.8, "shrinkA": 1, "shrinkB": 4},
            annotation_clip=False,
        )  # fmt: skip
    return drawer.svg(_figure(ax), name)


@drawn
def accuracy_by_method(
    drawer: Drawer, series: Sequence[Series], bounds: Sequence[tuple[str, float]], name: str
) -> Markup:
    """Draw one point a method, error bars of one standard deviation, the best at the top."""
    ordered = sorted(series, key=lambda each: (each.points[0][1], each.name))
    names = [label(each.name) for each in ordered]
    left = 16 + max(len(text) for text in names) * CHARACTER
    ax = axes(300 + left, 58 + 20 * len(ordered), (left, 16, 46, 12))
    for row, each in enumerate(ordered):
        _, mean, std = each.points[0]
        look = style(each.index)
        ax.errorbar([mean], [row], xerr=[std or 0], color=look["color"], marker=look["marker"], ms=6, capsize=3)
    _draw_bounds(ax, bounds, across=True)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel("accuracy in percent")
    return drawer.svg(_figure(ax), name)


def _draw_bounds(ax: Axes, bounds: Sequence[tuple[str, float]], across: bool) -> None:
    low, high = ax.get_xlim() if across else ax.get_ylim()
    for text, mean in bounds:
        if not low - (high - low) / 2 < mean < high + (high - low) / 2:
            continue  # far away, and would press all others together; it stands below the table
        if across:
            ax.axvline(mean, color=INK, lw=1, ls=":")
            ax.text(mean, 0.02, f"{label(text)} ", transform=ax.get_xaxis_transform(), ha="right", va="bottom", size=10)
        else:
            ax.axhline(mean, color=INK, lw=1, ls=":")
            ax.text(0.01, mean, label(text), transform=ax.get_yaxis_transform(), va="bottom", size=10)


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Return places at least ``gap`` apart, in the order of ``values`` and as near them as can be."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    blocks: list[tuple[float, int]] = []  # (mean of what the block's values leave of their first place, how many)
    for place, index in enumerate(order):
        mean, count = values[index] - place * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, others = blocks.pop()
            mean, count = (mean * count + other * others) / (count + others), count + others
        blocks.append((mean, count))
    starts = [mean for mean, count in blocks for _ in range(count)]
    placed = {index: start + place * gap for place, (index, start) in enumerate(zip(order, starts, strict=True))}
    return [placed[index] for index in range(len(values))]


@drawn
def curves(drawer: Drawer, title: str, found: Sequence[tuple[int, Curve]], name: str, fraction: bool = False) -> Markup:
    """Draw one quantity over the iterations, (style, curve) per run; logarithmic where it spans two decades."""
    ax = axes(350, 240, (62, 10, 42, 26))
    crowded = len(found) > CROWD
    shown = [(index, evened(curve, STRETCHES) if crowded else thinned(curve, MOST_POINTS)) for index, curve in found]
    values = np.concatenate([curve.values for _, curve in shown])
    values = values[np.isfinite(values)]
    logarithmic = not fraction and len(values) > 0 and values.min() > 0 and values.max() > 100 * values.min()
    if logarithmic:
        ax.set_yscale("log")
    marked: set[int] = set()
    for place, (index, curve) in enumerate(shown):
        every = max(1, len(curve.steps) // MARKS)
        start = place * every // len(shown)  # so that markers of curves that lie on each other do not
        look = style(index) | ({"marker": None} if crowded and index in marked else {})
        marked.add(index)
        ax.plot(curve.steps, curve.values, **look, lw=1 if crowded else 1.4, ms=5, markevery=(start, every))
    if fraction:
        ax.set_ylim(-0.03, 1.03)
    if not logarithmic:
        ax.yaxis.set_major_formatter(FuncFormatter(_short))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_title(label(title, 50) + (" (logarithmic)" if logarithmic else ""))
    ax.set_xlabel("iteration")
    return drawer.svg(_figure(ax), name)


@drawn
def bars(drawer: Drawer, title: str, values: Sequence[tuple[str, float]], unit: str, name: str) -> Markup:
    """Draw one bar a name, the number at its end."""
    names = [label(text) for text, _ in values]
    left = 16 + max(len(text) for text in names) * CHARACTER
    ax = axes(260 + left, 72 + 20 * len(values), (left, 56, 42, 26))
    numbers = [value for _, value in values]
    places = list(range(len(values)))[::-1]
    ax.barh(places, numbers, color=COLOURS[0], height=0.65)
    for place, number in zip(places, numbers, strict=True):
        ax.annotate(f"{number:,.3g}" if number < 1000 else f"{number:,.0f}", (number, place), (4, 0),
                    textcoords="offset points", va="center")  # fmt: skip
    ax.set_yticks(places, names)
    ax.set_ylim(-0.6, len(values) - 0.4)
    ax.set_xlim(0, max(numbers) or 1)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set_title(title)
    ax.set_xlabel(unit)
    return drawer.svg(_figure(ax), name)


@drawn
def reliability(
    drawer: Drawer, networks: Sequence[Sequence[tuple[float, float]]], together: Sequence[tuple[float, float]],
    name: str,
) -> Markup:  # fmt: skip
    """Draw accuracy over confidence: a light line per network, all networks' images together as a strong one."""
    ax = axes(290, 280, (56, 10, 44, 8))
    ax.plot([0, 1], [0, 1], color=INK, lw=1, ls=":")
    ax.text(0.03, 0.97, "dotted: confidence = accuracy", va="top", size=10)
    for points in networks:
        ax.plot(*zip(*points, strict=True), color="#9bb8cc", lw=0.9)
    ax.plot(*zip(*together, strict=True), color=COLOURS[0], marker="o", ms=5, lw=1.8)
    ax.set_xlim(0, 1.02)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("confidence")
    ax.set_ylabel("accuracy")
    return drawer.svg(_figure(ax), name)


def _short(value: float, place: int | None) -> str:
    """Return a tick's number without an offset elsewhere: 5e-9."""
    return re.sub(r"e-0*", "e-", f"{value:.3g}").replace("-", MINUS)


def _figure(ax: Axes) -> Figure:
    figure = ax.figure
    assert isinstance(figure, Figure)
    return figure
