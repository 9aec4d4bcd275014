"""The sections on what runs took, and how they were set up."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import yaml

from hoptm_plugin.cards.card import Cost
from hoptm_plugin.pages import figures
from hoptm_plugin.pages.content import Cell, Drawing, Folded, NamedRun, Part, Row, Section, Table
from hoptm_plugin.pages.svg import Drawer
from hoptm_plugin.storage.paths import LEFT_OUT, without_paths

UNKNOWN, SHORTEST = "-", 0.001
MOST_CHARACTERS = 200_000  # of a configuration


def cost_section(runs: Sequence[NamedRun], drawer: Drawer) -> Section:
    """Return time and memory of every run, and of methods at a glance."""
    columns = ("Experts, s", "Distillation, s", "Evaluation, s", "Per iteration, s", "Peak memory, GiB", "Device")
    rows = []
    for named in runs:
        cost = named.run.card.cost
        memory = None if cost.peak_memory_bytes is None else cost.peak_memory_bytes / 2**30
        numbers = (cost.experts_s, cost.distill_s, cost.evaluate_s, cost.seconds_per_iteration, memory)
        rows.append(Row(named.name, (*(Cell(_number(each)) for each in numbers), Cell(cost.device))))
    table = Table("Time and memory of every run", "Run", columns, tuple(rows), "numbers")
    introduction = (
        "Seconds of wall-clock time; experts count where an earlier run trained them as well. Peak memory is what the "
        "process held, on a GPU what was allocated there. Times of different devices do not compare.",
    )
    return Section("Cost", "cost", introduction, (table,), tuple(_bars(runs, drawer)))


def _bars(runs: Sequence[NamedRun], drawer: Drawer) -> list[Drawing]:
    quantities: tuple[tuple[str, str, Callable[[Cost], float | None]], ...] = (
        ("Distillation", "seconds", lambda cost: cost.distill_s),
        ("Peak memory", "GiB", lambda cost: cost.peak_memory_bytes and cost.peak_memory_bytes / 2**30),
    )
    places = {(named.run.card.dataset.name, named.run.card.cost.device) for named in runs}
    drawings = []
    for dataset, device in sorted(places):
        for title, unit, value in quantities:
            found: dict[str, list[float]] = {}
            for named in runs:
                card = named.run.card
                number = value(card.cost)
                if (card.dataset.name, card.cost.device) == (dataset, device) and number and number >= SHORTEST:
                    size = "all images" if card.ipc is None else f"IPC {card.ipc}"
                    found.setdefault(f"{card.title}, {size}", []).append(number)
            if found:
                means = [(name, fmean(numbers)) for name, numbers in found.items()]
                longest = max(means, key=lambda each: each[1])
                where = f"{title} of each method on {dataset}, {device}"
                name = f"{where}: most {longest[0]}, {longest[1]:.3g} {unit}; the table of cost has every value"
                svg = figures.bars(drawer, title, means, unit, name)
                drawings.append(Drawing(svg, f"{where}, mean over runs."))
    return drawings


def _number(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    if 0 < value < SHORTEST:
        return f"< {SHORTEST:g}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def settings_section(runs: Sequence[NamedRun], open_below: int) -> Section:
    """Return software and the whole configuration of every run."""
    columns = ("Python", "torch", "torchvision", "kornia", "numpy", "hoptm-plugin", "Commit")
    rows, parts = [], []
    for named in runs:
        used = named.run.card.software
        versions = (used.python, used.torch, used.torchvision, used.kornia, used.numpy, used.hoptm_plugin)
        commit = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28}\b", r"\1", used.commit or UNKNOWN)
        rows.append(Row(named.name, tuple(Cell(each or UNKNOWN) for each in (*versions, commit)), named.key))
        parts.append(_settings(named, len(runs) <= open_below))
    introduction = (f"Folders and files of the computer that a run took place on are replaced by “{LEFT_OUT}”.",)
    table = Table("Software of every run", "Run", columns, tuple(rows))
    return Section("Configuration and software", "configuration", introduction, (table,), parts=tuple(parts))


def _settings(named: NamedRun, unfolded: bool) -> Part:
    card = named.run.card
    lines = [f"Configuration {card.config_sha256[:12]}; data set {card.dataset.name}, fingerprint "
             f"{card.dataset.fingerprint[:12]}, {card.dataset.train:,} training, {card.dataset.validation:,} "
             f"validation and {card.dataset.test:,} test images."]  # fmt: skip
    if named.run.config is None:
        lines.append("The run folder holds no readable config.yaml; its protocol is in the card.")
        text = _yaml({"protocol": card.protocol})
        folded = Folded(f"Protocol of {named.name}", text=text, open=unfolded)
    else:
        folded = Folded(f"Configuration of {named.name}", text=_yaml(named.run.config), open=unfolded)
    return Part(named.name, named.key, notes=tuple(lines), folded=(folded,))


def _yaml(config: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(without_paths(config), sort_keys=False, allow_unicode=True, width=100)
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}\n(cut here: the rest is too long)"
