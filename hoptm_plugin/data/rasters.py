"""One picture file that Pillow decodes: what its header says, and its pixels as a viewer shows them.

Pillow opens more than it reads faithfully, so what is read is a list: of modes, bits and, of TIFF, tags.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImagePalette, TiffImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base

from hoptm_plugin.data.headers import TOO_LARGE, Header, Unfit, check_size

WORDS = {"1": "bilevel", "L": "grey", "P": "palette", "RGB": "RGB", "LA": "grey with alpha", "PA": "palette with alpha",
         "RGBA": "RGB with alpha"}  # fmt: skip
GREY = {"1", "L", "LA"}
DEEP = {"I;16", "I;16B", "I"}
WITH_ORIENTATION = {"JPEG", "MPO", "PNG", "WEBP", "TIFF"}
TURNS = dict(zip(range(2, 9), (
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
), strict=True))  # fmt: skip
USUAL_GAMMA = 1 / 2.2
REDUCED = 4  # a JPEG is decoded to no less than so many times the target's sides
PIECE = 2**20  # bytes of pixels that are counted at a time
WHOLE = ((0, 0, 1, 1),)  # first column and row, and steps, of the passes in which a PNG holds its pixels
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
COMPRESSIONS = {"raw", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_ccitt", "group3",
                "group4", "lzma", "zstd"}  # fmt: skip
NEW_SUBFILE_TYPE, IMAGE_DEPTH, THUMBNAIL = 254, 32997, 1
WHITE_IS_ZERO, PALETTE, YCBCR = 0, 3, 6
LONGEST_CHAIN = 100  # thumbnails behind a TIFF's page


def header(path: Path, kind: str) -> Header:
    """Read what the header says.

    Raises:
        Unfit: a kind of picture that is not read, or a damaged header.
    """
    with _opened(path, kind) as image:
        check_size(*image.size)
        bits = _bits(image)
        _check(image, bits)
        deep = bits > 8
        if image.format == "TIFF":
            _check_pages(image)
        elif _has_more(image):
            raise Unfit("has several frames; save the one that is meant")
        turned_by_tag = image.format == "TIFF" and Base.Orientation in image.tag_v2  # Pillow turns these itself
        orientation = _orientation(image, path)
        width, height = image.size
        if orientation > 4 and not turned_by_tag:
            width, height = height, width
        gamma = image.info.get("gamma")
        return Header(
            image.format or kind,
            f"{'grey' if deep else WORDS[image.mode]} {bits if deep else 1 if image.mode == '1' else 8}-bit",
            (width, height),
            grey=deep or image.mode in GREY or (image.mode == "P" and _is_grey(image.palette)),
            scale="stored" if deep else "8 bits",
            orientation=orientation,
            transparent="A" in image.mode or "transparency" in image.info,
            profile="icc_profile" in image.info or (gamma is not None and abs(gamma - USUAL_GAMMA) > 0.02),
        )


def rendered(
    path: Path, head: Header, background: str | None, target: tuple[int, int] | None
) -> tuple[Image.Image, bool]:
    """Decode a picture of 8 bits.

    Args:
        path: the file.
        head: what :func:`header` returned for it.
        background: what shows through transparent pixels.
        target: (width, height) to which it will be resized; a far larger JPEG is reduced while it is read.

    Returns:
        It as shown, of mode L or RGB, and whether the background shows.

    Raises:
        Unfit: it is not opaque and no background was given, or damaged.
    """
    with _opened(path, head.format) as image:
        if target is not None and image.format in ("JPEG", "MPO"):
            sides = [REDUCED * side for side in target]
            image.draft(None, (sides[1], sides[0]) if head.orientation > 4 else (sides[0], sides[1]))
        _scale_transparent_grey(image)
        _load(image, path)
        shown, composited = _flattened(image, background)
        return _turned(shown, head), composited


def values(path: Path, head: Header) -> np.ndarray:
    """Decode a grey picture of more than 8 bits to int32 (H, W), as stored, the larger the brighter.

    Raises:
        Unfit: one of its values is declared transparent, or it is damaged.
    """
    with _opened(path, head.format) as image:
        tags = image.tag_v2 if head.format == "TIFF" else {}
        white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO
        maxval = _maxval(image) if head.format == "PPM" else 0
        transparent = image.info.get("transparency")
        _load(image, path)
        pixels = np.asarray(_turned(image, head)).astype(np.int32)
    if maxval:  # Pillow scales them to 16 bits
        pixels = np.rint(pixels * (maxval / 65535)).astype(np.int32)
    if white_is_zero:
        pixels = 2**16 - 1 - pixels
    if transparent is not None and (pixels == transparent).any():
        raise Unfit("has transparent pixels and more than 8 bits; make it opaque")
    return pixels


def windowed(pixels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Return uint8 round(255 (v - low) / (high - low)), clipped; a window without width is a threshold."""
    low, high = window
    if high <= low:
        return np.where(pixels > low, 255, 0).astype(np.uint8)
    return np.rint((pixels.astype(np.float64) - low) * 255 / (high - low)).clip(0, 255).astype(np.uint8)


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Any]:
    """Open a file as one format and no other."""
    # as a stream: a TIFF on its side that Pillow maps into memory by its name is read with sides exchanged
    with path.open("rb") as stream:
        try:
            image = Image.open(stream, formats=("JPEG" if kind == "MPO" else kind,))
        except UnidentifiedImageError:
            raise Unfit(f"is damaged, or a {kind} of a kind that is not read, such as one of unusual bits; "
                        f"convert it to PNG of 8 or 16 bits") from None  # fmt: skip
        except Image.DecompressionBombError:
            raise Unfit(TOO_LARGE) from None
        with image:
            yield image


def _load(image: Any, path: Path) -> None:
    """Decode all of it, and refuse a file that Pillow decodes though a part is missing or wrong."""
    if image.format == "PNG":
        _check_png(path)
    elif image.format == "TIFF" and image.info["compression"] == "raw":
        tags = image.tag_v2
        apart = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
        planes = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) if apart else 1
        covered = sum((right - left) * (bottom - top) for _, (left, top, right, bottom), *_ in image.tile)
        if covered != image.width * image.height * planes:
            raise Unfit("lacks a part of its pixels")
    image.load()


def _check_png(path: Path) -> None:
    """Compare a PNG's checksums, and count its pixels' bytes."""
    with path.open("rb") as stream:
        stream.seek(8)
        expected, found, inflating, name = 0, 0, zlib.decompressobj(), b""
        while name != b"IEND":
            if len(start := stream.read(8)) < 8:
                raise Unfit("is cut short")
            length, name = struct.unpack(">I4s", start)
            data, checksum = stream.read(length), stream.read(4)
            if zlib.crc32(name + data) != int.from_bytes(checksum):
                raise Unfit("is damaged, as a checksum in it tells")
            if name == b"IHDR":
                expected = _png_bytes(*struct.unpack(">IIBBBBB", data))
            while name == b"IDAT" and data and found < expected:
                found += len(inflating.decompress(data, PIECE))
                data = inflating.unconsumed_tail
    if found < expected:
        raise Unfit("lacks a part of its pixels")


def _png_bytes(width: int, height: int, bits: int, colour: int, _: int, __: int, interlace: int) -> int:
    """Return the bytes of all rows, each with one for its filter, of a PNG with such a header."""
    channels = {2: 3, 4: 2, 6: 4}.get(colour, 1)
    rows = [
        (-(-(width - x) // right), -(-(height - y) // down)) for x, y, right, down in (ADAM7 if interlace else WHOLE)
    ]
    return sum(tall * (1 + -(-wide * channels * bits // 8)) for wide, tall in rows if wide > 0 and tall > 0)


def _bits(image: Any) -> int:
    """Return the bits of a channel."""
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))))
    if image.format == "PPM":
        return _maxval(image).bit_length()
    return 16 if image.format == "PNG" and image.tile[0].args.endswith(";16B") else 8


def _maxval(image: Any) -> int:
    """Return the value of white in a PPM file."""
    arguments = image.tile[0].args
    if isinstance(arguments, str):
        return 1 if image.mode == "1" else 2**16 - 1 if arguments == "I;16B" else 2**8 - 1
    return int(arguments[-1])


def _check(image: Any, bits: int) -> None:
    """Refuse what is not read faithfully."""
    deep = bits > 8 and image.mode in DEEP and bits <= 16
    if bits > 8 and not deep:
        if bits > 16 or image.mode == "F":
            raise Unfit("has pixels of 32 bits or floating point; convert it to 8 or 16 bits")
        raise Unfit("has more than 8 bits of a colour, or more than 8 bits and transparency; convert it to 8 bits of "
                    "each channel, or to grey")  # fmt: skip
    if not deep and image.mode not in WORDS:
        raise Unfit(f"has pixels of mode {image.mode}; convert it to RGB or grey")
    if image.format == "TIFF":
        _check_tiff(image, bits)
    if image.format == "GIF" and image.tile[0].extents != (0, 0, *image.size):
        raise Unfit("has a frame smaller than the picture; save it again")


def _check_tiff(image: Any, bits: int) -> None:
    """Refuse pixels that Pillow opens and reads otherwise than they are meant, and what it would leave out."""
    tags, compression = image.tag_v2, image.info["compression"]
    samples = set(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)))
    signed, photometric = samples == {2}, tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION)
    if photometric is None:  # Pillow would take black for white, others white for black
        raise Unfit("says not whether its low values are black or white; save it again")
    if compression not in COMPRESSIONS or (photometric == YCBCR and compression != "jpeg"):
        raise Unfit("is compressed or subsampled in a way that is not read; save it without compression")
    if samples != {1} and not (signed and bits == 16 and compression == "raw"):
        raise Unfit("has signed or floating point pixels of a kind that is not read; convert it to unsigned ones")
    if bits == 12 and compression != "raw":
        raise Unfit("has compressed pixels of 12 bits; save it with 16 bits")
    if 0 in tags.get(TiffImagePlugin.EXTRASAMPLES, ()):
        raise Unfit("has more channels than grey or RGB; save the ones that are meant")
    colours = tags.get(TiffImagePlugin.COLORMAP, (2**16 - 1,)) if photometric == PALETTE else (2**16 - 1,)
    if max(colours) < 2**8:
        raise Unfit("has a palette of 8-bit values where 16 are due; save it again")


def _check_pages(image: Any) -> None:
    """Refuse more pages than one; reduced copies of it are no pages, other images in one page are."""
    if image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & THUMBNAIL:
        raise Unfit("begins with a thumbnail, as a camera's raw file does; develop it")
    if _planes(image) > 1 or image.tag_v2.get(IMAGE_DEPTH, 1) > 1:
        raise Unfit("is a stack of several planes; save the one that is meant")
    for page in range(1, LONGEST_CHAIN):
        try:
            image.seek(page)
        except EOFError:
            break
        if not image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & THUMBNAIL:
            raise Unfit("has several pages; save the one that is meant")
    image.seek(0)


def _has_more(image: Any) -> bool:
    """Tell whether a file holds several pictures and a viewer would not take the first, as it takes an MPO's."""
    if image.format != "PPM":
        return image.format != "MPO" and getattr(image, "is_animated", False)
    codec, _, offset, _ = image.tile[0]
    if codec == "ppm_plain":
        return False
    width, height = image.size
    samples = width * len(image.getbands()) * (2 if _maxval(image) > 255 else 1)
    image.fp.seek(offset + height * (-(-width // 8) if image.mode == "1" else samples))
    return image.fp.read(3).lstrip()[:1] == b"P"  # another one follows, as Netpbm allows


def _planes(image: Any) -> int:
    """Return how many images ImageJ or tifffile say to have written behind the one that has a header."""
    text = image.tag_v2.get(TiffImagePlugin.IMAGEDESCRIPTION, "")
    if isinstance(text, str) and text.startswith("ImageJ="):
        return int(dict(line.partition("=")[::2] for line in text.splitlines()).get("images", "1"))
    if isinstance(text, str) and text.startswith("{") and '"truncated"' in text:
        samples = image.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
        return math.prod(json.loads(text)["shape"]) // (image.width * image.height * samples)
    return 1


def _is_grey(palette: ImagePalette.ImagePalette) -> bool:
    """Tell whether a palette has greys only, as those of many GIFs and scans."""
    order, data = palette.getdata()
    colours = np.frombuffer(data, np.uint8)
    colours = colours.reshape(3, -1).T if order == "RGB;L" else colours.reshape(-1, len(order))[:, :3]
    return bool((colours == colours[:, :1]).all())


def _orientation(image: Any, path: Path) -> int:
    """Return the orientation tag; 1 where there is none, or none that makes sense, as viewers take it."""
    if image.format not in WITH_ORIENTATION:
        return 1
    try:
        # of PNG, Pillow decodes all pixels to find a tag behind them, which few have
        late = image.format == "PNG" and _has_late_tags(path)
        found = image.getexif() if late or image.format != "PNG" else ImageFile.ImageFile.getexif(image)
        tag = found.get(Base.Orientation, 1)
    except Exception:
        return 1
    return tag if tag in TURNS else 1


def _has_late_tags(path: Path) -> bool:
    """Tell whether a PNG has chunks behind its pixels that may hold EXIF."""
    with path.open("rb") as stream:
        stream.seek(8)
        behind = False
        while len(start := stream.read(8)) == 8:
            length, name = struct.unpack(">I4s", start)
            behind |= name == b"IDAT"
            if behind and name in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
                return True
            stream.seek(length + 4, 1)
    return False


def _turned(image: Image.Image, head: Header) -> Image.Image:
    if head.format == "TIFF" or head.orientation == 1:
        return image
    return image.transpose(TURNS[head.orientation])


def _scale_transparent_grey(image: Any) -> None:
    """Scale PNG's transparent value of 2 or 4 bits as Pillow scales the pixels."""
    factor = {"L;2": 85, "L;4": 17}.get(image.tile[0].args if image.format == "PNG" else "")
    if factor is not None and "transparency" in image.info:
        image.info["transparency"] *= factor


def _flattened(image: Image.Image, background: str | None) -> tuple[Image.Image, bool]:
    """Return it in L or RGB, and whether the background shows."""
    mode = "L" if image.mode in GREY else "RGB"
    if "A" not in image.mode and "transparency" not in image.info:
        return image.convert(mode), False
    pixels = image.convert("LA" if mode == "L" else "RGBA")
    alpha, colours = pixels.getchannel("A"), pixels.convert(mode)
    if alpha.getextrema() == (255, 255):
        return colours, False
    if background is None:
        raise Unfit("is not opaque; say what shows through, with dataset.background=black or white")
    return Image.composite(colours, Image.new(mode, image.size, background), alpha), True
