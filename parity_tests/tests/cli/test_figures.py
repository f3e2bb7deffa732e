"""Grids of images: every image is in its place."""

import base64
import io
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image

from jaxvae.shared.data.spread import spread
from jaxvae.shared.plotting import figure_file, image_grid, labelled_figure, letters
from jaxvae.shared.report import explorer


def tiles(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The images of a grid, row by row: `[rows, columns, height, width, channels]`."""
    rows, columns = (picture.shape[0] - 2) // (height + 2), (picture.shape[1] - 2) // (width + 2)
    cut = picture[2:, 2:].reshape(rows, height + 2, columns, width + 2, -1)
    return cut[:, :height, :, :width].transpose(0, 2, 1, 3, 4)


def numbered(n: int, channels: int = 1) -> np.ndarray:
    """Image i is filled with the byte i + 1."""
    return np.broadcast_to((np.arange(n) + 1)[:, None, None, None] / 255, (n, 4, 6, channels))


@pytest.mark.parametrize("installed", [["STIXGeneral.ttf", "STIXGeneralBol.ttf"], []])
def test_letters_of_other_scripts_are_drawn_in_a_font_that_has_them(installed: list[str], monkeypatch) -> None:
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(fonts / name) for name in installed])
    letters._families.cache_clear()
    figure = labelled_figure.rows(np.zeros((2, 1, 4, 4, 1)), ["la", "のé"], title="title")
    svg = figure_file.packed(figure, "svg").decode()
    letters._families.cache_clear()
    assert [text.get_text() for text in figure.texts if "STIXGeneral" in text.get_fontfamily()] == ["のé"] * any(
        installed
    )
    assert ("STIXGeneral" in svg) == any(installed)


@pytest.mark.parametrize(("n", "rows", "columns"), [(1, 1, 1), (3, 2, 2), (64, 8, 8), (60, 8, 8)])
def test_grid(n: int, rows: int, columns: int) -> None:
    result = tiles(image_grid.grid(numbered(n, 3)), 4, 6)
    assert result.shape == (rows, columns, 4, 6, 3)
    np.testing.assert_array_equal(result.reshape(-1, 72)[:n], np.repeat(np.arange(n)[:, None] + 1, 72, 1))


@pytest.mark.parametrize(
    ("n", "classes", "rows", "columns"),
    [(20, 10, 10, 2), (11, 10, 10, 2), (3, 10, 3, 1), (70, 2, 6, 12), (256, 256, 256, 1)],
)
def test_a_row_has_images_of_one_class(n: int, classes: int, rows: int, columns: int) -> None:
    numbers = np.arange(float(n))
    result, of = image_grid.by_class(np.broadcast_to(numbers[:, None, None, None] % classes, (n, 2, 3, 1)), classes)
    assert result.shape == (rows, columns, 2, 3, 1)
    for row, label in zip(result[..., 0, 0, 0], of, strict=True):
        assert set(row) <= {label, 64 / 255}
    assert sum((result[..., 0, 0, 0] == np.array(of)[:, None]).ravel()) == n


@pytest.mark.parametrize(
    ("labels", "n", "chosen"),
    [
        ([1, 0, 0, 2, 2], 3, [0, 1, 2]),  # in no order: the first
        ([1, 0], 9, [0, 1]),
        ([0] * 8 + [3] * 4 + [7] * 2, 3, [0, 8, 12]),
        ([0] * 8 + [3] * 4 + [7] * 2, 6, [0, 8, 12, 4, 10, 13]),
        ([0] * 8 + [3] * 4 + [7] * 2, 9, [0, 8, 12, 2, 9, 13, 4, 10, 6]),
        ([0] * 8 + [3] * 4 + [7] * 2, 2, [0, 8]),
        ([0] * 9, 3, [0, 3, 6]),
        ([0] * 2, 3, [0, 1]),
    ],
)
def test_pictures_show_images_of_all_classes(labels: list[int], n: int, chosen: list[int]) -> None:
    assert spread(np.array(labels, np.uint8), n).tolist() == chosen


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_channels_that_are_no_colours_lie_side_by_side(channels: int) -> None:
    images = np.arange(3 * 4 * 6 * channels).reshape(3, 4, 6, channels) / 400
    result = tiles(image_grid.grid(images, 3), 4, 6 * channels)
    assert result.shape == (1, 3, 4, 6 * channels, 1)
    wanted = np.round(images * 255).transpose(0, 1, 3, 2).reshape(3, 4, -1)
    np.testing.assert_array_equal(result[0, ..., 0], wanted)
    for picture in (
        labelled_figure.rows(images[None], ["row"]),
        labelled_figure.plane(images[None, :1], np.zeros(1), ("", "")),
    ):
        assert Image.open(io.BytesIO(figure_file.packed(picture))).getbbox()
    shown = Image.open(io.BytesIO(base64.b64decode(explorer.png(images[0]).partition(",")[2])))
    assert (shown.mode, shown.size) == ("L", (6 * channels, 4))


@pytest.mark.parametrize(("n", "rows", "columns"), [(1, 1, 1), (16, 1, 16), (17, 2, 9), (20, 2, 10), (32, 2, 16)])
def test_pairs_shows_every_image_above_its_own(n: int, rows: int, columns: int) -> None:
    result = tiles(image_grid.pairs(numbered(n), numbered(n) + 100 / 255), 4, 6)[:, :, 0, 0, 0].astype(int)
    assert result.shape == (2 * rows, columns)
    above, below = result[::2].ravel()[:n], result[1::2].ravel()[:n]
    np.testing.assert_array_equal(above, np.arange(n) + 1)
    np.testing.assert_array_equal(below, above + 100)
