"""The result of a comparison of two runs."""

from typing import NamedTuple

from parity_tests.harness.findings import Diagnosis, Finding, Node, Trajectory
from parity_tests.harness.formats import methods


class RunsReport(NamedTuple):
    """What was compared of two runs; printed, the verdict, each quantity, the first difference and its likely cause."""

    about: dict[str, object]
    """Versions, precision, number of steps: plain JSON values."""
    findings: tuple[Finding, ...]
    """The worst difference of each quantity over the steps that were compared; the last one fails if the runs part."""
    step: int | None = None
    """The first step in which the runs part, counted from 0; -1 for what they start from; None if they agree."""
    quantity: str | None = None
    """The first quantity of this step in which they part."""
    diagnosis: Diagnosis | None = None
    """Where in the quantity, by how much, and the likely cause."""
    not_compared: tuple[str, ...] = ()
    """What only one run yields, and what comes after both became NaN."""
    trajectory: Trajectory | None = None
    """The losses step by step, and in float32 their noise floor."""
    tree: Node | None = None
    """The difference of each array by quantity and name, in the step in which the runs part; else the largest."""

    passed = property(methods.passed)
    to_json, to_markdown, to_html, save = methods.to_json, methods.to_markdown, methods.to_html, methods.save

    def __str__(self) -> str:
        steps = self.about["steps"]
        if self.passed:
            lines = [
                f"The two runs agree in all {steps} steps." if steps != 1 else "The two runs agree in the one step."
            ]
        else:
            when = "before the first step" if self.step == -1 else f"at step {self.step}"
            lines = [f"The two runs part {when}, in the {self.quantity}."]
        width = max(len(finding.level) for finding in self.findings)
        for finding in self.findings:
            line = f"  {finding.level:{width}}  {finding.size:7.1e} {finding.unit}, tolerance {finding.tolerance:.1e}"
            where = f", {finding.where}" if finding.size > finding.tolerance / 100 else ""
            lines.append(line + where if finding.passed else f"{line}: FAILS, {finding.where}")
        lines += [f"  (not compared: {missing})" for missing in self.not_compared]
        lines.append(f"  ({self.findings[-1].dtype}: {self.findings[-1].reason})")
        if self.diagnosis is not None:
            cause = self.diagnosis.cause
            lines.append(f"{self.diagnosis.where}: {self.diagnosis.difference}")
            lines.append(f"Likely cause: {cause}." if cause else "No known fault reproduces these numbers.")
        return "\n".join(lines)
