"""How sets were made: curves over the iterations, and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hoptm_plugin.pages import figures
from hoptm_plugin.pages.curves import TITLES
from hoptm_plugin.pages.reading import Run
from hoptm_plugin.pages.svg import swatch

MOST_QUANTITIES = 16
FRACTIONS = ("mask_fraction", "saturation")
SCORES = ("validation_accuracy", "test_accuracy")  # by which an iteration is chosen
KINDS = ("distilled", "initial")


def curve_parts(runs: Sequence[Run], styles: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return a part for every data set and IPC: one figure a quantity for all its runs, and what their lines mean."""
    groups: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        if run.curves:
            data = run.card.dataset
            groups.setdefault((data.name, data.fingerprint, run.card.ipc or 0), []).append(run)
    names = [(dataset, ipc) for dataset, _, ipc in groups]
    parts = []
    for number, ((dataset, fingerprint, ipc), members) in enumerate(groups.items(), start=1):
        where = f"{dataset}, IPC {ipc}" + (f", fingerprint {fingerprint[:12]}" * (names.count((dataset, ipc)) > 1))
        key = f"curves-{number}"
        logged = {each for run in members for each in run.curves}
        quantities = [*(each for each in TITLES if each in logged), *sorted(logged - TITLES.keys())]
        titles = sorted({run.title for run in members}, key=lambda title: (styles[title], title))
        parts.append({
            "name": where, "key": key, "legend": [(swatch(styles[title], key), title) for title in titles],
            "notes": [f"Not shown: {', '.join(quantities[MOST_QUANTITIES:])}."] * (len(quantities) > MOST_QUANTITIES),
            "figures": [(_figure(each, members, where, styles), "") for each in quantities[:MOST_QUANTITIES]],
        })  # fmt: skip
    return parts


def _figure(quantity: str, members: Sequence[Run], where: str, styles: Mapping[str, int]) -> Markup:
    found = [run for run in members if quantity in run.curves]
    title = TITLES.get(quantity, quantity)
    name = f"{title} over the iterations, {where}: {', '.join(dict.fromkeys(run.title for run in found))}"
    if quantity in SCORES:
        chosen = dict.fromkeys(f"{run.card.selected.iteration:,}" for run in found if run.card.selected is not None)
        name += f"; chosen: iteration {', '.join(chosen)}" if chosen else ""
        title += f", chosen: {', '.join(chosen)}" if chosen else ""
    if len(found) == 1:
        values = found[0].curves[quantity].values
        name += f"; from {values[0]:.3g} to {values[-1]:.3g}"
    lines = [(styles[run.title], run.curves[quantity]) for run in found]
    return figures.curves(name, title, lines, quantity in FRACTIONS)


def image_parts(runs: Sequence[Run], real_images: bool) -> list[dict[str, Any]]:
    """Return a part for every run that has pictures; those that runs share are there once, with the first.

    Args:
        runs: in order.
        real_images: whether pictures of real training images are shown.
    """
    first: dict[object, tuple[Run, str]] = {}
    parts = []
    for run in runs:
        kinds = [each.kind for each in run.pictures]
        notes, shown = [f"No picture of the {kind} images." for kind in KINDS if kind not in kinds], []
        for each in run.pictures:
            if each.real and not real_images:
                continue
            content = (each.real, each.remark, tuple((strip.name, strip.source) for strip in each.strips))
            owner, kind = first.setdefault(content, (run, each.kind))
            if owner is run and kind == each.kind:
                shown.append(each)
            else:
                whose = f"the {kind} ones" if owner is run else f"those of {owner.name}, shown there"
                notes.append(f"{each.kind.capitalize()} images: the same as {whose}.")
        if not real_images and any(each.real for each in run.pictures):
            notes.append("Pictures of real training images are left out.")
        if run.pictures:
            parts.append({"name": run.name, "key": f"images-{run.key}", "notes": notes, "pictures": shown})
    return parts
