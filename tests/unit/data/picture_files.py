"""Picture files of every kind, with what a viewer shows of each.

It comes from the array that was written, turned and composited here, or from a reader other than ours.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tifffile
import torch
import torchvision.io
from PIL import Image, features
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

SIZES = ((1, 1), (7, 5), (33, 17), (64, 3))  # width, height
SECRETS = ("Wintermute^Jane", "PID-778213", "19510307", "St Elsewhere")
MANY_COLOURS = "more than 8 bits of a colour"
FRAMES = "several (frames|pages)"


@dataclass(frozen=True)
class Case:
    """A file: its name and bytes; what is shown, uint8 (H, W) or (H, W, 3), or what the refusal says."""

    name: str
    content: bytes
    shown: np.ndarray | None = None
    says: str = ""
    bound: int = 0
    reading: dict[str, Any] = field(default_factory=dict)


def ramp(size: tuple[int, int], channels: int = 1, top: int = 255, seed: int = 0) -> np.ndarray:
    """Random values 0..top (H, W) or (H, W, C); both ends are there where there is room."""
    shape = (size[1], size[0], channels)[: 2 + (channels > 1)]
    pixels = np.random.default_rng(seed).integers(0, top + 1, shape)
    pixels.flat[0], pixels.flat[-1] = 0, top
    return pixels


def smooth(size: tuple[int, int], channels: int = 1) -> np.ndarray:
    """Slopes that lossy formats keep well, other in each corner."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    layers = [255 * (0.6 * x + 0.4 * y), 255 * (0.7 * y + 0.2 * x), 255 * (1 - 0.5 * x - 0.3 * y)]
    return np.stack(layers[:channels], -1).squeeze(-1 if channels == 1 else ()).round().astype(np.uint8)


def turned(pixels: np.ndarray, tag: int) -> np.ndarray:
    """The array as a viewer shows it: the tag names the sides on which row 0 and column 0 lie (EXIF 2.32, 4.6.4 A)."""
    shown = pixels if tag < 5 else pixels.swapaxes(0, 1)
    return shown[:: 1 if tag in (1, 2, 5, 6) else -1, :: 1 if tag in (1, 4, 5, 8) else -1]


def exif(tag: int) -> bytes:
    """A TIFF header with one tag."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, tag, 0, 0)


def over(colours: np.ndarray, alpha: np.ndarray, background: int) -> np.ndarray:
    """Composite, in float64."""
    weight = alpha / 255 if colours.ndim == 2 else alpha[..., None] / 255
    return np.floor(colours * weight + background * (1 - weight) + 0.5).astype(np.uint8)


def to_eight(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint((values.astype(np.float64) - low) * 255 / (high - low)).clip(0, 255).astype(np.uint8)


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Rows of bytes of values (H, W) of any bits, the first in the highest bits."""
    spread = (values.astype(np.int64)[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(spread.reshape(len(values), -1).astype(np.uint8), axis=1)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(values: np.ndarray, bits: int, colour: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """PNG of values (H, W) or (H, W, C), with chunks before and behind the pixels."""
    flat = values.reshape(len(values), -1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed(flat, bits))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + after
            + chunk(b"IEND", b""))  # fmt: skip


def interlaced(values: np.ndarray) -> bytes:
    """PNG of 8-bit grey in the seven passes of Adam7."""
    rows = b"".join(
        b"\0" + row.astype(np.uint8).tobytes()
        for x, y, right, down in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
                                  (0, 1, 1, 2))
        for row in values[y::down, x::right]
    )  # fmt: skip
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 8, 0, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*each) for each in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def tiff(
    rows: bytes,
    size: tuple[int, int],
    bits: int,
    photometric: int,
    order: str = "<",
    tags: dict[int, Any] | None = None,
) -> bytes:
    """TIFF of one uncompressed strip of one channel; tags are numbers of 16 bits."""
    entries: dict[int, Any] = {256: size[0], 257: size[1], 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1,
                               278: size[1], 279: len(rows), **(tags or {})}  # fmt: skip
    start, later = 8 + 2 + 12 * len(entries) + 4, b""
    directory = struct.pack(f"{order}H", len(entries))
    offset = start + sum(2 * len(value) for value in entries.values() if isinstance(value, list))
    for tag, value in sorted(entries.items()):
        if isinstance(value, list):
            directory += struct.pack(f"{order}HHII", tag, 3, len(value), start + len(later))
            later += struct.pack(f"{order}{len(value)}H", *value)
        else:
            directory += struct.pack(f"{order}HHII", tag, 4, 1, offset if tag == 273 else value)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", 8) + directory + struct.pack(f"{order}I", 0) + later + rows


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def written(pixels: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def shown_by_torchvision(content: bytes) -> np.ndarray:
    pixels = torchvision.io.decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return pixels.permute(1, 2, 0).numpy().squeeze(-1) if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()


def dataset(pixels: np.ndarray, kind: str = "MONOCHROME2", bits: int = 8, syntax: Any = ExplicitVRLittleEndian,
            **tags: Any) -> Dataset:  # fmt: skip
    """A secondary capture that is full of what must not leave."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid(entropy_srcs=["seed"])
    made.PatientName, made.PatientID, made.PatientBirthDate, made.InstitutionName = SECRETS
    signed = pixels.dtype.kind == "i"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation = 3 if pixels.ndim == 3 else 1, kind
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = 8 * pixels.dtype.itemsize
    made.BitsStored, made.HighBit, made.PixelRepresentation = bits, bits - 1, int(signed)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    raw = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    made.PixelData = raw + b"\0" * (len(raw) % 2)
    made["PixelData"].VR = "OW" if made.BitsAllocated > 8 else "OB"
    for name, value in tags.items():
        setattr(made, name, value)
    return made


def dicom(made: Dataset) -> bytes:
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def shown_by_pydicom(made: Dataset) -> np.ndarray:
    """Modality, VOI and photometric interpretation, by pydicom."""
    rescaled = apply_modality_lut(made.pixel_array, made)
    values = apply_voi_lut(rescaled, made).astype(np.float64)
    ends = [apply_modality_lut(np.array(end), made) for end in (
        (-(2 ** (made.BitsStored - 1)), 2 ** (made.BitsStored - 1) - 1) if made.PixelRepresentation
        else (0, 2**made.BitsStored - 1)
    )]  # fmt: skip
    if "VOILUTSequence" in made:
        ends = [0, 2 ** made.VOILUTSequence[0].LUTDescriptor[2] - 1]
    shown = to_eight(values, float(ends[0]), float(ends[1]))
    return 255 - shown if made.PhotometricInterpretation == "MONOCHROME1" else shown


def cases() -> Iterator[Case]:
    """Every kind, by format."""
    for part in (pngs, tiffs, jpegs, gifs_webps_and_bmps, ppms, dicoms, others):
        yield from part()


def pngs() -> Iterator[Case]:
    for size in SIZES:
        where = f"{size[0]}x{size[1]}.png"
        for bits in (1, 2, 4, 8):
            values = ramp(size, top=2**bits - 1)
            yield Case(f"grey-{bits}-{where}", png(values, bits, 0), (values * (255 // (2**bits - 1))).astype(np.uint8))
            palette = ramp((2**bits, 1), 3, seed=bits)[0]
            table = chunk(b"PLTE", palette.astype(np.uint8).tobytes())
            yield Case(f"palette-{bits}-{where}", png(values, bits, 3, table), palette[values].astype(np.uint8))
        colour = ramp(size, 3)
        yield Case(f"rgb-{where}", png(colour, 8, 2), colour.astype(np.uint8))
        yield Case(f"rgb-16-{where}", png(ramp(size, 3, 65535), 16, 2), says=MANY_COLOURS)
        if size != (1, 1):
            deep = ramp(size, top=50000) + 1000
            yield Case(f"grey-16-{where}", png(deep, 16, 0), to_eight(deep, 1000, 51000))
            twelve = ramp(size, top=4095)
            yield Case(f"grey-12-in-16-{where}", png(twelve, 16, 0, chunk(b"sBIT", b"\x0c")), to_eight(twelve, 0, 4095))
            yield Case(f"grey-16-window-{where}", png(deep, 16, 0), to_eight(deep, 2000, 3000),
                       reading={"window": (2000, 3000)})  # fmt: skip
    size = (7, 5)
    grey, colour, deep = ramp(size), ramp(size, 3), ramp(size, top=65535)
    for tag in range(1, 9):
        yield Case(f"orientation-{tag}.png", png(colour, 8, 2, chunk(b"eXIf", exif(tag))), turned(colour, tag))
        yield Case(f"late-orientation-{tag}.png", png(grey, 8, 0, after=chunk(b"eXIf", exif(tag))), turned(grey, tag))
        yield Case(f"deep-orientation-{tag}.png", png(deep, 16, 0, chunk(b"eXIf", exif(tag))),
                   to_eight(turned(deep, tag), 0, 65535))  # fmt: skip
    yield Case("broken-orientation.png", png(grey, 8, 0, chunk(b"eXIf", b"nonsense")), grey)
    opaque, alpha = np.full_like(grey, 255), ramp(size, seed=5)
    for name, values, kind in (("grey-alpha", grey, 4), ("rgb-alpha", colour, 6)):
        with_alpha = np.dstack([values, opaque]), np.dstack([values, alpha])
        yield Case(f"{name}-opaque.png", png(with_alpha[0], 8, kind), values)
        yield Case(f"{name}.png", png(with_alpha[1], 8, kind), says="dataset.background")
        for background, value in (("black", 0), ("white", 255)):
            yield Case(f"{name}-{background}.png", png(with_alpha[1], 8, kind), over(values, alpha, value),
                       reading={"background": background}, bound=1)  # fmt: skip
        yield Case(f"{name}-16.png", png(with_alpha[0] * 257, 16, kind), says=MANY_COLOURS)
    white = {"background": "white"}
    for bits in (1, 2, 4, 8):
        values = ramp(size, top=2**bits - 1)
        shown = np.where(values == 1, 255, values * (255 // (2**bits - 1)))
        yield Case(
            f"grey-{bits}-key.png", png(values, bits, 0, chunk(b"tRNS", struct.pack(">H", 1))), shown, reading=white
        )
    yield Case("grey-4-no-key.png", png(ramp(size, top=15) // 15 * 15, 4, 0, chunk(b"tRNS", struct.pack(">H", 7))),
               ramp(size, top=15) // 15 * 255)  # fmt: skip
    key = colour[2, 3]
    hit = (colour == key).all(-1)
    yield Case("rgb-key.png", png(colour, 8, 2, chunk(b"tRNS", struct.pack(">3H", *key))),
               np.where(hit[..., None], 255, colour), reading=white)  # fmt: skip
    yield Case("rgb-key-refused.png", png(colour, 8, 2, chunk(b"tRNS", struct.pack(">3H", *key))), says="background")
    yield Case("grey-16-key.png", png(deep, 16, 0, chunk(b"tRNS", struct.pack(">H", deep[1, 1]))), says="transparent")
    yield Case("grey-16-no-key.png", png(deep // 2 * 2, 16, 0, chunk(b"tRNS", struct.pack(">H", 1))),
               to_eight(deep // 2 * 2, 0, 65534))  # fmt: skip
    palette, indices = ramp((4, 1), 3, seed=9)[0], ramp(size, top=3)
    table = chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    see_through = np.array([255, 128, 0, 255])
    yield Case("palette-alpha-white.png", png(indices, 2, 3, table + chunk(b"tRNS", bytes([255, 128, 0]))),
               over(palette[indices], see_through[indices], 255), bound=1, reading=white)  # fmt: skip
    yield Case("palette-alpha.png", png(indices, 2, 3, table + chunk(b"tRNS", bytes([255, 128]))), says="background")
    yield Case("palette-opaque.png", png(indices, 2, 3, table + chunk(b"tRNS", b"\xff\xff")), palette[indices])
    frame = struct.pack(">4I2H2B", 7, 5, 0, 0, 1, 1, 0, 0)
    first = chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", bytes(4) + frame)
    rows = zlib.compress((b"\0" + bytes(7)) * 5)
    second = chunk(b"fcTL", struct.pack(">I", 1) + frame) + chunk(b"fdAT", struct.pack(">I", 2) + rows)
    yield Case("animated.png", png(grey, 8, 0, first, second), says=FRAMES)
    wide = ramp((33, 17))
    yield Case("interlaced", interlaced(wide), wide)
    huge = struct.pack(">IIBBBBB", 60000, 60000, 1, 0, 0, 0, 0)
    yield Case("huge.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", huge) + chunk(b"IDAT", b"x") + chunk(b"IEND", b""),
               says="million pixels")  # fmt: skip
    large = struct.pack(">IIBBBBB", 9000, 9000, 1, 0, 0, 0, 0)
    yield Case("large.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", large) + chunk(b"IDAT", b"x") + chunk(b"IEND", b""),
               says="million pixels")  # fmt: skip


def tiffs() -> Iterator[Case]:
    size = (7, 5)
    grey, colour = ramp(size).astype(np.uint8), ramp(size, 3).astype(np.uint8)
    deep = ramp(size, top=60000).astype(np.uint16)
    shown = to_eight(deep, 0, 60000)
    for order in "<>":
        end = "little" if order == "<" else "big"
        for compression in (None, "zlib"):
            how = f"{end}-{compression or 'raw'}.tif"
            options = {"byteorder": order, "compression": compression}
            yield Case(f"grey-{how}", written(grey, photometric="minisblack", **options), grey)
            yield Case(f"white-is-zero-{how}", written(grey, photometric="miniswhite", **options), 255 - grey)
            yield Case(f"rgb-{how}", written(colour, photometric="rgb", **options), colour)
            yield Case(f"planes-{how}", written(colour.transpose(2, 0, 1).copy(), photometric="rgb",
                                                planarconfig="separate", **options), colour)  # fmt: skip
            yield Case(f"grey-16-{how}", written(deep, photometric="minisblack", **options), shown)
            yield Case(f"rgb-16-{how}", written(colour.astype(np.uint16) * 257, photometric="rgb", **options),
                       says=MANY_COLOURS)  # fmt: skip
            yield Case(f"rgb-16-planes-{how}", written(colour.transpose(2, 0, 1).astype(np.uint16), photometric="rgb",
                       planarconfig="separate", **options), says=f"{MANY_COLOURS}|of a kind")  # fmt: skip
            yield Case(f"float-{how}", written(grey.astype(np.float32), **options), says="floating point|of a kind")
            yield Case(f"uint32-{how}", written(grey.astype(np.uint32), **options), says="32 bits|of a kind")
            yield Case(f"int8-{how}", written(grey.view(np.int8), **options), says="signed")
            signed = (deep.astype(np.int32) - 30000).astype(np.int16)
            readable = {"shown": shown} if compression is None else {"says": "signed"}
            yield Case(f"int16-{how}", written(signed, photometric="minisblack", **options), **readable)
            tiled = ramp((40, 35)).astype(np.uint8)
            yield Case(f"tiled-{how}", written(tiled, photometric="minisblack", tile=(16, 32), **options), tiled)
            predictor = compression is not None
            yield Case(
                f"predictor-{how}", written(deep, photometric="minisblack", predictor=predictor, **options), shown
            )
        white = 65535 - deep.astype(np.int64)
        refused = {"shown": to_eight(white, 5535, 65535)} if order == "<" else {"says": "of a kind"}
        yield Case(f"white-is-zero-16-{end}.tif", written(deep, photometric="miniswhite", byteorder=order), **refused)
        for bits in (1, 2, 4):
            values = ramp(size, top=2**bits - 1)
            yield Case(f"grey-{bits}-{end}.tif", tiff(packed(values, bits).tobytes(), size, bits, 1, order),
                       values * (255 // (2**bits - 1)))  # fmt: skip
        twelve = ramp(size, top=4095)
        readable = {"shown": to_eight(twelve, 0, 4095)} if order == "<" else {"says": "of a kind"}
        yield Case(f"grey-12-{end}.tif", tiff(packed(twelve, 12).tobytes(), size, 12, 1, order), **readable)
        palette = ramp((256, 1), 3, seed=3)[0]
        table = (palette * 257).T.ravel().tolist()
        yield Case(f"palette-{end}.tif", tiff(grey.tobytes(), size, 8, 3, order, {320: table}), palette[grey])
        table = palette.T.ravel().tolist()
        yield Case(f"palette-of-bytes-{end}.tif", tiff(grey.tobytes(), size, 8, 3, order, {320: table}), says="palette")
    for tag in range(1, 9):
        option = {"extratags": [(274, "H", 1, tag, True)], "metadata": None}
        yield Case(f"orientation-{tag}.tif", written(grey, photometric="minisblack", **option), turned(grey, tag))
        yield Case(f"orientation-{tag}-zlib.tif", written(colour, photometric="rgb", compression="zlib", **option),
                   turned(colour, tag))  # fmt: skip
        yield Case(f"orientation-{tag}-16-big.tif", written(deep, photometric="minisblack", byteorder=">", **option),
                   turned(shown, tag))  # fmt: skip
    alpha = ramp(size, seed=5).astype(np.uint8)
    four, opaque = np.dstack([colour, alpha]), np.dstack([colour, np.full_like(alpha, 255)])
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    yield Case("alpha.tif", written(four, **options), says="background")
    yield Case("alpha-opaque.tif", written(opaque, **options), colour)
    yield Case(
        "alpha-black.tif", written(four, **options), over(colour, alpha, 0), bound=1, reading={"background": "black"}
    )
    multiplied = np.dstack([np.rint(colour * (alpha[..., None] / 255)).astype(np.uint8), alpha])
    yield Case("multiplied-alpha.tif", written(multiplied, photometric="rgb", extrasamples=["assocalpha"]),
               over(colour, alpha, 0), bound=2, reading={"background": "black"})  # fmt: skip
    yield Case(
        "fourth-channel.tif",
        written(four, photometric="rgb", extrasamples=["unspecified"]),
        says="more channels|of a kind",
    )
    yield Case("second-channel.tif", written(np.dstack([grey, alpha]), photometric="minisblack", planarconfig="contig",
                                             extrasamples=["unspecified"]), says="more channels|of a kind")  # fmt: skip
    yield Case("pages.tif", written(np.stack([grey, grey]), photometric="minisblack"), says=FRAMES)
    yield Case("stack-of-imagej.tif", written(np.stack([grey, grey]), imagej=True), says=f"planes|{FRAMES}")
    yield Case("cut-series.tif", written(np.stack([grey] * 3), photometric="minisblack", truncate=True), says="planes")
    volume = written(np.stack([grey] * 3), photometric="minisblack", volumetric=True, tile=(16, 16, 16))
    yield Case("volume.tif", volume, says="planes")
    unsaid = tiff(grey.tobytes(), size, 8, 1).replace(
        struct.pack("<HHII", 262, 4, 1, 1), struct.pack("<HHII", 266, 4, 1, 1)
    )
    yield Case("no-photometric.tif", unsaid, says="black or white")
    yield Case("big.tif", written(grey, photometric="minisblack", bigtiff=True), grey)
    for first in (True, False):
        stream = io.BytesIO()
        with tifffile.TiffWriter(stream) as writer:
            parts = [(grey[:2, :2], 1), (grey, 0)] if first else [(grey, 0), (grey[:2, :2], 1)]
            for pixels, kind in parts:
                writer.write(pixels, photometric="minisblack", subfiletype=kind, metadata=None)
        result = {"says": "thumbnail"} if first else {"shown": grey}
        yield Case(f"thumbnail-{'first' if first else 'behind'}.tif", stream.getvalue(), **result)
    picture = Image.fromarray(smooth((32, 24), 3))
    for compression in ("tiff_lzw", "packbits", "tiff_deflate"):
        yield Case(f"{compression}.tif", saved(picture, "TIFF", compression=compression), np.asarray(picture))
    yield Case("jpeg.tif", saved(picture, "TIFF", compression="jpeg", quality=95), np.asarray(picture), bound=12)
    bilevel = ramp((33, 17), top=1).astype(bool)
    for compression in ("group4", "group3"):
        yield Case(
            f"{compression}.tif", saved(Image.fromarray(bilevel), "TIFF", compression=compression), bilevel * 255
        )
    yield Case("cmyk.tif", saved(picture.convert("CMYK"), "TIFF"), says="CMYK")
    yield Case("lab.tif", saved(picture.convert("LAB"), "TIFF"), says="LAB")
    yield Case("ycbcr.tif", saved(picture.convert("YCbCr"), "TIFF"), says="YCbCr|subsampled")


def jpegs() -> Iterator[Case]:
    for size in ((64, 48), (17, 33), (200, 100)):
        for channels, mode in ((1, "L"), (3, "RGB")):
            picture = Image.fromarray(smooth(size, channels))
            for progressive in (False, True):
                content = saved(picture, "JPEG", quality=95, progressive=progressive)
                name = f"{mode}-{size[0]}x{size[1]}{'-progressive' * progressive}.jpg"
                yield Case(name, content, shown_by_torchvision(content), bound=2)
    picture = smooth((40, 30), 3)
    for tag in range(1, 9):
        content = saved(Image.fromarray(picture), "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0" + exif(tag))
        yield Case(f"orientation-{tag}.jfif", content, turned(picture, tag), bound=12)
    cmyk = Image.fromarray(picture).convert("CMYK")
    yield Case("cmyk.jpg", saved(cmyk, "JPEG"), says="CMYK")
    other = Image.fromarray(255 - picture)
    stereo = saved(Image.fromarray(picture), "MPO", save_all=True, append_images=[other], quality=95, subsampling=0)
    yield Case("stereo.mpo", stereo, picture, bound=12)
    yield Case("named-otherwise.png", saved(Image.fromarray(picture), "JPEG", quality=95), picture, bound=12)


def gifs_webps_and_bmps() -> Iterator[Case]:
    for size in SIZES:
        grey, colour = ramp(size).astype(np.uint8), ramp(size, 3).astype(np.uint8)
        where = f"{size[0]}x{size[1]}"
        indexed = Image.fromarray(ramp(size, top=200).astype(np.uint8), "P")
        palette = ramp((256, 1), 3, seed=2)[0].astype(np.uint8)
        indexed.putpalette(palette.tobytes())
        shown = palette[np.asarray(indexed)]
        yield Case(f"grey-{where}.gif", saved(Image.fromarray(grey), "GIF"), grey)
        yield Case(f"palette-{where}.gif", saved(indexed, "GIF"), shown)
        yield Case(f"grey-{where}.bmp", saved(Image.fromarray(grey), "BMP"), grey)
        yield Case(f"palette-{where}.bmp", saved(indexed, "BMP"), shown)
        yield Case(f"rgb-{where}.bmp", saved(Image.fromarray(colour), "BMP"), colour)
        bilevel = ramp(size, top=1).astype(bool)
        yield Case(f"bilevel-{where}.bmp", saved(Image.fromarray(bilevel), "BMP"), bilevel * 255)
        if features.check("webp"):
            yield Case(f"rgb-{where}.webp", saved(Image.fromarray(colour), "WEBP", lossless=True), colour)
    small = [Image.fromarray(ramp((7, 5), seed=seed).astype(np.uint8)) for seed in range(2)]
    yield Case("animated.gif", saved(small[0], "GIF", save_all=True, append_images=small[1:]), says=FRAMES)
    transparent = small[0].convert("P")
    hit = np.asarray(transparent) == np.asarray(transparent)[2, 2]
    key = int(np.asarray(transparent)[2, 2])
    content = saved(transparent, "GIF", transparency=key)
    yield Case("transparent.gif", content, says="background")
    yield Case(
        "transparent-white.gif", content, np.where(hit, 255, np.asarray(small[0])), reading={"background": "white"}
    )
    partial = bytearray(saved(small[0], "GIF", interlace=0))
    struct.pack_into("<HH", partial, 6, 9, 9)
    yield Case("partial.gif", bytes(partial), says="smaller than the picture")
    rows = b"".join(row.tobytes() + b"\0" * (-2 * 7 % 4) for row in _five_six_five((7, 5))[0])
    header = struct.pack("<IiiHHIIiiII3I", 40, 7, -5, 1, 16, 3, len(rows), 0, 0, 0, 0, 0xF800, 0x7E0, 0x1F)
    content = b"BM" + struct.pack("<IHHI", 66 + len(rows), 0, 0, 66) + header + rows
    yield Case("five-six-five-top-down.bmp", content, _five_six_five((7, 5))[1], bound=1)
    colour, alpha = ramp((7, 5), 3).astype(np.uint8), ramp((7, 5), seed=5).astype(np.uint8)
    four = Image.fromarray(np.dstack([colour, alpha]))
    if features.check("webp"):
        content = saved(four, "WEBP", lossless=True, exact=True)
        yield Case("alpha.webp", content, says="background")
        yield Case("alpha-white.webp", content, over(colour, alpha, 255), bound=1, reading={"background": "white"})
        yield Case("animated.webp", saved(small[0].convert("RGB"), "WEBP", save_all=True,
                                          append_images=[small[1].convert("RGB")]), says=FRAMES)  # fmt: skip
        for tag in range(2, 9):
            content = saved(Image.fromarray(colour), "WEBP", lossless=True, exif=b"Exif\0\0" + exif(tag))
            yield Case(f"orientation-{tag}.webp", content, turned(colour, tag))


def _five_six_five(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    red, green, blue = ramp(size, top=31, seed=1), ramp(size, top=63, seed=2), ramp(size, top=31, seed=3)
    shown = np.stack([red * 255 / 31, green * 255 / 63, blue * 255 / 31], -1)
    return (red << 11 | green << 5 | blue).astype("<u2"), np.rint(shown).astype(np.uint8)


def ppms() -> Iterator[Case]:
    size = (7, 5)
    for top in (1, 15, 100, 255, 1023, 4095, 65535):
        grey, colour = ramp(size, top=top), ramp(size, 3, top=top)
        store = ">u2" if top > 255 else "u1"
        end = f"# a comment\n7 5\n{top}\n".encode()
        shown = np.rint(grey * 255 / top) if top < 256 else to_eight(grey, 0, top)
        text = " ".join(map(str, grey.ravel())).encode()
        yield Case(f"{top}.pgm", b"P5\n" + end + grey.astype(store).tobytes(), shown)
        yield Case(f"{top}-plain.pgm", b"P2\n" + end + text, shown)
        rgb = {"shown": np.rint(colour * 255 / top)} if top < 256 else {"says": MANY_COLOURS}
        yield Case(f"{top}.ppm", b"P6\n" + end + colour.astype(store).tobytes(), **rgb)
        if top > 255:
            yield Case(f"{top}-window.pgm", b"P5\n" + end + grey.astype(store).tobytes(), to_eight(grey, 100, 700),
                       reading={"window": (100, 700)})  # fmt: skip
    yield Case("two.pgm", (b"P5 7 5 255\n" + ramp(size).astype(np.uint8).tobytes()) * 2, says=FRAMES)
    bilevel = ramp(size, top=1)
    yield Case("bilevel.pbm", b"P4 7 5\n" + packed(bilevel, 1).tobytes(), 255 - bilevel * 255)
    yield Case("bilevel-plain.pbm", b"P1\n7 5\n" + " ".join(map(str, bilevel.ravel())).encode(), 255 - bilevel * 255)


def dicoms() -> Iterator[Case]:
    size = (8, 5)
    grey = ramp(size).astype(np.uint8)
    values = ramp(size, top=4000).astype(np.uint16)
    rescale = {"RescaleSlope": "2", "RescaleIntercept": "-1024"}
    for kind in ("MONOCHROME1", "MONOCHROME2"):
        invert = (lambda shown: 255 - shown) if kind == "MONOCHROME1" else (lambda shown: shown)
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
            how = f"{kind}-{syntax.name.split(' - ')[0].replace(' ', '')[:13]}"
            yield Case(f"8-{how}.dcm", dicom(dataset(grey, kind, syntax=syntax)), invert(grey))
            yield Case(f"12-{how}.dcm", dicom(dataset(values, kind, 12, syntax)), invert(to_eight(values, 0, 4000)))
            made = dataset(values, kind, 12, syntax, WindowCenter="1040", WindowWidth="400", **rescale)
            yield Case(f"window-{how}.dcm", dicom(made), shown_by_pydicom(made), bound=1)
        signed = (values.astype(np.int32) - 2000).astype(np.int16)
        yield Case(f"signed-{kind}.dcm", dicom(dataset(signed, kind, 16)), invert(to_eight(signed, -2000, 2000)))
        for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            made = dataset(signed, kind, 16, WindowCenter=["40", "900"], WindowWidth=["400", "50"],
                           VOILUTFunction=function, **rescale)  # fmt: skip
            yield Case(f"{function}-{kind}", dicom(made), shown_by_pydicom(made), bound=1)
            shown = invert(to_eight(signed * 2.0 - 1024, -500, 500))
            yield Case(f"{function}-{kind}-given", dicom(made), shown, reading={"window": (-500, 500)})
        for syntax in (RLELossless, JPEG2000Lossless):
            large = ramp((64, 48), top=4000).astype(np.uint16)
            made = dataset(large, kind, 12)
            made.compress(syntax, generate_instance_uid=False)
            name = f"12-{kind}-{'rle' if syntax == RLELossless else 'j2k'}.dcm"
            yield Case(name, dicom(made), invert(to_eight(large, 0, 4000)))
    made = dataset(values, bits=12, RescaleSlope="-1", RescaleIntercept="3000", WindowCenter="1000", WindowWidth="1000")
    yield Case("falling.dcm", dicom(made), to_eight(3000.0 - values, 500, 1499))
    made = dataset((values << 4).astype(np.uint16), bits=12)
    made.HighBit = 15
    yield Case("left-aligned.dcm", dicom(made), says="unusual place")
    for name, sides in (("PixelAspectRatio", ["2", "1"]), ("PixelSpacing", ["0.5", "0.25"])):
        yield Case(f"{name}.dcm", dicom(dataset(grey, **{name: sides})), says="not square")
    for kind, shape in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")):
        yield Case(
            f"{kind}-{shape}.dcm", dicom(dataset(grey, kind, PresentationLUTShape=shape)), says="the one or the other"
        )
    yield Case("inverse.dcm", dicom(dataset(grey, "MONOCHROME1", PresentationLUTShape="INVERSE")), 255 - grey)
    padded = values.copy()
    padded[0, :3] = 65000
    yield Case("padded.dcm", dicom(dataset(padded, bits=16, PixelPaddingValue=65000)),
               to_eight(padded, float(padded[padded < 65000].min()), 4000))  # fmt: skip
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], [min(65535, 40 * each) for each in range(4096)]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    made = dataset(values, bits=12, VOILUTSequence=[table])
    yield Case("voi-lut.dcm", dicom(made), shown_by_pydicom(made), bound=1)
    short = Dataset()
    short.LUTDescriptor, short.LUTData = [4096, 0, 8], [each // 16 for each in range(4096)]
    short["LUTDescriptor"].VR = short["LUTData"].VR = "US"
    # pydicom's own function wraps around in a table of bytes with more than 256 entries
    yield Case("voi-lut-of-bytes.dcm", dicom(dataset(values, bits=12, VOILUTSequence=[short])), values // 16)
    modality = Dataset()
    modality.LUTDescriptor, modality.LUTData = [4096, 0, 16], [60000 - 10 * each for each in range(4096)]
    modality.ModalityLUTType = "US"
    modality["LUTDescriptor"].VR = modality["LUTData"].VR = "US"
    yield Case("modality-lut.dcm", dicom(dataset(values, bits=12, ModalityLUTSequence=[modality])),
               to_eight(60000 - 10 * values.astype(np.int64), 20000, 60000))  # fmt: skip
    eight = dataset(grey, WindowCenter="100", WindowWidth="50")
    yield Case("8-window.dcm", dicom(eight), shown_by_pydicom(eight), bound=1)
    yield Case("no-width.dcm", dicom(dataset(grey, WindowCenter="100", WindowWidth="0")), says="window of width 0")
    yield Case("no-width-given.dcm", dicom(dataset(grey, WindowCenter="100", WindowWidth="0")), to_eight(grey, 10, 90),
               reading={"window": (10, 90)})  # fmt: skip
    colour = ramp(size, 3).astype(np.uint8)
    yield Case("rgb.dcm", dicom(dataset(colour, "RGB")), colour)
    planes = dataset(colour, "RGB", PlanarConfiguration=1)
    planes.PixelData = colour.transpose(2, 0, 1).tobytes()
    yield Case("rgb-planes.dcm", dicom(planes), colour)
    picture = smooth((32, 24), 3)
    ycbcr = np.asarray(Image.fromarray(picture).convert("YCbCr"))
    yield Case("ybr.dcm", dicom(dataset(ycbcr, "YBR_FULL")), picture, bound=3)
    for subsampling in (0, 1):
        jpeg = saved(Image.fromarray(picture), "JPEG", quality=95, subsampling=subsampling)
        made = dataset(picture, "YBR_FULL_422" if subsampling else "YBR_FULL", syntax=JPEGBaseline8Bit)
        made.PixelData = encapsulate([jpeg])
        made["PixelData"].is_undefined_length = True
        yield Case(f"jpeg-{subsampling}.dcm", dicom(made), shown_by_torchvision(jpeg), bound=8)
    rle = dataset(colour, "RGB")
    rle.compress(RLELossless, generate_instance_uid=False)
    yield Case("rgb-rle.dcm", dicom(rle), colour)
    indices, palette = ramp(size, top=63).astype(np.uint8), ramp((64, 1), 3, seed=7)[0]
    made = dataset(indices, "PALETTE COLOR")
    for place, name in enumerate(("Red", "Green", "Blue")):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [64, 0, 16])
        made[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
        setattr(made, f"{name}PaletteColorLookupTableData", (palette[:, place] * 257).astype("<u2").tobytes())
    yield Case("palette.dcm", dicom(made), palette[indices])
    frames = dataset(grey, NumberOfFrames=2)
    frames.PixelData = grey.tobytes() * 2
    yield Case("frames.dcm", dicom(frames), says=FRAMES)
    yield Case("rgb-16.dcm", dicom(dataset(colour.astype(np.uint16), "RGB", 16)), says="8 bits of RGB")
    report = dataset(grey)
    del report.PixelData, report.Rows
    yield Case("report.dcm", dicom(report), says="without pixels")
    yield Case("enhanced.dcm", dicom(dataset(grey, SharedFunctionalGroupsSequence=[Dataset()])), says="enhanced")
    lying = dataset(picture, "YBR_FULL_422", syntax=JPEGBaseline8Bit)
    lying.PixelData = encapsulate([saved(Image.fromarray(smooth((640, 480), 3)), "JPEG")])
    lying["PixelData"].is_undefined_length = True
    yield Case("lying.dcm", dicom(lying), says="other pixels than its header")
    yield Case("cut.dcm", dicom(dataset(values, bits=12))[:-20], says="")
    two_faced = dataset(values, bits=12)
    two_faced.preamble = b"II*\0" + bytes(124)
    yield Case("begins-like-a.tif", dicom(two_faced), to_eight(values, 0, 4000))
    yield Case("no-preamble.dcm", dicom(dataset(grey))[132:], says="of no format")


def others() -> Iterator[Case]:
    grey = Image.fromarray(ramp((7, 5)).astype(np.uint8))
    for name, content in {
        "figure.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "figure.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "paper.jpg": b"%PDF-1.7\n",
        "photo.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "drawing.png": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
        "scan.jpg": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ",
    }.items():
        yield Case(name, content, says="a format that is not read")
    yield Case("empty.png", b"", says="empty")
    yield Case("page.jpg", b"<html>404 not found</html>", says="of no format")
    yield Case("volume.nii.gz", b"\x1f\x8b\x08\0", says="of no format")
    yield Case("icon.png", saved(grey, "ICO"), says="a format that is not read")
