"""Settings of the distillation loop and of the evaluation protocol."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from hoptm_plugin.core.compute import TrainingPrecision

TestedSplit: TypeAlias = Literal["test", "validation"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Optimiser(_Settings):
    """SGD on one of the learned tensors: buf <- momentum * buf + grad; value <- value - learning_rate * buf."""

    learning_rate: NonNegativeFloat
    momentum: float = Field(0.5, ge=0, lt=1)


class StepSizeOptimiser(Optimiser):
    """SGD on the student's step size alpha.

    Attributes:
        constraint: "none" (as released), "clamped" (alpha is kept at or above ``minimum``), or "log" (log alpha is
            learned, so alpha stays positive; learning_rate then acts on log alpha).
        minimum: for "clamped".
    """

    constraint: Literal["none", "clamped", "log"] = "none"
    minimum: PositiveFloat = 1e-6


class Distillation(_Settings):
    """The distillation loop.

    Attributes:
        iterations: how many, counted from 0.
        images: optimiser of the synthetic images.
        step_size: optimiser of alpha.
        labels: optimiser of the label logits; unused with hard labels.
        checkpoint_every: iterations between checkpoints.
        log_every: iterations between lines of ``metrics.jsonl``.
        evaluate_every: iterations between evaluations; used when a checkpoint is selected by score.
        selection: "last", "validation" (best of the evaluated checkpoints by accuracy on the validation split), or
            "test_leaky" (by accuracy on the test split, only to mimic published numbers; cards are marked).
        skip_above: an iteration with a loss above this takes no optimiser step (DATM's threshold); None: all do.
        average_decay: of the moving average of the images that is kept and judged beside them (FTD, ATT); None: none.
        average_labels: average learned labels as well.
    """

    iterations: PositiveInt = 5000
    images: Optimiser
    step_size: StepSizeOptimiser
    labels: Optimiser
    checkpoint_every: PositiveInt = 100
    log_every: PositiveInt = 10
    evaluate_every: PositiveInt = 500
    selection: Literal["last", "validation", "test_leaky"] = "last"
    skip_above: PositiveFloat | None = None
    average_decay: float | None = Field(None, ge=0, lt=1)
    average_labels: bool = False


class Protocol(_Settings):
    """How a synthetic set is judged: fresh networks trained on it, tested once at the end (docs/methods.md 1.10).

    Attributes:
        split: images that the networks are tested on: "test", or "validation" to choose settings by; the test split is
            then not looked at.
        repeats: networks per architecture.
        epochs: passes over the synthetic set; the published range 0...1000 makes 1001.
        batch: images per step; a short last batch is kept.
        precision: "float32", or "bf16": networks train under autocast to bfloat16, and are tested in float32.
        labels: "stored", or "hard": of soft labels only the likeliest class is used; hard ones are the same either way.
        learning_rate: of sets that carry no learned step size; a learned one is used for every architecture.
        momentum: of SGD.
        weight_decay: of SGD.
        decay: factor on the learning rate after epoch index (epochs-1)//2+1, where momentum is reset as well.
        random_subset: also evaluate random training images of the same IPC, a fresh subset for each network.
        warm_start_average: train on the moving average with the network already trained on the set itself, as the
            released code of FTD and ATT does; only to mimic their numbers.
    """

    # what is left out where it is the default: cards from before it existed stay comparable
    split: TestedSplit = Field("test", exclude_if=lambda value: value == "test")
    repeats: PositiveInt = 5
    epochs: PositiveInt = 1001
    batch: PositiveInt = 128
    precision: TrainingPrecision = Field("float32", exclude_if=lambda value: value == "float32")
    labels: Literal["stored", "hard"] = Field("stored", exclude_if=lambda value: value == "stored")
    learning_rate: PositiveFloat = 0.01
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: NonNegativeFloat = 5e-4
    decay: PositiveFloat = 0.1
    random_subset: bool = True
    warm_start_average: bool = False
