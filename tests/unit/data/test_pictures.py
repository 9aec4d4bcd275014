"""Sets of picture files: one window, sizes of their own, one error; and what is no picture at all."""

from __future__ import annotations

import io
import os
import re
import socket
import struct
import subprocess
import zlib

import numpy as np
import picture_files
import pytest
import tifffile
import torch
from picture_files import chunk, exif, png, ramp, smooth, to_eight
from PIL import Image

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.data import dicom, memory, pictures
from hoptm_plugin.data.headers import MAX_BYTES
from hoptm_plugin.data.pictures import Pictures, Reading, files_in


@pytest.fixture
def write(tmp_path):
    """Write files by name and return their paths."""

    def of(**contents):
        paths = []
        for name, content in contents.items():
            paths.append(tmp_path / name.replace("_", "."))
            paths[-1].write_bytes(content)
        return paths

    return of


def deep(values):
    return png(np.asarray(values), 16, 0)


def grey(size=(7, 5), seed=0):
    return png(ramp(size, seed=seed), 8, 0)


def encoded(pixels, form="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def test_one_window_for_all_pictures(write):
    dark, bright = ramp((7, 5), top=500), ramp((7, 5), top=500, seed=1) + 3000
    paths = write(dark_png=deep(dark), bright_png=deep(bright))
    read = Pictures(paths, Reading())
    assert read.window == (0, 3500)
    assert read.decode(None)[:, 0].numpy().tolist() == [to_eight(each, 0, 3500).tolist() for each in (dark, bright)]
    assert read.described()["window_from"] == "the lowest and highest value of all"
    given = Pictures(paths, Reading(window=(100, 200)))
    assert given.window == (100, 200)
    assert given.decode(None)[0, 0].numpy().tolist() == to_eight(dark, 100, 200).tolist()
    assert given.described()["window_from"] == "dataset.window"


def test_a_window_must_ascend():
    for window in ((2, 1), (1, 1), (0, float("inf")), (float("nan"), 1)):
        with pytest.raises(ValueError, match="window must be two numbers, the lower first"):
            Reading(window=window)


def test_equal_deep_pixels_have_no_range(write):
    paths = write(a_png=deep(np.full((5, 7), 40000)), b_png=deep(np.full((5, 7), 40000)))
    with pytest.raises(DataError, match=r"all pixels of the 2 images of more than 8 bits are equal \(40000\).*window"):
        Pictures(paths, Reading())


def test_eight_bits_beside_more_need_a_window(write):
    values = ramp((7, 5), top=60000)
    paths = write(a_png=grey(), b_png=deep(values), c_png=grey())
    with pytest.raises(DataError, match=r"no common scale: 2 of 8 bits .*, 1 of more than 8 bits; .*dataset\.window"):
        Pictures(paths, Reading())
    read = Pictures(paths, Reading(window=(0, 65535)))
    assert read.decode(None)[1, 0].numpy().tolist() == to_eight(values, 0, 65535).tolist()
    assert Pictures(paths[::2], Reading(window=(0, 65535))).window is None


def test_grey_stays_one_channel_unless_a_picture_has_colours(write):
    paths = write(a_png=grey(), b_png=png(ramp((7, 5), 3), 8, 2), c_gif=encoded(smooth((7, 5)), "GIF"))
    assert Pictures(paths[::2], Reading()).decode(None).shape == (2, 1, 5, 7)
    read = Pictures(paths, Reading())
    assert (read.channels, read.decode(None).shape) == (3, (3, 3, 5, 7))
    assert Pictures(paths[::2], Reading(channels=3)).decode(None).shape == (2, 3, 5, 7)
    red, green, blue = ramp((7, 5), 3).astype(np.float64).transpose(2, 0, 1)
    luminance = Pictures(paths[1:2], Reading(channels=1)).decode(None)[0, 0].numpy()
    assert np.abs(luminance - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 0.51


def test_sizes_are_those_shown_and_no_picture_decides_for_the_others(write):
    wide = png(ramp((9, 4), 3), 8, 2, chunk(b"eXIf", exif(6)))
    paths = write(a_png=wide, b_png=grey((30, 20)), c_png=grey((5, 5)))
    read = Pictures(paths, Reading())
    assert read.sizes == [(4, 9), (30, 20), (5, 5)]
    with pytest.raises(ValueError, match="pictures of 3 sizes"):
        read.decode(None)
    for fit in ("crop", "pad", "stretch"):
        together = read.decode((5, 5), fit)
        alone = [Pictures([path], Reading(channels=3)).decode((5, 5), fit)[0] for path in paths]
        assert torch.equal(together, torch.stack(alone))
    assert together[2, 0].numpy().tolist() == ramp((5, 5)).tolist()


def resized(pixels, height, width):
    """Bicubic and antialiased, by torch in float."""
    sized = torch.nn.functional.interpolate(
        torch.tensor(pixels, dtype=torch.float64)[None, None], (height, width), mode="bicubic", antialias=True
    )
    return sized[0, 0].round().clamp(0, 255).numpy()


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (6, 4)])
def test_fits(write, size):
    pixels = 100 + ramp(size, top=50)  # Pillow cuts off what overshoots after each of its two passes
    read = Pictures(write(a_png=png(pixels, 8, 0)), Reading())
    width, height = size
    cover, inner = ([round(16 * side / of) for side in (height, width)] for of in (min(size), max(size)))
    top, left = (cover[0] - 16) // 2, (cover[1] - 16) // 2
    expected = {"stretch": resized(pixels, 16, 16), "crop": resized(pixels, *cover)[top : top + 16, left : left + 16],
                "pad": np.zeros((16, 16))}  # fmt: skip
    top, left = (16 - inner[0]) // 2, (16 - inner[1]) // 2
    expected["pad"][top : top + inner[0], left : left + inner[1]] = resized(pixels, *inner)
    for fit, shown in expected.items():
        assert np.abs(read.decode((16, 16), fit)[0, 0].numpy().astype(int) - shown).max() <= 2


def test_a_line_of_pixels_is_padded(write):
    read = Pictures(write(a_png=grey((200, 1))), Reading())
    padded = read.decode((16, 16), "pad")[0, 0]
    assert (padded[:7] == 0).all()
    assert padded[7].any()


def test_a_far_larger_jpeg_is_reduced_while_it_is_read(write, monkeypatch):
    paths = write(a_jpg=encoded(smooth((1200, 900), 3), "JPEG", quality=95, exif=b"Exif\0\0" + exif(6)))
    decoded = []
    turn = pictures.rasters._turned
    monkeypatch.setattr(
        pictures.rasters, "_turned", lambda image, header: decoded.append(image.size) or turn(image, header)
    )
    reduced = Pictures(paths, Reading()).decode((16, 16))
    assert decoded == [(150, 113)]
    monkeypatch.setattr(pictures.rasters, "REDUCED", 10**6)
    whole = Pictures(paths, Reading()).decode((16, 16))
    assert decoded[1] == (1200, 900)
    assert (reduced.int() - whole.int()).abs().max() <= 2


def test_all_faults_stand_in_one_error(write):
    contents = {f"a{index}_png": png(np.dstack([ramp((3, 3)), ramp((3, 3))]), 8, 4) for index in range(5)}
    paths = write(**contents, b_png=grey()[:60], c_png=grey((3, 3)), d_png=b"")
    read_some = [path for path in paths if path.name not in ("b.png", "d.png")]
    with pytest.raises(DataError) as caught:
        Pictures(read_some, Reading()).decode(None)
    text = str(caught.value)
    assert text.startswith("5 of 6 images cannot be read (")
    assert "a0.png" in text
    assert "a2.png and 2 more: is not opaque; say what shows through, with dataset.background=black or white" in text
    with pytest.raises(DataError, match=r"1 of 8 images cannot be read \(.*d\.png: is empty"):
        Pictures(paths, Reading())


SPECIAL = [
    ("a named pipe", os.mkfifo),
    ("a socket", lambda path: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))),
    ("a device", lambda path: path.symlink_to("/dev/zero")),
    ("a link to nothing", lambda path: path.symlink_to("nowhere")),
    ("a link to nothing", lambda path: path.symlink_to(path.name)),
]


@pytest.mark.parametrize(("what", "make"), SPECIAL)
@pytest.mark.parametrize("name", ["x.png", "x"])
@pytest.mark.timeout(20)
def test_what_is_no_file_is_named_and_never_waited_for(write, tmp_path, monkeypatch, what, make, name):
    write(a_png=grey())
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    make(tmp_path / name)
    found, others = files_in(tmp_path)
    assert ([path.name for path in found], others) == (["a.png", name], [])
    with pytest.raises(DataError, match=rf"1 of 2 images cannot be read \(.*{name}: is {what}"):
        Pictures(found, Reading())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_unreadable_file(write, tmp_path):
    paths = write(a_png=grey(), b_png=grey())
    paths[1].chmod(0)
    with pytest.raises(DataError, match=r"1 of 2 images cannot be read \(.*b\.png: cannot be read \(Permission denied"):
        Pictures(files_in(tmp_path)[0], Reading())


def test_content_decides_which_files_are_pictures(write, tmp_path):
    made = picture_files.dicom(picture_files.dataset(ramp((8, 4)).astype(np.uint8)))
    write(photo_jfif=encoded(smooth((7, 5), 3), "JPEG"), scan=grey(), slice_ima=made, _hidden=b"x",
          notes_txt=b"BM is no bitmap, P5 is no picture", readme_md=b"P6 and so on", data_csv=b"a,b\n1,2\n",
          index_db=b"\xd0\xcf\x11\xe0", page_jpg=b"<html>")  # fmt: skip
    (tmp_path / "masks").mkdir()
    found, others = files_in(tmp_path)
    assert [path.name for path in found] == ["page.jpg", "photo.jfif", "scan", "slice.ima"]
    assert [path.name for path in others] == ["data.csv", "index.db", "notes.txt", "readme.md"]


def test_a_file_of_too_many_bytes(write):
    (path,) = write(a_png=grey())
    os.truncate(path, MAX_BYTES + 1)
    with pytest.raises(DataError, match=r"a\.png: is larger than 1 GiB"):
        Pictures([path], Reading())


def test_no_interpreter_is_started(write, monkeypatch):
    def start(*arguments, **keywords):
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(os, "system", start)
    for name in ("a_png", "a_eps", "a"):
        with pytest.raises(DataError, match="is a file of PostScript, a format that is not read"):
            Pictures(write(**{name: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}), Reading())


FORMS = {
    "PNG": {}, "JPEG": {"quality": 95}, "TIFF": {}, "GIF": {}, "WEBP": {"lossless": True}, "BMP": {}, "PPM": {},
    "deflated TIFF": {"compression": "tiff_adobe_deflate"}, "LZW TIFF": {"compression": "tiff_lzw"},
    "progressive JPEG": {"progressive": True},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_truncated_files_are_refused(write, form):
    colour = Image.fromarray(ramp((40, 30), 3).astype(np.uint8))
    stream = io.BytesIO()
    (colour.quantize(64) if form == "GIF" else colour).save(stream, form.split()[-1], **FORMS[form])
    content = stream.getvalue()
    whole = Pictures(write(whole=content), Reading()).decode(None)
    for share in (0.1, 0.5, 0.9, 0.99):
        try:
            read = Pictures(write(x_png=content[: int(len(content) * share)]), Reading()).decode(None)
        except DataError:
            continue
        assert torch.equal(read, whole), f"{share} of it is read as another picture"


def test_pictures_that_lack_a_part_are_refused(write):
    values = ramp((40, 32))
    for content in (png(values, 8, 0), picture_files.interlaced(values)):
        start = content.index(b"IDAT") - 4
        length = int.from_bytes(content[start : start + 4])
        rows = zlib.decompress(content[start + 8 : start + 8 + length])
        for missing in (1, 41, 700):
            cut = content[:start] + chunk(b"IDAT", zlib.compress(rows[:-missing])) + content[start + 12 + length :]
            with pytest.raises(DataError, match="lacks a part of its pixels"):
                Pictures(write(a_png=cut), Reading()).decode(None)
    strips = bytearray(
        picture_files.written(values.astype(np.uint8), photometric="minisblack", rowsperstrip=8, metadata=None)
    )
    with tifffile.TiffFile(io.BytesIO(strips)) as file:
        places = [file.pages[0].tags[tag].offset for tag in (273, 279)]
    for place in places:
        struct.pack_into("<I", strips, place + 4, 2)
    with pytest.raises(DataError, match="lacks a part of its pixels"):
        Pictures(write(a_tif=bytes(strips)), Reading()).decode(None)


def test_a_png_with_a_wrong_bit_is_refused(write):
    content = bytearray(png(ramp((40, 30)), 8, 0))
    start = content.index(b"IDAT")
    for place in range(start + 4, start + 1000, 97):
        content[place] ^= 1
        with pytest.raises(DataError, match="is damaged, as a checksum in it tells"):
            Pictures(write(a_png=bytes(content)), Reading()).decode(None)
        content[place] ^= 1


def test_memory_is_bounded(write, monkeypatch):
    paths = write(a_png=grey((300, 200)), b_png=grey((20, 20)))
    need = pictures.BYTES_PER_PIXEL * 300 * 200
    read = Pictures(paths, Reading())
    monkeypatch.setattr(pictures, "available_bytes", lambda device: 6 * need)
    assert read._threads() == 3
    monkeypatch.setattr(memory, "available_bytes", lambda device: need)
    with pytest.raises(DataError, match="2 decoded images need"):
        read.decode((64, 64))


def test_described(write):
    transparent = np.dstack([ramp((7, 5), 3), ramp((7, 5), seed=5)])
    stereo = encoded(smooth((40, 30), 3), "MPO", save_all=True, append_images=[Image.fromarray(smooth((40, 30), 3))])
    profile = chunk(b"gAMA", (100000).to_bytes(4, "big"))
    paths = write(a_png=png(ramp((9, 4)), 8, 0, chunk(b"eXIf", exif(8))), b_png=png(transparent, 8, 6), c_mpo=stereo,
                  d_png=png(ramp((9, 4)), 8, 0, profile))  # fmt: skip
    read = Pictures(paths, Reading(background="white"))
    expected = {
        "pictures": 4, "kinds": {"MPO RGB 8-bit": 1, "PNG RGB with alpha 8-bit": 1, "PNG grey 8-bit": 2},
        "smallest": [7, 5], "largest": [40, 30], "channels": 3, "turned": 1, "transparent": 1, "first_of_several": 1,
        "profiles_not_applied": 1,
    }  # fmt: skip
    assert read.described() == expected
    read.decode((8, 8))
    assert read.described() == expected | {"composited": 1, "background": "white"}


def test_dicom_files_have_windows_of_their_own(write):
    values = ramp((8, 5), top=4000).astype(np.uint16)
    made = [picture_files.dataset(values, bits=12, **tags) for tags in (
        {"WindowCenter": "1000", "WindowWidth": "400"}, {"WindowCenter": "3000", "WindowWidth": "800"}, {}
    )]  # fmt: skip
    paths = write(**{f"{name}_dcm": picture_files.dicom(each) for name, each in zip("abc", made, strict=True)})
    read = Pictures(paths[:2], Reading())
    assert (read.window, read.described()["own_windows"], read.channels) == (None, 2, 1)
    for row, each in enumerate(made[:2]):
        found = read.decode(None)[row, 0].numpy().astype(int)
        assert np.abs(found - picture_files.shown_by_pydicom(each)).max() <= 1
    with pytest.raises(DataError, match=r"2 of 8 bits or with a window of their own, 1 DICOM files without a window"):
        Pictures(paths, Reading())
    one = Pictures(paths, Reading(window=(0, 4095)))
    assert one.decode(None)[:, 0].numpy().tolist() == [to_eight(values, 0, 4095).tolist()] * 3
    assert "own_windows" not in one.described()
    with pytest.raises(DataError, match="no common scale"):
        Pictures([*paths, *write(d_png=deep(values))], Reading(window=(0, 4095)))


def test_dicom_without_its_extra(write, monkeypatch):
    paths = write(a_dcm=picture_files.dicom(picture_files.dataset(ramp((8, 5)).astype(np.uint8))))
    monkeypatch.setattr(dicom, "_has_libraries", lambda: False)
    with pytest.raises(
        DataError, match=re.escape('is a DICOM file, which needs an extra: pip install "hoptm-plugin[dicom]"')
    ):
        Pictures(paths, Reading())


def test_only_tags_of_pixels_are_read_of_dicom(write):
    (path,) = write(a_dcm=picture_files.dicom(picture_files.dataset(ramp((8, 5)).astype(np.uint8))))
    assert all(secret.encode() in path.read_bytes() for secret in picture_files.SECRETS)
    read = str(dicom._read(path, pixels=True))
    assert "Rows" in read
    assert not any(secret in read for secret in picture_files.SECRETS)
