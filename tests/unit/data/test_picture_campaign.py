"""Every kind of picture file is read as another reader shows it, or refused with one message; none silently other."""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import picture_files
import pydicom
import pytest
from pydicom.pixels import apply_color_lut, apply_modality_lut

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.data.pictures import Pictures, Reading

CASES = 200
SAMPLE = 8  # one file in so many


def outcome(case, folder):
    """Return "equal", "refused", or what differs."""
    path = folder / case.name
    path.write_bytes(case.content)
    try:
        pixels = Pictures([path], Reading(**case.reading)).decode(None).numpy()[0]
    except DataError as error:
        text = str(error)
        if case.shown is not None:
            return f"refused, though it is readable: {text}"
        clear = "\n" not in text and len(text) < 600 and str(path) in text and re.search(case.says, text)
        return "refused" if clear else f"refused with an unclear message: {text}"
    if case.shown is None:
        return "read, though it is to be refused"
    shown = np.atleast_3d(case.shown).transpose(2, 0, 1)
    if pixels.shape != shown.shape:
        return f"shape {pixels.shape} instead of {shown.shape}"
    differing = np.abs(pixels.astype(int) - shown.astype(int)).max()
    return "equal" if differing <= case.bound else f"differs by {differing}"


def campaign(step, folder):
    """Read one file of each ``step``; return counts, and what differs by file."""
    outcomes = {case.name: outcome(case, folder) for case in list(picture_files.cases())[::step]}
    different = {name: result for name, result in outcomes.items() if result not in ("equal", "refused")}
    counts = Counter(outcomes.values())
    sys.stdout.write(f"{len(outcomes)} files: {counts['equal']} read, {counts['refused']} refused, "
                     f"{len(different)} different\n")  # fmt: skip
    return outcomes, different


def test_names_are_unique():
    names = [case.name for case in picture_files.cases()]
    assert len(set(names)) == len(names) >= CASES


def test_some_files_of_every_kind(tmp_path):
    outcomes, different = campaign(SAMPLE, tmp_path)
    assert not different
    assert {"equal", "refused"} == set(outcomes.values())


@pytest.mark.slow
def test_all_files(tmp_path):
    outcomes, different = campaign(1, tmp_path)
    assert not different
    assert len(outcomes) >= CASES


@pytest.mark.campaign
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path):
    draw, path, counts = random.Random(0), tmp_path / "damaged.png", Counter()
    cases = [case for case in picture_files.cases() if case.content]
    for _ in range(1500):
        content = bytearray(draw.choice(cases).content)
        for _ in range(draw.choice((1, 1, 2, 8))):
            content[draw.randrange(min(len(content), 600))] = draw.choice((0, 1, 255, draw.randrange(256)))
        path.write_bytes(content)
        try:
            Pictures([path], Reading(background="black")).decode((32, 32), "pad")
            counts["read"] += 1
        except DataError as error:
            counts["refused" if "\n" not in str(error) and len(str(error)) < 700 else str(error)] += 1
    sys.stdout.write(f"damaged files: {dict(counts)}\n")
    assert set(counts) == {"read", "refused"}


@pytest.mark.slow
def test_pydicoms_own_examples(tmp_path):
    """Files of many makers: each shown as pydicom shows it, or refused."""
    counts = Counter()
    for path in sorted((Path(pydicom.__file__).parent / "data" / "test_files").rglob("*")):
        if not path.is_file() or path.read_bytes()[128:132] != b"DICM":
            continue
        try:
            read = Pictures([path], Reading())
            pixels = read.decode(None).numpy()[0]
        except DataError:
            counts["refused"] += 1
            continue
        counts["read"] += 1
        made = pydicom.dcmread(path)
        if made.PhotometricInterpretation.startswith("MONOCHROME"):
            values = apply_modality_lut(made.pixel_array, made)
            shown = (
                picture_files.to_eight(values, *read.window) if read.window else picture_files.shown_by_pydicom(made)
            )
            shown = 255 - shown if read.window and made.PhotometricInterpretation == "MONOCHROME1" else shown
        elif made.PhotometricInterpretation == "PALETTE COLOR":
            shown = apply_color_lut(made.pixel_array, made)
            shown = shown >> 8 if shown.dtype == np.uint16 else shown
        else:
            shown = made.pixel_array
        assert np.abs(pixels.astype(int) - np.atleast_3d(shown).transpose(2, 0, 1)).max() <= 2, path.name
    sys.stdout.write(f"pydicom's examples: {dict(counts)}\n")
    assert counts["read"] > 70
