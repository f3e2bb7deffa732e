"""Results of a comparison: a difference and a tolerance for each level, trajectories and a diagnosis."""

import math
from pathlib import Path
from typing import Any, NamedTuple

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


MODULES, PRESETS = "The JAX model and the torch module", "jaxvae and torchvae"
"""What a report may be of."""


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

    def to_json(self) -> dict[str, Any]:
        """Convert the report to plain JSON values, for `json.dumps(.., allow_nan=False)`.

        Floats that are not finite are the strings `NaN`, `Infinity` and `-Infinity`, which `float` reads. The schema is
        parity_tests/harness/formats/schema.json.
        """
        from parity_tests.harness.formats import document

        return document.of_report(self)

    def to_markdown(self) -> str:
        """Format the report as Markdown: the verdict, the causes, the levels, the tree of modules."""
        from parity_tests.harness.formats import text

        return text.to_markdown(self.to_json())

    def to_html(self) -> str:
        """Format the report as one HTML page that loads nothing from the network."""
        from parity_tests.harness.formats import page

        return page.to_html(self.to_json())

    def save(self, path: str | Path) -> None:
        """Write the report as JSON, Markdown or HTML, whole or not at all.

        Args:
            path: A file that ends in .json, .md or .html.

        Raises:
            InputError: If it ends otherwise, or can't be written.
        """
        from parity_tests.harness.formats import files

        files.save(self, path)


def _explained(diagnosis: Diagnosis) -> list[str]:
    cause = diagnosis.cause
    return [
        f"{diagnosis.where}: {diagnosis.difference}",
        f"Likely cause: {cause}." if cause else "No known fault reproduces these numbers.",
    ]
