"""All settings of a run as one frozen object; what each decides is said beside it (:mod:`hoptm_plugin.core.roles`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from hoptm_plugin.cards.card import ReportedAccuracy
from hoptm_plugin.cards.record import Line, Record
from hoptm_plugin.cards.tuning import Tuning
from hoptm_plugin.core.compute import Precision, UnrollStrategy
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.interfaces import Augmentation, DatasetReader, Method, NetworkBuilder
from hoptm_plugin.core.registry import part_classes, validation_problems
from hoptm_plugin.core.roles import (
    Chance,
    Decides,
    Machine,
    Nothing,
    Result,
    Role,
    Settings,
    decides,
    of_part,
    symbol_of,
    symbols_of_part,
)
from hoptm_plugin.data.preprocess import BesideReader
from hoptm_plugin.engine.settings import Distillation, Protocol
from hoptm_plugin.experts.recipe import ExpertTraining

# a variable that is set to nothing, such as HOPTM_EXPERTS, names no folder
_Folder = Annotated[
    Path, BeforeValidator(lambda value: value or "experts"), AfterValidator(lambda path: path.expanduser())
]
_OR_AUTO = BeforeValidator(lambda value: None if value == "auto" else value)
T = TypeVar("T")
# what the card says of the run: a run that goes on under other words would contradict its folder
Told = Annotated[T, Decides("judgement", published=True)]
OF_THE_RUN: tuple[Role, ...] = ("result", "chance", "judgement")


class Experts(Settings):
    """How many experts, where they are stored, and how they are trained.

    Attributes:
        count: experts the method may draw from.
        root: folder of all expert stores.
        epochs: least number of epochs to train; None takes what the method reads. ``hoptm-bench experts`` and methods
            that need more are not limited by it.
        seed: of initialisations, mini-batches and augmentation.
        training: recipe of one expert.
    """

    count: Result[PositiveInt] = 100
    root: Nothing[_Folder] = Path("experts")
    epochs: Result[PositiveInt | None] = None
    seed: Chance[NonNegativeInt] = 0
    training: ExpertTraining


class Runtime(Settings):
    """Where and how it computes; none of it but ``precision`` changes more than rounding.

    Attributes:
        device: "auto" takes CUDA where there is one.
        precision: "float32" (TF32 off), "tf32" (CUDA only: matrix products and convolutions with 10-bit mantissas), or
            "bf16" (the unrolled student computes in bfloat16; what experts and evaluated networks compute in is
            ``experts.training.precision`` and ``protocol.precision``).
        unroll: how the student's steps are differentiated; "full" is never compiled.
        compile: compile training steps; "auto": where it pays, on CUDA and on the CPU for long work.
        capture: on CUDA, record all student steps of an iteration once and launch them as one CUDA graph from then on,
            where compiled steps otherwise are one each; without effect with ``unroll=full``, and for methods that
            unroll nothing.
        memory_budget: what may be spent on going faster ("2GiB"): graphs of student steps that are kept with
            ``unroll=auto``, and networks side by side; "auto" (None): a quarter of a GPU, 256 MiB on the CPU.
        parallel_networks: experts or evaluated networks trained side by side; "auto" (None): one on the CPU, on CUDA as
            many as ``memory_budget`` holds, at most 16.
        threads: CPU threads; None leaves torch's choice.
        side_by_side: runs of a sweep that ``hydra/launcher=side_by_side`` makes at once; "auto" (None): on CUDA as many
            as its memory holds, at most 16; on the CPU 16 that are one computation, else one to a core.
    """

    device: Machine[Literal["auto", "cpu", "cuda"]] = "auto"
    precision: Result[Precision] = "float32"
    unroll: Machine[UnrollStrategy] = "auto"
    compile: Machine[Literal["auto", True, False]] = "auto"
    capture: Machine[bool] = False
    memory_budget: Machine[Annotated[Annotated[ByteSize, Field(ge=0)] | None, _OR_AUTO]] = None
    parallel_networks: Machine[Annotated[PositiveInt | None, _OR_AUTO]] = None
    threads: Machine[PositiveInt | None] = None
    side_by_side: Machine[Annotated[PositiveInt | None, _OR_AUTO]] = None


class PublishedAccuracy(ReportedAccuracy):
    """A published accuracy, with those of other architectures by name."""

    networks: dict[Line, ReportedAccuracy] = Field(default_factory=dict)


class Published(Record):
    """What a publication reports for a method on a data set.

    Attributes:
        source: publication and table.
        ipc: accuracies by images per class.
        whole: the accuracy of training on all images.
    """

    source: Line
    ipc: dict[PositiveInt, PublishedAccuracy] = Field(default_factory=dict)
    whole: PublishedAccuracy | None = None

    def of(self, ipc: int | None) -> dict[str, Any] | None:
        """Return the fields of a card's ``reported`` for an IPC (None: all images), or None."""
        entry = self.whole if ipc is None else self.ipc.get(ipc)
        return None if entry is None else {"source": self.source, **entry.model_dump()}


@dataclass(frozen=True)
class Describes:
    """A field that describes a part of this kind by ``name`` and keywords, each of which says what it decides.

    Attributes:
        kind: of part.
        beside: settings that stand beside its keywords.
    """

    kind: type
    beside: type[Settings] | None = None


Spec: TypeAlias = dict[str, Any]


class RunSettings(Settings):
    """A whole run. Mappings describe parts by ``name`` and are checked when the parts are built.

    Attributes:
        method_id: short name of the method, as typed on the command line.
        method_title: its name in tables.
        method_cites: BibTeX keys of its publications, the method's own first.
        method: the method and its parts.
        dataset: reader and preprocessing.
        network: the network that experts and students are.
        augment: augmentation of experts, students and evaluation.
        experts: the experts.
        distillation: the loop.
        protocol: the evaluation.
        networks: architectures to evaluate on, by name or as mappings; None means ``network``.
        runtime: device and the like.
        ipc: images per class.
        seed: of distillation and evaluation.
        data_seed: of splits that a data set does not fix; part of the data's fingerprint.
        worker: which of several processes that share the work.
        resume: continue the run that lies in the run folder; "auto": if there is one, else begin it.
        synthetic: for an evaluation: the stored set, or the run folder that holds it.
        other_data: for an evaluation: judge a set also on data it was not distilled from, which its card then says.
        loggers: told how the distillation goes, by name or as mappings; ``metrics.jsonl`` is written in any case.
        reported: what was published for this setting, or None.
        tuning: how these settings were chosen, for the card.
        note: what to know when reading the result, for the card and the tables.
        scale: which scale filled in settings that nobody gave, by name; "published" only where nothing was changed
            by hand; None: none did.
        recipe: which recipe and scale filled in settings that nobody gave, in words; "" where none did.
        tied: dotted paths of settings that were told as a function of ``distillation.iterations``, such as where a
            schedule ends; a run that has any cannot be made longer.
        given: dotted paths of what was set by hand, which beats recipes and the settings of stored runs; not stored.
    """

    method_id: Result[Line]
    method_title: Told[Line]
    method_cites: Told[list[str]] = Field(default_factory=list)
    method: Annotated[Result[Spec], Describes(Method)]
    dataset: Annotated[Result[Spec], Describes(DatasetReader, BesideReader)]
    network: Annotated[Result[Spec], Describes(NetworkBuilder)]
    augment: Annotated[Result[Spec], Describes(Augmentation)]
    experts: Experts
    distillation: Distillation
    protocol: Protocol
    networks: Annotated[list[str | Spec] | None, Decides("judgement", published=True), Describes(NetworkBuilder)] = None
    runtime: Runtime
    ipc: Annotated[PositiveInt, Decides("result", published=True)]
    seed: Chance[NonNegativeInt]
    data_seed: Chance[NonNegativeInt] = 0
    worker: Nothing[NonNegativeInt] = 0
    resume: Nothing[bool | Literal["auto"]] = False
    synthetic: Annotated[Path | None, Decides("judgement", published=True)] = None
    # it only permits: what the card then says follows from the set and the data
    other_data: Nothing[bool] = False
    loggers: Nothing[list[str | Spec]] = Field(default_factory=list)
    reported: Told[Published | None] = None
    tuning: Nothing[Tuning | None] = None
    note: Nothing[Line | None] = None
    scale: Nothing[Line | None] = None
    recipe: Nothing[str] = ""
    tied: Nothing[tuple[str, ...]] = ()
    given: Nothing[tuple[str, ...]] = Field((), exclude=True, repr=False)

    @model_validator(mode="after")
    def _test_split_is_not_looked_at(self) -> Self:
        if self.protocol.split == "validation" and self.distillation.selection == "test_leaky":
            raise ValueError("protocol.split=validation leaves the test split alone, but distillation.selection="
                             "test_leaky looks at it; use distillation.selection=validation or last")  # fmt: skip
        return self

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RunSettings:
        """Return validated settings.

        Raises:
            ConfigurationError: with every problem, each naming its setting.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigurationError(validation_problems(error)) from None

    def changed(self, **fields: Any) -> RunSettings:
        """Return the settings with other values of whole fields, validated; they count as given by hand."""
        given = {"given": (*self.given, *(name for name in fields if name not in self.given))}
        return self.of({**self.values(), **given, **fields})

    def values(self) -> dict[str, Any]:
        """Return all settings as nested mappings, data in memory and ``given`` included."""
        return {**self.model_dump(), "given": self.given}

    def plain(self) -> dict[str, Any]:
        """Return what YAML and JSON can hold of all settings; ``given`` is left out.

        Raises:
            ConfigurationError: a setting that is none of numbers, texts, lists, mappings and paths.
        """
        return self.model_dump(mode="json", fallback=_storable)

    def deciding(self, roles: Iterable[Role] = OF_THE_RUN) -> dict[str, Any]:
        """Return, as plain values, the settings that decide one of ``roles``; by default what makes the run."""
        return _deciding(type(self), self.plain(), set(roles))

    def digest(self) -> str:
        """Return the SHA-256 of what determines a run's result."""
        return _sha256(self.deciding())

    def set_digest(self) -> str:
        """Return the SHA-256 of what determines a synthetic set, its seeds left out: seeds of one setting share it."""
        chosen = self.distillation.selection != "last"  # by networks that the protocol trains
        return _sha256(self.deciding(["result", "judgement"] if chosen else ["result"]))

    def decided_by(self, path: str) -> Decides:
        """Return what the setting at a dotted path decides; a group of settings decides the result."""
        head, *rest = path.removesuffix("=").split(".")
        settings: type[Settings] = type(self)
        while head in settings.model_fields:
            known = decides(settings, head)
            if known is not None:
                kind = _described(settings, head)
                return known if kind is None or not rest else _keyword(getattr(self, head), kind, rest)
            if not rest:
                return Decides("result")
            settings, (head, *rest) = settings.model_fields[head].annotation, rest  # type: ignore[assignment]
        return Decides("result")

    def unknown_parts(self) -> list[str]:
        """Return the parts that are described and not registered here, such as those of a plug-in that is missing."""
        fields = {name: _described(type(self), name) for name in ("method", "dataset", "network", "augment")}
        named = {name: getattr(self, name).get("name") for name in fields}
        return [f"{name}.name={named[name]}" for name, kind in fields.items() if named[name] not in part_classes(kind)]

    def as_published(self, given: Iterable[str]) -> bool:
        """Tell whether none of the given paths changes what something was published for."""
        return all(path in ("method=", "dataset=") or self.decided_by(path).published for path in given)

    def without_published(self, given: Iterable[str]) -> RunSettings:
        """Return the settings, without what was published where one of the given paths changes what it was for."""
        others = [path for path in given if path.partition(".")[0] not in ("reported", "reported=")]
        kept = len(others) < len(list(given)) or (self.as_published(others) and self.scale in (None, "published"))
        return self if kept or self.reported is None else self.model_copy(update={"reported": None})


def symbols(plain: Mapping[str, Any]) -> dict[str, str]:
    """Return the symbols of those of a run's settings, plain values, that have one, by dotted path."""
    return dict(_symbols(RunSettings, plain, ""))


def _symbols(settings: type[Settings], plain: Mapping[str, Any], at: str) -> Iterator[tuple[str, str]]:
    for name in plain.keys() & settings.model_fields.keys():
        text, describes = symbol_of(settings.model_fields[name].metadata), _describes(settings, name)
        if text is not None:
            yield f"{at}{name}", text
        if describes is not None:
            yield from _symbols_of_part(plain[name], describes.kind, f"{at}{name}")
        elif decides(settings, name) is None and isinstance(plain[name], Mapping):
            yield from _symbols(settings.model_fields[name].annotation, plain[name], f"{at}{name}.")  # type: ignore[arg-type]


def _symbols_of_part(spec: Any, kind: type, at: str) -> Iterator[tuple[str, str]]:
    if not isinstance(spec, Mapping):
        return
    if "name" not in spec:  # parts by names of their own, such as matchers
        for key, each in spec.items():
            yield from _symbols_of_part(each, kind, f"{at}.{key}")
        return
    yield from ((f"{at}.{key}", text) for key, text in symbols_of_part(spec, kind).items())
    for key, (_, inner) in of_part(spec, kind).items():
        if inner is not None:
            yield from _symbols_of_part(spec.get(key), inner, f"{at}.{key}")


def _described(settings: type[Settings], name: str) -> type | None:
    describes = _describes(settings, name)
    return None if describes is None else describes.kind


def described_fields(settings: type[Settings]) -> dict[str, Describes]:
    """Return what the fields that describe one part each describe, by their names."""
    found = {name: _describes(settings, name) for name in settings.model_fields}
    return {name: each for name, each in found.items() if each is not None}


def _describes(settings: type[Settings], name: str) -> Describes | None:
    return next((each for each in settings.model_fields[name].metadata if isinstance(each, Describes)), None)


def _keyword(spec: Any, kind: type | None, path: list[str]) -> Decides:
    """Return what the keyword at a path within a part's description decides."""
    if isinstance(spec, Mapping) and "name" not in spec and path:  # parts by names of their own, such as matchers
        return _keyword(spec.get(path[0]), kind, path[1:])
    known = of_part(spec, kind) if isinstance(spec, Mapping) else {}
    if not path or path[0] not in known:
        return Decides("result")
    mark, inner = known[path[0]]
    return mark if len(path) == 1 or inner is None else _keyword(spec.get(path[0]), inner, path[1:])


def _deciding(settings: type[Settings], plain: Mapping[str, Any], roles: set[Role]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in plain.items():
        known = decides(settings, name) if name in settings.model_fields else Decides("result")
        if known is None and isinstance(value, Mapping):
            group = _deciding(settings.model_fields[name].annotation, value, roles)  # type: ignore[arg-type]
            kept |= {name: group} if group else {}
        elif known is None or (known.role in roles and value not in known.unless):
            describes = _describes(settings, name) if name in settings.model_fields else None
            kept[name] = value if describes is None else _deciding_described(value, describes, roles)
    return kept


def _deciding_described(spec: Any, describes: Describes, roles: set[Role]) -> Any:
    if describes.beside is None or not isinstance(spec, Mapping):
        return _deciding_part(spec, describes.kind, roles)
    known = {key: spec[key] for key in spec if key in describes.beside.model_fields}
    # null for a group of settings is the group without any
    groups = {key for key in known if decides(describes.beside, key) is None}
    beside = {key: {} if value is None and key in groups else value for key, value in known.items()}
    part = {key: value for key, value in spec.items() if key not in beside}
    return _deciding_part(part, describes.kind, roles) | _deciding(describes.beside, beside, roles | {"result"})


def _deciding_part(spec: Any, kind: type | None, roles: set[Role]) -> Any:
    if isinstance(spec, list):
        return [_deciding_part(each, kind, roles) for each in spec]
    if not isinstance(spec, Mapping):
        return spec
    if "name" not in spec:  # parts by names of their own, such as matchers
        return {key: _deciding_part(value, kind, roles) for key, value in spec.items()}
    return {
        key: _deciding_part(spec[key], inner, roles) if inner else spec[key]
        for key, (mark, inner) in of_part(spec, kind).items()
        if key in spec and (mark.role in roles or mark.role == "result") and spec[key] not in mark.unless
    }


def _storable(value: Any) -> Any:
    if hasattr(value, "described"):  # data in memory
        return value.described()
    raise ConfigurationError(f"a setting of type {type(value).__name__} cannot be stored: {value!r}")


def _sha256(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
