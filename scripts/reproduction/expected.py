"""Where a figure should lie, and whether it does."""

import math
from typing import NamedTuple

_DIGITS = 2  # after the point: of every figure that is shown, and so of what a band is held to
WITHIN, NOT_BELOW = "within", "not below"


class Band(NamedTuple):
    """From the lowest to the highest that a figure may be, both included."""

    low: float
    high: float
    source: str
    """Who found it, and why it is as wide as it is."""
    told: str = ""
    """The band in words, where its ends would say too little."""

    @property
    def words(self) -> str:
        if self.told:
            return self.told
        if math.isinf(self.low):
            return f"at most {self.high:g}"
        if math.isinf(self.high):
            return f"at least {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


def around(value: float, width: float, source: str) -> Band:
    """A band of that half-width."""
    return Band(round(value - width, _DIGITS), round(value + width, _DIGITS), source, f"{value:g} ± {width:g}")


def verdict(value: float, band: Band) -> str:
    """WITHIN, or by how much it is off; no more than that it is not below, where nothing is above a band."""
    found = round(value, _DIGITS)
    if found < band.low:
        return f"{shown(band.low - found)} below"
    if found > band.high:
        return f"{shown(found - band.high)} above"
    return WITHIN if math.isfinite(band.high) else NOT_BELOW


def shown(value: float) -> str:
    return f"{value:.{_DIGITS}f}"
