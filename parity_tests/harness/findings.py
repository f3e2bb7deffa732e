"""Results of a comparison: a difference and a tolerance for each level, trajectories and a diagnosis."""

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
    """Its position: the tensor's name, the image or the step."""
    tolerance: float
    """The largest difference of two correct implementations, in `unit`."""
    unit: str
    """e.g. `of the tensor's largest`."""
    reason: str
    """How `tolerance` is chosen."""

    @property
    def passed(self) -> bool:
        return math.isfinite(self.size) and self.size <= self.tolerance


class Trajectory(NamedTuple):
    """Two runs from the same seed, step by step."""

    dtype: str
    losses: dict[str, np.ndarray]
    """The mean loss of each step `[steps]`, nats per image, by package."""
    gaps: np.ndarray
    """The difference of the two at each step, relative, of the worst term: `[steps]`."""
    floor: np.ndarray | None
    """The noise floor `[steps]`: the larger difference of either framework from itself with weights moved by one ulp;
    float32 only."""
    name: str = ""
    """The name of the configuration, if there are several."""


class Diagnosis(NamedTuple):
    """The first tensor that differs, and the likely cause."""

    where: str
    """The first tensor over its tolerance, e.g. `decoder.logits, its bias`."""
    difference: str
    """How it differs, with the numbers of both."""
    cause: str | None
    """The known fault that reproduces the numbers, or None where none does."""
    backend: str | None = None
    """The backend that departs from the plain formula, if it is only one."""
    complete: bool = True
    """Whether every known fault was tried; False where the time was over first."""
    more: tuple["Diagnosis", ...] = ()
    """Later places that differ too, each on the same input."""
    jump: float = 0.0
    """How far the two are apart there on the same input, as a share of the usual size; 0 where no input is the same."""


class Report(NamedTuple):
    """The results of one comparison."""

    about: dict[str, object]
    """Versions, devices, precision flags, seeds, digests of data and weights: plain JSON values."""
    findings: tuple[Finding, ...]
    trajectories: tuple[Trajectory, ...] = ()
    diagnosis: Diagnosis | None = None
    drawn: tuple[str, ...] = ()
    """The tensors whose numbers were drawn for the comparison, since they were constant."""
    unexercised: tuple[str, ...] = ()
    """The parameters, buffers and inputs that move no output, so that nothing about them was compared."""
    left_out: tuple[str, ...] = ()
    """The levels at other weights that were not compared, since torch gives no finite number there."""

    @property
    def passed(self) -> bool:
        return bool(self.findings) and all(finding.passed for finding in self.findings)
