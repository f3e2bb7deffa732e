"""Letters that matplotlib's own font lacks: they are drawn in an installed font that has them."""

import contextlib
import functools
from typing import Any, NamedTuple

_UPRIGHT = ("Regular", "Book", "Roman")


def complete(figure: Any) -> None:
    """Give each text of a figure the fonts that its letters need beside its own; a letter that none has stays a box."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if letters := _missing(text.get_text()):
            text.set_fontfamily([*dict.fromkeys([*text.get_fontfamily(), *_families(letters)])])


def _missing(text: str) -> frozenset[str]:
    from matplotlib.font_manager import findfont, get_font

    own = get_font(findfont("DejaVu Sans"))  # the default, which comes with matplotlib
    return frozenset(c for c in text if ord(c) > 127 and c.isprintable() and not own.get_char_index(ord(c)))


@functools.cache
def _families(letters: frozenset[str]) -> tuple[str, ...]:
    """The installed fonts that have most of the letters, then most of those that are left, and so on."""
    from matplotlib.font_manager import fontManager

    fonts, left, families = _installed(letters), letters, []
    while fonts and (best := max(fonts, key=lambda font: (len(font.letters & left), font.plain))).letters & left:
        for path in (font.path for font in fonts if font.family == best.family):  # its bold letters too
            fontManager.addfont(path)
        families.append(best.family)
        left -= best.letters
    return tuple(families)


class _Font(NamedTuple):
    path: str
    family: str
    letters: frozenset[str]
    """Those of the wanted ones that it has."""
    plain: tuple[bool, bool]
    """Whether it has no serifs, and is upright and of usual weight."""


def _installed(letters: frozenset[str]) -> list[_Font]:
    from matplotlib.font_manager import findSystemFonts
    from matplotlib.ft2font import FT2Font

    fonts = []
    for path in sorted(findSystemFonts()):  # matplotlib's own list is as old as its cache
        with contextlib.suppress(RuntimeError, OSError):  # no outlines, as fonts of emoji
            font = FT2Font(path)
            has = frozenset(c for c in letters if font.get_char_index(ord(c)))
            if (
                font.scalable and has and "LastResort" not in font.family_name.replace(" ", "")
            ):  # the last resort has boxes alone
                plain = "Sans" in font.family_name, font.style_name in _UPRIGHT
                fonts.append(_Font(path, font.family_name, has, plain))
    return fonts
