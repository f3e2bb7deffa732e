"""Every fault on the list is caught at its level and named rightly."""

import pytest

from parity_tests.faults.fault import Fault, tried
from parity_tests.faults.modules import FAULTS
from parity_tests.faults.table import LINES, REGENERATE, module_row
from parity_tests.harness import causes

UNSET = ("bias-order", "low-precision")
"""The kinds whose expected setting isn't known: shapes of a mapping, and the precision of the comparison."""
# Every third one runs with every change.
THIRD = [pytest.param(fault, marks=[pytest.mark.slow] * (i % 3 > 0)) for i, fault in enumerate(FAULTS)]


@pytest.mark.parametrize("fault", THIRD, ids=[fault.name for fault in FAULTS])
def test_a_fault_is_caught_and_named(fault: Fault) -> None:
    level, named, right = tried(fault)
    assert level == fault.level
    assert right, f"named {named}, should be {fault.cause}"
    cause = causes.each(named)
    for part in cause.parts or (cause,):
        assert part.kind, "a program can't act on it"
        assert part.expected is not None or part.kind in UNSET
    assert module_row(fault, level, named, right) in LINES, REGENERATE


def test_the_list_is_long_enough_to_mean_something() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 25
    assert {fault.framework for fault in FAULTS} == {"JAX", "PyTorch"}
