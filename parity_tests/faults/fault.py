"""A fault in a small network, and what the comparison should report of it."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from parity_tests.harness.findings import Report

WEIGHTS, OUTPUTS, STATISTICS = "every weight", "every output", "state after a training step"
LOSS, GRADIENTS, STEPS = "the loss", "every gradient", "weights after 5 optimizer steps from the same gradients"


class Fault(NamedTuple):
    """A fault in a small network, and the level and cause that the comparison should report."""

    name: str
    framework: str
    """The framework with the fault: JAX or PyTorch."""
    level: str
    """The first level that must fail."""
    cause: str
    compare: Callable[[], Report]


def tried(fault: Fault) -> tuple[str, str, bool]:
    """Return the level that failed, the cause that was named, and whether both are correct."""
    torch.manual_seed(0)  # for the weights and for dropout
    report = fault.compare()
    caught = next((finding.level for finding in report.findings if not finding.passed), "none")
    named = (report.diagnosis and report.diagnosis.cause) or "none known"
    return caught, named, caught == fault.level and named.startswith(fault.cause)
