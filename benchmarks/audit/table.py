"""What distilled sets give away: rows of every kind, audited at the quick and at the standard tier.

    python benchmarks/audit/table.py FOLDER [--only DATA ...] [--tier quick] [--out FOLDER] [KEY=VALUE ...]
    python benchmarks/audit/table.py --page      # makes TABLE.md of table.csv

FOLDER holds bloodcells.npz. A row is a run and two audits, by the commands that anybody gives; one that stands in
table.csv is not made again, one that was stopped or was audited at the quick tier alone goes on. Three to 26 minutes a
row, one with ``--tier quick``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from hoptm_plugin.cards.audit import AuditCard, Signal, read_audit
from hoptm_plugin.cards.card import read_card
from hoptm_plugin.privacy.membership import Membership, membership

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "table.csv", HERE / "TABLE.md"
NOISE, ASIDE = "method.initial_images.name=noise", "dataset.holdout_fraction=0.3"
ROWS = {
    "HoP-TM": ["method=hoptm"],
    "MTT": ["method=mtt"],
    "DM": ["method=dm"],
    "DM from noise": ["method=dm", NOISE],
    "random subset": ["method=random"],
    "DC": ["method=dc"],
    "DSA": ["method=dsa"],
    "TGDD": ["method=tgdd"],
    "NCFM, no adversary": ["method=ncfm"],
    "PAD": ["method=pad"],
    "MCT": ["method=mct"],
    "RDED": ["method=rded"],
    "DP means, ε = 1": ["method=dp", "method.epsilon=1"],
    "DP means, ε = 4": ["method=dp", "method.epsilon=4"],
    "DP means, ε = 10": ["method=dp", "method.epsilon=10"],
}
DATA = {
    "digits": ("Digits", list(ROWS), 1, ["dataset=digits"]),
    "cells": ("Blood cells (width 16, two experts, 200 iterations)", ["HoP-TM", "MTT", "DM"], 10, [
        "dataset=npz", "network.width=16", "experts.count=2", "experts.training.epoch_images=4096",
        "distillation.iterations=200",
    ]),
}  # fmt: skip
SIGNALS = ("loss", "nearest")
COLUMNS = ("row", "accuracy", "traced", "quick tier", "AUC, loss", "AUC, nearest", "told", "of exposed", "ε",
           "standard", "run, quick, standard: s")  # fmt: skip
HEAD = """# What distilled sets give away

One run of each method, and audits of its set at the quick and at the standard tier (16 shadow distillations of halves
of the images, three networks on each set), by [`table.py`](table.py): three commands a row. Rows without the latter
were audited at the quick tier alone.

- Accuracy: percent, mean ± standard deviation of the run's networks on one set (seed 0).
- Traced: images that point to the training image they began from, of how many; by chance in brackets.
- AUC: of telling members from others, mean over shadows with its 95 % interval; 0.5 is guessing.
- Told: members in percent where one of a hundred others is accused wrongly, by the better signal, with its interval;
  of exposed: the same of those that an image of the set began from.
- ε: the set itself refutes smaller ones, of at most what could have been shown.
- Seconds: of the three commands, one thread in each of two processes, on two cores beside other work.

What the columns mean, and what they do not: [docs/audit.md](../../docs/audit.md). How weak a leak they find:
[README.md](README.md).
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run and its audits; what only the standard tier finds is None where it was not run."""

    data: str
    ipc: int
    name: str
    accuracy: float
    std: float
    traced: int | None
    began: int | None
    by_chance: float | None
    quick: str
    verdict: str | None = None
    loss: float | None = None
    loss_low: float | None = None
    loss_high: float | None = None
    nearest: float | None = None
    nearest_low: float | None = None
    nearest_high: float | None = None
    told: float | None = None
    told_low: float | None = None
    told_high: float | None = None
    exposed: float | None = None
    epsilon: float | None = None
    ceiling: float | None = None
    aside_loss: float | None = None  # of real images that no step of a shadow has seen
    aside_loss_low: float | None = None
    aside_loss_high: float | None = None
    aside_nearest: float | None = None
    aside_nearest_low: float | None = None
    aside_nearest_high: float | None = None
    controls: int
    passed: int
    members: int
    run_s: float
    quick_s: float
    standard_s: float | None = None


def read() -> list[Row]:
    """Return the rows that have ended."""
    if not RESULTS.exists():
        return []
    table = pd.read_csv(RESULTS).astype(object)
    return [Row(**{str(key): value for key, value in each.items()})
            for each in table.where(table.notna(), None).to_dict("records")]  # fmt: skip


def command(*words: str, log: Path, may: tuple[int, ...] = (0,)) -> float:
    """Run hoptm-bench, what it says into a file; return the seconds it took."""
    began = time.monotonic()
    with log.open("a", encoding="utf-8") as said:
        code = subprocess.run(
            [Path(sys.executable).with_name("hoptm-bench"), *words], stdout=said, stderr=said
        ).returncode
    if code not in may:
        raise SystemExit(f"hoptm-bench {' '.join(words)}: exit code {code}, see {log}")
    return time.monotonic() - began


def set_aside(folder: Path) -> dict[str, Membership]:
    """Return how well members are told by sets of real images that are disjoint from all shadows' images."""
    shadows = [load_file(each) for each in sorted(folder.glob("audit/*-shadows-seed-0-*/shadow-*/signals.safetensors"))]
    members = np.stack([each["members"] for each in shadows])
    values = {name: np.stack([each[f"reserve, {name}"] for each in shadows]) for name in SIGNALS}
    draws = np.random.default_rng(0)
    return {name: membership(each, members, lambda _: members, draws, redraws=0) for name, each in values.items()}


def three(what: str, found: Signal | Membership) -> dict[str, float]:
    """Return an AUC and its interval by the names of a row."""
    return {what: found.auc, f"{what}_low": found.auc_ci95[0], f"{what}_high": found.auc_ci95[1]}


def made(data: str, ipc: int, name: str, folder: Path, extra: list[str], tier: str) -> Row:
    """Make a run and its audits; return what they came to."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    resumed = ["resume=true"] if folder.exists() else []
    run_s = command("run", *ROWS[name], *extra, f"ipc={ipc}", ASIDE, f"hydra.run.dir={folder}", *resumed, log=log)
    quick_s, quick = command("audit", str(folder), log=log, may=(0, 1)), read_audit(folder)
    row = row_of(data, ipc, name, quick, folder, (run_s, quick_s))
    if tier == "quick":
        return row
    standard_s = command("audit", str(folder), "tier=standard", log=log, may=(0, 1))
    return at_standard(row, read_audit(folder), folder, standard_s)


def row_of(data: str, ipc: int, name: str, quick: AuditCard, folder: Path, seconds: tuple[float, float]) -> Row:
    """Return the row of a run and its audit at the quick tier."""
    identity, accuracy = quick.identity, read_card(folder).evaluations[0].accuracy
    return Row(
        data=data, ipc=ipc, name=name, accuracy=accuracy.mean, std=accuracy.std, traced=identity and identity.first,
        began=identity and identity.images, by_chance=identity and identity.expected_first, quick=quick.verdict,
        controls=len(quick.controls), passed=sum(each.passed for each in quick.controls), members=quick.members,
        run_s=seconds[0], quick_s=seconds[1],
    )  # fmt: skip


def at_standard(row: Row, found: AuditCard, folder: Path, seconds: float) -> Row:
    """Return a row with what an audit at the standard tier found."""
    told, bound, aside = found.membership, found.one_run, set_aside(folder)
    assert told is not None
    best = told.told and told.told[1]
    known = [each.exposed_found for each in (told.loss, told.nearest) if each.exposed_found is not None]
    return replace(
        row, verdict=found.verdict, **three("loss", told.loss), **three("nearest", told.nearest),
        told=best and best.tpr, told_low=best and best.ci95[0], told_high=best and best.ci95[1],
        exposed=max(known, default=None), epsilon=bound and bound.epsilon, ceiling=bound and bound.ceiling,
        **three("aside_loss", aside["loss"]), **three("aside_nearest", aside["nearest"]),
        controls=len(found.controls), passed=sum(each.passed for each in found.controls), standard_s=seconds,
    )  # fmt: skip


def _auc(mean: float | None, low: float | None, high: float | None) -> str:
    return "-" if mean is None else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _line(each: Row) -> str:
    traced = "-" if each.traced is None else f"{each.traced:g} of {each.began:g} ({each.by_chance:.1f})"
    told = "-" if each.told is None else "{:.1f} [{:.1f}, {:.1f}]".format(
        *(100 * (value or 0) for value in (each.told, each.told_low, each.told_high)))  # fmt: skip
    exposed = "-" if each.exposed is None else f"{100 * each.exposed:.0f}"
    bound = "-" if each.epsilon is None else f"{each.epsilon:.2f} of {each.ceiling:.1f}"
    words = [each.name, f"{100 * each.accuracy:.1f} ± {100 * each.std:.1f}", traced, each.quick.replace("_", " "),
             _auc(each.loss, each.loss_low, each.loss_high), _auc(each.nearest, each.nearest_low, each.nearest_high),
             told, exposed, bound, (each.verdict or "-").replace("_", " "), f"{each.run_s:.0f}, {each.quick_s:.0f}, "
             f"{'-' if each.standard_s is None else f'{each.standard_s:.0f}'}"]  # fmt: skip
    return f"| {' | '.join(words)} |"


def _foot(rows: list[Row]) -> str:
    """Say what the audits of a table's rows measured of disjoint subsets, and whether their controls were right."""
    said, clear, whole = list[str](), 0, [each for each in rows if each.verdict is not None]
    for signal in SIGNALS:
        means, lows, highs = (
            [getattr(each, f"aside_{signal}{end}") for each in whole] for end in ("", "_low", "_high")
        )
        said.append(f"{min(means):.3f} to {max(means):.3f} by {signal}")
        clear += sum(low <= 0.5 <= high for low, high in zip(lows, highs, strict=True))
    wrong = [each.name for each in rows if each.passed != each.controls]
    controls = (
        f"wrong in {', '.join(wrong)}" if wrong else f"all {sum(each.controls for each in rows):g} as they must be"
    )
    return (f"A disjoint subset (real images that no shadow has seen, in each of these audits): AUC {', '.join(said)}; "
            f"{clear} of {2 * len(whole)} intervals hold 0.5. Controls: {controls}.")  # fmt: skip


def page(rows: list[Row]) -> str:
    """Return the page of all rows that have ended."""
    lines, known = [HEAD.rstrip("\n")], list(ROWS)
    rows = sorted(rows, key=lambda each: (list(DATA).index(each.data), each.ipc, known.index(each.name)))
    for (data, ipc), group in groupby(rows, key=lambda each: (each.data, each.ipc)):
        here = list(group)
        lines += ["", f"## {DATA[data][0]}, IPC {ipc}, {here[0].members:g} training images", "",
                  f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}",
                  *map(_line, here), "", _foot(here)]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make what is missing, or the page."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("folder", nargs="?", type=Path)
    reader.add_argument("--page", action="store_true")
    reader.add_argument("--only", nargs="+", choices=DATA, default=list(DATA))
    reader.add_argument("--tier", choices=("quick", "standard"), default="standard")
    reader.add_argument("--out", type=Path, default=Path("runs/audit"))
    asked, extra = reader.parse_known_args()
    if asked.page:
        PAGE.write_text(page(read()), encoding="utf-8")
        return
    for data in asked.only:
        _, names, ipc, settings = DATA[data]
        root = [f"dataset.root={asked.folder / 'bloodcells.npz'}"] if data == "cells" else []
        for name in names:
            known = {(each.data, each.ipc, each.name): each for each in read()}
            if (old := known.get((data, ipc, name))) and (old.verdict or asked.tier == "quick"):
                continue
            folder = asked.out / f"{data}-{ipc}-{''.join(c for c in name.lower() if c.isascii() and c.isalnum())}"
            new = made(data, ipc, name, folder.absolute(), [*settings, *root, *extra], asked.tier)
            rows = (known | {(data, ipc, name): new}).values()
            pd.DataFrame(map(asdict, rows)).to_csv(RESULTS, index=False, float_format="%.6g")
            print(_line(new), flush=True)


if __name__ == "__main__":
    main()
