"""What identifies a set of experts: everything that changes their parameters, frozen and hashed."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from hoptm_plugin.core.compute import TrainingPrecision
from hoptm_plugin.core.roles import Result, Settings, Symbol
from hoptm_plugin.experts.curriculum import Curriculum


class ExpertTraining(Settings):
    """How one expert is trained.

    Attributes:
        algorithm: "sgd" (MTT, ATT) or "gsam" (FTD, DATM, HoP-TM: surrogate-gap sharpness-aware minimisation).
        learning_rate: constant over all epochs, so that a longer training gives the same early snapshots.
        momentum: of SGD.
        weight_decay: added to the gradient.
        batch: images per step.
        epoch_images: images of an epoch, in as many passes over all as that takes, whatever the size of the data set;
            None: each once.
        curriculum: which images an epoch has; an epoch of a number of images draws them from these. None: all.
        precision: "float32", or "bf16": forward passes under autocast to bfloat16; parameters and losses keep float32.
        rho: GSAM's radius; relative to the parameters' size when ``adaptive``.
        alpha: GSAM's weight of the orthogonal part.
        adaptive: scale the perturbation by the parameters squared (as released).
    """

    algorithm: Result[Literal["sgd", "gsam"]] = "sgd"
    learning_rate: Result[PositiveFloat] = 0.01
    momentum: Result[NonNegativeFloat] = 0.0
    weight_decay: Result[NonNegativeFloat] = 0.0
    batch: Result[PositiveInt] = 256
    # these two are left out where they say nothing, as in stores from before there were such settings
    epoch_images: Annotated[Result[PositiveInt | None], Field(exclude_if=lambda value: value is None)] = None
    curriculum: Annotated[Result[Curriculum | None], Field(exclude_if=lambda value: value is None)] = None
    precision: Result[TrainingPrecision] = "float32"
    rho: Annotated[Result[NonNegativeFloat], Symbol("GSAM rho")] = 0.01
    alpha: Annotated[Result[float], Symbol("GSAM alpha")] = 0.3
    adaptive: Result[bool] = True

    def images(self, size: int) -> int:
        """Return how many images one epoch over ``size`` of them trains on, at most."""
        return self.epoch_images or size


class ExpertRecipe(BaseModel):
    """Identity of a store of experts; neither their number nor their epochs belong to it.

    Attributes:
        data: fingerprint of the data set, preprocessing included.
        network: the network's settings.
        augmentation: the augmentation's settings.
        training: how each is trained.
        seed: of initialisations, mini-batches and augmentation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    network: dict[str, Any]
    augmentation: dict[str, Any]
    training: ExpertTraining
    seed: NonNegativeInt

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 over the canonical JSON: the store's folder."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def without_curriculum(self) -> ExpertRecipe:
        """Return the same for experts that see all images in every epoch, by whom a curriculum's images are scored."""
        return self.model_copy(update={"training": self.training.model_copy(update={"curriculum": None})})
