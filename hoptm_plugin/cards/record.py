"""Records: what is stored as JSON, travels between people, and is believed only after it was checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.storage.files import check_checksum, read_bounded, with_checksum, write_json

SCHEMA: Final = 1
LONGEST_LINE: Final = 500
LARGEST_COUNT: Final = 2**62
# printable, in one direction and short: these reach terminals and tables
Line = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=LONGEST_LINE, pattern=r"^[^\x00-\x1f\x7f-\x9f\u{202a}-\u{202e}\u{2066}-\u{2069}]+$"
    ),
]
Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]  # a larger one is no number of images, and no float
Fraction = Annotated[float, Field(ge=0, le=1)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Base of records and their parts: no unknown keys, no changes, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


R = TypeVar("R", bound=Record)


def write_record(record: Record, path: Path) -> None:
    """Write a record as JSON with its checksum, as its field ``sha256``, whole or not at all."""
    write_json(path, with_checksum(record.model_dump(mode="json", by_alias=True)))


def read_record(path: Path, model: type[R], kind: str, remedy: str, largest: int) -> R:
    """Read what :func:`write_record` wrote; its ``sha256`` is None again.

    Raises:
        FileFormatError: missing, larger than ``largest`` bytes, damaged or edited, without a checksum, of another
            schema, or with values that cannot be.
    """
    text = read_bounded(path, largest, kind)
    try:
        record = model.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise FileFormatError(f"{path}: not a {kind} of schema {SCHEMA}: {faults(error)}") from None
    check_checksum(json.loads(text), path, remedy)
    return record.model_copy(update={"sha256": None})


def faults(error: ValidationError) -> str:
    """Say in one line what pydantic found, the first three faults at most, without the file's contents."""
    found = error.errors(include_input=False)
    texts = []
    for fault in found[:3]:
        place = ".".join("..." if len(str(part)) > 60 else ascii(part).strip("'") for part in fault["loc"])
        texts.append(f"{place}: {fault['msg']}" if place else fault["msg"])
    more = f"; and {len(found) - 3} more faults" if len(found) > 3 else ""
    return "; ".join(texts).replace("Value error, ", "") + more
