"""Every fault on the list is caught at its level and named rightly."""

import pytest

from parity_tests.module_faults import FAULTS, Fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_caught_and_named(fault: Fault) -> None:
    report = fault.compare()
    assert next(finding.level for finding in report.findings if not finding.passed) == fault.level
    assert report.diagnosis is not None
    assert (report.diagnosis.cause or "").startswith(fault.cause), report.diagnosis


def test_the_list_is_long_enough_to_mean_something() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 25
    assert {fault.side for fault in FAULTS} == {"JAX", "PyTorch"}
