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


MODULES = "The JAX model and the torch module"


class Report(NamedTuple):
    """The results of one comparison; printed, every level and the diagnosis."""

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
    subject: str = MODULES
    """What was compared."""

    @property
    def passed(self) -> bool:
        return bool(self.findings) and all(finding.passed for finding in self.findings)

    def __str__(self) -> str:
        """Every level with its worst difference, then each place that differs, its likely cause, what was drawn."""
        if not self.findings:
            return "Nothing was compared."
        failed = sum(not finding.passed for finding in self.findings)
        missing = f"; not exercised: {', '.join(self.unexercised)}" if self.unexercised else ""
        lines = [f"{self.subject} " + ("differ." if failed else f"agree{missing}.")]
        width = max(len(finding.level) for finding in self.findings)
        for finding in self.findings:
            line = f"  {finding.level:{width}}  {finding.size:7.2g} {finding.unit}, tolerance {finding.tolerance:.3g}"
            lines.append(line if finding.passed else f"{line}: FAILS, worst in {finding.where}")
        if self.drawn:
            lines.append(f"  (drawn for the comparison, since they were constant: {', '.join(self.drawn)})")
        if self.left_out:
            lines.append(f"  (not compared, since torch gives no finite number there: {', '.join(self.left_out)})")
        if failed:
            lines.append(f"  ({self.findings[-1].dtype}: {self.findings[-1].reason})")
        if self.diagnosis is not None:
            every = [self.diagnosis, *self.diagnosis.more]
            largest = max(every, key=lambda one: one.jump) if sum(one.jump > 0 for one in every) > 1 else None
            for i, one in enumerate(every):
                lines += ["Also:"] * (i > 0) + _explained(one)
                lines += ["No other difference on the same input is so large."] * (one is largest)
        return "\n".join(lines)


def _explained(diagnosis: Diagnosis) -> list[str]:
    cause = diagnosis.cause
    return [
        f"{diagnosis.where}: {diagnosis.difference}",
        f"Likely cause: {cause}." if cause else "No known fault reproduces these numbers.",
    ]
