"""The sections on how sets were made: curves over iterations, and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hoptm_plugin.pages import figures
from hoptm_plugin.pages.content import Drawing, NamedRun, Part, Pictures, Section, listed
from hoptm_plugin.pages.curves import FRACTIONS, TITLES, order
from hoptm_plugin.pages.pictures import barely_changed, needed, shares, strips
from hoptm_plugin.pages.svg import Drawer
from hoptm_plugin.runs.grid import Tiles

MOST_QUANTITIES = 16


def curve_section(runs: Sequence[NamedRun], drawer: Drawer, styles: Mapping[str, int]) -> Section:
    """Return curves over iterations: one figure a quantity for all runs of a data set and IPC."""
    groups: dict[tuple[str, str, int], list[NamedRun]] = {}
    for named in runs:
        card = named.run.card
        if named.run.curves:
            groups.setdefault((card.dataset.name, card.dataset.fingerprint, card.ipc or 0), []).append(named)
    parts = []
    for number, ((dataset, fingerprint, ipc), members) in enumerate(groups.items(), start=1):
        twins = len({key[1] for key in groups if (key[0], key[2]) == (dataset, ipc)}) > 1
        where = f"{dataset}, IPC {ipc}" + (f", fingerprint {fingerprint[:12]}" if twins else "")
        parts.append(_curves(where, f"curves-{number}", members, drawer, styles))
    without = [named.name for named in runs if not named.run.curves]
    introduction: tuple[str, ...] = (
        "Each line is one run; runs of a method that differ only in their seed look alike. Losses of different methods "
        "are different quantities, so their heights must not be compared. Up to six lines show every spike; of more, "
        "means over short stretches are drawn.",
    )
    if without:
        introduction += (f"No curves, because nothing was logged or the log is not there: {listed(without)}.",)
    return Section("Over the iterations", "iterations", introduction if parts else introduction[1:], parts=tuple(parts))


def _curves(where: str, key: str, members: Sequence[NamedRun], drawer: Drawer, styles: Mapping[str, int]) -> Part:
    quantities = sorted({quantity for named in members for quantity in named.run.curves}, key=order)
    notes: tuple[str, ...] = ()
    if len(quantities) > MOST_QUANTITIES:
        notes = (f"Not shown: {', '.join(quantities[MOST_QUANTITIES:])}.",)
    titles = sorted({named.run.card.title for named in members}, key=lambda title: (styles[title], title))
    drawings = []
    for quantity in quantities[:MOST_QUANTITIES]:
        found = [(named, named.run.curves[quantity]) for named in members if quantity in named.run.curves]
        title = TITLES.get(quantity, quantity)
        methods = dict.fromkeys(named.run.card.title for named, _ in found)
        name = f"{title} over the iterations, {where}: {', '.join(methods)}"
        if len(found) == 1:
            values = found[0][1].values
            name += f"; from {values[0]:.3g} to {values[-1]:.3g}"
        lines = [(styles[named.run.card.title], curve) for named, curve in found]
        drawings.append(Drawing(figures.curves(drawer, title, lines, name, quantity in FRACTIONS), ""))
    legend = tuple((drawer.swatch(styles[title]), title) for title in titles)
    return Part(where, key, notes=notes, drawings=tuple(drawings), legend=legend)


@dataclass(frozen=True)
class _Set:
    """A picture to be shown: whose, of what kind, and whether its images are real training images."""

    named: NamedRun
    kind: str
    tiles: Tiles
    real: bool


def image_section(runs: Sequence[NamedRun], real_images: bool) -> tuple[Section, list[str]]:
    """Return initial and distilled images of every run, and the names of runs of which real images are shown."""
    sets = [each for named in runs for each in _sets(named)]
    withheld = {each.named.key for each in sets if each.real} if not real_images else set()
    sets = [each for each in sets if real_images or not each.real]
    first: dict[tuple[bytes, str], _Set] = {}
    for each in sets:
        first.setdefault(_identity(each), each)
    unique = list(first.values())
    needs = [needed(each.tiles) for each in unique]
    limits = {id(each): pair for each, *pair in zip(unique, needs, shares(needs), strict=True)}
    parts = []
    without = [named for named in runs if named.run.initial is None and named.run.distilled is None]
    shown = {named.key for named in runs} - {named.key for named in without}
    for named in (each for each in runs if each.key in shown):
        pictures, notes = [], _absent(named)
        for each in (each for each in sets if each.named is named):
            same = first[_identity(each)]
            if same is each:
                pictures.append(_pictures(each, *limits[id(each)]))
            else:
                whose = "the distilled ones" if same.named is named else f"those of {same.named.name}, shown there"
                notes.append(f"{each.kind.capitalize()} images: the same as {whose}.")
        if named.key in withheld:
            notes.append("Pictures of real training images are left out (--no-real-images).")
        parts.append(Part(named.name, f"images-{named.key}", notes=tuple(notes), pictures=tuple(pictures)))
    introduction = ["As they are stored, values clamped to the range of colours; each pixel is enlarged to a square. "
                    "Distilled images that start from real ones may still resemble them."]  # fmt: skip
    if withheld:
        introduction.append(
            "Pictures of real training images were left out of this page. Distilled images that hardly differ from the "
            "real ones that they started from count as real."
        )
    elif not real_images:
        introduction.append("Pictures of real training images would be left out of this page; there were none.")
    for text, whole in (("there is no picture of the set", False),
                        ("they trained on the whole training split, and there is no set", True)):  # fmt: skip
        names = [named.name for named in without if (named.run.card.ipc is None) == whole]
        if names:
            introduction.append(f"Not shown, because {text}: {listed(names)}.")
    shown_real = [named.name for named in runs if any(each.real and each.named is named for each in sets)]
    return Section("Images", "images", tuple(introduction), parts=tuple(parts)), shown_real


def _identity(each: _Set) -> tuple[bytes, str]:
    card = each.named.run.card
    return each.tiles.images.numpy().tobytes(), f"{tuple(each.tiles.images.shape)} {card.dataset.classes} {each.real}"


def _sets(named: NamedRun) -> list[_Set]:
    """Return what there is to show of a run. What may be real counts as real."""
    run, sets = named.run, []
    real = _initialiser(named) != "noise"
    if run.distilled is not None:
        # without the start nothing tells whether the images left it
        unchanged = run.initial is None or barely_changed(run.initial, run.distilled)
        sets.append(_Set(named, "distilled", run.distilled, real and unchanged))
    if run.initial is not None:
        sets.append(_Set(named, "initial", run.initial, real))
    return sets


def _initialiser(named: NamedRun) -> str | None:
    method = (named.run.config or {}).get("method")
    initial = method.get("initial_images") if isinstance(method, Mapping) else None
    name = initial.get("name") if isinstance(initial, Mapping) else None
    return name if isinstance(name, str) else None


def _absent(named: NamedRun) -> list[str]:
    absent = {"distilled": named.run.distilled, "initial": named.run.initial}
    return [f"No picture of the {kind} images." for kind, tiles in absent.items() if tiles is None]


def _pictures(each: _Set, need: int, most: int) -> Pictures:
    card = each.named.run.card
    shown = strips(each.tiles, card.dataset.classes, card.ipc, "real" if each.real else each.kind, need, most)
    name = f"{each.kind.capitalize()} images"
    return Pictures(name, shown.strips, shown.remark, each.real)
