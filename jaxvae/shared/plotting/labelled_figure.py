"""Labelled figures as wide as a column or a page of a paper: rows of images, a plane of images, points in a plane."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxvae.shared.plotting import figure_file, image_grid
from jaxvae.shared.plotting.class_colours import class_colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI, _TEXT = 300, 7  # dots per inch of print; points of a caption's letters
_COLUMN, _PAGE = 780, 1800  # dots of a row of images, which leave room for labels in 3.4 and in 7 inches
_FEW = 12  # images that fit into a column
_AREAS, _CROWD, _LEGEND_AREA = (3, 15), 1500, 18.75  # square points: of a point, of all at most, of a legend's
_LINE, _MARGIN, _LETTER = 36, 12, 15  # dots: a label's line, a gap, a letter's width


def grid(images: np.ndarray, caption: str = "", title: str = "") -> "Figure":
    """Draw images in a grid that is about square, enlarged by a whole number.

    Args:
        images: `[n, height, width, channels]` in [0, 1].
        caption: Above the figure.
        title: Above the caption.

    Returns:
        The figure.
    """
    whole = image_grid.grid(images)
    scale = enlarged(math.ceil(math.sqrt(len(images))), whole.shape[1])
    figure = _figure(whole.shape[1] * scale, whole.shape[0] * scale)
    _draw(figure.add_axes((0, 0, 1, 1)), whole, scale)
    _entitle(figure, caption, title, 1)
    return figure


def rows(
    images: np.ndarray,
    labels: Sequence[str],
    caption: str = "",
    heads: Sequence[str] = (),
    title: str = "",
) -> "Figure":
    """Draw rows of images, enlarged by a whole number.

    Args:
        images: `[rows, columns, height, width, channels]` in [0, 1].
        labels: The label to the left of each row.
        caption: Above the figure.
        heads: The title above each column; some are left out where they have no room.
        title: Above the caption.

    Returns:
        The figure.
    """
    n = images.shape[1]
    strips = [image_grid.grid(row, n) for row in images]
    scale = enlarged(n, strips[0].shape[1])
    height, width = strips[0].shape[0] * scale, strips[0].shape[1] * scale
    pitch = max(height, _LINE * max(label.count("\n") + 1 for label in labels)) + _MARGIN
    figure = _figure(width, pitch * len(strips))
    # The figure holds the images only; bbox_inches extends it to the labels to their left and above.
    for i, (strip, label) in enumerate(zip(strips, labels, strict=True)):
        bottom = pitch * (len(strips) - i) - (pitch + height) // 2
        axes = figure.add_axes((0, bottom / (pitch * len(strips)), 1, height / (pitch * len(strips))))
        _draw(axes, strip, scale)
        middle = (bottom + height / 2) / (pitch * len(strips))
        figure.text(-_MARGIN / width, middle, label, ha="right", va="center", size=_TEXT, parse_math=False)
    every = -(-_LETTER * (1 + max(map(len, heads), default=0)) // (width // n))  # columns that one title covers
    for i, head in enumerate(heads):
        if i % every and head != heads[-1]:
            continue
        figure.text((i + 0.5) / n, 1, head, ha="center", va="bottom", size=_TEXT - 1, parse_math=False)
    _entitle(figure, caption, title, 1 + (1.4 * _LINE / (pitch * len(strips)) if heads else 0))
    return figure


def plane(
    images: np.ndarray,
    marks: np.ndarray,
    names: tuple[str, str],
    caption: str = "",
    title: str = "",
) -> "Figure":
    """Draw a plane of images without gaps.

    Args:
        images: `[steps, steps, height, width, channels]` in [0, 1], the first row at the top.
        marks: The coordinates of the columns from the left and of the rows from below, `[steps]`, ascending.
        names: The names of the horizontal and the vertical axis.
        caption: Above the figure.
        title: Above the caption.

    Returns:
        The figure.
    """
    images = image_grid.visible(images)
    steps, _, height, width, channels = images.shape
    whole = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8).swapaxes(1, 2)
    whole = whole.reshape(steps * height, steps * width, channels)
    scale = enlarged(_FEW, whole.shape[1])
    figure = _figure(whole.shape[1] * scale, whole.shape[0] * scale)
    axes = figure.add_axes((0, 0, 1, 1))
    _draw(axes, whole, scale)
    axes.set_axis_on()
    shown = np.unique(np.linspace(0, steps - 1, 5 if steps % 2 else 4).round().astype(int))  # symmetric
    axes.set_xticks((shown + 0.5) * width - 0.5, [f"{marks[i]:.2f}" for i in shown], size=_TEXT - 1)
    axes.set_yticks((steps - 1 - shown + 0.5) * height - 0.5, [f"{marks[i]:.2f}" for i in shown], size=_TEXT - 1)
    axes.set_xlabel(names[0], size=_TEXT)
    axes.set_ylabel(names[1], size=_TEXT)
    _entitle(figure, caption, title, 1)
    return figure


def points(
    places: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, str],
    caption: str = "",
    title: str = "",
    classes: Sequence[str] = (),
) -> "Figure":
    """Draw points in a plane.

    Args:
        places: `[n, 2]`.
        labels: The class of each point, `[n]`, which gives its colour; a legend if they differ.
        names: The names of the horizontal and the vertical axis.
        caption: Above the figure.
        title: Above the caption.
        classes: The names of the classes; by default their numbers.

    Returns:
        The figure.
    """
    figure = _figure(_COLUMN, _COLUMN)
    axes = figure.add_axes((0, 0, 1, 1))
    present, area = np.unique(labels).tolist(), float(np.clip(_CROWD / len(places), *_AREAS))
    for label in present:
        axes.scatter(*places[labels == label].T, s=area, linewidths=0, alpha=0.8, color=class_colour(label))
    axes.set_aspect("equal", adjustable="datalim")
    axes.tick_params(labelsize=_TEXT - 1, width=0.5, length=2)
    axes.set_xlabel(names[0], size=_TEXT)
    axes.set_ylabel(names[1], size=_TEXT)
    _entitle(figure, caption, title, 1)
    if len(present) > 1:
        beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False, "fontsize": _TEXT - 1}
        beside |= {
            "markerscale": (_LEGEND_AREA / area) ** 0.5,
            "handletextpad": 0.1,
            "borderaxespad": 0.3,
            "ncols": -(-len(present) // 20),
        }
        legend = axes.legend(axes.collections, list(map(str, present)), **beside)
        for text, label in zip(legend.get_texts(), present, strict=True):
            text.set_parse_math(False)
            # Only now: a legend leaves out labels that begin with an underscore.
            text.set_text(classes[label] if classes else str(label))
    return figure


def enlarged(columns: int, width: int) -> int:
    """Compute the factor that enlarges a row of `columns` images, `width` dots wide, to a column or a page."""
    return max(1, (_COLUMN if columns <= _FEW else _PAGE) // width)


def _entitle(figure: Any, caption: str, title: str, above: float) -> None:
    """Write the caption above a figure, from a share of its height on, and the title above the caption."""
    width, height = (figure.get_size_inches() * _DPI).tolist()
    lines = textwrap.wrap(caption, max(30, int(width) // _LETTER))
    bottom = above + (len(lines) * _LINE + _MARGIN) / height
    start = above + (_MARGIN / 2) / height
    figure.text(0, start, "\n".join(lines), ha="left", va="bottom", size=_TEXT, parse_math=False)
    bold = textwrap.fill(title, max(25, int(width) // (_LETTER + 3)))
    figure.text(0, bottom, bold, ha="left", va="bottom", size=_TEXT + 1, weight="bold", parse_math=False)


def _figure(width: int, height: int) -> Any:
    return figure_file.new(figsize=(width / _DPI, height / _DPI), dpi=_DPI, margin=_MARGIN / _DPI)


def _draw(axes: Any, picture: np.ndarray, scale: int) -> None:
    # As colour, even if grey: matplotlib's colour map would change some grey levels to their neighbours. Enlarged here:
    # what shows a PDF or an SVG may smooth pixels that are larger than its own.
    colour = np.broadcast_to(picture, (*picture.shape[:2], 3)).repeat(scale, 0).repeat(scale, 1)
    edges = (-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5)  # in the picture's own pixels
    axes.imshow(colour, aspect="auto", interpolation="none", extent=edges)
    axes.set_axis_off()
