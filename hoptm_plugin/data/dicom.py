"""One DICOM file as a viewer shows it: modality transform, then the VOI window, then the photometric interpretation.

Only tags that describe pixels are read of a data set, none that describes a patient, a study or a device.

Source: DICOM PS3.3 C.7.6.3 (pixels, palettes), C.11.1 (modality LUT), C.11.2 (VOI LUT); pydicom reads and decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from hoptm_plugin.data.headers import Header, Unfit, check_size
from hoptm_plugin.data.rasters import windowed

TAGS = [
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "NumberOfFrames", "PixelAspectRatio", "PixelSpacing",
    "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "VOILUTSequence", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SharedFunctionalGroupsSequence", "PresentationLUTShape",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData",
]  # fmt: skip
NEEDED = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
          "PixelRepresentation")  # fmt: skip
GREY = ("MONOCHROME1", "MONOCHROME2")
CONTRADICTIONS = (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE"))  # PS3.3 C.8.11.3: the shape goes by the kind
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
SQUARE = 1.01  # sides of pixels that differ by less are equal
EXTRA = 'pip install "hoptm-plugin[dicom]"'


def header(path: Path) -> Header:
    """Read what the header says.

    Raises:
        Unfit: no picture, or a kind that is not read.
    """
    if not _has_libraries():
        raise Unfit(f"is a DICOM file, which needs an extra: {EXTRA}")
    dataset = _read(path, pixels=False)
    if any(dataset.get(name) in (None, "") for name in NEEDED):
        raise Unfit("is a DICOM file without pixels, such as a directory or a report")
    check_size(int(dataset.Columns), int(dataset.Rows))
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise Unfit("has several frames; save the one that is meant")
    if "SharedFunctionalGroupsSequence" in dataset:
        raise Unfit("is an enhanced DICOM object, whose window lies elsewhere; convert it to a classic one")
    kind, bits = str(dataset.PhotometricInterpretation), int(dataset.BitsStored)
    allocated, samples = int(dataset.BitsAllocated), int(dataset.SamplesPerPixel)
    if (kind, samples) not in {*((name, 1) for name in (*GREY, PALETTE)), *((name, 3) for name in COLOUR)}:
        raise Unfit(f"has pixels of DICOM's kind {kind} with {samples} samples; convert it to RGB or grey")
    if allocated not in (8, 16) or bits > allocated or (kind in COLOUR and (bits, allocated) != (8, 8)):
        raise Unfit(f"has {bits} bits in {allocated} of {kind}; convert it to 8 bits of RGB, or 8 to 16 of grey")
    if int(dataset.get("HighBit", bits - 1)) != bits - 1:
        raise Unfit("holds its bits in an unusual place (HighBit); convert it")
    for name in ("PixelAspectRatio", "PixelSpacing"):
        sides = [float(side) for side in dataset.get(name) or (1, 1)]
        if len(sides) != 2 or min(sides) <= 0 or max(sides) / min(sides) > SQUARE:
            raise Unfit(f"has pixels that are not square ({name} {sides}), which viewers stretch; resample it")
    shape = str(dataset.get("PresentationLUTShape") or "")
    if (kind, shape) in CONTRADICTIONS:
        raise Unfit(f"says {kind} and {shape}, of which viewers follow the one or the other; mend its tags")
    if kind == PALETTE and any(
        f"{name}PaletteColorLookupTableData" not in dataset for name in ("Red", "Green", "Blue")
    ):
        raise Unfit("has a segmented palette; convert it to RGB")
    own = kind in GREY and _has_window(dataset)
    rescaled = bool(dataset.get("ModalityLUTSequence")) or _rescaling(dataset) != (1.0, 0.0)
    plain = bits == 8 and not dataset.PixelRepresentation and not rescaled
    return Header(
        "DICOM",
        f"{'grey' if kind in GREY else 'palette' if kind == PALETTE else 'RGB'} {bits}-bit",
        (int(dataset.Columns), int(dataset.Rows)),
        grey=kind in GREY,
        scale="own" if own else "8 bits" if kind not in GREY or plain else "rescaled",
    )


def rendered(path: Path, window: tuple[float, float] | None) -> np.ndarray:
    """Decode a file to uint8 (H, W) or (H, W, 3), as shown.

    Args:
        path: the file.
        window: rescaled values that become black and white (of MONOCHROME1, white and black); None takes the file's
            own VOI LUT, or else its first window, or else its 8 bits as they are.

    Raises:
        Unfit: it is damaged, or its own window has no width.
    """
    dataset = _read(path, pixels=True)
    stored = _decoded(dataset)
    kind = str(dataset.PhotometricInterpretation)
    if kind == PALETTE:
        return np.stack([_through_palette(stored, dataset, name) for name in ("Red", "Green", "Blue")], axis=-1)
    if kind not in GREY:
        return stored
    pixels = _rescaled(stored, dataset)
    if window is not None:
        shown = windowed(pixels, window)
    elif _has_window(dataset):
        shown = _by_own_window(pixels, dataset)
    else:
        shown = stored.astype(np.uint8)
    return 255 - shown if kind == "MONOCHROME1" else shown


def values(path: Path) -> np.ndarray:
    """Return the rescaled values (n,) of a grey file, without those of its padding.

    Raises:
        Unfit: it is damaged.
    """
    dataset = _read(path, pixels=True)
    stored = _decoded(dataset)
    pixels = _rescaled(stored, dataset)
    padding = dataset.get("PixelPaddingValue")
    if padding is None:
        return pixels.ravel()
    signed = bool(dataset.PixelRepresentation)
    ends = sorted(_signed(int(end), signed) for end in (padding, dataset.get("PixelPaddingRangeLimit", padding)))
    return pixels[(stored < ends[0]) | (stored > ends[1])]


@cache
def _has_libraries() -> bool:
    return all(find_spec(name) is not None for name in ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "rle"))


def _read(path: Path, pixels: bool) -> Any:
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    syntax = read_file_meta_info(path).get("TransferSyntaxUID")
    if syntax is None or not syntax.is_transfer_syntax or syntax == DeflatedExplicitVRLittleEndian:
        raise Unfit("is a DICOM file of no transfer syntax that is read (deflated, private or none); convert it")
    return dcmread(path, stop_before_pixels=not pixels, specific_tags=[*TAGS])


def _decoded(dataset: Any) -> np.ndarray:
    """Return the stored values (H, W), or uint8 RGB (H, W, 3)."""
    from pydicom.pixels import pixel_array

    if "PixelData" not in dataset:
        raise Unfit("is a DICOM file without pixels, such as a directory or a report")
    compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    if compressed:
        _check_codestream(dataset)
    # one decoder, so that every machine reads the same
    pixels = pixel_array(dataset, decoding_plugin="pylibjpeg" if compressed else "")
    if pixels.shape[:2] != (dataset.Rows, dataset.Columns):
        raise Unfit("has other pixels than its header says")
    return pixels


def _check_codestream(dataset: Any) -> None:
    """Refuse compressed pixels of another size than the header's, before memory is taken for them."""
    import libjpeg
    import openjpeg
    from pydicom.encaps import get_frame
    from pydicom.uid import JPEG2000TransferSyntaxes, RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == RLELossless:  # decoded to the header's size
        return
    read = openjpeg.get_parameters if syntax in JPEG2000TransferSyntaxes else libjpeg.get_parameters
    found = read(get_frame(dataset.PixelData, 0, number_of_frames=1))
    if (found["rows"], found["columns"]) != (dataset.Rows, dataset.Columns):
        raise Unfit("has other pixels than its header says")


def _rescaling(dataset: Any) -> tuple[float, float]:
    """Return slope and intercept."""
    slope = _number(dataset, "RescaleSlope")
    return 1.0 if slope is None else slope, _number(dataset, "RescaleIntercept") or 0.0


def _rescaled(stored: np.ndarray, dataset: Any) -> np.ndarray:
    if sequence := dataset.get("ModalityLUTSequence"):
        signed = bool(dataset.PixelRepresentation)
        return _looked_up(stored, sequence[0].LUTDescriptor, sequence[0].LUTData, signed, dataset)
    slope, intercept = _rescaling(dataset)
    return stored if (slope, intercept) == (1.0, 0.0) else stored * slope + intercept


def _has_window(dataset: Any) -> bool:
    center, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    return bool(dataset.get("VOILUTSequence")) or (center is not None and width is not None)


def _by_own_window(pixels: np.ndarray, dataset: Any) -> np.ndarray:
    """Apply the first VOI LUT, or else the first window."""
    if sequence := dataset.get("VOILUTSequence"):
        indices = np.rint(pixels).astype(np.int64)
        shown = _looked_up(indices, sequence[0].LUTDescriptor, sequence[0].LUTData, bool(indices.min() < 0), dataset)
        return windowed(shown, (0, 2 ** int(sequence[0].LUTDescriptor[2]) - 1))
    center, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    assert center is not None
    assert width is not None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise Unfit(f"has a window of width {width:g}; say one for all with dataset.window=[LOW,HIGH]")
    if function == "LINEAR":
        return windowed(pixels, (center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2))
    if function == "LINEAR_EXACT":
        return windowed(pixels, (center - width / 2, center + width / 2))
    if function == "SIGMOID":
        return np.rint(255 / (1 + np.exp(-4 * (pixels - center) / width))).astype(np.uint8)
    raise Unfit(f"has a window of the unknown kind {function}; say one for all with dataset.window=[LOW,HIGH]")


def _through_palette(stored: np.ndarray, dataset: Any, colour: str) -> np.ndarray:
    """Return one colour's uint8 values; of palettes of 16 bits the upper byte, as displays take it."""
    descriptor = dataset[f"{colour}PaletteColorLookupTableDescriptor"].value
    data = dataset[f"{colour}PaletteColorLookupTableData"].value
    shown = _looked_up(stored, descriptor, data, bool(dataset.PixelRepresentation), dataset)
    return (shown >> 8 if int(descriptor[2]) == 16 else shown).astype(np.uint8)


def _looked_up(stored: np.ndarray, descriptor: Any, data: Any, signed: bool, dataset: Any) -> np.ndarray:
    """Return a LUT's entries for values, the first and last entry for those outside.

    pydicom's own functions index with bytes where entries are bytes, which wraps around in tables of more than 256.
    """
    count, first = int(descriptor[0]) % 2**16 or 2**16, _signed(int(descriptor[1]), signed)
    if isinstance(data, bytes):
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        data = np.frombuffer(data, np.uint8 if len(data) in (count, count + 1) else np.dtype(f"{order}u2"))
    table = np.atleast_1d(np.asarray(data, dtype=np.int64))
    if len(table) < count:
        raise Unfit("has a look-up table with fewer entries than it says")
    return table[np.clip(stored.astype(np.int64) - first, 0, count - 1)]


def _signed(number: int, signed: bool) -> int:
    """Return a signed number of 16 bits, which some write as an unsigned one."""
    return number - 2**16 if signed and number >= 2**15 else number


def _number(dataset: Any, name: str) -> float | None:
    """Return the first number of a tag; None where it is missing or empty."""
    found = dataset.get(name)
    values = found if isinstance(found, Sequence) and not isinstance(found, str) else [found]
    return None if not values or values[0] in (None, "") else float(values[0])
