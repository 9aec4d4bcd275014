"""Settings of the distillation loop and of the evaluation protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from hoptm_plugin.core.compute import TrainingPrecision
from hoptm_plugin.core.roles import Decides, Judgement, Nothing, Result, Settings

TestedSplit: TypeAlias = Literal["test", "validation"]


class Optimiser(Settings):
    """SGD on one of the learned tensors: buf <- momentum * buf + grad; value <- value - learning_rate * buf."""

    learning_rate: Result[NonNegativeFloat]
    momentum: Result[float] = Field(0.5, ge=0, lt=1)


class ImagesOptimiser(Optimiser):
    """SGD on the images, or AdamW: x <- (1 - lr w) x - lr m / (sqrt(v) + 1e-8), m and v the usual corrected averages.

    Attributes:
        algorithm: "sgd", or "adamw" with averages of .9 and .999, which looks at no momentum.
        weight_decay: w, of AdamW alone.
    """

    # left out where they say nothing, as in cards from before there were such settings
    algorithm: Annotated[Result[Literal["sgd", "adamw"]], Field(exclude_if=lambda value: value == "sgd")] = "sgd"
    weight_decay: Annotated[Result[NonNegativeFloat], Field(exclude_if=lambda value: value == 0)] = 0.0

    @model_validator(mode="after")
    def _no_decay_of_sgd(self) -> Self:
        if self.algorithm == "sgd" and self.weight_decay:
            raise ValueError("weight_decay is that of algorithm=adamw; SGD on images has none")
        return self


class StepSizeOptimiser(Optimiser):
    """SGD on the student's step size alpha.

    Attributes:
        constraint: "none" (as released; a step to 0 or below ends the run), "damped" (a step down by x takes alpha to
            alpha / (1 + x / alpha), which is alpha - x where x is small, and never 0), "clamped" (alpha is kept at or
            above ``minimum``), or "log" (log alpha is learned; learning_rate then acts on log alpha).
        minimum: for "clamped".
    """

    constraint: Result[Literal["none", "damped", "clamped", "log"]] = "none"
    minimum: Result[PositiveFloat] = 1e-6


class GuardSettings(Settings):
    """When a distillation that comes to nothing is stopped, or warned of; decides nothing of one that is not.

    Looked at after every ``window`` iterations. A loss that is not finite, and an alpha that is not positive, stop a
    run in any case. ``guard: off`` sets the other three to None.

    Attributes:
        step_size: stop where alpha is more than so many times its start; None: never.
        loss: stop where what the method gives to be watched (:class:`hoptm_plugin.LossTerm`) is, in the median of a
            window, more than so many times what it was in the first window, or what it is where nothing is learned;
            None: never.
        saturation: warn where more than this share of the pixel values lies outside the range of pictures by more than
            a quarter of it, those of the initial images not counted; None: never.
        window: iterations.
    """

    step_size: Nothing[float | None] = Field(default=100.0, gt=1)
    loss: Nothing[float | None] = Field(default=2.0, gt=1)
    saturation: Nothing[float | None] = Field(default=0.5, ge=0, lt=1)
    window: Nothing[PositiveInt] = 20


def _switched_off(value: Any) -> Any:
    return dict.fromkeys(("step_size", "loss", "saturation")) if value in ("off", False, None) else value


class Distillation(Settings):
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
        guard: what stops a run that diverges; "off": only numbers that are none.
    """

    iterations: Result[PositiveInt] = 5000
    images: ImagesOptimiser
    step_size: StepSizeOptimiser
    labels: Optimiser
    checkpoint_every: Annotated[PositiveInt, Decides("result", published=True)] = 100
    log_every: Annotated[PositiveInt, Decides("result", published=True)] = 10
    evaluate_every: Result[PositiveInt] = 500
    selection: Result[Literal["last", "validation", "test_leaky"]] = "last"
    skip_above: Result[PositiveFloat | None] = None
    average_decay: Result[float | None] = Field(None, ge=0, lt=1)
    average_labels: Result[bool] = False
    guard: Annotated[GuardSettings, BeforeValidator(_switched_off)] = GuardSettings()


class Protocol(Settings):
    """How a synthetic set is judged: fresh networks trained on it, tested once at the end (docs/methods.md 1.10).

    Attributes:
        split: images that the networks are tested on: "test", or "validation" to choose settings by; the test split is
            then not looked at.
        repeats: networks per architecture.
        epochs: passes over the synthetic set; the published range 0...1000 makes 1001.
        batch: images per step; a short last batch is kept.
        epoch_images: images of an epoch, in as many passes over the set as that takes; None: each once.
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

    split: Judgement[TestedSplit] = "test"
    repeats: Judgement[PositiveInt] = 5
    epochs: Judgement[PositiveInt] = 1001
    batch: Judgement[PositiveInt] = 128
    # left out where it says nothing, as in cards from before there was such a setting
    epoch_images: Annotated[Judgement[PositiveInt | None], Field(exclude_if=lambda value: value is None)] = None
    precision: Judgement[TrainingPrecision] = "float32"
    labels: Judgement[Literal["stored", "hard"]] = "stored"
    learning_rate: Judgement[PositiveFloat] = 0.01
    momentum: Judgement[float] = Field(0.9, ge=0, lt=1)
    weight_decay: Judgement[NonNegativeFloat] = 5e-4
    decay: Judgement[PositiveFloat] = 0.1
    random_subset: Annotated[bool, Decides("judgement", published=True, beside=True)] = True
    warm_start_average: Annotated[bool, Decides("judgement", beside=True)] = False

    def images(self, size: int) -> int:
        """Return how many images one epoch over a set of ``size`` trains on."""
        return self.epoch_images or size
