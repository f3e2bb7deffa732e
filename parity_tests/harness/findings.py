"""What a comparison found: one figure a level, what is owed there, and why."""

import math
from typing import NamedTuple

import numpy as np


class Finding(NamedTuple):
    """The worst difference of one level."""

    level: str
    """What was compared, e.g. `every gradient`."""
    dtype: str
    size: float
    """The worst difference, in `unit`."""
    where: str
    """Where it sits: the tensor's name, the image, the step."""
    owed: float
    """What two right implementations may differ by."""
    unit: str
    """e.g. `of the tensor's largest`."""
    reason: str
    """Why `owed` is what it is."""

    @property
    def passed(self) -> bool:
        return math.isfinite(self.size) and self.size <= self.owed


class Trajectory(NamedTuple):
    """Two runs from the same seed, step by step."""

    dtype: str
    losses: dict[str, np.ndarray]
    """The mean loss of each step `[steps]`, nats per image, by package."""
    gaps: np.ndarray
    """How far the two are apart at each step, the worst of the terms as a share of itself: `[steps]`."""
    floor: np.ndarray | None
    """The same of each framework against itself with its weights moved by one ulp, the larger; float32 only."""
    name: str = ""
    """Which run it is, where there are several."""


class Diagnosis(NamedTuple):
    """Where two programs first part, and the likely cause."""

    where: str
    """The first place over its tolerance, e.g. `decoder.logits, its bias`."""
    found: str
    """What stands there on either side, in numbers."""
    cause: str | None
    """The known fault that reproduces the numbers, or None where none does."""
    side: str | None = None
    """The one that departs from the plain formula, where it is one."""


class Report(NamedTuple):
    """All that one comparison found."""

    about: dict[str, object]
    """Versions, devices, precision flags, seeds, digests of data and weights: plain JSON values."""
    findings: tuple[Finding, ...]
    trajectories: tuple[Trajectory, ...] = ()
    diagnosis: Diagnosis | None = None

    @property
    def passed(self) -> bool:
        return bool(self.findings) and all(finding.passed for finding in self.findings)
