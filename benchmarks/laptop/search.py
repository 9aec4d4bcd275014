"""The rates of the images at ``scale=laptop``: a short search on validation splits, and the page that it came to.

    python benchmarks/laptop/search.py --minutes 25     # goes on where it stopped
    python benchmarks/laptop/search.py --page           # makes README.md of results.csv and of the study's cards

Besides digits it takes two sets of pictures that come with scikit-image (``pip install scikit-image``): faces and what
is none (200, two classes), and pieces of three textures (768). Blood cells, X-rays and CIFAR-10 were searched by
``benchmarks/study_narrow`` with the same segments and rates; their cards have all candidates.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy
from numpy.typing import NDArray
from PIL import Image

from hoptm_plugin import compose, run

HERE = Path(__file__).parent
RESULTS, PAGE, STUDY = HERE / "results.csv", HERE / "README.md", HERE.parent / "study_narrow" / "results"
SETS = ("digits", "textures", "faces")
RATE = "distillation.images.learning_rate"
RATES = {
    "mtt": (100, 1000, 10000), "dm": (1, 10, 100), "idm": (0.2, 2, 20),
    "dc": (1, 10, 100), "dsa": (0.1, 1, 10), "tgdd": (0.1, 1, 10), "ncfm": (0.001, 0.01, 0.1),
}  # fmt: skip
# least work that tells rates apart: one seed, two short experts, three networks, none of it on a test split
REDUCED = (
    "scale=laptop", "seed=100", "protocol.split=validation", "protocol.repeats=3", "protocol.random_subset=false",
    "network.width=16", "experts.count=2", "experts.training.epoch_images=2048", "distillation.iterations=100",
    "runtime.threads=1",
)  # fmt: skip
SHORT = {  # what else is a third of the laptop's scale, or less
    ("mtt", 1): "method.student_steps=10", ("mtt", 10): "method.student_steps=10",
    ("dc", 10): "distillation.iterations=17", ("dsa", 10): "distillation.iterations=17",
}  # fmt: skip
FAMILY = {method: (method,) for method in RATES} | {"mtt": ("mtt", "hoptm", "ftd", "att", "datm")}
NAMES = {
    "mtt": "methods that match trajectories", "dm": "DM", "idm": "IDM",
    "dc": "DC", "dsa": "DSA", "tgdd": "TGDD", "ncfm": "NCFM without its adversary",
}  # fmt: skip


class Found(NamedTuple):
    """One candidate: its mean accuracy on the validation split, and the seconds it took."""

    data: str
    method: str
    ipc: int
    rate: float
    accuracy: float
    seconds: float


def arrays(name: str) -> tuple[NDArray[numpy.uint8], NDArray[numpy.uint8]]:
    """Return images (n, H, W) and labels of one of scikit-image's sets."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install scikit-image")
    folder = Path(spec.origin).parent / "data"
    if name == "faces":  # the first hundred are faces
        images = (255 * numpy.load(folder / "lfw_subset.npy", allow_pickle=False)).round().astype(numpy.uint8)
        return images, numpy.repeat([0, 1], 100).astype(numpy.uint8)
    whole = [numpy.asarray(Image.open(folder / f"{each}.png").convert("L")) for each in ("brick", "grass", "gravel")]
    pieces = [picture.reshape(16, 32, 16, 32).swapaxes(1, 2).reshape(-1, 32, 32) for picture in whole]
    return numpy.concatenate(pieces), numpy.repeat([0, 1, 2], 256).astype(numpy.uint8)


def source(name: str, folder: Path) -> list[str]:
    """Return the settings that choose a set, made into an npz file in ``folder`` where it does not come with us."""
    if name == "digits":
        return ["dataset=digits"]
    file = folder / f"{name}.npz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        images, labels = arrays(name)
        order = numpy.random.default_rng(0).permutation(len(images))
        val, test = len(images) * 6 // 10, len(images) * 8 // 10
        rows = {"train": order[:val], "val": order[val:test], "test": order[test:]}
        numpy.savez(file, **{f"{split}_images": images[each] for split, each in rows.items()},
                    **{f"{split}_labels": labels[each] for split, each in rows.items()})  # fmt: skip
    return ["dataset=npz", f"dataset.root={file}"]


def read() -> list[Found]:
    """Return what was found here so far."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return [Found(data, method, int(ipc), float(rate), float(accuracy), float(seconds))
                for data, method, ipc, rate, accuracy, seconds in list(csv.reader(file))[1:]]  # fmt: skip


def search(minutes: float, out: Path) -> None:
    """Try what is missing, one candidate after the other, and begin none after so many minutes."""
    known, began = {each[:4] for each in read()}, time.monotonic()
    for name, ipc, method in product(SETS, (10, 1), RATES):
        for rate in RATES[method]:
            if (name, method, ipc, float(rate)) in known or time.monotonic() - began > 60 * minutes:
                continue
            short = [SHORT[method, ipc]] if (method, ipc) in SHORT else []
            settings = [f"method={method}", *source(name, out), f"ipc={ipc}", *REDUCED, *short, f"{RATE}={rate}"]
            settings += [f"experts.root={out / 'experts'}", "resume=auto"]
            card = run(compose(*settings), out / f"{name}-{method}-{ipc}-{rate}")
            cost = card.cost
            seconds = (cost.distill_s or 0) + cost.evaluate_s + (cost.experts_s or 0)
            if not RESULTS.exists():
                RESULTS.write_text(",".join(Found._fields) + "\n")
            with RESULTS.open("a", newline="") as file:
                csv.writer(file).writerow([name, method, ipc, rate, card.evaluations[0].accuracy.mean, round(seconds)])


def of_the_study() -> Iterator[Found]:
    """Yield the candidates in the study's cards, of each method once."""
    seen = set()
    for file in sorted(STUDY.rglob("*.json")):
        card = json.loads(file.read_text())
        tuning, method = card.get("tuning"), card["method"]
        key = (card["dataset"]["name"].partition(" ")[0], card["title"], card["ipc"])
        plain = card["title"] in ("MTT", "HoP-TM", "FTD", "ATT", "DATM", "DM", "IDM")
        if not tuning or tuning["reused"] or key in seen or not plain:
            continue
        seen.add(key)
        for each in tuning["candidates"]:
            rate = float(each["settings"].partition(f"{RATE}=")[2].partition(" ")[0])
            yield Found(key[0], method, card["ipc"], rate, each["accuracy"] or 0.0, 0.0)


def best(rows: Sequence[dict[float, float]], rates: Sequence[float]) -> tuple[float, dict[float, float]]:
    """Return the rate that lies least below each whole row's best on the mean, and that distance of every rate."""
    whole = [row for row in rows if set(rates) <= row.keys()]
    below = {rate: fmean(max(row[each] for each in rates) - row[rate] for row in whole) for rate in rates}
    return min(below, key=lambda rate: below[rate]), below


def page() -> str:
    """Return the page: all candidates, and the rate that each family takes."""
    ours, all_of_it = read(), 2 * len(SETS) * sum(map(len, RATES.values()))
    every = [*of_the_study(), *ours]
    lines = [
        (HERE / "head.md").read_text(),
        f"Of the {all_of_it} candidates of `search.py`, {len(ours)} were tried.",
        "",
    ]
    for family, ipc in product(RATES, (1, 10)):
        cells: dict[tuple[str, str], dict[float, float]] = {}
        for each in every:
            if each.method in FAMILY[family] and each.ipc == ipc and each.rate in RATES[family]:
                cells.setdefault((each.data, each.method), {})[each.rate] = each.accuracy
        rates = [float(rate) for rate in RATES[family]]
        chosen, below = best(list(cells.values()), rates)
        heads, rule = " | ".join(f"{rate:g}" for rate in rates), " ---: |" * len(rates)
        lines += [
            f"## {NAMES[family]}, IPC {ipc}: {chosen:g}",
            "",
            f"| data | method | {heads} |",
            f"| --- | --- |{rule}",
        ]
        for (data, method), row in sorted(cells.items()):
            shown = [f"{100 * row[rate]:.1f}" if rate in row else "-" for rate in rates]
            lines.append(f"| {data} | {method} | {' | '.join(shown)} |")
        shown = [f"{100 * below[rate]:.1f}" for rate in rates]
        lines += [f"| below the best, mean | | {' | '.join(shown)} |", ""]
    return "\n".join(lines)


def main() -> None:
    """Search, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--out", type=Path, default=Path("runs/laptop"))
    parser.add_argument("--page", action="store_true", help="write README.md, and compute nothing")
    options = parser.parse_args()
    if not options.page:
        search(options.minutes, options.out.absolute())
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
