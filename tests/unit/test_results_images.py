import re

import pytest
import torch
from PIL import Image, PngImagePlugin
from torchvision.transforms.functional import pil_to_tensor

from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.runs.grid import read_grid, write_grid


def grid(images, tmp_path, columns):
    write_grid(images, tmp_path / "grid.png", columns)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]  # no temporary file is left
    with Image.open(tmp_path / "grid.png") as picture:
        return pil_to_tensor(picture)


def tiles(picture, side, row, column):
    """The pixels of one tile: tiles of ``side`` pixels with gaps of 2."""
    top, left = 2 + row * (side + 2), 2 + column * (side + 2)
    return picture[:, top : top + side, left : left + side]


def test_a_row_per_class_in_true_colours_clamped_and_enlarged(tmp_path):
    images = torch.zeros(6, 3, 32, 32)  # three classes of two
    images[2, 0] = 1  # class 1, first: red
    images[3, 1] = 7.5  # class 1, second: green beyond the range
    images[5] = -3.0
    images[4, 2, :16] = 0.5  # class 2, first: upper half blue
    before = images.clone()
    picture = grid(images, tmp_path, 2)
    assert picture.shape == (3, 3 * 98 + 2, 2 * 98 + 2)
    assert torch.equal(images, before)
    assert tiles(picture, 96, 1, 0).flatten(1).unique(dim=1).flatten().tolist() == [255, 0, 0]
    assert tiles(picture, 96, 1, 1).flatten(1).unique(dim=1).flatten().tolist() == [0, 255, 0]
    assert tiles(picture, 96, 2, 1).max() == 0
    blue = tiles(picture, 96, 2, 0)[2]
    assert blue[:48].unique().tolist() == [128]
    assert blue[48:].unique().tolist() == [0]
    assert picture[:, 0, 0].tolist() == [255, 255, 255]


def test_at_most_ten_images_of_twenty_classes(tmp_path):
    images = torch.arange(25 * 12.0).view(-1, 1, 1, 1).expand(-1, 1, 128, 128) / 299
    picture = grid(images, tmp_path, 12)
    assert picture.shape == (3, 20 * 130 + 2, 10 * 130 + 2)  # 128 pixels need no enlarging
    assert tiles(picture, 128, 19, 9).unique().tolist() == [round((19 * 12 + 9) / 299 * 255)]


def test_one_image_per_class_stands_ten_a_row(tmp_path):
    images = torch.linspace(0, 1, 12).view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    picture = grid(images, tmp_path, 1)
    assert picture.shape == (3, 2 * 114 + 2, 10 * 114 + 2)
    assert tiles(picture, 112, 1, 1).unique().tolist() == [255]
    assert tiles(picture, 112, 0, 1).unique().tolist() == [round(255 / 11)]


def test_the_same_images_give_the_same_bytes(tmp_path):
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    write_grid(images, tmp_path / "a.png", 2)
    write_grid(images, tmp_path / "b.png", 2)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("shape", "columns"), [((4, 2, 8, 8), 2), ((5, 3, 8, 8), 2), ((0, 3, 8, 8), 1), ((3, 8, 8), 1)]
)
def test_what_cannot_be_shown_is_refused_and_nothing_written(shape, columns, tmp_path):
    with pytest.raises(ValueError, match="cannot show images"):
        write_grid(torch.zeros(shape), tmp_path / "grid.png", columns)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("shape", "columns"), [((6, 3, 12, 20), 2), ((12, 1, 28, 28), 1), ((24, 3, 112, 112), 12)])
def test_a_grid_is_read_back_as_the_images_it_shows(shape, columns, tmp_path):
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)) / 255
    write_grid(images, tmp_path / "grid.png", columns)
    tiles = read_grid(tmp_path / "grid.png")
    shown = images if columns < 11 else images.unflatten(0, (-1, columns))[:, :10].flatten(0, 1)
    assert torch.equal(tiles.flatten(0, 1), (shown * 255).round().to(torch.uint8))
    assert tiles.shape[1] == min(columns, 10)


def test_pictures_of_others_are_refused(tmp_path):
    path = tmp_path / "grid.png"
    write_grid(torch.rand(4, 3, 8, 8), path, 2)
    whole = path.read_bytes()
    Image.new("RGB", (8, 8)).save(tmp_path / "foreign.png")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name, said in (("lying", '"count": 400'), ("many", '"per_class": 3'), ("none", '"per_class": 0')):
        with Image.open(path) as picture:
            info, key = PngImagePlugin.PngInfo(), said.split(":")[0]
            info.add_text("hoptm-bench", re.sub(rf"{key}: \d+", said, picture.info["hoptm-bench"]))
            picture.save(tmp_path / f"{name}.png", pnginfo=info)
    for name, layout in (("deep", "[" * 100_000), ("huge", '{"count": 1e400}')):
        with Image.open(path) as picture:
            info = PngImagePlugin.PngInfo()
            info.add_text("hoptm-bench", layout)
            picture.save(tmp_path / f"{name}.png", pnginfo=info)
    for name in ("foreign", "cut", "lying", "missing", "many", "none", "deep", "huge"):
        with pytest.raises(FileFormatError, match="not a picture that hoptm-bench wrote"):
            read_grid(tmp_path / f"{name}.png")
