"""The validated form of a whole configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from hoptm_plugin.cards.card import ReportedAccuracy
from hoptm_plugin.cards.software import Line
from hoptm_plugin.cards.tuning import Tuning
from hoptm_plugin.core.compute import Precision, UnrollStrategy
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.registry import validation_problems
from hoptm_plugin.engine.settings import Distillation, Protocol
from hoptm_plugin.experts.recipe import ExpertTraining


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_OR_AUTO = BeforeValidator(lambda value: None if value == "auto" else value)


class Experts(_Settings):
    """How many experts, where they are stored, and how they are trained.

    Attributes:
        count: experts the method may draw from.
        root: folder of all expert stores.
        epochs: least number of epochs to train; None takes what the method reads. ``hoptm-bench experts`` and methods
            that need more are not limited by it.
        seed: of initialisations, mini-batches and augmentation.
        training: recipe of one expert.
    """

    count: PositiveInt = 100
    root: Path = Path("experts")
    epochs: PositiveInt | None = None
    seed: NonNegativeInt = 0
    training: ExpertTraining


class Runtime(_Settings):
    """Where and how it computes; none of it but ``precision`` changes more than rounding.

    Attributes:
        device: "auto" takes CUDA where there is one.
        precision: "float32" (TF32 off), "tf32" (CUDA only: matrix products and convolutions with 10-bit mantissas), or
            "bf16" (the unrolled student computes in bfloat16; what experts and evaluated networks compute in is
            ``experts.training.precision`` and ``protocol.precision``).
        unroll: how the student's steps are differentiated; "full" is never compiled.
        compile: compile training steps; "auto": where it pays, on CUDA and on the CPU for long work.
        memory_budget: what may be spent on going faster ("2GiB"): graphs of student steps that are kept with
            ``unroll=auto``, and networks side by side; "auto" (None): a quarter of a GPU, 256 MiB on the CPU.
        parallel_networks: experts or evaluated networks trained side by side; "auto" (None): one on the CPU, on CUDA as
            many as ``memory_budget`` holds, at most 16.
        threads: CPU threads; None leaves torch's choice.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "float32"
    unroll: UnrollStrategy = "auto"
    compile: Literal["auto", True, False] = "auto"
    memory_budget: Annotated[Annotated[ByteSize, Field(ge=0)] | None, _OR_AUTO] = None
    parallel_networks: Annotated[PositiveInt | None, _OR_AUTO] = None
    threads: PositiveInt | None = None


class PublishedAccuracy(ReportedAccuracy):
    """A published accuracy, with those of other architectures by name."""

    networks: dict[Line, ReportedAccuracy] = Field(default_factory=dict)


class Published(_Settings):
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


class RunSettings(_Settings):
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
        worker: which of several processes that share the work; changes nothing.
        resume: continue the run that lies in the run folder; "auto": if there is one, else begin it.
        synthetic: for ``eval``: the stored set, or the run folder that holds it.
        loggers: told how the distillation goes, by name or as mappings; ``metrics.jsonl`` is written in any case.
        reported: what was published for this setting, or None.
        tuning: how these settings were chosen, for the card; changes nothing.
        note: what to know when reading the result, for the card and the tables; changes nothing.
    """

    method_id: Line
    method_title: Line
    method_cites: list[str] = Field(default_factory=list)
    method: dict[str, Any]
    dataset: dict[str, Any]
    network: dict[str, Any]
    augment: dict[str, Any]
    experts: Experts
    distillation: Distillation
    protocol: Protocol
    networks: list[str | dict[str, Any]] | None = None
    runtime: Runtime
    ipc: PositiveInt
    seed: NonNegativeInt
    data_seed: NonNegativeInt = 0
    worker: NonNegativeInt = 0
    resume: bool | Literal["auto"] = False
    synthetic: Path | None = None
    loggers: list[str | dict[str, Any]] = Field(default_factory=list)
    reported: Published | None = None
    tuning: Tuning | None = None
    note: Line | None = None

    @model_validator(mode="after")
    def _test_split_is_not_looked_at(self) -> Self:
        if self.protocol.split == "validation" and self.distillation.selection == "test_leaky":
            raise ValueError("protocol.split=validation leaves the test split alone, but distillation.selection="
                             "test_leaky looks at it; use distillation.selection=validation or last")  # fmt: skip
        return self


def validate_settings(values: Mapping[str, Any]) -> RunSettings:
    """Return validated settings.

    Raises:
        ConfigurationError: with every problem, each naming its setting.
    """
    try:
        return RunSettings.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigurationError(validation_problems(error)) from None
