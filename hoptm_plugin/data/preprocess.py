"""Settings of what is done to a data set, whoever reads it."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from hoptm_plugin.core.roles import Decides, Result, Settings

Fit: TypeAlias = Literal["crop", "pad", "stretch"]
OnDuplicates: TypeAlias = Literal["warn", "refuse", "drop"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Preprocess(Settings):
    """How raw images become network input.

    Attributes:
        image_size: pixels per side of what networks see; None leaves images as read. Settings of a data set may also
            say "auto": what its reader names.
        fit: how an image that is no square becomes one: "crop" brings its shorter side to the image size and cuts the
            centre, "pad" its longer side and adds black, "stretch" both.
        channels: 3 repeats grey images; None leaves channels as read. RGB is never made grey here: a reader's own
            ``channels: 1`` does that while decoding, with proper rounding.
        antialias: of the bicubic resize of arrays. False is the released code's environment.
        resize_order: "after_normalise" resizes the normalised tensor, overshoot included, as HoP-TM's released code
            does; "before_normalise" resizes pixels and clamps them to [0, 1] first; "while_reading" resizes each
            picture file by itself, antialiased, to 8 bits. Pictures of different sizes are always resized so.
        normalisation: "released" constants of a paper's code, "measured" on the train pixels, or "none".
        mean: per channel, of pixels in [0, 1]; with ``std``, used instead of ``normalisation``.
        std: per channel.
        zca: whiten instead of normalising.
        zca_eps: added to the covariance's eigenvalues.
        validation_fraction: of each class, carved from train where the source has no validation split.
    """

    image_size: Result[Annotated[int, Field(gt=0)] | None] = None
    fit: Annotated[Fit, Decides("result", unless=("crop",))] = "crop"
    channels: Result[Literal[1, 3] | None] = None
    antialias: Result[bool] = False
    resize_order: Result[Literal["after_normalise", "before_normalise", "while_reading"]] = "after_normalise"
    normalisation: Result[Literal["released", "measured", "none"]] = "measured"
    mean: Result[tuple[Finite, ...] | None] = None
    std: Result[tuple[Positive, ...] | None] = None
    zca: Result[bool] = False
    zca_eps: Result[Positive] = 0.1
    validation_fraction: Result[Annotated[float, Field(gt=0, lt=1)]] = 0.1

    @model_validator(mode="after")
    def _mean_and_std_together(self) -> Preprocess:
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std must be given together, one number per channel each")
        return self


class Shadow(Settings):
    """Which half of the images a shadow distillation of an audit is given.

    Attributes:
        number: of the shadow; 2k and 2k + 1 are given complementary halves.
        pairs: of shadows, of the whole audit.
        seed: that divides the images, and draws the canaries.
        canaries: images, at most, that have a class which is not theirs, in every shadow the same.
    """

    number: Result[NonNegativeInt]
    pairs: Result[PositiveInt]
    seed: Result[NonNegativeInt] = 0
    canaries: Result[NonNegativeInt] = 0


class BesideReader(Settings):
    """What stands beside the keywords of a data set's reader.

    Attributes:
        preprocess: what is done to the images.
        duplicates: what becomes of test and validation images that are training images as well, or nearly: "warn"
            says so, "refuse" ends, "drop" leaves the copies out of the training split.
        holdout_fraction: of each class of the training images, put aside for an audit: no step of a run sees them.
        shadow: which half of them and the training images is trained on instead; an audit sets it.
    """

    preprocess: Preprocess = Field(default_factory=Preprocess)
    duplicates: Annotated[OnDuplicates, Decides("result", unless=("warn", "refuse"))] = "warn"
    holdout_fraction: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, Decides("result", unless=(None,))] = None
    shadow: Annotated[Shadow | None, Decides("result", unless=(None,))] = None

    @model_validator(mode="after")
    def _shadows_need_a_holdout(self) -> BesideReader:
        if self.shadow is not None and self.holdout_fraction is None:
            raise ValueError("shadow needs a holdout_fraction")
        return self
