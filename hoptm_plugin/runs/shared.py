"""Evaluations of real images, made once and reused by every run that would make the same ones.

A random subset of the training images, or all of them, judged under one protocol with one seed, gives the same figures
whatever a run distilled. They lie beside the experts, ``<experts.root>/judged/<digest>.json``: a file per architecture,
written whole or not at all, with a checksum and all that decided them. Any number of processes share them: the one that
holds ``<digest>.lock`` computes, the others wait for it.
"""

from __future__ import annotations

import hashlib
import sys
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import torch
from pydantic import NonNegativeFloat, ValidationError

from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.cards.record import Record, faults
from hoptm_plugin.cards.software import software_versions
from hoptm_plugin.core.asking import Ask, Asking, own_seconds
from hoptm_plugin.core.dataset import Split
from hoptm_plugin.core.errors import FileFormatError, StorageError
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.evaluation import Evaluator
from hoptm_plugin.runs.assembly import Workbench
from hoptm_plugin.runs.finished import Row, without_large
from hoptm_plugin.storage.files import (
    check_checksum,
    content_sha256,
    read_json,
    remove_leftovers,
    sha256,
    with_checksum,
    write_json,
)
from hoptm_plugin.storage.locks import Lock
from hoptm_plugin.storage.tensors import digest

FOLDER: Final = "judged"
OWN: Final = "hoptm_plugin"
KIND, VERSION, LOOK_EVERY = "evaluation of real images", 1, 0.5
Rows: TypeAlias = list[dict[str, Any]]


class _Content(Record):
    kind: Literal["evaluation of real images"]
    version: Literal[1]
    identity: dict[str, Any]
    seconds: NonNegativeFloat
    rows: tuple[Row, ...]
    sha256: str


@dataclass(frozen=True)
class Wait(Ask[None]):
    """Asks for time to pass: for none, where another run beside this one has something to do.

    Attributes:
        seconds: how much.
    """

    turn = 4

    seconds: float

    def alike(self) -> Hashable:
        """Return what is the same for all: they wait at once."""
        return self.seconds

    @classmethod
    def answers(cls, asks: Sequence[Wait | None]) -> list[None]:
        """Wait."""
        time.sleep(next(ask.seconds for ask in asks if ask is not None))
        return [None] * len(asks)


class SharedEvaluations:
    """What networks achieve on real images: read where a run has computed it, else computed and stored.

    Args:
        root: folder of the experts.
        bench: of the run.

    Attributes:
        reused_seconds: that what was reused took when it was computed; None while nothing was.
        waited: seconds spent waiting for processes that computed the same.
    """

    def __init__(self, root: Path, bench: Workbench) -> None:
        self.folder, self.bench = root / FOLDER, bench
        self.reused_seconds: float | None = None
        self.waited = 0.0
        # the commit and the version say less than the code does
        self.software = {name: each for name, each in software_versions().items() if name not in ("commit", OWN)}

    def evaluate(
        self, evaluator: Evaluator, subset: Callable[[int], SyntheticSet], split: Split, what: str
    ) -> Asking[dict[str, Rows]]:
        """Return what ``evaluator.evaluate`` would, to the same bits, and ask for the trainings."""
        repeats, whole = evaluator.protocol.repeats, self.bench.parts.method.whole_split  # which is the same each time
        images = [_digests(subset(0))] * repeats if whole else [_digests(subset(repeat)) for repeat in range(repeats)]
        found = {}
        # one lock at a time, so that two processes never wait for each other
        for network, create in evaluator.networks.items():
            one = replace(evaluator, networks={network: create})
            code = self._code(network)

            def compute(one: Evaluator = one, network: str = network) -> Asking[Rows]:
                return (yield from one.evaluate_side_by_side(subset, split, what))[network]

            if None in code.values():
                found[network] = yield from compute()
            else:
                identity = self._identity(one, network, images, what, code)
                found[network] = yield from self._once(identity, one, network, compute, split, what)
        return found

    def _code(self, network: str) -> dict[str, str | None]:
        """Return the SHA-256 of all code that judges, by package; None of what is defined in a notebook."""
        parts = (self.bench.parts.evaluated[network], self.bench.parts.augmentation)
        return {name: code_sha256(name) for name in (OWN, *(_package(part) for part in parts))}

    def cost(self, seconds: float) -> dict[str, float | None]:
        """Return the card's fields of an evaluation that took ``seconds`` here: what was reused cost its maker time."""
        reused = self.reused_seconds
        return {"evaluate_s": max(0.0, seconds - self.waited) + (reused or 0.0), "reused_s": reused}

    def _identity(
        self, evaluator: Evaluator, network: str, images: list[list[str]], what: str, code: dict[str, str | None]
    ) -> dict[str, Any]:
        """Return all that decides the figures, last bits included."""
        bench, settings = self.bench, self.bench.settings
        protocol, whole = settings.protocol.model_dump(mode="json"), bench.parts.method.whole_split
        return {
            "what": what,
            "images": images,
            "data": bench.data.fingerprint,
            "splits": bench.data.split_sha256,
            "ipc": None if whole else settings.ipc,
            "seed": settings.seed,
            "network": network,  # with all that differs from its defaults
            "augment": settings.deciding()["augment"],
            # what is judged beside them changes nothing
            "protocol": {key: protocol[key] for key in protocol if key not in ("random_subset", "warm_start_average")},
            "compute": asdict(evaluator.compute) | {"threads": torch.get_num_threads()},
            "device": str(torch.cuda.get_device_name(bench.device)) if bench.device.type == "cuda" else "cpu",
            "software": self.software,
            "code": code,
        }

    def _once(
        self, identity: dict[str, Any], evaluator: Evaluator, network: str, compute: Callable[[], Asking[Rows]],
        split: Split, what: str,
    ) -> Asking[Rows]:  # fmt: skip
        path = self.folder / f"{content_sha256(identity)[:32]}.json"
        support = torch.bincount(split.labels.cpu(), minlength=len(self.bench.data.class_names)).tolist()
        lock, waiting = Lock(path.with_suffix(".lock")), False
        while (stored := self._read(path, identity, network, support, said=True)) is None:
            try:
                held = lock.acquire()
            except StorageError as error:  # a folder that is only read must not end a run that needs nothing in it
                self._not_kept(what, error)
                return (yield from compute())
            if held:
                with closing(lock):
                    # another process may have finished it since it was missed
                    stored = self._read(path, identity, network, support, said=False)
                    if stored is None:
                        remove_leftovers(self.folder, f"{path.name}*")
                        return (yield from self._computed(path, identity, evaluator, network, compute, what))
                break
            if not waiting:
                self.bench.progress(f"{what}, {network}: {lock.holder()} judges the same; waiting for it", 0)
            waiting, since = True, own_seconds()
            yield Wait(LOOK_EVERY)
            self.waited += own_seconds() - since
        self.reused_seconds = (self.reused_seconds or 0.0) + stored.seconds
        self.bench.progress(f"{what}, {network}: judged by an earlier run in {stored.seconds:.1f} s, and reused", 0)
        return [row.metrics for row in stored.rows]

    def _computed(
        self, path: Path, identity: dict[str, Any], evaluator: Evaluator, network: str,
        compute: Callable[[], Asking[Rows]], what: str,
    ) -> Asking[Rows]:  # fmt: skip
        repeats = range(evaluator.protocol.repeats)
        missing = sum(evaluator.finished.known(what, network, repeat) is None for repeat in repeats)
        began = own_seconds()
        rows = yield from compute()
        # where an earlier process had done some of them: as long as the others took
        seconds = (own_seconds() - began) * len(repeats) / max(1, missing)
        content = {
            "kind": KIND, "version": VERSION, "identity": identity, "seconds": seconds,
            "rows": [{"kind": what, "network": network, "repeat": repeat, "metrics": without_large(row)}
                     for repeat, row in enumerate(rows)],
        }  # fmt: skip
        try:
            write_json(path, with_checksum(content))
        except StorageError as error:
            self._not_kept(what, error)
        return rows

    def _not_kept(self, what: str, error: StorageError) -> None:
        warnings.warn(f"{what}: cannot be kept for other runs, which will judge it again: {error}; another folder is "
                      f"chosen with experts.root=PATH", stacklevel=2)  # fmt: skip

    def _read(
        self, path: Path, identity: dict[str, Any], network: str, support: list[int], said: bool
    ) -> _Content | None:
        """Return what is stored; None where nothing is, or it is damaged, which is ``said``."""
        if not path.exists():
            return None
        try:
            found = read_json(path, KIND)
            content = _Content.model_validate(found)
            check_checksum(found, path, "it is made again")
            _check(content, identity, network, support)
        except (FileFormatError, ValueError, RecursionError) as error:
            if said:
                reason = faults(error) if isinstance(error, ValidationError) else str(error)
                warnings.warn(f"{path}: not a usable {KIND} ({reason}); judged again", stacklevel=2)
            return None
        return content


@cache  # what was imported stays
def code_sha256(package: str) -> str | None:
    """Return the SHA-256 of the Python files of an imported package or module; None where it is of no file."""
    module = sys.modules[package]
    files = sorted(path for root in getattr(module, "__path__", ()) for path in Path(root).rglob("*.py"))
    if not files and getattr(module, "__file__", None):
        files = [Path(str(module.__file__))]
    try:
        read = [sha256(path) for path in files]
    except FileFormatError:  # an archive's
        return None
    return hashlib.sha256(" ".join(read).encode()).hexdigest() if read else None


def _package(part: object) -> str:
    return type(part).__module__.partition(".")[0]


def _digests(judged: SyntheticSet) -> list[str]:
    """Return what tells a set that networks are trained on from any other."""
    return [digest(part) for part in (judged.images, judged.labels, judged.step_size) if part is not None]


def _check(content: _Content, identity: dict[str, Any], network: str, support: list[int]) -> None:
    """Refuse rows that are not those of all networks that ``identity`` asks for, tested on the split's images.

    Raises:
        ValueError: they are not.
    """
    if content.identity != identity:
        raise ValueError("it is of another evaluation")
    asked = [(identity["what"], network, repeat) for repeat in range(identity["protocol"]["repeats"])]
    if [(row.kind, row.network, row.repeat) for row in content.rows] != asked:
        raise ValueError(f"it does not hold the {len(asked)} networks asked for")
    if any(list(row.metrics["support"]) != support for row in content.rows):
        raise ValueError("its networks were tested on other images")
    Evaluation.from_metrics(network, [row.metrics for row in content.rows])
