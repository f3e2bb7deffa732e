"""Results of a comparison: a difference and a tolerance for each level, trajectories and a diagnosis."""

import math
from typing import NamedTuple

import numpy as np

from parity_tests.harness.formats import methods


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


class Figure(NamedTuple):
    """A difference of one layer or tensor in the tree of modules."""

    of: str
    """What differs by it: `output`, or the tensor."""
    direction: str
    """`forward`, `backward`, or nothing where it is neither."""
    dtype: str
    size: float
    """The difference, in `unit`."""
    tolerance: float
    unit: str
    reason: str
    """How `tolerance` is chosen."""
    follows: bool = False
    """Whether what it is computed from differs already."""

    @property
    def passed(self) -> bool:
        return math.isfinite(self.size) and self.size <= self.tolerance


class Source(NamedTuple):
    """Where the code that has a layer is: a class of the user's, or a function."""

    name: str
    file: str | None = None
    """None if the source can't be found, as of code that was typed in."""
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.name}" if self.file else self.name


class Layer(NamedTuple):
    """A layer in both frameworks, or the code of both."""

    jax: str | None = None
    """Its path, `encoder/conv1`; None if it has no parameters that are paired."""
    torch: str | None = None
    """Its name, `encoder.conv1`."""
    jax_source: Source | None = None
    """The user's class that the layer is an attribute of; the loss, where the losses differ."""
    torch_source: Source | None = None


class Node(NamedTuple):
    """A module, or a part of a name, with what differs in it and below."""

    name: str
    status: str
    """`differs`, `follows` (where what it is given differs already), `agrees`, or `unmeasured`; the worst below it."""
    layer: Layer | None = None
    kind: str = ""
    """The torch module's class."""
    figures: tuple[Figure, ...] = ()
    children: "tuple[Node, ...]" = ()
    first: bool = False
    """Whether the first difference is in it."""


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
    layer: Layer | None = None
    """The layer that differs, or the first whose input does."""
    figures: tuple[tuple[str, Figure], ...] = ()
    """The difference of every layer that the search compared, by torch's name."""
    configuration: str = ""
    """The name of the configuration, if there are several."""


MODULES, PRESETS = "The JAX model and the torch module", "jaxvae and torchvae"
"""What a report may be of."""


class Distance(NamedTuple):
    """How far one tensor is from its framework's own float64 in each framework."""

    level: str
    """`outputs`, `the loss`, `gradients`, `layers`, or `weights` for the dtype in which one is held."""
    name: str
    in_jax: float
    """The root of the mean square of the differences, each as a share of its entry's size."""
    in_torch: float
    note: str = ""
    """Where one of them is nearer: the operation that is computed otherwise."""

    @property
    def ratio(self) -> float:
        """How many times as far as the other the one is."""
        near, far = sorted((self.in_jax, self.in_torch))
        return far / near if near else 1.0 if far == near else math.inf


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
    tree: Node | None = None
    """The tree of modules with the difference of each."""
    subject: str = MODULES
    """What was compared."""
    distances: tuple[Distance, ...] = ()
    """How far both are from float64, where they are compared in fewer bits."""

    passed = property(methods.passed)
    to_json, to_markdown, to_html, save = methods.to_json, methods.to_markdown, methods.to_html, methods.save

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
        lines += _distances_shown(self.distances)
        if failed:
            lines.append(f"  ({self.findings[-1].dtype}: {self.findings[-1].reason})")
        if self.diagnosis is not None:
            every = [self.diagnosis, *self.diagnosis.more]
            largest = max(every, key=lambda one: one.jump) if sum(one.jump > 0 for one in every) > 1 else None
            for i, one in enumerate(every):
                lines += ["Also:"] * (i > 0) + _explained(one)
                lines += ["No other difference on the same input is so large."] * (one is largest)
        return "\n".join(lines)


_SHOWN = 4
"""Tensors whose distances are printed, and places of one note; the report has all."""


def _distances_shown(distances: tuple[Distance, ...]) -> list[str]:
    """Return the tensors of which one framework is most times as far from float64 as the other, and the notes."""
    tensors = sorted((one for one in distances if not one.note), key=lambda one: -one.ratio)[:_SHOWN]
    notes: dict[str, list[Distance]] = {}
    for one in distances:
        if one.note:
            notes.setdefault(one.note, []).append(one)
    lines = ["  from its own float64, as a share of its size:"] if tensors else []
    lines += [f"    {one.name}: {one.in_jax:.1e} in JAX, {one.in_torch:.1e} in PyTorch" for one in tensors]
    lines += ["  where they round otherwise:"] if notes else []
    for note, some in notes.items():
        most = max(one.ratio for one in some)
        times = f" ({most:.2g} times as far there)" if 1.05 < most < math.inf else ""
        names = [one.name for one in some]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN + 1 else ""
        lines.append(f"    {', '.join(names[:_SHOWN] if more else names)}{more}: {note}{times}")
    return lines


def _explained(diagnosis: Diagnosis) -> list[str]:
    cause = diagnosis.cause
    return [
        f"{diagnosis.where}: {diagnosis.difference}",
        f"Likely cause: {cause}." if cause else "No known fault reproduces these numbers.",
    ]
