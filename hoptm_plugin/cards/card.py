"""The card: one run's result as JSON, ``result.json``, schema 1. All fractions lie in [0, 1]; tables show percent."""

from __future__ import annotations

import json
import math
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.cards.record import (
    LARGEST_COUNT,
    SCHEMA,
    Count,
    Digest,
    Fraction,
    Line,
    Record,
    read_record,
    write_record,
)
from hoptm_plugin.cards.software import Software, software_versions
from hoptm_plugin.cards.tuning import Tuning
from hoptm_plugin.core.dataset import ImageData
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.core.interfaces import ImagesAre
from hoptm_plugin.core.text import all_printable
from hoptm_plugin.storage.run_files import CARD as FILE_NAME

LARGEST_BYTES = 64 * 2**20
MOST_SCORED = 100_000


class DuplicatesRecord(Record):
    """What was found of images that are in more than one split; see ``hoptm_plugin.data.duplicates.Duplicates``.

    Attributes:
        within: images that equal an earlier one of their own split.
        across: validation and test images that equal one of another split.
        conflicting: images that equal one with another label.
        near: further validation and test images that nearly equal a training image, or test images a validation image.
        looked_at: validation and test images that were compared for these, out of ``of``.
        of: validation and test images that equal no training image.
        dropped: training images that were left out for it.
        pairs: the first of ``across`` and ``near``, such as "test[3] = train[17]", by rows of the source's splits.
    """

    within: NonNegativeInt
    across: NonNegativeInt
    conflicting: NonNegativeInt
    near: NonNegativeInt
    looked_at: NonNegativeInt
    of: NonNegativeInt
    dropped: NonNegativeInt
    pairs: tuple[Line, ...]


class DatasetRecord(Record):
    """What was distilled: name, fingerprint of pixels and preprocessing, class names, images per split.

    Attributes:
        read: what the source held and what was done to it, in one line; None in cards from before it was said.
        duplicates: images in more than one split; None in cards from before they were looked for.
        validation_carved: of the validation images, how many were training images where the data came from; None in
            older cards.
    """

    name: Line
    fingerprint: Line
    classes: Annotated[tuple[Line, ...], Field(min_length=1)]
    train: PositiveInt
    validation: NonNegativeInt
    test: PositiveInt
    read: Line | None = None
    duplicates: DuplicatesRecord | None = None
    validation_carved: NonNegativeInt | None = None


class ReportedAccuracy(Record):
    """A published accuracy and its standard deviation, fractions; std is None where none was published."""

    accuracy: Fraction
    std: Annotated[float, Field(ge=0, le=0.5)] | None = None


class Reported(ReportedAccuracy):
    """What a publication reports for this setting on the network that was distilled with.

    Attributes:
        source: publication and place, such as a table.
        networks: what it reports for other networks that were trained on the set, by a card's name of them.
    """

    source: Line
    networks: dict[Line, ReportedAccuracy] = Field(default_factory=dict)


class DistilledFrom(Record):
    """Other data that a set was distilled from than those it is judged on.

    Attributes:
        name: of that data set; "unknown" where the set has only its fingerprint.
        fingerprint: of its pixels and preprocessing, as in :class:`DatasetRecord`.
        test_images_seen: how many of the images that networks were tested on were among those it was distilled from;
            None where that cannot be told.
    """

    name: Line
    fingerprint: Line
    test_images_seen: Count | None = None


class Selected(Record):
    """How the iteration of a set was chosen by its accuracy; the first of equals is taken.

    Attributes:
        iteration: that was chosen, as a number of iterations done.
        iterations: after which the set was scored, ascending.
        accuracies: of one fresh network on the split that ``selection`` names, for each.
    """

    iteration: PositiveInt
    iterations: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=MOST_SCORED)]
    accuracies: tuple[Fraction, ...]

    @model_validator(mode="after")
    def _agrees(self) -> Selected:
        if len(self.accuracies) != len(self.iterations) or sorted(set(self.iterations)) != list(self.iterations):
            raise ValueError("accuracies and ascending iterations are not of one length")
        if self.iteration != self.iterations[self.accuracies.index(max(self.accuracies))]:
            raise ValueError("iteration: is not the first of the best accuracy")
        return self


class SaturationRecord(Record):
    """Shares of the set's pixel values that lie outside the range of pictures by more than a quarter of it.

    Attributes:
        start: of the initial images.
        end: of the distilled ones, those of the last iteration.
    """

    start: Fraction
    end: Fraction


class Cost(Record):
    """Wall-clock seconds and memory; None where a stage did not take place or is not known.

    Attributes:
        experts_s: training of the experts that were read, also where an earlier run trained them.
        distill_s: distillation, what its set begins with included, such as crops that experts score.
        evaluate_s: evaluation, that of the random subset included, also where an earlier run made it.
        reused_s: of ``evaluate_s``, what an earlier run spent on the random subset or on all training images, whose
            figures were reused; None where all were computed, as in older cards.
        seconds_per_iteration: of distillation.
        peak_memory_bytes: see :func:`peak_memory_bytes`.
        device: in words.
    """

    experts_s: NonNegativeFloat | None
    distill_s: NonNegativeFloat | None
    evaluate_s: NonNegativeFloat
    seconds_per_iteration: NonNegativeFloat | None
    peak_memory_bytes: Count | None
    device: Line
    reused_s: NonNegativeFloat | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Cost:
        if (self.reused_s or 0) > self.evaluate_s:
            raise ValueError("reused_s is part of evaluate_s, and larger")
        return self


class Card(Record):
    """The result of one run.

    Attributes:
        schema_version: 1; called ``schema`` in JSON and as a keyword.
        method: short name, as on the command line.
        title: the method's name in tables.
        dataset: what was distilled.
        ipc: synthetic images per class; None where the whole training split was trained on (the upper bound).
        seed: of the run: distillation and evaluation, or an evaluation alone.
        distillation_seed: of the distillation, if known; several evaluations of one set are not several distillations.
        protocol: all that decides how a set is evaluated; cards share a table only where it is equal.
        evaluations: one per architecture.
        averaged: the same for the moving average (EMA) of the synthetic set, or None.
        random_subset: the same for random training images of the same IPC under the same protocol, or None.
        reported: a published figure to hold beside it, or None.
        selection: how the iteration was chosen; "test_leaky" looked at the test split.
        selected: which iteration was chosen by score, and the whole curve; None where it is the last, in older cards,
            and where a set is judged anew.
        averaged_selected: the same for the moving average.
        saturation: of the images; None in older cards, and where a set is judged anew.
        tuning: how the settings were chosen, if there was a search.
        note: what to know when reading the result, such as that the setting was reduced.
        cost: time and memory.
        software: versions.
        config_sha256: of the composed configuration.
        distillation_sha256: of the part of it that determines the synthetic set, the seed left out, if known.
        labels: of what was trained on: "hard" (class indices) or "soft" (probabilities); None in older cards.
        images_are: what of real images is in the set: "real" ones, "from_real" ones that were changed, none ("made").
        floor: the set is a random subset of the training images, what every method must beat.
        images_stored: images that the set holds; None in older cards.
        images_trained_on: images that each network is trained on, more than are stored where these are mosaics (IDM);
            None in older cards.
        lower_precision: what of the set was computed in lower precision, such as "bf16 experts"; None: nothing, or not
            known.
        imported: the set was made by other software: what was read of it, in one line; None: it was not, or not known.
        scale: which scale the set was made at, such as "laptop", whatever was changed by hand beside it; None: none was
            chosen, as where a recipe or a method's own size holds, or not known.
        distilled_from: the data that the set says it was distilled from, where they are others than ``dataset``; None
            where they are the same, and where the set does not say it (a note then does).
        settings: what determines the set, seeds and paths left out, as the run's configuration has it; None where that
            is not known.
        began_from: what the images were that the distillation began from, as ``images_are`` has it; "unknown" in older
            cards, and of a set that was judged alone.
        artefacts: SHA-256 of the run folder's files, by path within the folder.
        sha256: of all the rest of the card, ``hoptm_plugin.storage.files.content_sha256``; of files alone: written with
            a card, checked and dropped when it is read.
    """

    schema_version: Literal[1] = Field(alias="schema")
    method: Line
    title: Line
    dataset: DatasetRecord
    ipc: Annotated[int, Field(gt=0, le=LARGEST_COUNT)] | None
    seed: int
    distillation_seed: int | None = None
    protocol: dict[str, JsonValue]
    evaluations: Annotated[tuple[Evaluation, ...], Field(min_length=1)]
    averaged: tuple[Evaluation, ...] | None = None
    random_subset: tuple[Evaluation, ...] | None = None
    reported: Reported | None = None
    selection: Literal["last", "validation", "test_leaky"]
    selected: Selected | None = None
    averaged_selected: Selected | None = None
    saturation: SaturationRecord | None = None
    tuning: Tuning | None = None
    note: Line | None = None
    cost: Cost
    software: Software
    config_sha256: Digest
    distillation_sha256: Digest | None = None
    labels: Literal["hard", "soft"] | None = None
    images_are: ImagesAre = "unknown"
    floor: bool = False
    images_stored: Count | None = None
    images_trained_on: Count | None = None
    lower_precision: Line | None = None
    imported: Line | None = None
    scale: Line | None = None
    distilled_from: DistilledFrom | None = None
    settings: dict[str, JsonValue] | None = None
    began_from: ImagesAre = "unknown"
    artefacts: dict[Line, Digest]
    sha256: Digest | None = None

    @field_validator("protocol", "settings")
    @classmethod
    def _finite(cls, settings: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        json.dumps(settings, allow_nan=False)
        if not all_printable(settings):
            raise ValueError("control characters in a text")
        return settings

    @model_validator(mode="after")
    def _fits(self) -> Card:
        for kind in ("evaluations", "averaged", "random_subset"):
            evaluations: tuple[Evaluation, ...] = getattr(self, kind) or ()
            names = [evaluation.network for evaluation in evaluations]
            if len(set(names)) < len(names):
                raise ValueError(f"{kind}: a network is listed twice")
            if any(len(evaluation.support) != len(self.dataset.classes) for evaluation in evaluations):
                raise ValueError(f"{kind}: support is not of {len(self.dataset.classes)} classes")
            if any(sum(evaluation.support) != self.tested for evaluation in evaluations):
                raise ValueError(f"{kind}: support does not sum to the {self.tested} {self.split} images")
        return self

    @model_validator(mode="after")
    def _agrees(self) -> Card:
        """Refuse what contradicts other fields."""
        every = [each for kind in (self.evaluations, self.averaged, self.random_subset) for each in kind or ()]
        if len({each.support for each in every}) > 1:
            raise ValueError("support: the networks were not tested on the same images")
        repeats = self.protocol.get("repeats")
        if repeats is not None and any(len(each.accuracy.values) != repeats for each in every):
            raise ValueError(f"the protocol has {repeats} networks of each architecture, which are not all there")
        self._check_counts()
        other = self.distilled_from
        if other is not None:
            if other.fingerprint == self.dataset.fingerprint:
                raise ValueError("distilled_from: names the data that the set is judged on")
            if (other.test_images_seen or 0) > self.tested:
                raise ValueError(f"distilled_from: more images were seen than the {self.tested} {self.split} images")
            if self.reported is not None:
                raise ValueError("reported: was published for a set that was distilled from the data it is judged on")
        return self

    def _check_counts(self) -> None:
        stored, trained = self.images_stored, self.images_trained_on
        if (stored is None) != (trained is None):
            raise ValueError("images_stored and images_trained_on: one is given without the other")
        if stored is None or trained is None:
            return
        if self.ipc is None:
            fits, wanted = stored == trained == self.dataset.train, f"the training split of {self.dataset.train}"
        else:  # a mosaic of s x s images is trained on as that many; an export has taken it apart
            images = self.ipc * len(self.dataset.classes)
            square = trained % images == 0 and math.isqrt(trained // images) ** 2 * images == trained
            wanted = f"{self.ipc} for each of {len(self.dataset.classes)} classes"
            fits = square and stored in (images, trained)
        if not fits:
            raise ValueError(f"images_stored is {stored} and images_trained_on {trained}, which is not {wanted}")

    @property
    def split(self) -> str:
        """Name of the split that networks were tested on, "test" or "validation"."""
        return "validation" if self.protocol.get("split") == "validation" else "test"

    @property
    def tested(self) -> int:
        """Images of that split."""
        return self.dataset.validation if self.split == "validation" else self.dataset.test


def make_card(
    data: ImageData, results: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]] | None], **fields: Any
) -> Card:
    """Put a card together; the software is found out here.

    Args:
        data: what was distilled.
        results: "evaluations", "averaged" and "random_subset": per architecture one dict of metrics for each network,
            as the evaluator returns them; or None.
        fields: the other fields of :class:`Card`.

    Raises:
        ValueError: values that a card cannot hold (pydantic.ValidationError).
    """
    record = DatasetRecord(
        name=data.name, fingerprint=data.fingerprint, classes=data.class_names,
        train=len(data.train), validation=len(data.validation), test=len(data.test),
        read=data.provenance.get("read"), duplicates=data.provenance.get("duplicates"),
        validation_carved=data.provenance.get("validation_carved", {}).get("images", 0),
    )  # fmt: skip
    evaluated = {
        kind: None if found is None else tuple(Evaluation.from_metrics(*each) for each in found.items())
        for kind, found in results.items()
    }
    software = Software.model_validate(software_versions())
    return Card.model_validate({**fields, "schema": SCHEMA, "dataset": record, "software": software, **evaluated})


def write_card(card: Card, path: Path) -> None:
    """Write a card as JSON with its checksum, whole or not at all."""
    write_record(card, path)


def read_card(path: Path) -> Card:
    """Read a card from its file or from the run folder that holds it.

    Raises:
        FileFormatError: missing, damaged, without a checksum, of another schema, or with values that cannot be.
    """
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileFormatError(f"{path}: no such result card; a finished run folder holds one, {FILE_NAME}")
    return read_record(path, Card, "result card", "restore it, or evaluate again", LARGEST_BYTES)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory this process has held: allocated by torch on CUDA, else its resident set size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024  # macOS counts bytes
