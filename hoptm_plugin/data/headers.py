"""What a picture file is, told from its content before a pixel of it is decoded."""

from __future__ import annotations

import re
import stat
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.data.files import entries

MAX_PIXELS = 2**26  # of one picture: 8192x8192
TOO_LARGE = f"has more than {MAX_PIXELS / 1e6:.0f} million pixels; reduce it"
MAX_BYTES = 2**30  # of one file: more than the pixels above need, uncompressed
SHOWN = 3  # kinds of faults, and files of each, named in one error
HEAD = 1024  # bytes that are looked at: enough for DICOM's preamble, and an SVG's

# the formats that are decoded, by how they begin (BMP and PPM begin like text, so more of their headers is asked for)
LISTED = {
    "DICOM": rb".{128}DICM",  # before the others, as what precedes may begin like a TIFF
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]",
    "WEBP": rb"RIFF....WEBP",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "PPM": rb"P[1-6](?:\s+|\s*#[^\r\n]*[\r\n])+\d+(?:\s+|\s*#[^\r\n]*[\r\n])+\d+\s",
}
UNLISTED = {
    "PostScript": rb"\x04?%!PS|\xc5\xd0\xd3\xc6",
    "PDF": rb"%PDF",
    "HEIC": rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)",
    "AVIF": rb"....ftypavi[fs]",
    "SVG": rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*|<!DOCTYPE[^>]*>\s*)*<svg",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG XR": rb"II\xbc",
    "Photoshop": rb"8BPS",
    "GIMP": rb"gimp xcf",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "FITS": rb"SIMPLE  =",
    "icon": rb"\0\0[\1\2]\0",
    "PAM": rb"P7\n",
    "PFM": rb"P[Ff]\n\d",
}
# names under which people keep pictures
PICTURE_NAME = re.compile(
    r"\.(jpe?g|jpe|jfif|pjpe?g|pjp|mpo|a?png|tiff?|bmp|dib|gif|webp|p[pgbn]m|dcm|dicom|ima|hei[cf]|avif|svg|jp2|j2k|jp[fx]|"
    r"jxl|jxr|e?ps|psd|ico|tga|xcf|exr|hdr|pcx|dng|nef|cr2|arw|raw|svs|ndpi|mrxs|czi|nii|nii\.gz|mha|mhd|nrrd)$",
    re.IGNORECASE,
)
SPECIAL = (
    (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"), (stat.S_ISDIR, "a folder"),
)  # fmt: skip
Scale = Literal["8 bits", "stored", "rescaled", "own"]


class Unfit(Exception):  # noqa: N818 - it is about a file, and becomes a DataError about all of them
    """A file that is not read as a picture; the text says why and what to do, without its name."""


@dataclass(frozen=True)
class Header:
    """What a picture's header says.

    Attributes:
        format: JPEG, MPO, PNG, GIF, TIFF, WEBP, BMP, PPM or DICOM.
        words: what its pixels are, such as "grey 16-bit".
        size: (width, height) as shown.
        grey: one channel is stored.
        scale: "8 bits"; values as "stored" or, of DICOM, "rescaled", which the data set's window makes 8 bits; or
            shown by its "own" window.
        orientation: a tag of 1 to 8; 1 as stored.
        transparent: it has transparency, which may be opaque everywhere.
        profile: it has a colour profile or gamma other than usual, which is not applied.
    """

    format: str
    words: str
    size: tuple[int, int]
    grey: bool
    scale: Scale = "8 bits"
    orientation: int = 1
    transparent: bool = False
    profile: bool = False


def files_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the picture files directly in ``folder``, and the other files there, both sorted.

    Hidden files are not read; pictures among them are told with the others.

    Content decides, not the name: a picture of a listed format counts under any suffix or none. What looks like a
    picture, by suffix or content, and cannot be read, and what is no file, such as a pipe or a link to nothing, counts
    as one too: :class:`~hoptm_plugin.data.pictures.Pictures` refuses all of them in one error.

    Raises:
        DataError: the folder cannot be listed.
    """
    pictures: list[Path] = []
    others: list[Path] = []
    for path in entries(folder):
        if not path.is_dir():
            (pictures if _looks_like_picture(path) else others).append(path)
    # what a Mac leaves beside a.png is called ._a.png and is no picture
    hidden = [path for path in entries(folder, hidden=True) if not path.is_dir() and _looks_like_picture(path, False)]
    return pictures, others + hidden


def kind_of(path: Path) -> str | None:
    """Return the listed format that a file begins like; None of one that is no picture.

    Raises:
        Unfit: it looks like a picture of another format, or is no file, or cannot be read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for its writer
            what = next((name for test, name in SPECIAL if test(found.st_mode)), "no file")
            raise Unfit(f"is {what}, not a file")
        with path.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError as error:
        raise Unfit("is a link to nothing" if path.is_symlink() and not path.exists()
                    else f"cannot be read ({error.strerror})") from None  # fmt: skip
    if (kind := _named(head, LISTED)) is not None:
        if found.st_size > MAX_BYTES:
            raise Unfit(f"is larger than {MAX_BYTES / 2**30:g} GiB")
        return kind
    if (other := _named(head, UNLISTED)) is not None:
        raise Unfit(f"is a file of {other}, a format that is not read; convert it to PNG")
    if PICTURE_NAME.search(path.name):
        raise Unfit(f"is {'of no format that is read' if head else 'empty'} ({', '.join(LISTED)} are)")
    return None


def check_size(width: int, height: int) -> None:
    """Refuse a picture without pixels, or with more than any that is sensibly read.

    Raises:
        Unfit: saying which.
    """
    if width * height > MAX_PIXELS:
        raise Unfit(TOO_LARGE)
    if width < 1 or height < 1:
        raise Unfit("has no pixels")


def refusal(faults: Mapping[Path, str], total: int) -> DataError:
    """Return one error about all files that are not read, those of the most frequent fault first."""
    groups = defaultdict(list)
    for path in sorted(faults):
        groups[faults[path]].append(path)
    kinds = sorted(groups.items(), key=lambda group: -len(group[1]))
    shown = "; ".join(f"{', '.join(map(str, paths[:SHOWN]))}{_more(paths)}: {fault}" for fault, paths in kinds[:SHOWN])
    more = "; ..." if len(kinds) > SHOWN else ""
    return DataError(f"{len(faults)} of {total} images cannot be read ({shown}{more}); replace or remove them")


def _looks_like_picture(path: Path, unfit: bool = True) -> bool:
    try:
        return kind_of(path) is not None
    except Unfit:
        return unfit


def _more(paths: list[Path]) -> str:
    return f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""


def _named(head: bytes, patterns: Mapping[str, bytes]) -> str | None:
    return next((name for name, pattern in patterns.items() if re.match(pattern, head, re.DOTALL)), None)
