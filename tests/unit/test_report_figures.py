"""Figures of a report: the same bytes every time, small, named, and without ids that two of them share."""

import json
import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
import torch

from hoptm_plugin.pages import figures
from hoptm_plugin.pages.curves import Curve, evened, read_curves, thinned
from hoptm_plugin.pages.pictures import barely_changed, strips
from hoptm_plugin.pages.svg import COLOURS, DASHES, MARKERS, style, swatch

SERIES = (figures.Series("HoP-TM", 0, ((0, 30.0, 1.0), (1, 45.0, 2.0))), figures.Series("MTT", 1, ((0, 31.0, None),)))


def curve(values):
    return Curve(np.arange(len(values), dtype=float), np.array(values, dtype=float))


def every_figure():
    return [
        figures.accuracy("a", SERIES, ["1", "10"], [("Full data", 50.0)]),
        figures.accuracy("b", [figures.Series("MTT", 1, ((0, 31.0, None),))], ["all images"], []),
        figures.curves("c", "Loss", [(0, curve([1, 2, 300])), (1, curve([5, float("nan"), 7]))]),
        figures.curves("d", "Mask fraction", [(0, curve([0, 0.5, 1]))], fraction=True),
        figures.bars("e", "Distillation", [("HoP-TM", 3.0), ("MTT", 2000.0)], "seconds"),
        figures.reliability("f", np.array([[[0.2, 0.1]], [[0.4, 0.5]]]), np.array([[0.3, 0.3]])),
        swatch(0, "curves-1"), swatch(0, "curves-2"),
    ]  # fmt: skip


@pytest.mark.slow
def test_figures_are_alike_every_time_and_leave_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    first, second = every_figure(), every_figure()
    assert first == second
    assert dict(matplotlib.rcParams) == before
    assert max(map(len, first)) < 15_000


def test_figures_are_well_formed_named_and_share_no_ids():
    drawn = every_figure()
    ids = [found for svg in drawn for found in re.findall(r' id="([^"]*)"', svg)]
    assert ids
    assert len(ids) == len(set(ids))
    for svg in drawn:
        assert set(re.findall(r'(?:href="|url\()#([\w.-]+)', svg)) == set(re.findall(r' id="([^"]*)"', svg))
        root = ET.fromstring(svg)
        named = root.get("role") == "img" and root.get("aria-label")
        assert named or root.get("aria-hidden") == "true"
        assert "http" not in svg


def test_no_name_becomes_markup_or_a_formula():
    hostile = '<script>alert("1")</script> $x_1$ & \\frac'
    series = [figures.Series(hostile, 0, ((0, 1.0, 0.1),)), figures.Series("$", 1, ((0, 1.0, 0.1),))]
    svg = figures.accuracy(hostile, series, ["1"], [(hostile, 1.0)])
    root = ET.fromstring(svg)
    assert root.get("aria-label") == hostile
    assert "<script" not in svg
    assert any("$x_1$" in (text.text or "") for text in root.iter("text"))


def test_series_differ_in_more_than_colour():
    looks = [style(index) for index in range(len(COLOURS) * len(MARKERS))]
    assert len({(look["color"], look["marker"]) for look in looks}) == len(looks)
    assert len({(look["marker"], look["linestyle"]) for look in looks[:20]}) == 20
    assert len(DASHES) == 4


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_stand_out_from_white(colour):
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    assert 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05) >= 3


def test_labels_are_kept_apart():
    places = figures.apart([5.0, 5.0, 1.0, 5.1], 1.0)
    assert places[2] == 1.0
    assert sorted(places)[1:] == pytest.approx([4.03333, 5.03333, 6.03333], abs=1e-4)
    assert places[0] < places[1] < places[3]


def test_thinning_keeps_spikes_and_evening_does_not():
    values = np.zeros(10_000)
    values[1234], values[5678] = 7, float("nan")
    thin = thinned(curve(values), 300)
    assert len(thin.steps) <= 300
    assert np.nanmax(thin.values) == 7
    assert thin.steps[np.nanargmax(thin.values)] == 1234
    assert len(evened(curve(values), 60).steps) == 60
    assert evened(curve([1, 2, float("nan")]), 60).values[:2].tolist() == [1, 2]


def test_metrics_are_read_up_to_a_cut_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 0, "loss": 1.5, "name": "text", "flag": True}, {"step": 10, "loss": float("nan"), "shape": 2}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 20, "lo')
    found, remarks = read_curves(path)
    assert set(found) == {"loss", "shape"}
    assert found["loss"].steps.tolist() == [0, 10]
    assert np.isnan(found["loss"].values[1])
    assert remarks == ["metrics.jsonl: 1 line left out that cannot be read"]


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[1]", b'{"loss": 1}', b'{"step": 1e400, "loss": 1}', b"[" * 100_000,
                                  b'{"step": ' + b"9" * 5000 + b', "loss": 1}',
                                  b'{"step": true, "loss": 1}'])  # fmt: skip
def test_lines_that_are_no_measurements_are_left_out(line, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line + b'\n{"step": 1, "loss": 2}\n')
    found, remarks = read_curves(path)
    assert found["loss"].values.tolist() == [2]
    assert len(remarks) == 1


def test_keys_are_bounded(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 0, "x" * 1000: 1, "a\nb": 1, **{f"k{n}": n for n in range(1000)}}))
    assert len(read_curves(path)[0]) == 24


def noise(count, side=32, channels=3):
    """Images (classes, ``count`` of each, C, H, W)."""
    shape = (3, count, channels, side, side)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).byte()


def taken(found):
    return sum(len(strip.source) for strip in found)


def test_strips_name_their_class_and_fit_their_share():
    images = noise(10)
    whole, remark = strips(images, ["a", "b", "<c>"], 10, "distilled", 10**9)
    assert [strip.text for strip in whole] == [f"10 distilled images of class {name}" for name in ("a", "b", "<c>")]
    assert remark == ""
    need = taken(whole)
    few, remark = strips(images, ["a", "b", "c", "d"], 50, "initial", need // 4)
    assert remark == "first 2 of 50 images of each class are shown; first 3 of 4 classes are shown"
    assert taken(few) < need // 4
    small, remark = strips(images, ["a", "b", "c"], 10, "distilled", need // 35)
    assert remark == "first of 10 images of each class is shown; reduced from 32 x 32 to 16 x 16 pixels"
    assert small[0].text == "1 distilled image of class a"
    assert taken(small) < 1.2 * need // 35


def test_strips_hold_the_pixels_as_they_are():
    import base64
    import io

    from PIL import Image

    images = noise(2, side=8)
    shown = strips(images, ["a", "b", "c"], 2, "distilled", 10**9)[0][1]
    picture = Image.open(io.BytesIO(base64.b64decode(shown.source.removeprefix("data:image/png;base64,"))))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert pixels.shape == (3, 8, 17)
    assert torch.equal(pixels[:, :, :8], images[1, 0])
    assert torch.equal(pixels[:, :, 9:], images[1, 1])


def test_an_image_that_stayed_as_it_was_is_noticed():
    before = noise(2)
    after = before.flip(0, 1)
    assert not barely_changed(before, after)
    after[2, 1] = before[2, 1] ^ 1
    assert barely_changed(before, after)
    assert barely_changed(before, noise(1)), "what cannot be told counts as real"
