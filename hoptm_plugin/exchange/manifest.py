"""The manifest of an exported set, ``export.json``: what the other files mean, and their checksums."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, JsonValue, PositiveInt, StringConstraints, ValidationError, model_validator

from hoptm_plugin.cards.record import SCHEMA, Digest, Line, Record, faults, read_record
from hoptm_plugin.core.dataset import Normalisation
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.exchange.pixels import PixelLoss
from hoptm_plugin.storage.files import sha256

FILE_NAME: Final = "export.json"
LARGEST_BYTES: Final = 32 * 2**20  # of the manifest itself
MOST_VALUES: Final = 2**30  # pixel values of a set: 4 GiB as float32
Format: TypeAlias = Literal["medmnist", "folder", "safetensors", "ddranking"]

# plain relative paths, so that none leads out of the folder: no "..", no leading "/", no backslash or drive
_PART = r"[^./\\:\x00-\x1f\x7f][^/\\:\x00-\x1f\x7f]*"
FileName = Annotated[str, StringConstraints(max_length=500, pattern=rf"^{_PART}(/{_PART}){{0,3}}$")]


class NormalisationRecord(Record):
    """The fields of :class:`hoptm_plugin.core.dataset.Normalisation`."""

    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    kind: Line


class Manifest(Record):
    """What an exported set is.

    Attributes:
        schema_version: 1; called ``schema`` in JSON and as a keyword.
        format: of the files.
        class_names: one per class index.
        normalisation: z = (x - mean) / std for pixels x in [0, 1], that of the data set it was distilled from.
        step_size: learned; the learning rate to train on the set with. None where none was learned.
        labels: "hard" (class indices) or "soft" (one number per class).
        images: how many the files hold, mosaics taken apart.
        image_shape: (C, H, W) of one.
        mosaic: each stored image was one of mosaic x mosaic training images before it was taken apart; the native file
            still holds them as they were.
        info: JSON values of the set: data set, method, images per class.
        pixels: what de-normalising to 8 bits cost; None where floats were kept.
        files: SHA-256 by path below the folder.
        sha256: of all the rest; of files alone: written with a manifest, checked and dropped when it is read.
    """

    schema_version: Literal[1] = Field(alias="schema")
    format: Format
    class_names: Annotated[tuple[Line, ...], Field(min_length=1)]
    normalisation: NormalisationRecord
    step_size: float | None
    labels: Literal["hard", "soft"]
    images: PositiveInt
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    mosaic: PositiveInt
    info: dict[str, JsonValue]
    pixels: PixelLoss | None
    files: Annotated[dict[FileName, Digest], Field(min_length=1)]
    sha256: Digest | None = None

    @model_validator(mode="after")
    def _fits(self) -> Manifest:
        channels = self.image_shape[0]
        if len(self.normalisation.mean) != channels or len(self.normalisation.std) != channels:
            raise ValueError(f"normalisation is not of {channels} channels")
        if self.images * math.prod(self.image_shape) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} pixel values")
        if self.images * len(self.class_names) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} label values")
        return self

    @property
    def soft(self) -> bool:
        """Whether labels are numbers per class."""
        return self.labels == "soft"

    def normaliser(self) -> Normalisation:
        """Return the normalisation as the rest of the package knows it."""
        return Normalisation(self.normalisation.mean, self.normalisation.std, self.normalisation.kind)


def describe(
    synthetic: SyntheticSet, form: Format, folder: Path, files: list[str], pixels: PixelLoss | None
) -> Manifest:
    """Return the manifest of ``synthetic`` as written into ``folder``.

    Raises:
        FileFormatError: the set holds what no manifest can, such as names of several lines.
    """
    normalisation, step_size = synthetic.normalisation, synthetic.step_size
    channels, height, width = synthetic.images.shape[1:]
    try:
        return Manifest(
            schema=SCHEMA,
            format=form,
            class_names=synthetic.class_names,
            normalisation=NormalisationRecord(mean=normalisation.mean, std=normalisation.std, kind=normalisation.kind),
            step_size=None if step_size is None else float(step_size),
            labels="soft" if synthetic.soft else "hard",
            images=len(synthetic),
            image_shape=(channels, height, width),
            mosaic=synthetic.mosaic,
            info=synthetic.info,
            pixels=pixels,
            files={name: sha256(folder / name) for name in sorted(files)},
        )
    except ValidationError as error:
        raise FileFormatError(f"the synthetic set cannot be exported: {faults(error)}") from None


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an exported folder; its files are not looked at.

    Raises:
        FileFormatError: missing, damaged, without a checksum, of another schema, or with values that cannot be.
    """
    remedy = "export the set again"
    return read_record(folder / FILE_NAME, Manifest, "manifest of an exported set", remedy, LARGEST_BYTES)
