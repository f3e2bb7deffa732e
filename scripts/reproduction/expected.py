"""Expected ranges of results."""

import math
from typing import NamedTuple

_DIGITS = 2  # decimals of every printed figure, which are compared with the band
WITHIN, NOT_BELOW = "within", "not below"


class Band(NamedTuple):
    """The range of a figure, both ends included."""

    low: float
    high: float
    source: str
    """The source of the range and the reason of its width."""
    label: str = ""
    """The range in words; by default made from its ends."""

    @property
    def words(self) -> str:
        if self.label:
            return self.label
        if math.isinf(self.low):
            return f"at most {self.high:g}"
        if math.isinf(self.high):
            return f"at least {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


def around(value: float, width: float, source: str) -> Band:
    """Make a band around a value, with `width` on both sides."""
    return Band(round(value - width, _DIGITS), round(value + width, _DIGITS), source, f"{value:g} ± {width:g}")


def verdict(value: float, band: Band) -> str:
    """Return WITHIN, NOT_BELOW for a band without an upper end, or the distance from the band in words."""
    rounded = round(value, _DIGITS)
    if rounded < band.low:
        return f"{shown(band.low - rounded)} below"
    if rounded > band.high:
        return f"{shown(rounded - band.high)} above"
    return WITHIN if math.isfinite(band.high) else NOT_BELOW


def shown(value: float) -> str:
    return f"{value:.{_DIGITS}f}"
