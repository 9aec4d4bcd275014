"""What does a distilled set give away of the images it was made from?"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args

import numpy as np
import torch

from hoptm_plugin.cards.audit import (
    FILE_NAME,
    LEVEL,
    TOLD_AT,
    AuditCard,
    Control,
    Identity,
    Membership,
    OneRun,
    Signals,
    Spaces,
    Tier,
    audit_beside,
)
from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.record import LONGEST_LINE, SCHEMA, write_record
from hoptm_plugin.cards.software import Software, software_versions
from hoptm_plugin.core.asking import alone
from hoptm_plugin.core.errors import ConfigurationError, PluginError, RunFolderError
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.core.text import one_line
from hoptm_plugin.data.aside import members_of_shadows
from hoptm_plugin.data.in_memory import Arrays
from hoptm_plugin.data.memory import available_bytes
from hoptm_plugin.data.preprocess import Shadow
from hoptm_plugin.engine.significance import holm
from hoptm_plugin.exchange.loading import load_distilled
from hoptm_plugin.exchange.pixels import as_exported
from hoptm_plugin.privacy.membership import FEWEST_PAIRS
from hoptm_plugin.runs.assembly import Workbench, workbench
from hoptm_plugin.runs.closeness import Compared
from hoptm_plugin.runs.opening import asked, on_this_machine, opened
from hoptm_plugin.runs.planning import about, planned
from hoptm_plugin.runs.shadows import How, Pool, shadow_settings, shadows
from hoptm_plugin.runs.telling import SIGNALS, Told
from hoptm_plugin.runtime.bars import usual_progress
from hoptm_plugin.runtime.processes import THREADS, cores
from hoptm_plugin.runtime.progress import ProgressFactory, silent
from hoptm_plugin.settings import RunSettings
from hoptm_plugin.storage.files import as_path, sha256
from hoptm_plugin.storage.locks import Lock
from hoptm_plugin.storage.run_files import SYNTHETIC

FOLDER: Final = "audit"
FRACTION: Final = 0.3  # that is put aside where an example is given
SHADOWS: Final[Mapping[Tier, int]] = {"quick": 16, "standard": 16, "full": 32}
CANARIES: Final = 100  # at the full tier
FEWEST_CANARIES: Final = 20  # all of fewer may be members of one shadow
WORTH_PROCESSES_S: Final = 60.0  # of distilling; they take seconds to begin
NOT_AVERAGE: Final = "the moving average of the set, which lies beside it, was not audited"
NETWORKS: Final = 3


_Told: TypeAlias = tuple[Membership, OneRun | None, list[Control]]


@dataclass(frozen=True)
class _Measured:
    """All that an audit measured."""

    synthetic: Spaces
    real: Spaces
    identity: Identity | None
    no_identity: str | None
    membership: Membership | None
    one_run: OneRun | None
    controls: tuple[Control, ...]


def audit(
    folder: str | Path, *overrides: str, tier: Tier = "quick", shadows: int | None = None, seed: int = 0,
    dataset: Arrays | None = None, progress: ProgressFactory | None = None, processes: int | None = 1,
) -> AuditCard:  # fmt: skip
    """Measure what a run's set gives away of the images that it was made from.

    Audited is what an export holds, 8-bit pixels. Beside it stand sets of which it is known what an audit must say of
    them; the verdict is "invalid" where it did not. The card is written into the run's folder, ``audit.json``, and
    holds nothing on single images; scores of single images lie in its folder ``audit``.

    Args:
        folder: of a finished run that put images aside: ``dataset.holdout_fraction=0.3``.
        overrides: settings that change no result: where the data are, and how it is computed.
        tier: "quick": how close its images lie to those it was made from, and whether they point to them. "standard":
            also whether it can be told who was among these, by distilling halves of the images anew; what was done is
            kept, and the same call goes on. "full": by more of them, and with 100 images (a tenth of all at most) of a
            class that is not theirs, which stand for unusual ones.
        shadows: distillations of halves, an even number from 8; None: 16, and 32 at the full tier.
        seed: of the audit's own draws.
        dataset: the data of a run that was made with data in memory.
        progress: reports what takes long; None: bars on a terminal or in a notebook, else nothing.
        processes: that distil halves at the same time on a CPU, each with its share of the cores; None: one for each
            core where memory is enough and a minute's work is to be done. A GPU has one. A script that asks for several
            has its work under ``if __name__ == "__main__"``, and parts of its own in a package.

    Raises:
        ConfigurationError: a run that put nothing aside, or a setting that would change its result; data that are not
            those of the run.
        RunFolderError: no finished run, or another process audits it.
        FileFormatError: a damaged card, configuration or set.

    Source: docs/audit.md.
    """
    began, folder = time.monotonic(), as_path(folder, "folder")
    if tier not in get_args(Tier):
        raise ConfigurationError(f"tier: must be one of {', '.join(get_args(Tier))}, got {tier!r}")
    count = SHADOWS[tier] if shadows is None else shadows
    if count % 2 or count < 2 * FEWEST_PAIRS:
        raise ConfigurationError(f"shadows: must be an even number from {2 * FEWEST_PAIRS}, got {count}")
    if processes is not None and processes < 1:
        raise ConfigurationError(f"processes: must be at least 1, got {processes}")
    design = Shadow(number=0, pairs=count // 2, seed=seed, canaries=CANARIES if tier == "full" else 0)
    changes, told = asked(overrides, dataset), progress or usual_progress()
    card, stored = opened(folder, changes, "audit")
    _check(folder, card)
    synthetic = load_distilled(folder)
    settings = on_this_machine(stored, changes)
    lock = Lock(folder / FOLDER / ".lock")
    with workbench(settings, told) as bench:
        _check_data(bench, card, tier)
        _check_earlier(folder, card, tier, seed)
        if tier != "quick":
            _check_halves(bench, design, tier)
        exported = as_exported(synthetic.to(bench.device))
        if tier != "quick" and not lock.acquire():
            raise RunFolderError(f"{folder}: {lock.holder()} audits it; wait for it")
        with closing(lock):
            which = f"{settings.digest()} {bench.data.fingerprint}"
            own = "-canaries" if design.canaries else ""
            name = f"{count}-shadows{own}-seed-{seed}-{hashlib.sha256(which.encode()).hexdigest()[:8]}"
            deeper = None if tier == "quick" else partial(_membership, bench, exported, folder / FOLDER / name, design,
                                                          processes)  # fmt: skip
            found = _measured(bench, exported, seed, deeper)
        audited = _card(found, bench, card, folder, tier, seed, time.monotonic() - began)
    write_record(audited, folder / FILE_NAME)
    return audited


def _check(folder: Path, card: Card) -> None:
    why = None
    if not (folder / SYNTHETIC).is_file():
        why = "holds no set of its own: name the folder of the run that made it"
    elif card.imported or card.distilled_from is not None:
        why = "its set was not made from the data it was judged on"
    elif card.ipc is None:
        why = "nothing was distilled in it"
    if why:
        raise ConfigurationError(f"{folder}: cannot be audited: {why}")


def _check_data(bench: Workbench, card: Card, tier: Tier) -> None:
    if bench.data.fingerprint != card.dataset.fingerprint:
        raise ConfigurationError(f"dataset: the data are not those of the card: fingerprint {bench.data.fingerprint}, "
                                 f"in the card {card.dataset.fingerprint}; name the original data with "
                                 f"dataset.root=PATH")  # fmt: skip
    if bench.data.aside is None:
        raise ConfigurationError(f"the run put no images aside, so its set cannot be compared with images that no step "
                                 f"has seen; make it again with dataset.holdout_fraction={FRACTION:g}")  # fmt: skip
    said = bench.parts.method.guarantee
    if said is not None and (said != one_line(said) or not 0 < len(said) <= LONGEST_LINE):  # half of one says too much
        raise PluginError(f"method {card.method}: what it guarantees must be one line of at most {LONGEST_LINE} "
                          f"characters")  # fmt: skip
    if tier != "quick" and bench.data.zca_inverse is not None:
        raise ConfigurationError("dataset.preprocess.zca: only the quick tier audits whitened sets")


def _check_earlier(folder: Path, card: Card, tier: Tier, seed: int) -> None:
    """Refuse to write over an audit of the same set that measured more, or had other draws.

    Raises:
        ConfigurationError: there is one.
    """
    earlier, _ = audit_beside(folder, card)
    if earlier is None:
        return
    more = get_args(Tier).index(earlier.tier) > get_args(Tier).index(tier)
    if more or earlier.seed != seed:
        what = f"of tier {earlier.tier}" if more else f"with seed={earlier.seed}"
        raise ConfigurationError(f"{folder / FILE_NAME}: is an audit {what} of the same set, which another one must "
                                 f"not replace; move it away to audit the set anew")  # fmt: skip


def _check_halves(bench: Workbench, design: Shadow, tier: Tier) -> None:
    """Refuse shadows with fewer images of a class than are to be distilled, or too few of a wrong class to tell of.

    Raises:
        ConfigurationError: saying which.
    """
    pool, ipc, names = Pool.of(bench), bench.settings.ipc, bench.data.class_names
    members = members_of_shadows(pool.split.labels, torch.from_numpy(pool.units), design.pairs, design.seed)
    remedy = "only the quick tier can be audited, or a run of fewer images per class"
    changed = pool.mislabelled(design)
    for labels in (pool.labels, changed):
        counts = np.stack([members[:, labels == label].sum(axis=1) for label in range(len(names))], axis=1)
        number, label = np.unravel_index(int(counts.argmin()), counts.shape)
        if counts[number, label] < ipc:
            raise ConfigurationError(f"tier={tier} distils halves of the images, and a half has only "
                                     f"{counts[number, label]} of class {names[label]!r}, fewer than ipc={ipc}; "
                                     f"{remedy}")  # fmt: skip
        remedy = "tier=standard has no images of a wrong class, and enough of each"
    canaries = int((changed != pool.labels).sum())
    if design.canaries and canaries < FEWEST_CANARIES:
        raise ConfigurationError(f"tier={tier} gives a tenth of the images a wrong class, one of a patient at most; "
                                 f"these are only {canaries}; take tier=standard below {FEWEST_CANARIES}")  # fmt: skip


def _measured(bench: Workbench, exported: SyntheticSet, seed: int, deeper: Callable[[], _Told] | None) -> _Measured:
    seeds = Seeds(seed).child("audit")
    compared = Compared(bench, exported, seeds)
    with bench.progress("measuring distances", 6) as bar:

        def step(work: Callable[[], Any]) -> Any:
            found = work()
            bar.advance(1)
            return found

        synthetic = step(lambda: compared.spaces(compared.synthetic))
        real = step(lambda: compared.spaces(compared.reserve))
        identity, why = step(compared.identity)
        controls = [each for work in (compared.copies, compared.noise, compared.fresh) for each in step(work)]
    told, one_run = None, None
    if deeper is not None:
        told, one_run, more = deeper()
        controls += more
    return _Measured(synthetic, real, identity, why, told, one_run, tuple(controls))


def _membership(bench: Workbench, exported: SyntheticSet, place: Path, design: Shadow, processes: int | None) -> _Told:
    """Distil the shadows that are missing, and return what they tell."""
    settings, count = bench.settings, 2 * design.pairs
    with workbench(shadow_settings(settings, place, design), silent) as first:
        first.check()
        plan, images = planned(first), len(first.data.train)
        each = plan.seconds
    whole = "" if each is None else f", {about(each * count)} in all"
    stacked = bench.task.compute.stacked
    at_once = processes or (1 if stacked or (each is not None and each * count < WORTH_PROCESSES_S) else (
        _fitting(settings, plan.memory_bytes)))  # fmt: skip
    at_once = min(at_once, count) if bench.device.type == "cpu" else 1
    how = "" if at_once == 1 else f" one after the other; {at_once} at a time, each in a process"
    bench.progress(f"audit: {count} shadow distillations of {images:,} images each, {NETWORKS} networks on each "
                   f"set{whole}{how}", 0)  # fmt: skip
    done = shadows(settings, place, design, NETWORKS, How(stacked and at_once == 1, at_once), bench.progress)
    pool, seeds = Pool.of(bench), Seeds(design.seed).child("audit")
    canaries = pool.mislabelled(design) != pool.labels
    draws = {name: np.random.default_rng(seeds.child(name).number("draws")) for name in ("designs", "pairs", "coins")}
    told = Told(done, pool, draws, canaries)
    values = alone(pool.signals(bench.evaluator(), exported, NETWORKS))
    with bench.progress("telling members", 3) as bar:
        signals = {name: told.signal(name) for name in SIGNALS}
        bar.advance(1)
        apart = None
        if canaries.any():
            of_them = {name: told.signal(name, of_canaries=True) for name in SIGNALS}
            apart = Signals(images=int(canaries.sum()), **of_them)
        bar.advance(1)
        controls = told.controls()
        bar.advance(1)
    found = Membership(shadows=count, networks=NETWORKS, images=int((~canaries).sum()), canaries=apart, **signals)
    return found, told.one_run(values), controls


def _fitting(settings: RunSettings, memory_bytes: int) -> int:
    """Return how many processes the cores and the free memory are enough for."""
    threads = settings.runtime.threads or (torch.get_num_threads() if THREADS in os.environ else 1)
    free = available_bytes(torch.device("cpu"))
    return max(1, min(cores() // threads, cores() if free is None else int(0.8 * free) // max(1, memory_bytes)))


def _card(
    found: _Measured, bench: Workbench, card: Card, folder: Path, tier: Tier, seed: int, seconds: float
) -> AuditCard:
    data, aside = bench.data, bench.data.aside
    assert aside is not None
    reasons, units = _reasons(found), list(aside.units.values())
    valid = all(each.passed for each in found.controls)
    single = sum(len(each.unique()) for each in units) == sum(map(len, units))
    return AuditCard(
        schema=SCHEMA, config_sha256=card.config_sha256, synthetic_sha256=sha256(folder / SYNTHETIC),
        fingerprint=data.fingerprint, method=card.method, title=card.title, dataset=data.name, ipc=bench.settings.ipc,
        beside=None if card.averaged is None else NOT_AVERAGE, tier=tier, seed=seed,
        guarantee=bench.parts.method.guarantee,
        unit="image" if single else "group", members=len(data.train), holdout=len(aside.holdout),
        reserve=len(aside.reserve), synthetic=found.synthetic, real=found.real, identity=found.identity,
        no_identity=found.no_identity, membership=found.membership, one_run=found.one_run, controls=found.controls,
        verdict="invalid" if not valid else "leak_found" if reasons else "none_found", reasons=tuple(reasons),
        seconds=seconds, software=Software.model_validate(software_versions()),
    )  # fmt: skip


def _reasons(found: _Measured) -> list[str]:
    """Return what was found, in words; p-values corrected by Holm's method."""
    tests: list[tuple[str, float | None]] = [
        ("its images are closer to training images than other real images are", found.synthetic.pixels.p),
        ("its images' features are closer to those of training images than other real images' are",
         None if found.synthetic.features is None else found.synthetic.features.p),
        ("its images can be traced to those they began from", None if found.identity is None else found.identity.p),
    ]  # fmt: skip
    if found.membership is not None:
        for what, each in found.membership.signals.items():
            tests.append((f"training images are told from others by {what}", each.p))
            tests += [(f"training images are told by {what} at {100 * rate.fpr:g} % false positives", rate.p)
                      for rate in each.rates if rate.fpr == TOLD_AT]  # fmt: skip
        if found.membership.canaries is not None:
            tests += [(f"training images of a wrong class are told from others by {what}", each.p)
                      for what, each in found.membership.canaries.signals.items()]  # fmt: skip
    corrected = holm([p for _, p in tests])
    reasons = [f"{what} (p = {p:.2g}, corrected)" for (what, _), p in zip(tests, corrected, strict=True)
               if p is not None and p <= LEVEL]  # fmt: skip
    if found.one_run is not None and found.one_run.epsilon > 0:
        reasons.append(f"the run itself refutes every epsilon below {found.one_run.epsilon:.2f}")
    return reasons
