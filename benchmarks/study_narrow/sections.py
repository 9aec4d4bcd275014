"""Sections of TABLES.md beside the tables that ``compare`` makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from page import table
from study_cards import RESULTS, Study
from study_cards import pilots as pilot_cards
from suite_file import MAIN

from hoptm_plugin.cards.card import Card, read_card
from hoptm_plugin.cards.words import percent
from hoptm_plugin.engine.metrics import summarise
from hoptm_plugin.storage.files import read_json

ROOT = Path(__file__).resolve().parents[1]
RECIPES = [ROOT / "hoptm_plugin" / "conf" / "recipe", ROOT / "baselines" / "hoptm_baselines" / "conf" / "recipe"]
CHECKS = RESULTS / "study_checks.json"
UNEVEN = 2  # largest class by smallest, from which on accuracy alone misleads
RATE = "distillation.images.learning_rate="
FRACTIONS = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the parameters, the easiest first
PARTS = (0, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
BALANCED = """
### Balanced accuracy on {data}

Mean recall over the classes in percent, mean ± population std over networks. The test split has {counts}.

"""
PUBLISHED = """
### Published for {data}, of another setting

To hold beside the table, not against it: {sources}; four classes at 112x112, a ConvNet of width 128 and five blocks, a
hundred experts, and for HoP-TM the checkpoint that was best on the test split.

"""
CHOSEN = """
## Settings chosen

Rates of the images that were tried, with the accuracy in percent on the validation split, and the one that was taken.
Every method had as many candidates; random images and all images have none to choose. Where an end of the range was
taken, a rate beyond it may have been better; most differences between neighbours are within the scatter of one
distillation.

"""
HEAD = """
## What was checked

Measured by `python benchmarks/study_checks.py` on the whole run folders.
"""
EXPERTS = "On the validation split, mean over the experts.\n\n"
SHAPE = """HoP-TM without pacing, seed 0: the norm of the gradient of lambda times the shape term with respect to the
images, divided by that of the endpoint's loss, and the cosine of the two; means over ten iterations. At width 128:
three iterations of the first segment of one expert.

"""
WAYS = """In the same settings: which part of the squared way of the expert, in percent, lies in the easiest parameters,
those with the smallest squared errors, by their fraction. If all parameters moved alike it would be that fraction.

"""
MASKS = "Percent of the parameters that were matched, by the part of the run that was over, mean over the runs.\n\n"
LOSSES = """Means over the first and the last tenth of the run, and over the runs; not comparable between methods.

"""
PILOTS = """
### Pilots

What all methods have in common was settled by these runs on the validation split of the blood cells, with seed 0 and
three networks each ({minutes:.0f} minutes, experts not counted). All are at IPC 10.

"""
COMPUTE = """
## Compute

Minutes of one core, since each process had one thread; {hours:.1f} hours in all, of the runs whose cards are here,
pilots included, on: {devices}. Runs that were stopped and begun again, timings and the checks come on top.

"""
COMMANDS = """
## Again

One command for all tables of a data set, which goes on where it was interrupted; then the checks, and this page.

```bash
{commands}
python benchmarks/study_checks.py runs/suites
python benchmarks/tables.py --take runs/suites
```
"""


def uneven(study: Study) -> bool:
    """Tell whether the classes of the test split are of very different sizes."""
    support = study.cards[0].evaluations[0].support
    return max(support) >= UNEVEN * min(support)


def balanced(study: Study) -> str:
    """Return mean recall over classes."""
    cells: dict[tuple[str, int], list[float | None]] = {}
    for card in map(read_card, study.files(MAIN)):
        if card.ipc is not None:
            cells.setdefault((card.title, card.ipc), []).extend(card.evaluations[0].balanced_accuracy.values)
    columns = sorted({ipc for _, ipc in cells})
    rows = []
    for title in sorted({title for title, _ in cells}, key=str.casefold):
        summaries = [summarise(cells[title, ipc]) if (title, ipc) in cells else None for ipc in columns]
        rows.append([title, *("" if each is None else percent(each["mean"], each["std"]) for each in summaries)])
    counted = zip(study.cards[0].dataset.classes, study.cards[0].evaluations[0].support, strict=True)
    counts = ", ".join(f"{name} {count}" for name, count in counted)
    headings = ["method", *(f"IPC {ipc}" for ipc in columns)]
    return BALANCED.format(data=study.data, counts=counts) + table(headings, rows) + "\n"


def published(study: Study) -> str:
    """Return what the recipes of a study's methods report for its data set; "" where they report nothing."""
    ipcs = sorted({card.ipc for card in study.cards if card.ipc is not None})
    rows, sources = [], set()
    for title, method in sorted({(card.title, card.method) for card in study.cards}):
        found = [path for place in RECIPES if (path := place / method / f"{study.data}.yaml").is_file()]
        recipe = yaml.safe_load(found[0].read_text(encoding="utf-8")) if found else {}
        reported = (recipe.get("all") or {}).get("reported")
        if reported and "ipc" in reported:
            sources.add(reported["source"])
            values = [reported["ipc"].get(ipc) for ipc in ipcs]
            rows.append([title, *("" if each is None else percent(each["accuracy"], each["std"]) for each in values)])
    if not rows:
        return ""
    headings = ["method", *(f"IPC {ipc}" for ipc in ipcs)]
    return PUBLISHED.format(data=study.data, sources="; ".join(sorted(sources))) + table(headings, rows) + "\n"


def chosen(found: Sequence[Study]) -> str:
    """Return what every search tried and took."""
    rows = {}
    for study in found:
        for card in study.cards:
            if card.tuning is not None and card.tuning.reused is None:
                tried = sorted((float(each.settings.removeprefix(RATE)), each.accuracy)
                               for each in card.tuning.candidates)  # fmt: skip
                texts = [f"{rate:g}: {'failed' if accuracy is None else f'{100 * accuracy:.2f}'}"
                         for rate, accuracy in tried]  # fmt: skip
                rate = float(card.tuning.chosen.removeprefix(RATE))
                taken = f"{rate:g}{' (end)' if rate in (tried[0][0], tried[-1][0]) else ''}"
                known = [study.data, card.title, str(card.ipc)]
                rows[tuple(known)] = [*known, "; ".join(texts), taken]
    return CHOSEN + table(["data", "method", "IPC", "tried", "taken"], rows.values(), words=4) + "\n"


def checks(found: Sequence[Study]) -> str:
    """Return what ``study_checks.py`` measured: losses, step sizes, masks, experts, and the shape term's gradient."""
    data = {study.name: study.data for study in found}
    known = read_json(CHECKS, "study's checks") if CHECKS.exists() else {}
    curves, experts, shape = ([row for row in known.get(name, ()) if row["suite"] in data]
                              for name in ("curves", "experts", "shape"))  # fmt: skip
    if not curves:
        return ""
    rows = [[data[row["suite"]], row["title"], str(row["ipc"]), *(
        " to ".join(f"{value:.3g}" for value in row[name]) if name in row else "" for name in ("loss", "step_size")
    )] for row in curves]  # fmt: skip
    opened = [[data[row["suite"]], row["title"], str(row["ipc"]), *(f"{100 * part:.0f}" for part in row["mask"])]
              for row in curves if "mask" in row]  # fmt: skip
    taught = [[data[row["suite"]], row["experts"].upper(), ", ".join(f"{100 * each:.0f}" for each in row["accuracy"])]
              for row in experts]  # fmt: skip
    places = [(row, when, [data[row["suite"]], str(row["ipc"]), str(row["width"]), str(row["student_steps"]), when])
              for row in shape for when in ("start", "end") if when in row]  # fmt: skip
    shares = [[*place, f"{row[when]['ratio']:.2g}", f"{row[when]['cosine']:.2g}"] for row, when, place in places]
    ways = [[*place, *(f"{100 * way:.2g}" for way in row[when]["way"])] for row, when, place in places]
    parts = [f"{100 * part:g} %" for part in PARTS]
    return "".join([
        HEAD, "\n### Experts\n\n", EXPERTS,
        table(["data", "experts", "accuracy in percent after 0, 1, 2, ... epochs"], taught, words=3),
        "\n\n### The shape term's gradient\n\n", SHAPE,
        table(["data", "IPC", "width", "student steps", "images", "ratio", "cosine"], shares),
        "\n\n### What easy parameters are\n\n", WAYS,
        table(["data", "IPC", "width", "student steps", "images", *(f"{100 * part:g} %" for part in FRACTIONS)], ways),
        "\n\n### How the masks opened\n\n", MASKS, table(["data", "method", "IPC", *parts], opened, words=2),
        "\n\n### Losses and step sizes\n\n", LOSSES,
        table(["data", "method", "IPC", "loss", "step size"], rows, words=2), "\n",
    ])  # fmt: skip


def compute(found: Sequence[Study]) -> str:
    """Return the time spent by suite and stage; runs that read the same experts have their time, so it counts once."""
    rows, total = [], 0.0
    for study in found:
        experts = sum({card.cost.experts_s for card in (*study.cards, *study.searched) if card.cost.experts_s})
        stages = [experts]
        for cards in (study.searched, study.cards):
            stages += [sum(card.cost.distill_s or 0 for card in cards), sum(card.cost.evaluate_s for card in cards)]
        total += sum(stages)
        runs = f"{len(study.searched)} + {len(study.cards)}"
        rows.append([study.data, runs, *(f"{seconds / 60:.0f}" for seconds in (*stages, sum(stages)))])
    devices = sorted({card.cost.device for study in found for card in (*study.cards, *study.searched)})
    headings = ["data", "runs: search + study", "experts", "search: distilling", "evaluating", "study: distilling",
                "evaluating", "all"]  # fmt: skip
    total += sum(_seconds(card) for _, card in pilot_cards())
    return COMPUTE.format(hours=total / 3600, devices="; ".join(devices)) + table(headings, rows) + "\n"


def pilots() -> str:
    """Return the runs that settled what all methods have in common; "" where there were none."""
    cards = pilot_cards()
    if not cards:
        return ""
    rows = [[name, card.title, percent(card.evaluations[0].accuracy.mean, card.evaluations[0].accuracy.std)]
            for name, card in cards]  # fmt: skip
    minutes = sum(_seconds(card) for _, card in cards) / 60
    return PILOTS.format(minutes=minutes) + table(["run", "method", "accuracy"], rows, words=2) + "\n"


def _seconds(card: Card) -> float:
    return (card.cost.distill_s or 0) + card.cost.evaluate_s


def commands(found: Sequence[Study]) -> str:
    """Return the commands that make all of it again."""
    lines = (f"python benchmarks/suite.py {study.name} runtime.threads=1 dataset.root=PATH" for study in found)
    return COMMANDS.format(commands="\n".join(lines))
