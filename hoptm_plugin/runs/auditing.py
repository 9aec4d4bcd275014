"""What does a distilled set give away of the images it was made from?"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch

from hoptm_plugin.cards.audit import (
    FILE_NAME,
    LEVEL,
    AuditCard,
    Control,
    Identity,
    Membership,
    OneRun,
    Spaces,
    Tier,
    audit_beside,
)
from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.record import SCHEMA, write_record
from hoptm_plugin.cards.software import Software, software_versions
from hoptm_plugin.core.asking import alone
from hoptm_plugin.core.errors import ConfigurationError, RunFolderError
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.data.aside import members_of_shadows
from hoptm_plugin.data.in_memory import Arrays
from hoptm_plugin.engine.significance import holm
from hoptm_plugin.exchange.loading import load_distilled
from hoptm_plugin.exchange.pixels import as_exported
from hoptm_plugin.privacy.membership import FEWEST_PAIRS
from hoptm_plugin.runs.assembly import Workbench, workbench
from hoptm_plugin.runs.closeness import Compared
from hoptm_plugin.runs.opening import asked, on_this_machine, opened
from hoptm_plugin.runs.planning import about, planned
from hoptm_plugin.runs.shadows import Pool, shadow_settings, shadows
from hoptm_plugin.runs.telling import SIGNALS, Told
from hoptm_plugin.runtime.bars import usual_progress
from hoptm_plugin.runtime.progress import ProgressFactory, silent
from hoptm_plugin.storage.files import as_path, sha256
from hoptm_plugin.storage.locks import Lock
from hoptm_plugin.storage.run_files import SYNTHETIC

FOLDER: Final = "audit"
FRACTION: Final = 0.3  # that is put aside where an example is given
SHADOWS: Final = 16
NOT_AVERAGE: Final = "the moving average of the set, which lies beside it, was not audited"
NETWORKS: Final = 3


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
    folder: str | Path, *overrides: str, tier: Tier = "quick", shadows: int = SHADOWS, seed: int = 0,
    dataset: Arrays | None = None, progress: ProgressFactory | None = None,
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
            kept, and the same call goes on.
        shadows: distillations of halves, an even number from 8.
        seed: of the audit's own draws.
        dataset: the data of a run that was made with data in memory.
        progress: reports what takes long; None: bars on a terminal or in a notebook, else nothing.

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
    if shadows % 2 or shadows < 2 * FEWEST_PAIRS:
        raise ConfigurationError(f"shadows: must be an even number from {2 * FEWEST_PAIRS}, got {shadows}")
    changes, told = asked(overrides, dataset), progress or usual_progress()
    card, stored = opened(folder, changes, "audit")
    _check(folder, card)
    synthetic = load_distilled(folder)
    settings = on_this_machine(stored, changes)
    lock = Lock(folder / FOLDER / ".lock")
    with workbench(settings, told) as bench:
        _check_data(bench, card, tier)
        _check_earlier(folder, card, tier, seed)
        if tier == "standard":
            _check_halves(bench, shadows // 2, seed)
        exported = as_exported(synthetic.to(bench.device))
        if tier == "standard" and not lock.acquire():
            raise RunFolderError(f"{folder}: {lock.holder()} audits it; wait for it")
        with closing(lock):
            which = f"{settings.digest()} {bench.data.fingerprint}"
            name = f"{shadows}-shadows-seed-{seed}-{hashlib.sha256(which.encode()).hexdigest()[:8]}"
            place = folder / FOLDER / name
            found = _measured(bench, exported, place, tier, shadows, seed)
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


def _check_halves(bench: Workbench, pairs: int, seed: int) -> None:
    """Refuse shadows that would have fewer images of a class than are to be distilled.

    Raises:
        ConfigurationError: naming the class.
    """
    pool, ipc, names = Pool.of(bench), bench.settings.ipc, bench.data.class_names
    members = members_of_shadows(pool.split.labels, torch.from_numpy(pool.units), pairs, seed)
    counts = np.stack([members[:, pool.labels == label].sum(axis=1) for label in range(len(names))], axis=1)
    number, label = np.unravel_index(int(counts.argmin()), counts.shape)
    if counts[number, label] < ipc:
        raise ConfigurationError(f"tier=standard distils halves of the images, and a half has only "
                                 f"{counts[number, label]} of class {names[label]!r}, fewer than ipc={ipc}; only the "
                                 f"quick tier can be audited, or a run of fewer images per class")  # fmt: skip


def _measured(bench: Workbench, exported: SyntheticSet, place: Path, tier: Tier, count: int, seed: int) -> _Measured:
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
    if tier == "standard":
        told, one_run, more = _membership(bench, exported, place, count, seed)
        controls += more
    return _Measured(synthetic, real, identity, why, told, one_run, tuple(controls))


def _membership(
    bench: Workbench, exported: SyntheticSet, place: Path, count: int, seed: int
) -> tuple[Membership, OneRun | None, list[Control]]:
    """Distil the shadows that are missing, and return what they tell."""
    settings, pairs = bench.settings, count // 2
    with workbench(shadow_settings(settings, place, 0, pairs, seed), silent) as first:
        first.check()
        each = planned(first).seconds
        images = len(first.data.train)
    whole = "" if each is None else f", {about(each * count)} in all"
    bench.progress(f"audit: {count} shadow distillations of {images:,} images each, {NETWORKS} networks on each "
                   f"set{whole}", 0)  # fmt: skip
    done = shadows(settings, place, pairs, NETWORKS, seed, bench.task.compute.stacked, bench.progress)
    pool, seeds = Pool.of(bench), Seeds(seed).child("audit")
    draws = {name: np.random.default_rng(seeds.child(name).number("draws")) for name in ("designs", "pairs", "coins")}
    told = Told(done, pool, draws)
    values = alone(pool.signals(bench.evaluator(), exported, NETWORKS))
    with bench.progress("telling members", 3) as bar:
        signals = {}
        for name in SIGNALS:
            signals[name] = told.signal(name)
            bar.advance(1)
        controls = told.controls()
        bar.advance(1)
    found = Membership(shadows=count, networks=NETWORKS, images=len(pool.members), **signals)
    return found, told.one_run(values), controls


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
        ("its images point to those they began from", None if found.identity is None else found.identity.p),
    ]  # fmt: skip
    if found.membership is not None:
        for what, each in (("loss", found.membership.loss), ("nearest image", found.membership.nearest)):
            tests.append((f"members are told from others by the {what}", each.p))
            tests += [(f"members are told by the {what} at {100 * rate.fpr:g} % false positives", rate.p)
                      for rate in each.rates if rate.fpr == 0.01]  # fmt: skip
    corrected = holm([p for _, p in tests])
    reasons = [f"{what} (p = {p:.2g}, corrected)" for (what, _), p in zip(tests, corrected, strict=True)
               if p is not None and p <= LEVEL]  # fmt: skip
    if found.one_run is not None and found.one_run.epsilon > 0:
        reasons.append(f"the run itself refutes every epsilon below {found.one_run.epsilon:.2f}")
    return reasons
