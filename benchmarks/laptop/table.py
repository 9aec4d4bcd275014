"""Every method on six data sets at ``scale=laptop``, IPC 1 and 10, one seed: does it run through, and is it worth it?

    python benchmarks/laptop/table.py FOLDER [--only DATA ...] [--out FOLDER] [KEY=VALUE ...]
    python benchmarks/laptop/table.py --page      # makes TABLE.md of table.csv

FOLDER holds bloodcells.npz and, unpacked, cifar10 and COVID-19_Radiography_Dataset; faces and textures come with
scikit-image, see ``search.py``. About 170 runs of two to twenty minutes: each that has ended stands in table.csv
and is not made again, one that was stopped goes on. Several of these side by side take different ``--only``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import pandas as pd

from hoptm_plugin import Card, compose, read_run, run

sys.path.insert(0, str(Path(__file__).parents[1]))  # of this folder, which is a package there
from laptop.search import HERE, source

RESULTS, PAGE = HERE / "table.csv", HERE / "TABLE.md"
METHODS = {
    "hoptm": "HoP-TM", "mtt": "MTT", "ftd": "FTD", "datm": "DATM", "att": "ATT", "pad": "PAD", "mct": "MCT",
    "dc": "DC", "dsa": "DSA", "dm": "DM", "idm": "IDM", "tgdd": "TGDD", "ncfm": "NCFM, no adversary", "rded": "RDED",
}  # fmt: skip
IPCS = (1, 10)
SETS = {
    "digits": "digits",
    "faces": "faces or none, 200 pictures",
    "cells": "blood cells",
    "xrays": "chest X-rays (56 % of the test images are of one class)",
    "textures": "textures, 768 pictures",
    "cifar": "CIFAR-10 (recompressed)",
}
XRAYS = "dataset.classes=[COVID,Normal,Viral Pneumonia]", "dataset.preprocess.image_size=32", "network.depth=3"
HEAD = """# Every method at `scale=laptop`

One run of every method on six data sets at [the laptop's scale](../../docs/scales.md), by [`table.py`](table.py):
test accuracy in percent, mean ± standard deviation of five networks on one distilled set (seed 0). One seed says
whether a method comes to anything at this scale, and what it costs; which of two is better it does not say. *Random*
is the row's own fresh random subsets, of as many images. Below each table stands what is not as it should be: methods
no better than these, sets that the guard stopped, images of whose values more than a tenth lies outside the range of
pictures.

Budgets are equal in that every method has the scale's, and a rate of three that were tried on other data
([page](README.md)). Times compare only within two groups: digits, and the rows PAD, MCT, DC, DSA, TGDD, NCFM and
RDED, were made on two cores with AVX-512, tests beside them at times; all others on slower cores, where the same
experts and iterations took two to five times as long. Experts are those that a row read, of which several rows have
the same. RDED learns nothing; its distillation is the scoring of crops.
"""


@dataclass(frozen=True)
class Row:
    """One run."""

    data: str
    ipc: int
    method: str
    accuracy: float
    std: float
    random: float
    random_std: float
    step_size: float | None  # the last one that was logged
    saturated: float
    note: str | None
    experts_s: float
    distill_s: float
    evaluate_s: float
    device: str


def row(data: str, folder: Path, card: Card) -> Row:
    """Return what a finished run came to."""
    found, floor, cost = card.evaluations[0].accuracy, (card.random_subset or [])[0].accuracy, card.cost
    curves = read_run(folder).curves
    alpha = curves["step_size"].dropna() if "step_size" in curves else []
    return Row(data, card.ipc or 0, card.method, found.mean, found.std, floor.mean, floor.std,
               float(alpha.iloc[-1]) if len(alpha) else None, card.saturation.end if card.saturation else 0.0,
               card.note, cost.experts_s or 0.0, cost.distill_s or 0.0, cost.evaluate_s, cost.device)  # fmt: skip


def read() -> list[Row]:
    """Return the runs that have ended."""
    if not RESULTS.exists():
        return []
    table = pd.read_csv(RESULTS, dtype={"note": str}).astype(object)
    return [Row(**{str(key): value for key, value in each.items()})
            for each in table.where(table.notna(), None).to_dict("records")]  # fmt: skip


def add(new: Row) -> None:
    """Append a row."""
    frame = pd.DataFrame([asdict(new)])
    frame.to_csv(RESULTS, mode="a", header=not RESULTS.exists(), index=False, float_format="%.6g")


def chosen(name: str, root: Path, out: Path) -> list[str]:
    """Return the settings that choose a data set."""
    if name == "cells":
        return ["dataset=npz", f"dataset.root={root / 'bloodcells.npz'}"]
    if name == "cifar":
        return ["dataset=cifar10", f"dataset.root={root / 'cifar10'}"]
    if name == "xrays":
        return ["dataset=covid19cxr", f"dataset.root={root / 'COVID-19_Radiography_Dataset'}", *XRAYS]
    return source(name, out)


def page() -> str:
    """Return the page of all runs that have ended."""
    rows = {(each.data, each.ipc, each.method): each for each in read()}
    whole = len(SETS) * len(IPCS) * len(METHODS)
    took = sum(each.distill_s + each.evaluate_s for each in rows.values())
    took += sum(seconds for _, seconds in {(each.data, each.experts_s) for each in rows.values()})  # shared ones once
    devices = ", ".join(sorted({each.device for each in rows.values()}))
    lines = [HEAD, f"{len(rows)} of {whole} runs, {took / 3600:.1f} hours on {devices}, shared experts counted once."]
    for data, ipc in product(SETS, IPCS):
        here = [each for method in METHODS if (each := rows.get((data, ipc, method)))]
        if not here:
            continue
        lines += ["", f"## {SETS[data]}, IPC {ipc}", "",
                  "| method | accuracy | random | alpha | out of range | experts | distillation | evaluation |",
                  "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
        for each in here:
            lines.append(
                f"| {METHODS[each.method]} | {100 * each.accuracy:.1f} ± {100 * each.std:.1f} "
                f"| {100 * each.random:.1f} ± {100 * each.random_std:.1f} "
                f"| {'-' if each.step_size is None else f'{each.step_size:.4f}'} | {100 * each.saturated:.1f} % "
                f"| {f'{each.experts_s:.0f} s' if each.experts_s else '-'} | {each.distill_s:.0f} s "
                f"| {each.evaluate_s:.0f} s |"
            )
        lines += ["", *(f"- {said}" for each in here for said in odd(each))]
        if lines[-1] == "":
            lines.pop()
    return "\n".join(lines) + "\n"


def odd(each: Row) -> list[str]:
    """Return what is not as it should be."""
    name, said = METHODS[each.method], []
    if each.accuracy <= each.random:
        said.append(f"{name} is no better than random images.")
    elif each.accuracy - each.random < each.std + each.random_std:
        said.append(f"{name} is better than random images by less than the networks scatter.")
    if each.note:
        said.append(f"{name}: {each.note}")
    if each.saturated > 0.1:
        said.append(f"{name}: {100 * each.saturated:.0f} % of the pixel values are out of range.")
    if each.step_size is not None and each.step_size <= 0:
        said.append(f"{name}: its step size is not positive.")
    return said


def main() -> None:
    """Make the runs that are missing, or the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("runs/laptop-table"))
    parser.add_argument("--page", action="store_true", help="write TABLE.md, and compute nothing")
    options = parser.parse_args()
    if not options.page:
        if options.root is None:
            parser.error("the folder of the data is missing")
        root, out = options.root.absolute(), options.out.absolute()
        for data, ipc, method in product(options.only, IPCS, options.methods):
            if (data, ipc, method) in {(each.data, each.ipc, each.method) for each in read()}:
                continue
            settings = [f"method={method}", *chosen(data, root, out), f"ipc={ipc}", "scale=laptop", "resume=auto",
                        f"experts.root={out / 'experts'}", *options.overrides]  # fmt: skip
            folder = out / f"{data}-{ipc}-{method}"
            add(row(data, folder, run(compose(*settings), folder)))
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
