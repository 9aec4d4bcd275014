"""What stands in TABLES.md beside the tables that ``compare`` makes: rows of texts, by section."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from study_narrow.cards import Study
from suite_file import MAIN

from hoptm_plugin.cards.card import Card, read_card
from hoptm_plugin.cards.words import percent
from hoptm_plugin.engine.metrics import summarise

ROOT = Path(__file__).resolve().parents[2]
RECIPES = [ROOT / "hoptm_plugin" / "conf" / "recipe", ROOT / "baselines" / "hoptm_baselines" / "conf" / "recipe"]
UNEVEN = 2  # largest class by smallest, from which on accuracy alone misleads
RATE = "distillation.images.learning_rate="


def support(study: Study) -> dict[str, int]:
    """Return how many test images every class has."""
    return dict(zip(study.cards[0].dataset.classes, study.cards[0].evaluations[0].support, strict=True))


def uneven(study: Study) -> bool:
    """Tell whether the classes of the test split are of very different sizes."""
    return max(support(study).values()) >= UNEVEN * min(support(study).values())


def ipcs(study: Study) -> list[int]:
    """Return the numbers of images per class that runs of the study have."""
    return sorted({card.ipc for card in study.cards if card.ipc is not None})


def balanced(study: Study) -> list[list[str]]:
    """Return mean recall over classes: method, then by IPC."""
    cells: dict[tuple[str, int], list[float | None]] = {}
    for card in map(read_card, study.files(MAIN)):
        if card.ipc is not None:
            cells.setdefault((card.title, card.ipc), []).extend(card.evaluations[0].balanced_accuracy.values)
    rows = []
    for title in sorted({title for title, _ in cells}, key=str.casefold):
        summaries = [summarise(cells[title, ipc]) if (title, ipc) in cells else None for ipc in ipcs(study)]
        rows.append([title, *("" if each is None else percent(each["mean"], each["std"]) for each in summaries)])
    return rows


def published(study: Study) -> tuple[list[list[str]], list[str]]:
    """Return what the methods' recipes report for the study's data set, method then by IPC, and their sources."""
    rows, sources = [], set()
    for title, method in sorted({(card.title, card.method) for card in study.cards}):
        found = [path for place in RECIPES if (path := place / method / f"{study.data}.yaml").is_file()]
        recipe = yaml.safe_load(found[0].read_text(encoding="utf-8")) if found else {}
        reported = (recipe.get("all") or {}).get("reported")
        if reported and "ipc" in reported:
            sources.add(reported["source"])
            values = [reported["ipc"].get(ipc) for ipc in ipcs(study)]
            rows.append([title, *("" if each is None else percent(each["accuracy"], each["std"]) for each in values)])
    return rows, sorted(sources)


def chosen(study: Study) -> list[list[str]]:
    """Return what every search tried and took: data, method, IPC, tried, taken."""
    rows = {}
    for card in study.cards:
        if card.tuning is not None and card.tuning.reused is None:
            tried = sorted((float(each.settings.removeprefix(RATE)), each.accuracy) for each in card.tuning.candidates)
            texts = [f"{rate:g}: {'failed' if accuracy is None else f'{100 * accuracy:.2f}'}"
                     for rate, accuracy in tried]  # fmt: skip
            rate = float(card.tuning.chosen.removeprefix(RATE))
            end = " (end)" if rate in (tried[0][0], tried[-1][0]) else ""
            rows[card.title, card.ipc] = [study.data, card.title, str(card.ipc), "; ".join(texts), f"{rate:g}{end}"]
    return list(rows.values())


def compute(study: Study) -> tuple[list[str], float]:
    """Return the minutes spent by stage, and all in seconds; runs that read the same experts have their time."""
    experts = sum({card.cost.experts_s for card in (*study.cards, *study.searched) if card.cost.experts_s})
    stages = [experts]
    for cards in (study.searched, study.cards):
        stages += [sum(card.cost.distill_s or 0 for card in cards), sum(card.cost.evaluate_s for card in cards)]
    runs = f"{len(study.searched)} + {len(study.cards)}"
    return [study.data, runs, *(f"{seconds / 60:.0f}" for seconds in (*stages, sum(stages)))], sum(stages)


def pilots(cards: Sequence[tuple[str, Card]]) -> tuple[list[list[str]], float]:
    """Return the runs that settled what all methods have in common, and the seconds that they took."""
    rows = [[name, card.title, percent(card.evaluations[0].accuracy.mean, card.evaluations[0].accuracy.std)]
            for name, card in cards]  # fmt: skip
    return rows, sum((card.cost.distill_s or 0) + card.cost.evaluate_s for _, card in cards)


def checks(known: dict[str, list[dict[str, Any]]], data: dict[str, str]) -> dict[str, list[list[str]]]:
    """Return what was checked of these suites: losses and step sizes, masks, experts, and the shape term's gradient."""
    curves, experts, shape = ([row for row in known.get(name, ()) if row["suite"] in data]
                              for name in ("curves", "experts", "shape"))  # fmt: skip
    places = [(row[when], [data[row["suite"]], str(row["ipc"]), str(row["width"]), str(row["student_steps"]), when])
              for row in shape for when in ("start", "end") if when in row]  # fmt: skip
    runs = [(row, [data[row["suite"]], row["title"], str(row["ipc"])]) for row in curves]
    taught = [(row["accuracy"], [data[row["suite"]], row["experts"].upper()]) for row in experts]
    return {
        "experts": [[*store, ", ".join(f"{100 * one:.0f}" for one in accuracies)] for accuracies, store in taught],
        "shares": [[*place, f"{found['ratio']:.2g}", f"{found['cosine']:.2g}"] for found, place in places],
        "ways": [[*place, *(f"{100 * way:.2g}" for way in found["way"])] for found, place in places],
        "masks": [[*run, *(f"{100 * part:.0f}" for part in row["mask"])] for row, run in runs if "mask" in row],
        "losses": [[*run, *(" to ".join(f"{value:.3g}" for value in row[name]) if name in row else ""
                            for name in ("loss", "step_size"))] for row, run in runs],
    }  # fmt: skip
