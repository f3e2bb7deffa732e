"""Figures as files: PNG, PDF or SVG by the ending of the name, the same bytes each time."""

import functools
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxvae.shared.errors import InputError
from jaxvae.shared.plain_paths import require_in_place
from jaxvae.shared.plotting import letters
from jaxvae.shared.safe_io import write_atomically

_SCREEN = 150  # dots per inch in a notebook
KINDS = ("png", "pdf", "svg")
_DATES = {"pdf": "CreationDate", "svg": "Date"}
# Journals require TrueType in a PDF; text in an SVG stays text; matplotlib's names in an SVG would be random.
_STYLE: Any = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "figure"}


def kind_of(path: Path) -> str:
    """Return the kind of figure that the path's ending names: one of `KINDS`. Raises InputError for another ending."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise InputError(f"Pictures are written as PNG, PDF or SVG: {path} should end in .png, .pdf or .svg.")
    return kind


def require(path: Path) -> None:
    """Raise InputError unless a figure can be written to the path; to be called before slow work."""
    kind_of(path)
    require_in_place(path)
    if not path.parent.is_dir():
        raise InputError(
            f"The picture {path} can't be written: there is no folder {path.parent}; make it, or give another --out."
        )


def new(margin: float | None = None, style: Mapping[str, Any] | None = None, **settings: Any) -> Any:
    """Make a figure that a notebook shows, and that needs no display.

    Args:
        margin: Inches around all that is drawn, inside the figure or beside it; None to save the figure alone.
        style: Settings of matplotlib's that it is drawn with.
        settings: Those of matplotlib's `Figure`.

    Returns:
        The figure, of matplotlib's class.
    """
    return _picture()(margin, style or {}, **settings)


@functools.cache
def _picture() -> type:
    """The class of figures, made when one is drawn: matplotlib takes half a second to import."""
    import matplotlib
    from matplotlib.figure import Figure  # pyplot has global state and a backend that needs a display

    class Picture(Figure):
        def __init__(self, margin: float | None, style: Mapping[str, Any], **settings: Any):
            super().__init__(**settings)
            self._margins: Any = {} if margin is None else {"bbox_inches": "tight", "pad_inches": margin}
            self._style: Any = style

        def savefig(self, fname: Any, **settings: Any) -> None:
            letters.complete(self)
            with matplotlib.rc_context(self._style):
                super().savefig(fname, **{**self._margins, **settings})

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=_SCREEN)
            return buffer.getvalue()

    return Picture


def packed(figure: Any, kind: str = "png") -> bytes:
    """Convert a matplotlib figure to the bytes of a file, without a date.

    Args:
        figure: The figure.
        kind: One of `KINDS`.

    Returns:
        The content of the file.
    """
    import matplotlib

    buffer, metadata = io.BytesIO(), {_DATES[kind]: None} if kind in _DATES else None
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a letter that no font has is drawn as a box
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def save(figure: Any, path: Path) -> None:
    """Write a figure, of the kind that the path's ending names. Raises InputError if the file can't be written."""
    write(packed(figure, kind_of(path)), path)


def write(content: bytes, path: Path) -> None:
    """Write the bytes of a figure, whole or not at all. Raises InputError if the file can't be written."""
    require(path)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise InputError(f"The picture {path} can't be written ({error.strerror}); give another --out.") from None
